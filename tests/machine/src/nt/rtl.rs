//! Run-time library: strings, version, and the C functions of ntoskrnl.
#![expect(unsafe_code, reason = "moves driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::Kernel;
use super::cpu::{self, Irql};
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, NTSTATUS, RTL_OSVERSIONINFOEXW, RTL_OSVERSIONINFOW, UNICODE_STRING};
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

/// Reports pageable memory at a level at which it cannot be brought in.
fn touch<const N: usize>(kernel: &Kernel, accesses: [(Address, bool); N]) {
    if cpu::irql() >= Irql::DISPATCH && kernel.pool().has_paged() {
        for (address, write) in accesses {
            kernel.settle(kernel.may_touch(address, write), ());
        }
    }
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
    touch(&kernel, [(_Src, false), (_Dst, true)]);
    // SAFETY: memory of the driver's choice. A bad pointer faults, and the guest
    // attributes the fault to the driver. `copy` permits overlap.
    unsafe { std::ptr::copy(_Src as *const u8, _Dst as *mut u8, _MaxCount) };
    _Dst
}

/// `memmove`.
pub extern "win64" fn memmove(_Dst: Address, _Src: Address, _Size: usize) -> Address {
    let kernel = enter!(memmove);
    touch(&kernel, [(_Src, false), (_Dst, true)]);
    // SAFETY: as in `memcpy`.
    unsafe { std::ptr::copy(_Src as *const u8, _Dst as *mut u8, _Size) };
    _Dst
}

/// `memset`.
pub extern "win64" fn memset(_Dst: Address, _Val: i32, _Size: usize) -> Address {
    let kernel = enter!(memset);
    touch(&kernel, [(_Dst, true)]);
    // SAFETY: as in `memcpy`.
    unsafe { std::ptr::write_bytes(_Dst as *mut u8, _Val as u8, _Size) };
    _Dst
}

/// `memcmp`.
pub extern "win64" fn memcmp(_Buf1: Address, _Buf2: Address, _Size: usize) -> i32 {
    let kernel = enter!(memcmp);
    touch(&kernel, [(_Buf1, false), (_Buf2, false)]);
    let byte = |address: Address, index| {
        let at = (address as *const u8).wrapping_add(index);
        // SAFETY: as in `memcpy`.
        i32::from(unsafe { at.read_volatile() })
    };
    (0.._Size)
        .map(|index| byte(_Buf1, index) - byte(_Buf2, index))
        .find(|difference| *difference != 0)
        .unwrap_or(0)
}
