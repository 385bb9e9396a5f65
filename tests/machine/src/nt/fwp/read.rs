//! Reads management structures, once, into engine objects.

use super::super::foreign::{self, BadPointer};
use super::super::types::{
    Address, FWP_BYTE_ARRAY16, FWP_BYTE_BLOB, FWP_CONDITION_VALUE0, FWP_RANGE0, FWP_V4_ADDR_AND_MASK,
    FWP_V6_ADDR_AND_MASK, FWP_VALUE0, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER_CONDITION0,
    FWPM_FILTER0, FWPM_PROVIDER0, FWPM_SESSION0, FWPM_SUBLAYER0, data_type,
};
use crate::status::Status;
use crate::wfp::{
    ActionType, Callout, Condition, DisplayData, Filter, MatchType, Provider, Session, Sublayer, Value,
};

/// The largest blob read from a driver. Real filters have smaller ones.
const LARGEST_BLOB: u32 = 1 << 20;
/// Most conditions read from a driver.
const MOST_CONDITIONS: u32 = 1 << 16;

fn display(data: &FWPM_DISPLAY_DATA0) -> Result<DisplayData, BadPointer> {
    Ok(DisplayData {
        name: foreign::read_wide(data.name)?,
        description: foreign::read_wide(data.description)?,
    })
}

/// `FWPM_SESSION0`. NULL stands for a session without properties.
pub(super) fn session(address: Address) -> Result<Session, BadPointer> {
    let Some(raw) = foreign::read_optional::<FWPM_SESSION0>(address)? else {
        return Ok(Session::default());
    };
    Ok(Session {
        key: raw.sessionKey.to_guid(),
        display: display(&raw.displayData)?,
        flags: raw.flags,
        txn_wait_timeout_ms: raw.txnWaitTimeoutInMSec,
    })
}

/// `FWPM_PROVIDER0`.
pub(super) fn provider(address: Address) -> Result<Provider, BadPointer> {
    let raw: FWPM_PROVIDER0 = foreign::read(address)?;
    Ok(Provider {
        key: raw.providerKey.to_guid(),
        display: display(&raw.displayData)?,
        flags: raw.flags,
        service_name: foreign::read_wide(raw.serviceName)?,
    })
}

/// `FWPM_SUBLAYER0`.
pub(super) fn sublayer(address: Address) -> Result<Sublayer, BadPointer> {
    let raw: FWPM_SUBLAYER0 = foreign::read(address)?;
    Ok(Sublayer {
        key: raw.subLayerKey.to_guid(),
        display: display(&raw.displayData)?,
        flags: raw.flags,
        provider: foreign::read_guid(raw.providerKey)?,
        weight: raw.weight,
    })
}

/// `FWPM_CALLOUT0`.
pub(super) fn callout(address: Address) -> Result<Callout, BadPointer> {
    let raw: FWPM_CALLOUT0 = foreign::read(address)?;
    Ok(Callout {
        key: raw.calloutKey.to_guid(),
        display: display(&raw.displayData)?,
        flags: raw.flags,
        provider: foreign::read_guid(raw.providerKey)?,
        applicable_layer: raw.applicableLayer.to_guid(),
    })
}

