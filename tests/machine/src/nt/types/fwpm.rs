//! `fwptypes.h`, `fwpmtypes.h`: values and management objects.

use super::{Address, GUID, raw};

raw! {
    /// `fwptypes.h`. `value` holds a number of up to 32 bits, else the address of
    /// the data that `type` describes.
    struct FWP_VALUE0 { r#type = "type": u32, value = "@u1": u64 }

    /// `fwptypes.h`.
    struct FWP_CONDITION_VALUE0 { r#type = "type": u32, value = "@u1": u64 }

    /// `fwptypes.h`.
    struct FWP_BYTE_BLOB { size: u32, data: Address }

    /// `fwptypes.h`.
    struct FWP_BYTE_ARRAY16 { byteArray16: [u8; 16] }

    /// `fwptypes.h`.
    struct FWP_RANGE0 { valueLow: FWP_VALUE0, valueHigh: FWP_VALUE0 }

    /// `fwptypes.h`.
    struct FWP_V4_ADDR_AND_MASK { addr: u32, mask: u32 }

    /// `fwptypes.h`.
    struct FWP_V6_ADDR_AND_MASK { addr: [u8; 16], prefixLength: u8 }

    /// `fwptypes.h`.
    struct FWPM_DISPLAY_DATA0 { name: Address, description: Address }

    /// `fwpmtypes.h`.
    struct FWPM_SESSION0 {
        sessionKey: GUID,
        displayData: FWPM_DISPLAY_DATA0,
        flags: u32,
        txnWaitTimeoutInMSec: u32,
        processId: u32,
        sid: Address,
        username: Address,
        kernelMode: i32,
    }

    /// `fwpmtypes.h`.
    struct FWPM_PROVIDER0 {
        providerKey: GUID,
        displayData: FWPM_DISPLAY_DATA0,
        flags: u32,
        providerData: FWP_BYTE_BLOB,
        serviceName: Address,
    }

    /// `fwpmtypes.h`.
    struct FWPM_SUBLAYER0 {
        subLayerKey: GUID,
        displayData: FWPM_DISPLAY_DATA0,
        flags: u32,
        providerKey: Address,
        providerData: FWP_BYTE_BLOB,
        weight: u16,
    }

    /// `fwpmtypes.h`.
    struct FWPM_CALLOUT0 {
        calloutKey: GUID,
        displayData: FWPM_DISPLAY_DATA0,
        flags: u32,
        providerKey: Address,
        providerData: FWP_BYTE_BLOB,
        applicableLayer: GUID,
        calloutId: u32,
    }

    /// `fwpmtypes.h`.
    struct FWPM_FILTER_CONDITION0 {
        fieldKey: GUID,
        matchType: u32,
        conditionValue: FWP_CONDITION_VALUE0,
    }

    /// `fwpmtypes.h`.
    struct FWPM_ACTION0 { r#type = "type": u32, calloutKey = "@u1.calloutKey": GUID }

    /// `fwpmtypes.h`.
    struct FWPM_FILTER0 {
        filterKey: GUID,
        displayData: FWPM_DISPLAY_DATA0,
        flags: u32,
        providerKey: Address,
        providerData: FWP_BYTE_BLOB,
        layerKey: GUID,
        subLayerKey: GUID,
        weight: FWP_VALUE0,
        numFilterConditions: u32,
        filterCondition: Address,
        action: FWPM_ACTION0,
        context = "@u1": [u64; 2],
        reserved: Address,
        filterId: u64,
        effectiveWeight: FWP_VALUE0,
    }
}

/// `FWP_DATA_TYPE` (`fwptypes.h`).
#[allow(missing_docs, reason = "the names are fwptypes.h's own")]
pub mod data_type {
    pub const EMPTY: u32 = 0;
    pub const UINT8: u32 = 1;
    pub const UINT16: u32 = 2;
    pub const UINT32: u32 = 3;
    pub const UINT64: u32 = 4;
    pub const BYTE_ARRAY16: u32 = 11;
    pub const BYTE_BLOB: u32 = 12;
    pub const SID: u32 = 13;
    pub const SECURITY_DESCRIPTOR: u32 = 14;
    pub const TOKEN_ACCESS_INFORMATION: u32 = 16;
    pub const V4_ADDR_MASK: u32 = 256;
    pub const V6_ADDR_MASK: u32 = 257;
    pub const RANGE: u32 = 258;
}
