//! Run-time library: strings, comparison of memory, GUIDs (`wdm.h`, `ntddk.h`).
#![expect(unsafe_code, reason = "compares driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::Trouble;
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, BOOLEAN, GUID, NTSTATUS, UNICODE_STRING};
use crate::status::Status;

/// `RtlCopyUnicodeString`. Copies as much as fits, and a terminator if there is
/// room for it. No source gives an empty string.
pub extern "win64" fn RtlCopyUnicodeString(DestinationString: Address, SourceString: Address) {
    let kernel = enter!(RtlCopyUnicodeString);
    kernel.settle(copy(DestinationString, SourceString), ());
}

fn copy(destination: Address, source: Address) -> Result<(), BadPointer> {
    let mut to: UNICODE_STRING = foreign::read(destination)?;
    let bytes = match foreign::read_optional::<UNICODE_STRING>(source)? {
        None => Vec::new(),
        Some(from) => foreign::read_bytes(from.Buffer, from.Length.min(to.MaximumLength & !1).into())?,
    };
    foreign::write_bytes(to.Buffer, &bytes)?;
    to.Length = bytes.len() as u16;
    if to.Length + 2 <= to.MaximumLength {
        foreign::write(to.Buffer + bytes.len(), &0u16)?;
    }
    foreign::write(destination, &to)
}

/// `RtlIntegerToUnicodeString`. Base 0 stands for 10.
pub extern "win64" fn RtlIntegerToUnicodeString(Value: u32, Base: u32, String: Address) -> NTSTATUS {
    let kernel = enter!(RtlIntegerToUnicodeString);
    let text = match Base {
        2 => format!("{Value:b}"),
        8 => format!("{Value:o}"),
        0 | 10 => Value.to_string(),
        16 => format!("{Value:X}"),
        _ => return Status::INVALID_PARAMETER.0,
    };
    let write = || {
        let mut string: UNICODE_STRING = foreign::read(String)?;
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        if bytes.len() > usize::from(string.MaximumLength) {
            return Ok(Status::BUFFER_OVERFLOW);
        }
        foreign::write_bytes(string.Buffer, &bytes)?;
        string.Length = bytes.len() as u16;
        if string.Length + 2 <= string.MaximumLength {
            foreign::write(string.Buffer + bytes.len(), &0u16)?;
        }
        foreign::write(String, &string)?;
        Ok::<_, BadPointer>(Status::SUCCESS)
    };
    kernel.settle(write(), Status::UNSUCCESSFUL).0
}

/// `RtlAppendUnicodeStringToString`.
pub extern "win64" fn RtlAppendUnicodeStringToString(Destination: Address, Source: Address) -> NTSTATUS {
    let kernel = enter!(RtlAppendUnicodeStringToString);
    let append = || {
        let from: UNICODE_STRING = foreign::read(Source)?;
        append(Destination, &foreign::read_bytes(from.Buffer, from.Length.into())?)
    };
    kernel.settle(append(), Status::UNSUCCESSFUL).0
}

