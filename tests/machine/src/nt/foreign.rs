//! Copies what a driver points to, once; a bad pointer gives an error.
//!
//! The host's kernel copies (`process_vm_readv` on the own process). A bad pointer
//! gives [`BadPointer`], not a fault in the lab. Code on a packet's path reads
//! directly, and leaves faults to the image loader's handler; it owns nothing with
//! a destructor.
#![expect(unsafe_code, reason = "copies from and to foreign memory")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::memory::PAGE;
use super::paging;
use super::types::{GUID, Plain, UNICODE_STRING};
use crate::wfp::Guid;

/// A pointer to memory that cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPointer {
    /// The first address that could not be accessed.
    pub address: usize,
    /// Whether the access was a write.
    pub write: bool,
}

/// Why a `UNICODE_STRING` could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadString {
    /// The structure or its buffer cannot be read.
    Pointer(BadPointer),
    /// The length is odd, or more than the maximum length.
    Malformed,
}

impl From<BadPointer> for BadString {
    fn from(bad: BadPointer) -> Self {
        Self::Pointer(bad)
    }
}

/// Most characters read in search of a terminating NUL (the limit of a
/// `UNICODE_STRING`).
const LONGEST_STRING: usize = 32_767;
/// Number of characters copied at a time in search of a terminating NUL.
const UNITS_AT_ONCE: usize = 64;

