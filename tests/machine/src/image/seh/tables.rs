//! Unwind tables of an image: which function holds an address, what its prologue did,
//! and which handler its exceptions have.
//!
//! Source: "x64 exception handling", Microsoft Learn (`RUNTIME_FUNCTION`, `UNWIND_INFO`,
//! `UNWIND_CODE`, the scope table of `__C_specific_handler`).
#![forbid(unsafe_code)]

use object::pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION;

use super::super::pe::PeFile;

/// `UNW_FLAG_EHANDLER`: the handler is called while a handler is searched.
pub(super) const FLAG_SEARCH: u8 = 1;
/// `UNW_FLAG_UHANDLER`: the handler is called while frames are unwound.
pub(super) const FLAG_UNWIND: u8 = 2;
/// `UNW_FLAG_CHAININFO`.
const FLAG_CHAINED: u8 = 4;

/// More chained entries mean a broken table.
const LONGEST_CHAIN: usize = 32;

/// `RUNTIME_FUNCTION`. Addresses are relative to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Where the entry itself is.
    pub entry: u32,
    pub begin: u32,
    pub end: u32,
    pub info: u32,
}

/// What one instruction of a prologue did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// It pushed a general register.
    Push(u8),
    /// It subtracted this from rsp.
    Allocate(u32),
    /// It set the frame register from rsp.
    SetFrame,
    /// It saved a general register at this offset from the frame's base.
    Save(u8, u32),
    /// It saved a vector register.
    SaveVector(u8, u32),
    /// The processor pushed an exception frame, with an error code or without.
    MachineFrame(bool),
}

/// A handler of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handler {
    pub routine: u32,
    /// Its data, such as a scope table.
    pub data: u32,
    pub flags: u8,
}

/// `UNWIND_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub prologue_size: u32,
    /// The frame register and its offset from rsp, if the function has one.
    pub frame: Option<(u8, u64)>,
    /// The prologue's instructions, last first, each with the offset of its end.
    pub codes: Vec<(u32, Code)>,
    pub handler: Option<Handler>,
    /// The entry whose codes follow.
    pub chained: Option<Function>,
}

fn byte(file: &PeFile, at: u32) -> Option<u8> {
    file.image.get(at as usize).copied()
}

