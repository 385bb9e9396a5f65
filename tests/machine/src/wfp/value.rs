//! Data values, as in `FWP_VALUE0` and `FWP_CONDITION_VALUE0`.

use std::sync::Arc;

/// A value with its `FWP_DATA_TYPE`.
///
/// Addresses, ports and indexes are in host order, byte arrays in network
/// order (Filtering Condition Identifiers).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub enum Value {
    /// `FWP_EMPTY`: unknown.
    Empty,
    /// `FWP_UINT8`.
    Uint8(u8),
    /// `FWP_UINT16`.
    Uint16(u16),
    /// `FWP_UINT32`; an IPv4 address in host order.
    Uint32(u32),
    /// `FWP_UINT64`, passed by pointer.
    Uint64(u64),
    /// `FWP_BYTE_ARRAY16_TYPE`: an IPv6 address.
    ByteArray16([u8; 16]),
    /// `FWP_BYTE_BLOB_TYPE`.
    ByteBlob(Arc<[u8]>),
    /// `FWP_SID`.
    Sid(Arc<[u8]>),
    /// `FWP_TOKEN_ACCESS_INFORMATION_TYPE`, opaque to the engine.
    TokenAccessInformation(Arc<[u8]>),
    /// `FWP_V4_ADDR_MASK`, in conditions only: address and mask, host order.
    V4AddrMask(u32, u32),
    /// `FWP_V6_ADDR_MASK`, in conditions only: address and prefix length.
    V6AddrMask([u8; 16], u8),
    /// `FWP_RANGE_TYPE`, in conditions only: both ends included.
    Range(Box<(Value, Value)>),
}

/// `FWP_DATA_TYPE`; its values are those of `fwptypes.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are fwptypes.h's own")]
pub enum DataType {
    Empty = 0,
    Uint8 = 1,
    Uint16 = 2,
    Uint32 = 3,
    Uint64 = 4,
    ByteArray16 = 11,
    ByteBlob = 12,
    Sid = 13,
    TokenAccessInformation = 16,
    ByteArray6 = 18,
    V4AddrMask = 256,
    V6AddrMask = 257,
    Range = 258,
}

impl Value {
    /// The type of the value.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Empty => DataType::Empty,
            Self::Uint8(_) => DataType::Uint8,
            Self::Uint16(_) => DataType::Uint16,
            Self::Uint32(_) => DataType::Uint32,
            Self::Uint64(_) => DataType::Uint64,
            Self::ByteArray16(_) => DataType::ByteArray16,
            Self::ByteBlob(_) => DataType::ByteBlob,
            Self::Sid(_) => DataType::Sid,
            Self::TokenAccessInformation(_) => DataType::TokenAccessInformation,
            Self::V4AddrMask(..) => DataType::V4AddrMask,
            Self::V6AddrMask(..) => DataType::V6AddrMask,
            Self::Range(_) => DataType::Range,
        }
    }

    /// The number of an unsigned integer; `None` for every other type.
    pub fn unsigned(&self) -> Option<u64> {
        match *self {
            Self::Uint8(value) => Some(value.into()),
            Self::Uint16(value) => Some(value.into()),
            Self::Uint32(value) => Some(value.into()),
            Self::Uint64(value) => Some(value),
            _ => None,
        }
    }
}