/// Copies `len` bytes from the driver.
pub fn read_bytes(address: usize, len: usize) -> Result<Vec<u8>, BadPointer> {
    let mut bytes = vec![0; len];
    read_into(address, &mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` from `address`. What is pageable is brought in first, below
/// DISPATCH_LEVEL.
fn read_into(address: usize, bytes: &mut [u8]) -> Result<(), BadPointer> {
    match copy_from(address, bytes) {
        Err(bad) if paging::bring_in(address..address.saturating_add(bytes.len())) => {
            copy_from(address, bytes).map_err(|_| bad)
        }
        outcome => outcome,
    }
}

/// Copies bytes from the driver, unless some of them are taken out of memory.
#[cfg(test)]
pub fn read_present(address: usize, len: usize) -> Result<Vec<u8>, BadPointer> {
    let mut bytes = vec![0; len];
    copy_from(address, &mut bytes).map(|()| bytes)
}

fn copy_from(address: usize, bytes: &mut [u8]) -> Result<(), BadPointer> {
    let mut done = 0;
    while done < bytes.len() {
        let bad = BadPointer { address: address.wrapping_add(done), write: false };
        let base = address.checked_add(done).ok_or(bad)?;
        let remote = [RemoteIoVec { base, len: bytes.len() - done }];
        let mut local = [IoSliceMut::new(&mut bytes[done..])];
        match process_vm_readv(Pid::this(), &mut local, &remote) {
            Ok(0) | Err(_) => return Err(bad),
            Ok(count) => done += count,
        }
    }
    Ok(())
}

/// Copies bytes to the driver. What is pageable is brought in first, below
/// DISPATCH_LEVEL.
pub fn write_bytes(address: usize, bytes: &[u8]) -> Result<(), BadPointer> {
    match copy_to(address, bytes) {
        Err(bad) if paging::bring_in(address..address.saturating_add(bytes.len())) => {
            copy_to(address, bytes).map_err(|_| bad)
        }
        outcome => outcome,
    }
}

fn copy_to(address: usize, bytes: &[u8]) -> Result<(), BadPointer> {
    let mut done = 0;
    while done < bytes.len() {
        let bad = BadPointer { address: address.wrapping_add(done), write: true };
        let base = address.checked_add(done).ok_or(bad)?;
        let remote = [RemoteIoVec { base, len: bytes.len() - done }];
        match process_vm_writev(Pid::this(), &[IoSlice::new(&bytes[done..])], &remote) {
            Ok(0) | Err(_) => return Err(bad),
            Ok(count) => done += count,
        }
    }
    Ok(())
}

/// Copies a structure from the driver.
pub fn read<T: Plain>(address: usize) -> Result<T, BadPointer> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of `value`. They are zeroed and so initialized, and only
    // this slice borrows them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    read_into(address, bytes)?;
    // SAFETY: `Plain`: every bit pattern is a value.
    Ok(unsafe { value.assume_init() })
}

/// The structure that begins with these bytes. The rest of it is zero.
pub fn value_of<T: Plain>(bytes: &[u8]) -> T {
    let mut whole = bytes.to_vec();
    whole.resize(size_of::<T>(), 0);
    value(&whole)
}

/// The structure that these bytes are.
fn value<T: Plain>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: as many bytes as `T` has, and `Plain`: every bit pattern is a value.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// Copies a structure to the driver.
pub fn write<T: Plain>(address: usize, value: &T) -> Result<(), BadPointer> {
    // The copy into zeroed memory leaves no uninitialized padding behind.
    let mut copy = MaybeUninit::<T>::zeroed();
    copy.write(*value);
    // SAFETY: `copy` is initialized. Padding is written as it is; no reader
    // interprets it.
    let bytes = unsafe { std::slice::from_raw_parts(copy.as_ptr().cast::<u8>(), size_of::<T>()) };
    write_bytes(address, bytes)
}

/// Copies an array of structures from the driver.
pub fn read_array<T: Plain>(address: usize, count: usize) -> Result<Vec<T>, BadPointer> {
    // In pieces, because a count that a driver passes may be any number.
    const AT_ONCE: usize = 64 << 10;
    let mut values = Vec::new();
    while values.len() < count {
        let at = address.wrapping_add(values.len() * size_of::<T>());
        let here = (AT_ONCE / size_of::<T>()).clamp(1, count - values.len());
        let bytes = read_bytes(at, here * size_of::<T>())?;
        values.extend(bytes.chunks_exact(size_of::<T>()).map(value::<T>));
    }
    Ok(values)
}

/// Copies a structure whose first word gives its size, which older drivers have
/// smaller. The missing members are zero.
pub fn read_sized<T: Plain>(address: usize) -> Result<T, BadPointer> {
    let size: u32 = read(address)?;
    let mut bytes = vec![0; size_of::<T>()];
    let there = bytes.len().min(size as usize);
    read_into(address, &mut bytes[..there])?;
    Ok(value(&bytes))
}

/// Copies a structure if the pointer is not NULL.
pub fn read_optional<T: Plain>(address: usize) -> Result<Option<T>, BadPointer> {
    match address {
        0 => Ok(None),
        _ => read(address).map(Some),
    }
}

/// Copies a GUID if the pointer is not NULL.
pub fn read_guid(address: usize) -> Result<Option<Guid>, BadPointer> {
    Ok(read_optional::<GUID>(address)?.map(GUID::to_guid))
}

/// Copies a NUL-terminated UTF-16 string; `None` for NULL. Lone surrogates become
/// U+FFFD.
pub fn read_wide(address: usize) -> Result<Option<String>, BadPointer> {
    if address == 0 {
        return Ok(None);
    }
    let mut units = Vec::new();
    while units.len() < LONGEST_STRING {
        // Do not read across a page boundary that the string does not reach. Most
        // strings are short, so read little at a time.
        let at = address.wrapping_add(units.len() * 2);
        let room = (PAGE - at % PAGE).div_ceil(2);
        let part = read_units(at, room.min(UNITS_AT_ONCE))?;
        let end = part.iter().position(|&unit| unit == 0);
        units.extend_from_slice(&part[..end.unwrap_or(part.len())]);
        if end.is_some() {
            break;
        }
    }
    Ok(Some(String::from_utf16_lossy(&units)))
}

/// Copies a NUL-terminated string of bytes; empty for NULL. Stops at the end of the
/// page after the first.
pub fn read_text(address: usize) -> Result<String, BadPointer> {
    let mut bytes = Vec::new();
    while address != 0 && bytes.len() < PAGE {
        match read::<u8>(address + bytes.len())? {
            0 => break,
            byte => bytes.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_units(address: usize, count: usize) -> Result<Vec<u16>, BadPointer> {
    let bytes = read_bytes(address, count * 2)?;
    let pairs = bytes.chunks_exact(2);
    Ok(pairs.map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
}

/// Copies a counted string (`UNICODE_STRING`).
pub fn read_unicode_string(address: usize) -> Result<String, BadString> {
    let string: UNICODE_STRING = read(address)?;
    if !string.Length.is_multiple_of(2) || string.Length > string.MaximumLength {
        return Err(BadString::Malformed);
    }
    let units = read_units(string.Buffer, usize::from(string.Length / 2))?;
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::super::memory::Guarded;
    use super::*;

    #[test]
    fn a_string_that_ends_at_a_guard_page_is_read_whole() {
        let pages = Guarded::new(PAGE);
        let text: Vec<u8> = "silent\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let at = pages.end() - text.len();
        pages.put_bytes(at, &text);
        assert_eq!(read_wide(at).unwrap().unwrap(), "silent");
        // Without its terminator the string runs into the guard page.
        pages.put_bytes(pages.end() - 2, &[1, 0]);
        let bad = read_wide(at).unwrap_err();
        assert_eq!((bad.address, bad.write), (pages.end(), false));
    }

    #[test]
    fn bad_pointers_are_errors() {
        assert!(read::<u32>(8).is_err());
        assert!(read::<u64>(usize::MAX - 3).is_err());
        assert_eq!(write(16, &7u32).unwrap_err().address, 16);
        let pages = Guarded::new(PAGE);
        assert!(read::<u64>(pages.end() - 4).is_err());
        assert!(write(pages.end() - 4, &0u64).is_err());
    }

    #[test]
    fn malformed_strings_and_bad_pointers_are_different_errors() {
        let text: Vec<u16> = "Mode".encode_utf16().collect();
        let string = |length, maximum| UNICODE_STRING {
            Length: length,
            MaximumLength: maximum,
            Buffer: text.as_ptr() as usize,
        };
        let read = |string: &UNICODE_STRING| read_unicode_string(string as *const _ as usize);
        assert_eq!(read(&string(8, 8)).unwrap(), "Mode");
        assert_eq!(read(&string(7, 8)), Err(BadString::Malformed));
        assert_eq!(read(&string(8, 6)), Err(BadString::Malformed));
        let nowhere = UNICODE_STRING { Buffer: 64, ..string(8, 8) };
        assert!(matches!(read(&nowhere), Err(BadString::Pointer(_))));
    }
}
