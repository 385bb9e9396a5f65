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

/// `RtlTimeToTimeFields`: year, month, day, hour, minute, second, milliseconds, and the day of
/// the week from Sunday. The time is in 100 ns since 1601.
pub extern "win64" fn RtlTimeToTimeFields(Time: Address, TimeFields: Address) {
    let kernel = enter!(RtlTimeToTimeFields);
    let write = || {
        let milliseconds = foreign::read::<i64>(Time)? / 10_000;
        let (days, rest) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
        // 1601-01-01 was a Monday.
        let fields = [year, month, day, hour, minute, second, rest % 1000, (days + 1) % 7];
        let bytes: Vec<u8> = fields.into_iter().flat_map(|field| (field as i16).to_le_bytes()).collect();
        foreign::write_bytes(TimeFields, &bytes)
    };
    kernel.settle(write(), ());
}

/// Year, month and day of a day since 1601-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut day) = (1601 + days / 146_097 * 400, days % 146_097);
    while day >= 365 + i64::from(is_leap(year)) {
        day -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (year, month as i64 + 1, day + 1)
}

/// `ExSystemTimeToLocalTime`. The machine's time zone is UTC.
pub extern "win64" fn ExSystemTimeToLocalTime(SystemTime: Address, LocalTime: Address) {
    let kernel = enter!(ExSystemTimeToLocalTime);
    let copy = || foreign::write(LocalTime, &foreign::read::<i64>(SystemTime)?);
    kernel.settle(copy(), ());
}

/// `RtlRandomEx`: less than MAXLONG. The seed is replaced.
pub extern "win64" fn RtlRandomEx(Seed: Address) -> u32 {
    let kernel = enter!(RtlRandomEx);
    let next = || {
        let seed: u32 = foreign::read(Seed)?;
        let next = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        foreign::write(Seed, &next)?;
        Ok::<_, BadPointer>(next % 0x7FFF_FFFF)
    };
    kernel.settle(next(), 0)
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