/// `FWPM_FILTER0`. The inner error is the call's result.
pub(super) fn filter(address: Address) -> Result<Result<Filter, Status>, BadPointer> {
    let raw: FWPM_FILTER0 = foreign::read(address)?;
    if raw.numFilterConditions > MOST_CONDITIONS {
        return Ok(Err(Status::INVALID_PARAMETER));
    }
    let count = raw.numFilterConditions as usize;
    let mut conditions = Vec::new();
    for raw in foreign::read_array::<FWPM_FILTER_CONDITION0>(raw.filterCondition, count)? {
        match condition(&raw)? {
            Ok(condition) => conditions.push(condition),
            Err(status) => return Ok(Err(status)),
        }
    }
    let weight = match value(raw.weight.r#type, raw.weight.value)? {
        Ok(weight @ (Value::Empty | Value::Uint8(_) | Value::Uint64(_))) => weight,
        _ => return Ok(Err(Status::FWP_INVALID_WEIGHT)),
    };
    let callout = raw.action.calloutKey.to_guid();
    Ok(Ok(Filter {
        key: raw.filterKey.to_guid(),
        display: display(&raw.displayData)?,
        flags: raw.flags,
        provider: foreign::read_guid(raw.providerKey)?,
        layer: raw.layerKey.to_guid(),
        sublayer: raw.subLayerKey.to_guid(),
        weight,
        conditions,
        action: ActionType(raw.action.r#type),
        callout: (!callout.is_nil()).then_some(callout),
        raw_context: raw.context[0],
    }))
}

fn condition(raw: &FWPM_FILTER_CONDITION0) -> Result<Result<Condition, Status>, BadPointer> {
    let Some(match_type) = match_type(raw.matchType) else {
        return Ok(Err(Status::FWP_INVALID_ENUMERATOR));
    };
    let FWP_CONDITION_VALUE0 { r#type, value: raw_value } = raw.conditionValue;
    Ok(value(r#type, raw_value)?.map(|value| Condition { field: raw.fieldKey.to_guid(), match_type, value }))
}

/// `FWP_MATCH_TYPE` (`fwptypes.h`). Its values are 0 to 12.
fn match_type(raw: u32) -> Option<MatchType> {
    use MatchType as M;
    let all = [
        M::Equal,
        M::Greater,
        M::Less,
        M::GreaterOrEqual,
        M::LessOrEqual,
        M::Range,
        M::FlagsAllSet,
        M::FlagsAnySet,
        M::FlagsNoneSet,
        M::EqualCaseInsensitive,
        M::NotEqual,
        M::Prefix,
        M::NotPrefix,
    ];
    all.into_iter().find(|known| *known as u32 == raw)
}

/// `FWP_VALUE0` or `FWP_CONDITION_VALUE0`, given by type and the union's eight
/// bytes.
fn value(kind: u32, raw: u64) -> Result<Result<Value, Status>, BadPointer> {
    let pointer = raw as Address;
    Ok(Ok(match kind {
        data_type::EMPTY => Value::Empty,
        data_type::UINT8 => Value::Uint8(raw as u8),
        data_type::UINT16 => Value::Uint16(raw as u16),
        data_type::UINT32 => Value::Uint32(raw as u32),
        data_type::UINT64 => Value::Uint64(foreign::read(pointer)?),
        data_type::BYTE_ARRAY16 => {
            Value::ByteArray16(foreign::read::<FWP_BYTE_ARRAY16>(pointer)?.byteArray16)
        }
        data_type::BYTE_BLOB | data_type::SECURITY_DESCRIPTOR => match blob(pointer)? {
            Ok(bytes) => Value::ByteBlob(bytes.into()),
            Err(status) => return Ok(Err(status)),
        },
        data_type::SID => Value::Sid(sid(pointer)?.into()),
        data_type::TOKEN_ACCESS_INFORMATION => match blob(pointer)? {
            Ok(bytes) => Value::TokenAccessInformation(bytes.into()),
            Err(status) => return Ok(Err(status)),
        },
        data_type::V4_ADDR_MASK => {
            let FWP_V4_ADDR_AND_MASK { addr, mask } = foreign::read(pointer)?;
            Value::V4AddrMask(addr, mask)
        }
        data_type::V6_ADDR_MASK => {
            let mask: FWP_V6_ADDR_AND_MASK = foreign::read(pointer)?;
            Value::V6AddrMask(mask.addr, mask.prefixLength)
        }
        data_type::RANGE => return range(pointer),
        _ => return Ok(Err(Status::FWP_TYPE_MISMATCH)),
    }))
}

/// `FWP_RANGE0`. A range of ranges is refused.
fn range(pointer: Address) -> Result<Result<Value, Status>, BadPointer> {
    let FWP_RANGE0 { valueLow, valueHigh } = foreign::read(pointer)?;
    let end = |end: FWP_VALUE0| match end.r#type {
        data_type::V4_ADDR_MASK.. => Ok(Err(Status::FWP_TYPE_MISMATCH)),
        kind => value(kind, end.value),
    };
    let (low, high) = (end(valueLow)?, end(valueHigh)?);
    Ok(low.and_then(|low| high.map(|high| Value::Range(Box::new((low, high))))))
}

fn blob(pointer: Address) -> Result<Result<Vec<u8>, Status>, BadPointer> {
    let FWP_BYTE_BLOB { size, data } = foreign::read(pointer)?;
    if size > LARGEST_BLOB {
        return Ok(Err(Status::FWP_OUT_OF_BOUNDS));
    }
    foreign::read_bytes(data, size as usize).map(Ok)
}

/// A SID. Its second byte is its number of subauthorities (`ntifs.h`).
fn sid(pointer: Address) -> Result<Vec<u8>, BadPointer> {
    let authorities: u8 = foreign::read(pointer.wrapping_add(1))?;
    foreign::read_bytes(pointer, 8 + 4 * usize::from(authorities))
}

#[cfg(test)]
mod tests {
    use super::super::super::types::{FWPM_ACTION0, GUID};
    use super::*;
    use crate::wfp::Guid;

    fn address<T>(value: &T) -> Address {
        std::ptr::from_ref(value) as Address
    }

    fn wide(text: &str) -> Vec<u16> {
        text.encode_utf16().chain([0]).collect()
    }

    #[test]
    fn a_filter_is_read_with_all_its_parts() {
        let (name, port) = (wide("silence"), 4444u16);
        let (v4, high) = (FWP_V4_ADDR_AND_MASK { addr: 0x0A00_0000, mask: 0xFF00_0000 }, 9u64);
        let value = |kind, value| FWP_VALUE0 { r#type: kind, value };
        let ends = FWP_RANGE0 {
            valueLow: value(data_type::UINT16, 1),
            valueHigh: value(data_type::UINT16, port.into()),
        };
        let condition = |field, kind, value| FWPM_FILTER_CONDITION0 {
            fieldKey: GUID::from(Guid::from_u128(field)),
            matchType: MatchType::Range as u32,
            conditionValue: FWP_CONDITION_VALUE0 { r#type: kind, value },
        };
        let conditions = [
            condition(1, data_type::RANGE, address(&ends) as u64),
            condition(2, data_type::V4_ADDR_MASK, address(&v4) as u64),
        ];
        let raw = FWPM_FILTER0 {
            displayData: FWPM_DISPLAY_DATA0 { name: name.as_ptr() as Address, description: 0 },
            weight: value(data_type::UINT64, address(&high) as u64),
            numFilterConditions: 2,
            filterCondition: conditions.as_ptr() as Address,
            action: FWPM_ACTION0 { r#type: 0x5003, calloutKey: GUID::from(Guid::from_u128(7)) },
            context: [11, 0],
            ..FWPM_FILTER0::zeroed()
        };
        let filter = filter(address(&raw)).unwrap().unwrap();
        assert_eq!(filter.display.name.as_deref(), Some("silence"));
        assert_eq!(filter.display.description, None);
        assert_eq!(filter.weight, Value::Uint64(9));
        assert_eq!((filter.action.0, filter.raw_context), (0x5003, 11));
        assert_eq!(filter.callout, Some(Guid::from_u128(7)));
        let range = Value::Range(Box::new((Value::Uint16(1), Value::Uint16(4444))));
        assert_eq!(filter.conditions[0].value, range);
        assert_eq!(filter.conditions[1].value, Value::V4AddrMask(0x0A00_0000, 0xFF00_0000));
        assert_eq!(filter.conditions[1].field, Guid::from_u128(2));
    }

    #[test]
    fn bad_pointers_and_bad_numbers_are_different_errors() {
        let bad_name = FWPM_SESSION0 {
            displayData: FWPM_DISPLAY_DATA0 { name: 64, description: 0 },
            ..FWPM_SESSION0::zeroed()
        };
        assert_eq!(session(address(&bad_name)).unwrap_err().address, 64);
        assert_eq!(session(0).unwrap(), Session::default());
        assert!(provider(0).is_err());
        let weight = FWP_VALUE0 { r#type: data_type::UINT16, value: 1 };
        let raw = FWPM_FILTER0 { weight, ..FWPM_FILTER0::zeroed() };
        assert_eq!(filter(address(&raw)).unwrap(), Err(Status::FWP_INVALID_WEIGHT));
        let condition = FWPM_FILTER_CONDITION0 { matchType: 13, ..FWPM_FILTER_CONDITION0::zeroed() };
        let raw = FWPM_FILTER0 {
            numFilterConditions: 1,
            filterCondition: address(&condition),
            ..FWPM_FILTER0::zeroed()
        };
        assert_eq!(filter(address(&raw)).unwrap(), Err(Status::FWP_INVALID_ENUMERATOR));
    }

    #[test]
    fn a_range_does_not_nest() {
        let nested = FWP_RANGE0 {
            valueLow: FWP_VALUE0 { r#type: data_type::RANGE, value: 0 },
            valueHigh: FWP_VALUE0::zeroed(),
        };
        let read = value(data_type::RANGE, address(&nested) as u64).unwrap();
        assert_eq!(read, Err(Status::FWP_TYPE_MISMATCH));
    }
}
