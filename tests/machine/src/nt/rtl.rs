//! Run-time library: strings, version, and the C functions of ntoskrnl.
#![expect(unsafe_code, reason = "moves driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::load::service_key;
use super::types::{Address, NTSTATUS, RTL_OSVERSIONINFOEXW, RTL_OSVERSIONINFOW, UNICODE_STRING};
use super::{Kernel, zw};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `RtlInitUnicodeString`. Truncates a string that is too long to the longest even
/// length below 64 KB (documentation).
pub extern "win64" fn RtlInitUnicodeString(DestinationString: Address, SourceString: Address) {
    let kernel = enter!(RtlInitUnicodeString);
    let outcome = init_unicode_string(DestinationString, SourceString);
    kernel.settle(outcome, ());
}

fn init_unicode_string(destination: Address, source: Address) -> Result<(), BadPointer> {
    /// Largest `Length` that leaves space for the terminator.
    const LONGEST: usize = 0xFFFC;
    let mut length = 0;
    while source != 0 && length < LONGEST && foreign::read::<u16>(source + length)? != 0 {
        length += 2;
    }
    let maximum = if source == 0 { 0 } else { length + 2 };
    let string = UNICODE_STRING { Length: length as u16, MaximumLength: maximum as u16, Buffer: source };
    foreign::write(destination, &string)
}

/// `RtlDeleteRegistryValue`, of an absolute path, a service's key or a handle's key.
pub extern "win64" fn RtlDeleteRegistryValue(RelativeTo: u32, Path: Address, ValueName: Address) -> NTSTATUS {
    /// `RTL_REGISTRY_ABSOLUTE`, `_SERVICES` and `_HANDLE` (`wdm.h`).
    const ABSOLUTE: u32 = 0;
    const SERVICES: u32 = 1;
    const HANDLE: u32 = 0x4000_0000;
    let kernel = enter!(RtlDeleteRegistryValue);
    let delete = || {
        let text = |at| foreign::read_wide(at).map(Option::unwrap_or_default);
        let path = match RelativeTo {
            ABSOLUTE => text(Path)?,
            SERVICES => service_key(&text(Path)?),
            HANDLE => match zw::key(&kernel, Path) {
                Ok(path) => path,
                Err(status) => return Ok(status),
            },
            _ => return Ok(Status::NOT_IMPLEMENTED),
        };
        let name = text(ValueName)?;
        if kernel.registry().value(&path, &name).is_none() {
            return Ok(Status::OBJECT_NAME_NOT_FOUND);
        }
        kernel.delete_value(&path, &name);
        Ok::<_, BadPointer>(Status::SUCCESS)
    };
    kernel.settle(delete(), Status::UNSUCCESSFUL).0
}

/// `RtlGetVersion`. The structure's first member gives its size.
pub extern "win64" fn RtlGetVersion(lpVersionInformation: Address) -> NTSTATUS {
    let kernel = enter!(RtlGetVersion);
    let outcome = version(&kernel, lpVersionInformation);
    kernel.settle(outcome, ());
    Status::SUCCESS.0
}

fn version(kernel: &Kernel, address: Address) -> Result<(), BadPointer> {
    /// `VER_PLATFORM_WIN32_NT`.
    const PLATFORM_NT: u32 = 2;
    /// `VER_NT_WORKSTATION`.
    const WORKSTATION: u8 = 1;
    let size: u32 = foreign::read(address)?;
    let basic = RTL_OSVERSIONINFOW {
        dwOSVersionInfoSize: size,
        dwMajorVersion: 10,
        dwMinorVersion: 0,
        dwBuildNumber: kernel.options().build,
        dwPlatformId: PLATFORM_NT,
        szCSDVersion: [0; 128],
    };
    foreign::write(address, &basic)?;
    if size as usize == size_of::<RTL_OSVERSIONINFOEXW>() {
        let mut extended: RTL_OSVERSIONINFOEXW = foreign::read(address)?;
        extended.wServicePackMajor = 0;
        extended.wServicePackMinor = 0;
        extended.wSuiteMask = 0;
        extended.wProductType = WORKSTATION;
        foreign::write(address, &extended)?;
    }
    Ok(())
}

/// `memcpy`. Overlapping buffers are a breach.
pub extern "win64" fn memcpy(_Dst: Address, _Src: Address, _MaxCount: usize) -> Address {
    let kernel = enter!(memcpy);
    let overlap = _Dst != _Src && _Dst.abs_diff(_Src) < _MaxCount;
    if overlap {
        let parameters = [_Dst as u64, _Src as u64, _MaxCount as u64];
        let text = String::new();
        kernel.violate(Violation::new(&rules::MEMCPY_OVERLAP, parameters, text));
    }
    // SAFETY: memory of the driver's choice. A bad pointer faults, and the guest
    // attributes the fault to the driver. `copy` permits overlap.
    unsafe { std::ptr::copy(_Src as *const u8, _Dst as *mut u8, _MaxCount) };
    _Dst
}

/// `memmove`.
pub extern "win64" fn memmove(_Dst: Address, _Src: Address, _Size: usize) -> Address {
    enter!(memmove);
    // SAFETY: as in `memcpy`.
    unsafe { std::ptr::copy(_Src as *const u8, _Dst as *mut u8, _Size) };
    _Dst
}

/// `memset`.
pub extern "win64" fn memset(_Dst: Address, _Val: i32, _Size: usize) -> Address {
    enter!(memset);
    // SAFETY: as in `memcpy`.
    unsafe { std::ptr::write_bytes(_Dst as *mut u8, _Val as u8, _Size) };
    _Dst
}

/// `memcmp`.
pub extern "win64" fn memcmp(_Buf1: Address, _Buf2: Address, _Size: usize) -> i32 {
    enter!(memcmp);
    let mut differences = (0.._Size).map(|at| i32::from(byte(_Buf1, at)) - i32::from(byte(_Buf2, at)));
    differences.find(|difference| *difference != 0).unwrap_or(0)
}

/// `_strnicmp`, of ASCII letters. Ends with the first NUL.
pub extern "win64" fn _strnicmp(_Str1: Address, _Str2: Address, _MaxCount: usize) -> i32 {
    enter!(_strnicmp);
    let lower = |address, at| byte(address, at).to_ascii_lowercase();
    let mut pairs = (0.._MaxCount).map(|at| (lower(_Str1, at), lower(_Str2, at)));
    let end = pairs.find(|(one, other)| one != other || *one == 0);
    end.map_or(0, |(one, other)| i32::from(one) - i32::from(other))
}

/// A byte of the driver's memory.
fn byte(address: Address, index: usize) -> u8 {
    let at = (address as *const u8).wrapping_add(index);
    // SAFETY: as in `memcpy`.
    unsafe { at.read_volatile() }
}