fn half(file: &PeFile, at: u32) -> Option<u16> {
    Some(u16::from_le_bytes(file.slice(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn word(file: &PeFile, at: u32) -> Option<u32> {
    Some(u32::from_le_bytes(file.slice(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Function {
    fn read(file: &PeFile, entry: u32) -> Option<Self> {
        let at = |offset: u32| word(file, entry.checked_add(offset)?);
        Some(Self { entry, begin: at(0)?, end: at(4)?, info: at(8)? })
    }

    /// The function that holds `rva`; `None` for a leaf, which changes no register that
    /// is preserved.
    pub fn find(file: &PeFile, rva: u32) -> Option<Self> {
        let table = file.directory(IMAGE_DIRECTORY_ENTRY_EXCEPTION)?;
        let (mut low, mut high) = (0, (table.end - table.start) / 12);
        while low < high {
            let middle = low + (high - low) / 2;
            let function = Self::read(file, table.start + 12 * middle)?;
            if rva < function.begin {
                high = middle;
            } else if rva >= function.end {
                low = middle + 1;
            } else {
                // An odd address leads to another entry (`RUNTIME_FUNCTION_INDIRECT`).
                return match function.info & 1 {
                    0 => Some(function),
                    _ => Self::read(file, function.info & !1),
                };
            }
        }
        None
    }
}

impl Info {
    /// The unwind information at `at`.
    pub fn read(file: &PeFile, at: u32) -> Option<Self> {
        let (first, prologue_size, count, frame) =
            (byte(file, at)?, byte(file, at + 1)?, byte(file, at + 2)?, byte(file, at + 3)?);
        let (version, flags) = (first & 7, first >> 3);
        if !(1..=2).contains(&version) {
            return None;
        }
        let codes = codes(file, at.checked_add(4)?, u32::from(count))?;
        // An even number of codes is stored.
        let after = at + 4 + 2 * u32::from(count).next_multiple_of(2);
        let chained = (flags & FLAG_CHAINED != 0).then(|| Function::read(file, after));
        let has_handler = chained.is_none() && flags & (FLAG_SEARCH | FLAG_UNWIND) != 0;
        Some(Self {
            prologue_size: prologue_size.into(),
            frame: (frame & 15 != 0).then(|| (frame & 15, u64::from(frame >> 4) * 16)),
            codes,
            handler: match has_handler {
                true => Some(Handler { routine: word(file, after)?, data: after + 4, flags }),
                false => None,
            },
            chained: match chained {
                Some(function) => Some(function?),
                None => None,
            },
        })
    }

    /// This information and those that it is chained to, the function's own last.
    pub fn chain(file: &PeFile, function: Function) -> Option<Vec<Self>> {
        let mut chain = vec![Self::read(file, function.info)?];
        while let Some(next) = chain.last().and_then(|info| info.chained) {
            if chain.len() == LONGEST_CHAIN {
                return None;
            }
            chain.push(Self::read(file, next.info)?);
        }
        Some(chain)
    }
}

fn codes(file: &PeFile, start: u32, count: u32) -> Option<Vec<(u32, Code)>> {
    let slot = |index: u32| half(file, start + 2 * index);
    let mut codes = Vec::new();
    let mut index = 0;
    while index < count {
        let [offset, operation] = slot(index)?.to_le_bytes();
        let (operation, operand) = (operation & 15, operation >> 4);
        let small = |at: u32| slot(index + at).map(u32::from);
        let large = |at: u32| Some(small(at)? | (small(at + 1)? << 16));
        let (code, slots) = match operation {
            0 => (Some(Code::Push(operand)), 1),
            1 if operand == 0 => (Some(Code::Allocate(small(1)? * 8)), 2),
            1 => (Some(Code::Allocate(large(1)?)), 3),
            2 => (Some(Code::Allocate(u32::from(operand) * 8 + 8)), 1),
            3 => (Some(Code::SetFrame), 1),
            4 => (Some(Code::Save(operand, small(1)? * 8)), 2),
            5 => (Some(Code::Save(operand, large(1)?)), 3),
            // UWOP_EPILOG of version 2: it describes the end of the function.
            6 => (None, 1),
            7 => (None, 2),
            8 => (Some(Code::SaveVector(operand, small(1)? * 16)), 2),
            9 => (Some(Code::SaveVector(operand, large(1)?)), 3),
            10 => (Some(Code::MachineFrame(operand != 0)), 1),
            _ => return None,
        };
        codes.extend(code.map(|code| (u32::from(offset), code)));
        index += slots;
    }
    Some(codes)
}

/// A row of a scope table: what a `__try` is guarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub begin: u32,
    pub end: u32,
    /// The filter, or [`Scope::ALWAYS`]; or the `__finally` block.
    pub handler: u32,
    /// The `__except` block; 0 if the scope has a `__finally` block.
    pub target: u32,
}

impl Scope {
    /// `EXCEPTION_EXECUTE_HANDLER` in place of a filter.
    pub const ALWAYS: u32 = 1;
}

/// The scope table at `at`.
pub(super) fn scopes(file: &PeFile, at: u32) -> Option<Vec<Scope>> {
    let count = word(file, at)?;
    let row = |index: u32| {
        let at = |member: u32| word(file, at.checked_add(4 + 16 * index + 4 * member)?);
        Some(Scope { begin: at(0)?, end: at(1)?, handler: at(2)?, target: at(3)? })
    };
    // A count beyond the image ends at the first row outside.
    (0..count.min(file.image.len() as u32)).map(row).collect()
}
