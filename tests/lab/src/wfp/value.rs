//! Data values, as `FWP_VALUE0` and `FWP_CONDITION_VALUE0` carry them.

use std::sync::Arc;

/// A value with its `FWP_DATA_TYPE`.
///
/// Addresses, ports and indexes are in host order, byte arrays in network
/// order (facts: Filtering Condition Identifiers).
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