/// `RtlAppendUnicodeToString`. The source ends with a NUL.
pub extern "win64" fn RtlAppendUnicodeToString(Destination: Address, Source: Address) -> NTSTATUS {
    let kernel = enter!(RtlAppendUnicodeToString);
    let append = || {
        let text = foreign::read_wide(Source)?.unwrap_or_default();
        append(Destination, &text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
    };
    kernel.settle(append(), Status::UNSUCCESSFUL).0
}

fn append(destination: Address, bytes: &[u8]) -> Result<Status, BadPointer> {
    let mut to: UNICODE_STRING = foreign::read(destination)?;
    let length = usize::from(to.Length) + bytes.len();
    if length > usize::from(to.MaximumLength) {
        return Ok(Status::BUFFER_TOO_SMALL);
    }
    foreign::write_bytes(to.Buffer + usize::from(to.Length), bytes)?;
    to.Length = length as u16;
    if length + 2 <= usize::from(to.MaximumLength) {
        foreign::write(to.Buffer + length, &0u16)?;
    }
    foreign::write(destination, &to)?;
    Ok(Status::SUCCESS)
}

/// `RtlCompareUnicodeString`. Negative, 0 or positive.
pub extern "win64" fn RtlCompareUnicodeString(
    String1: Address,
    String2: Address,
    CaseInSensitive: BOOLEAN,
) -> i32 {
    let kernel = enter!(RtlCompareUnicodeString);
    kernel.settle(compare(String1, String2, CaseInSensitive != 0), 0)
}

/// `RtlEqualUnicodeString`.
pub extern "win64" fn RtlEqualUnicodeString(
    String1: Address,
    String2: Address,
    CaseInSensitive: BOOLEAN,
) -> BOOLEAN {
    let kernel = enter!(RtlEqualUnicodeString);
    BOOLEAN::from(kernel.settle(compare(String1, String2, CaseInSensitive != 0), 1) == 0)
}

fn compare(one: Address, other: Address, ignore_case: bool) -> Result<i32, Trouble> {
    let read = |at| {
        let text = foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?;
        let text = if ignore_case { text.to_uppercase() } else { text };
        Ok::<_, Trouble>(text.encode_utf16().collect::<Vec<u16>>())
    };
    Ok(read(one)?.cmp(&read(other)?) as i32)
}

/// `RtlUnicodeToMultiByteN`, to code page 1252. A text that does not fit is cut, which is
/// no error. A character that the code page lacks becomes `?`.
pub extern "win64" fn RtlUnicodeToMultiByteN(
    MultiByteString: Address,
    MaxBytesInMultiByteString: u32,
    BytesInMultiByteString: Address,
    UnicodeString: Address,
    BytesInUnicodeString: u32,
) -> NTSTATUS {
    let kernel = enter!(RtlUnicodeToMultiByteN);
    let convert = || {
        let units = foreign::read_bytes(UnicodeString, (BytesInUnicodeString & !1) as usize)?;
        let units = units.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let bytes = units.take(MaxBytesInMultiByteString as usize).map(windows_1252);
        let bytes: Vec<u8> = bytes.collect();
        foreign::write_bytes(MultiByteString, &bytes)?;
        if BytesInMultiByteString != 0 {
            foreign::write(BytesInMultiByteString, &(bytes.len() as u32))?;
        }
        Ok::<_, BadPointer>(Status::SUCCESS)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// A unit of UTF-16 in code page 1252, the ANSI code page of Western Windows.
fn windows_1252(unit: u16) -> u8 {
    /// The characters of 0x80 to 0x9F; a blank where the code page has none.
    const HIGH: &str = "€ ‚ƒ„…†‡ˆ‰Š‹Œ Ž  ‘’“”•–—˜™š›œ žŸ";
    match u8::try_from(unit) {
        Ok(byte) if !(0x80..0xA0).contains(&byte) => byte,
        _ => match HIGH.chars().position(|char| char != ' ' && char as u32 == u32::from(unit)) {
            Some(at) => 0x80 + at as u8,
            None => b'?',
        },
    }
}

/// `RtlCompareMemory`. The number of bytes that are equal before the first that
/// differs.
pub extern "win64" fn RtlCompareMemory(Source1: Address, Source2: Address, Length: usize) -> usize {
    enter!(RtlCompareMemory);
    let byte = |address: Address, index| {
        let at = (address as *const u8).wrapping_add(index);
        // SAFETY: memory of the driver's choice. A bad pointer faults, and the guest
        // attributes the fault to the driver.
        unsafe { at.read_volatile() }
    };
    (0..Length).find(|&index| byte(Source1, index) != byte(Source2, index)).unwrap_or(Length)
}

/// `ExUuidCreate`. The values count up, so that a run repeats.
pub extern "win64" fn ExUuidCreate(Uuid: Address) -> NTSTATUS {
    let kernel = enter!(ExUuidCreate);
    let number = {
        let mut objects = kernel.objects();
        objects.uuids += 1;
        objects.uuids
    };
    // Version 1, of the variant that RFC 9562 describes.
    let uuid =
        GUID { Data1: number, Data2: 0x11F0, Data3: 0x1000, Data4: [0x80, 0, 0x02, 0x57, 0x46, 0x50, 0, 1] };
    kernel.settle(foreign::write(Uuid, &uuid).map(|()| Status::SUCCESS), Status::UNSUCCESSFUL).0
}

#[cfg(test)]
mod tests {
    use super::windows_1252;

    #[test]
    fn characters_of_the_code_page() {
        let bytes: Vec<u8> = "aé€žŸΩ".encode_utf16().map(windows_1252).collect();
        assert_eq!(bytes, [b'a', 0xE9, 0x80, 0x9E, 0x9F, b'?']);
    }
}
