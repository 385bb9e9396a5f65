//! Filter conditions: which tests a field accepts, and whether they match.

use std::cmp::Ordering;

use super::{Condition, DataType, Field, LayerInfo, MatchType, Value};
use crate::status::Status;

/// The conditions of a filter. Every group must match, and a group matches if any
/// of its tests does.
///
/// Conditions on different fields are joined by AND, consecutive ones on one field
/// by OR since Windows 7 (`FWPM_FILTER0`).
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Vec<Group>);

#[derive(Clone, Debug)]
struct Group {
    field: usize,
    tests: Vec<(MatchType, Value)>,
}

impl Conditions {
    /// Checks conditions as `FwpmFilterAdd0` does.
    pub(super) fn compile(layer: &LayerInfo, list: &[Condition]) -> Result<Self, Status> {
        let mut groups: Vec<Group> = Vec::new();
        for condition in list {
            let field = layer.field_by_condition(condition.field).ok_or(Status::FWP_CONDITION_NOT_FOUND)?;
            check(&layer.data_fields[field], condition.match_type, &condition.value)?;
            let test = (condition.match_type, condition.value.clone());
            if let Some(group) = groups.last_mut().filter(|group| group.field == field) {
                // A repeated test counts as a duplicate (inferred).
                if group.tests.contains(&test) {
                    return Err(Status::FWP_DUPLICATE_CONDITION);
                }
                group.tests.push(test);
                continue;
            }
            // Only consecutive conditions are joined by OR. If a field comes again
            // later, that is an error, as before Windows 7 (inferred).
            if groups.iter().any(|group| group.field == field) {
                return Err(Status::FWP_DUPLICATE_CONDITION);
            }
            groups.push(Group { field, tests: vec![test] });
        }
        Ok(Self(groups))
    }

    /// Whether the layer's values match all groups.
    pub(super) fn hold(&self, values: &[Value]) -> bool {
        self.0.iter().all(|group| {
            let value = &values[group.field];
            group.tests.iter().any(|(match_type, wanted)| matches(*match_type, value, wanted))
        })
    }

    /// How narrow the conditions are, as the number of fixed bits. Automatic
    /// weights are based on it; only "more specific is heavier" is documented.
    pub(super) fn specificity(&self) -> u64 {
        let group = |group: &Group| group.tests.iter().map(fixed_bits).min().unwrap_or(0);
        self.0.iter().map(group).sum()
    }
}

/// Whether match type, value and field are compatible (`FWP_MATCH_TYPE`).
fn check(field: &Field, match_type: MatchType, value: &Value) -> Result<(), Status> {
    use MatchType as M;
    let given = value.data_type();
    match value {
        Value::V4AddrMask(_, mask) => {
            let applies = field.is_ip_address() && field.data_type == DataType::Uint32;
            return check_mask(applies, mask.leading_ones() == mask.count_ones(), match_type);
        }
        Value::V6AddrMask(_, length) => {
            let applies = field.is_ip_address() && field.data_type == DataType::ByteArray16;
            return check_mask(applies, *length <= 128, match_type);
        }
        Value::Range(ends) => {
            let (low, high) = &**ends;
            return match (match_type, compare(low, high)) {
                _ if field.data_type != low.data_type() => Err(Status::FWP_TYPE_MISMATCH),
                (M::Range, Some(Ordering::Less | Ordering::Equal)) => Ok(()),
                (M::Range, Some(Ordering::Greater)) => Err(Status::FWP_INVALID_RANGE),
                (M::Range, None) => Err(Status::FWP_TYPE_MISMATCH),
                _ => Err(Status::FWP_MATCH_TYPE_MISMATCH),
            };
        }
        _ => {}
    }
    // Users and machines are tested with security descriptors. The engine does not
    // evaluate them, so no test is accepted for these fields.
    let opaque = given == DataType::TokenAccessInformation;
    if given == DataType::Empty || opaque || field.data_type != given {
        return Err(Status::FWP_TYPE_MISMATCH);
    }
    let fits = match match_type {
        M::Equal | M::NotEqual => true,
        M::Greater | M::Less | M::GreaterOrEqual | M::LessOrEqual => compare(value, value).is_some(),
        M::FlagsAllSet | M::FlagsAnySet | M::FlagsNoneSet => value.unsigned().is_some(),
        // It is inferred that these two take byte blobs.
        M::Prefix | M::NotPrefix => given == DataType::ByteBlob,
        // Only for strings, and no kernel-mode layer has a string field.
        M::EqualCaseInsensitive | M::Range => false,
    };
    if fits { Ok(()) } else { Err(Status::FWP_MATCH_TYPE_MISMATCH) }
}

