//! Run-time library: strings of other encodings (`wdm.h`, `ntifs.h`).
//!
//! "The translation conforms to the current system locale" (RtlAnsiStringToUnicodeString):
//! the machine's code page is 1252.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu;
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::pool::Wanted;
use super::types::{Address, BOOLEAN, NTSTATUS, UNICODE_STRING};
use super::{Kernel, Trouble};
use crate::status::Status;

/// The tag of strings that the run-time library allocates (`pooltag.txt`).
const TAG: u32 = u32::from_le_bytes(*b"Strg");

/// The characters 0x80 to 0x9F of code page 1252, as Windows maps them.
const HIGH: [u16; 32] = [
    0x20AC, 0x81, 0x201A, 0x192, 0x201E, 0x2026, 0x2020, 0x2021, 0x2C6, 0x2030, 0x160, 0x2039, 0x152, 0x8D,
    0x17D, 0x8F, 0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x2DC, 0x2122, 0x161, 0x203A,
    0x153, 0x9D, 0x17E, 0x178,
];

fn from_ansi(bytes: &[u8]) -> Vec<u16> {
    let unit = |byte: u8| match byte {
        0x80..=0x9F => HIGH[usize::from(byte) - 0x80],
        byte => byte.into(),
    };
    bytes.iter().map(|byte| unit(*byte)).collect()
}

/// A character that the code page lacks becomes a question mark.
fn to_ansi(units: &[u16]) -> Vec<u8> {
    let byte = |unit: u16| match (HIGH.iter().position(|high| *high == unit), u8::try_from(unit)) {
        (Some(place), _) => 0x80 + place as u8,
        (None, Ok(byte)) => byte,
        (None, Err(_)) => b'?',
    };
    units.iter().map(|unit| byte(*unit)).collect()
}

