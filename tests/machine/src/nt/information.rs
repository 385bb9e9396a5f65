//! Registry information as it is written to a driver's buffer (`wdm.h`).

use std::mem::offset_of;

use super::foreign::{self, BadPointer};
use super::registry::{Answered, KeySummary};
use super::types::{
    Address, KEY_FULL_INFORMATION, KEY_VALUE_BASIC_INFORMATION, KEY_VALUE_FULL_INFORMATION,
    KEY_VALUE_PARTIAL_INFORMATION,
};
use crate::status::Status;

/// Writes as much of a variable-length answer as fits. At least `fixed` bytes must
/// fit (`ZwQueryValueKey` documentation).
pub(super) fn answer(
    bytes: &[u8],
    fixed: usize,
    buffer: Address,
    length: u32,
    result_length: Address,
) -> Result<Status, BadPointer> {
    foreign::write(result_length, &(bytes.len() as u32))?;
    let room = length as usize;
    if room < fixed {
        return Ok(Status::BUFFER_TOO_SMALL);
    }
    foreign::write_bytes(buffer, &bytes[..bytes.len().min(room)])?;
    Ok(match room < bytes.len() {
        true => Status::BUFFER_OVERFLOW,
        false => Status::SUCCESS,
    })
}

/// `KEY_BASIC_INFORMATION` or `KEY_FULL_INFORMATION`, and how many of its bytes must
/// fit. Keys have no title or class.
pub(super) fn key_information(class: i32, summary: &KeySummary) -> Result<(Vec<u8>, usize), Status> {
    /// `KeyBasicInformation` (`wdm.h`).
    const BASIC: i32 = 0;
    /// `KeyFullInformation` (`wdm.h`).
    const FULL: i32 = 2;
    let [low, high] = [summary.last_write_time as u32, (summary.last_write_time >> 32) as u32];
    if class == BASIC {
        let name: Vec<u8> = summary.name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let fields = [low, high, 0, name.len() as u32];
        let bytes: Vec<u8> = fields.into_iter().flat_map(u32::to_le_bytes).collect();
        let fixed = bytes.len();
        return Ok(([bytes, name].concat(), fixed));
    }
    if class != FULL {
        return Err(Status::INVALID_PARAMETER);
    }
    let fixed = offset_of!(KEY_FULL_INFORMATION, Class);
    let fields = [
        low,
        high,
        0,
        fixed as u32,
        0,
        summary.subkeys,
        summary.longest_subkey,
        0,
        summary.values,
        summary.longest_name,
        summary.longest_data,
    ];
    let bytes = fields.into_iter().flat_map(u32::to_le_bytes).collect();
    Ok((bytes, fixed))
}

/// A value's information, and how many of its bytes must fit.
pub(super) fn value_information(class: i32, found: &Answered) -> Result<(Vec<u8>, usize), Status> {
    /// `KEY_VALUE_INFORMATION_CLASS` (`wdm.h`).
    const BASIC: i32 = 0;
    const FULL: i32 = 1;
    const PARTIAL: i32 = 2;
    let Answered { name, value, length } = found;
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (name_length, data_length) = (name.len() as u32, *length);
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    // The title index is always 0.
    match class {
        BASIC => {
            let fixed = offset_of!(KEY_VALUE_BASIC_INFORMATION, Name);
            let header = words(&[0, value.kind, name_length]);
            Ok(([header, name].concat(), fixed))
        }
        FULL => {
            let fixed = offset_of!(KEY_VALUE_FULL_INFORMATION, Name);
            let data_at = (fixed + name.len()).next_multiple_of(4);
            let header = words(&[0, value.kind, data_at as u32, data_length, name_length]);
            let mut bytes = [header, name].concat();
            bytes.resize(data_at, 0);
            bytes.extend_from_slice(&value.data);
            Ok((bytes, fixed))
        }
        PARTIAL => {
            let fixed = offset_of!(KEY_VALUE_PARTIAL_INFORMATION, Data);
            let header = words(&[0, value.kind, data_length]);
            Ok(([header, value.data.clone()].concat(), fixed))
        }
        _ => Err(Status::INVALID_PARAMETER),
    }
}