fn check_mask(applies: bool, valid: bool, match_type: MatchType) -> Result<(), Status> {
    match match_type {
        _ if !applies => Err(Status::FWP_TYPE_MISMATCH),
        _ if !valid => Err(Status::FWP_INVALID_NET_MASK),
        MatchType::Equal | MatchType::NotEqual => Ok(()),
        _ => Err(Status::FWP_MATCH_TYPE_MISMATCH),
    }
}

/// Whether a condition matches. An unknown value matches no condition, not even a
/// negative one.
pub fn matches(match_type: MatchType, value: &Value, wanted: &Value) -> bool {
    use MatchType as M;
    if *value == Value::Empty {
        return false;
    }
    let order = compare(value, wanted);
    let flags = |holds: fn(u64, u64) -> bool| {
        value.unsigned().zip(wanted.unsigned()).is_some_and(|(value, wanted)| holds(value, wanted))
    };
    match match_type {
        M::Equal => equal(value, wanted),
        M::NotEqual => !equal(value, wanted),
        M::Greater => order == Some(Ordering::Greater),
        M::Less => order == Some(Ordering::Less),
        M::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        M::LessOrEqual => order.is_some_and(Ordering::is_le),
        M::Range => match wanted {
            Value::Range(ends) => {
                compare(&ends.0, value).is_some_and(Ordering::is_le)
                    && compare(value, &ends.1).is_some_and(Ordering::is_le)
            }
            _ => false,
        },
        M::FlagsAllSet => flags(|value, wanted| value & wanted == wanted),
        M::FlagsAnySet => flags(|value, wanted| value & wanted != 0),
        M::FlagsNoneSet => flags(|value, wanted| value & wanted == 0),
        M::Prefix => starts_with(value, wanted),
        M::NotPrefix => !starts_with(value, wanted),
        M::EqualCaseInsensitive => false,
    }
}

fn equal(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Uint32(address), Value::V4AddrMask(net, mask)) => address & mask == net & mask,
        (Value::ByteArray16(address), Value::V6AddrMask(net, length)) => {
            let shift = 128 - u32::from(*length);
            let bits = |bytes: &[u8; 16]| u128::from_be_bytes(*bytes).checked_shr(shift);
            bits(address) == bits(net)
        }
        _ => value == wanted,
    }
}

/// Compares two values of one sortable type: integers, addresses, byte blobs.
fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::ByteArray16(left), Value::ByteArray16(right)) => Some(left.cmp(right)),
        (Value::ByteBlob(left), Value::ByteBlob(right)) => Some(left.cmp(right)),
        _ if left.data_type() == right.data_type() => Some(left.unsigned()?.cmp(&right.unsigned()?)),
        _ => None,
    }
}

fn starts_with(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::ByteBlob(value), Value::ByteBlob(wanted)) => value.starts_with(wanted),
        _ => false,
    }
}

fn fixed_bits((match_type, wanted): &(MatchType, Value)) -> u64 {
    use MatchType as M;
    let width = |value: &Value| match value {
        Value::Uint8(_) => 8,
        Value::Uint16(_) => 16,
        Value::Uint32(_) => 32,
        Value::Uint64(_) => 64,
        _ => 128,
    };
    match (match_type, wanted) {
        (M::Equal, Value::V4AddrMask(_, mask)) => u64::from(mask.count_ones()),
        (M::Equal, Value::V6AddrMask(_, length)) => u64::from(*length),
        (M::Equal, value) => width(value),
        (M::Prefix, Value::ByteBlob(prefix)) => (prefix.len() as u64 * 8).min(127),
        (M::Range, Value::Range(ends)) => match (ends.0.unsigned(), ends.1.unsigned()) {
            (Some(low), Some(high)) => {
                width(&ends.0) - (64 - u64::from((high - low).leading_zeros())).min(width(&ends.0))
            }
            _ => 1,
        },
        _ => 1,
    }
}