fn bytes_of(units: &[u16]) -> Vec<u8> {
    units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

fn units_of(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect()
}

/// The bytes of a counted string: `UNICODE_STRING` and `ANSI_STRING` have one layout.
fn counted(at: Address) -> Result<Vec<u8>, BadPointer> {
    let string: UNICODE_STRING = foreign::read(at)?;
    foreign::read_bytes(string.Buffer, string.Length.into())
}

/// `RtlInitAnsiString`. No source gives an empty string.
pub extern "win64" fn RtlInitAnsiString(DestinationString: Address, SourceString: Address) {
    let kernel = enter!(RtlInitAnsiString);
    let init = || {
        let mut length = 0;
        // The length has 16 bits, and the terminator needs one byte.
        while SourceString != 0
            && length < usize::from(u16::MAX) - 1
            && foreign::read::<u8>(SourceString + length)? != 0
        {
            length += 1;
        }
        let maximum = if SourceString == 0 { 0 } else { length + 1 };
        let string =
            UNICODE_STRING { Length: length as u16, MaximumLength: maximum as u16, Buffer: SourceString };
        foreign::write(DestinationString, &string)
    };
    kernel.settle(init(), ());
}

/// `RtlAnsiStringToUnicodeString`.
pub extern "win64" fn RtlAnsiStringToUnicodeString(
    DestinationString: Address,
    SourceString: Address,
    AllocateDestinationString: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(RtlAnsiStringToUnicodeString);
    let convert = || {
        let text = bytes_of(&from_ansi(&counted(SourceString)?));
        give(&kernel, DestinationString, &text, 2, AllocateDestinationString != 0)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// `RtlUnicodeStringToAnsiString`.
pub extern "win64" fn RtlUnicodeStringToAnsiString(
    DestinationString: Address,
    SourceString: Address,
    AllocateDestinationString: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(RtlUnicodeStringToAnsiString);
    let convert = || {
        let text = to_ansi(&units_of(&counted(SourceString)?));
        give(&kernel, DestinationString, &text, 1, AllocateDestinationString != 0)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// `RtlUpcaseUnicodeString`.
pub extern "win64" fn RtlUpcaseUnicodeString(
    DestinationString: Address,
    SourceString: Address,
    AllocateDestinationString: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(RtlUpcaseUnicodeString);
    let convert = || {
        let units = units_of(&counted(SourceString)?);
        let text = bytes_of(&units.into_iter().map(upper).collect::<Vec<_>>());
        give(&kernel, DestinationString, &text, 0, AllocateDestinationString != 0)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// `RtlDowncaseUnicodeString`.
pub extern "win64" fn RtlDowncaseUnicodeString(
    DestinationString: Address,
    SourceString: Address,
    AllocateDestinationString: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(RtlDowncaseUnicodeString);
    let convert = || {
        let units = units_of(&counted(SourceString)?);
        let text = bytes_of(&units.into_iter().map(lower).collect::<Vec<_>>());
        give(&kernel, DestinationString, &text, 0, AllocateDestinationString != 0)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// `RtlUpcaseUnicodeChar`.
pub extern "win64" fn RtlUpcaseUnicodeChar(SourceCharacter: u16) -> u16 {
    enter!(RtlUpcaseUnicodeChar);
    upper(SourceCharacter)
}

/// A unit in upper case, if that is one unit, too.
fn upper(unit: u16) -> u16 {
    char::from_u32(unit.into()).map_or(unit, |character| only(unit, character.to_uppercase()))
}

/// A unit in lower case, if that is one unit, too.
fn lower(unit: u16) -> u16 {
    char::from_u32(unit.into()).map_or(unit, |character| only(unit, character.to_lowercase()))
}

fn only(unit: u16, mut characters: impl Iterator<Item = char>) -> u16 {
    match (characters.next(), characters.next()) {
        (Some(character), None) => u16::try_from(u32::from(character)).unwrap_or(unit),
        _ => unit,
    }
}

/// Writes a string with a terminator of so many bytes: into the buffer that is there, or
/// into a new one that the driver has to free. A buffer without room for the terminator is
/// too small (inferred: the pages do not say so).
fn give(
    kernel: &Kernel,
    to: Address,
    text: &[u8],
    terminator: usize,
    allocates: bool,
) -> Result<Status, Trouble> {
    let room = text.len() + terminator;
    let Ok(maximum) = u16::try_from(room) else { return Ok(Status::INVALID_PARAMETER_2) };
    let mut string: UNICODE_STRING = foreign::read(to)?;
    if allocates {
        string.Buffer = allocate(kernel, room.max(1));
        string.MaximumLength = maximum;
        if string.Buffer == 0 {
            return Ok(Status::NO_MEMORY);
        }
    } else if room > usize::from(string.MaximumLength) {
        return Ok(Status::BUFFER_OVERFLOW);
    }
    string.Length = text.len() as u16;
    foreign::write_bytes(string.Buffer, &[text, &[0; 2][..terminator]].concat())?;
    foreign::write(to, &string)?;
    Ok(Status::SUCCESS)
}

fn allocate(kernel: &Kernel, size: usize) -> Address {
    kernel.pool().allocate(Wanted {
        size,
        tag: TAG,
        paged: true,
        zeroed: false,
        cache_aligned: false,
        origin: kernel.origin(),
    })
}

/// `RtlFreeUnicodeString`, of a buffer that the run-time library has allocated.
pub extern "win64" fn RtlFreeUnicodeString(UnicodeString: Address) {
    let kernel = enter!(RtlFreeUnicodeString);
    kernel.settle(free(&kernel, UnicodeString), ());
}

/// `RtlFreeAnsiString`, of a buffer that the run-time library has allocated.
pub extern "win64" fn RtlFreeAnsiString(AnsiString: Address) {
    let kernel = enter!(RtlFreeAnsiString);
    kernel.settle(free(&kernel, AnsiString), ());
}

fn free(kernel: &Kernel, at: Address) -> Result<(), Trouble> {
    let string: UNICODE_STRING = foreign::read(at)?;
    if string.Buffer != 0 {
        kernel.pool().free(string.Buffer, TAG, cpu::irql(), kernel.guest().frames())?;
        foreign::write(at, &UNICODE_STRING::zeroed())?;
    }
    Ok(())
}

/// `RtlPrefixUnicodeString`: whether the second string begins with the first.
pub extern "win64" fn RtlPrefixUnicodeString(
    String1: Address,
    String2: Address,
    CaseInSensitive: BOOLEAN,
) -> BOOLEAN {
    let kernel = enter!(RtlPrefixUnicodeString);
    let compare = || {
        let read = |at| {
            let units = units_of(&counted(at)?).into_iter();
            let folded = units.map(|unit| if CaseInSensitive != 0 { upper(unit) } else { unit });
            Ok::<_, BadPointer>(folded.collect::<Vec<_>>())
        };
        Ok::<_, BadPointer>(read(String2)?.starts_with(&read(String1)?))
    };
    kernel.settle(compare(), false).into()
}

/// `RtlUnicodeToUTF8N`.
pub extern "win64" fn RtlUnicodeToUTF8N(
    UTF8StringDestination: Address,
    UTF8StringMaxByteCount: u32,
    UTF8StringActualByteCount: Address,
    UnicodeStringSource: Address,
    UnicodeStringByteCount: u32,
) -> NTSTATUS {
    let kernel = enter!(RtlUnicodeToUTF8N);
    let to = Destination {
        buffer: UTF8StringDestination,
        room: UTF8StringMaxByteCount as usize,
        count: UTF8StringActualByteCount,
    };
    let convert = || {
        if UnicodeStringSource == 0 {
            return Ok(Status::INVALID_PARAMETER_4);
        }
        let bytes = foreign::read_bytes(UnicodeStringSource, UnicodeStringByteCount as usize)?;
        let mut is_whole = true;
        let characters = char::decode_utf16(units_of(&bytes)).map(|read| {
            is_whole &= read.is_ok();
            let character = read.unwrap_or(char::REPLACEMENT_CHARACTER);
            character.encode_utf8(&mut [0; 4]).as_bytes().to_vec()
        });
        let characters: Vec<_> = characters.collect();
        to.write(&characters, is_whole)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// `RtlUTF8ToUnicodeN`.
pub extern "win64" fn RtlUTF8ToUnicodeN(
    UnicodeStringDestination: Address,
    UnicodeStringMaxByteCount: u32,
    UnicodeStringActualByteCount: Address,
    UTF8StringSource: Address,
    UTF8StringByteCount: u32,
) -> NTSTATUS {
    let kernel = enter!(RtlUTF8ToUnicodeN);
    let to = Destination {
        buffer: UnicodeStringDestination,
        room: UnicodeStringMaxByteCount as usize,
        count: UnicodeStringActualByteCount,
    };
    let convert = || {
        if UTF8StringSource == 0 {
            return Ok(Status::INVALID_PARAMETER_4);
        }
        let bytes = foreign::read_bytes(UTF8StringSource, UTF8StringByteCount as usize)?;
        let text = String::from_utf8_lossy(&bytes);
        let characters: Vec<_> =
            text.chars().map(|character| bytes_of(character.encode_utf16(&mut [0; 2]))).collect();
        to.write(&characters, std::str::from_utf8(&bytes).is_ok())
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// Where a converted string goes. Without a buffer, only its size is asked for.
struct Destination {
    buffer: Address,
    /// The size of the buffer, in bytes.
    room: usize,
    /// Where the size of the string is written, if it is asked for.
    count: Address,
}

impl Destination {
    /// Writes as many characters as there is room for. `is_whole`: none was replaced.
    fn write(&self, characters: &[Vec<u8>], is_whole: bool) -> Result<Status, BadPointer> {
        if self.buffer == 0 && self.count == 0 {
            return Ok(Status::INVALID_PARAMETER);
        }
        let all: usize = characters.iter().map(Vec::len).sum();
        let mut length = all;
        if self.buffer != 0 {
            let mut written = Vec::new();
            for character in characters {
                if written.len() + character.len() > self.room {
                    break;
                }
                written.extend(character);
            }
            length = written.len();
            foreign::write_bytes(self.buffer, &written)?;
        }
        if self.count != 0 {
            foreign::write(self.count, &(length as u32))?;
        }
        Ok(match () {
            () if length < all => Status::BUFFER_TOO_SMALL,
            () if is_whole => Status::SUCCESS,
            () => Status::SOME_NOT_MAPPED,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_page_is_1252_there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(to_ansi(&from_ansi(&all)), all);
        assert_eq!(from_ansi(b"\x80 \xE9"), [0x20AC, 0x20, 0xE9]);
        assert_eq!(to_ansi(&[0x20AC, 0x3B1]), b"\x80?");
    }

    /// The example of each status, with a buffer of so many bytes.
    #[test]
    fn a_string_that_is_too_long_is_cut_between_characters() {
        let characters = [vec![b'a'], vec![0xC3, 0xA9], vec![0xE2, 0x82, 0xAC]];
        let write = |room: usize, is_whole| {
            let (mut buffer, mut count) = ([0xEEu8; 8], 0u32);
            let to = Destination {
                buffer: buffer.as_mut_ptr().expose_provenance(),
                room,
                count: std::ptr::from_mut(&mut count).expose_provenance(),
            };
            let status = to.write(&characters, is_whole).unwrap();
            assert_eq!(buffer[count as usize], 0xEE, "nothing behind it");
            (status, count)
        };
        assert_eq!(write(6, true), (Status::SUCCESS, 6));
        assert_eq!(write(6, false), (Status::SOME_NOT_MAPPED, 6));
        assert_eq!(write(5, true), (Status::BUFFER_TOO_SMALL, 3));
        assert_eq!(write(2, true), (Status::BUFFER_TOO_SMALL, 1));
        let mut count = 0u32;
        let nowhere = Destination { buffer: 0, room: 0, count: 0 };
        assert_eq!(nowhere.write(&characters, true), Ok(Status::INVALID_PARAMETER));
        let asks = Destination { count: std::ptr::from_mut(&mut count).expose_provenance(), ..nowhere };
        assert_eq!(asks.write(&characters, true), Ok(Status::SUCCESS));
        assert_eq!(count, 6);
    }
}
