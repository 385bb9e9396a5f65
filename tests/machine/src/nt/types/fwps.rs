//! `fwpstypes.h`, `fwpsk.h`: structures that a callout gets.

use super::{Address, FWP_VALUE0, GUID, HANDLE, raw};

raw! {
    /// `fwpsk.h`. `FWPS_CALLOUT0` to `3` differ only in the prototypes of their
    /// functions.
    struct FWPS_CALLOUT0 {
        calloutKey: GUID,
        flags: u32,
        classifyFn: Address,
        notifyFn: Address,
        flowDeleteFn: Address,
    }

    /// `fwpsk.h`.
    struct FWPS_CALLOUT1 {
        calloutKey: GUID,
        flags: u32,
        classifyFn: Address,
        notifyFn: Address,
        flowDeleteFn: Address,
    }

    /// `fwpsk.h`.
    struct FWPS_CALLOUT2 {
        calloutKey: GUID,
        flags: u32,
        classifyFn: Address,
        notifyFn: Address,
        flowDeleteFn: Address,
    }

    /// `fwpsk.h`.
    struct FWPS_CALLOUT3 {
        calloutKey: GUID,
        flags: u32,
        classifyFn: Address,
        notifyFn: Address,
        flowDeleteFn: Address,
    }

    /// `fwpstypes.h`.
    struct FWPS_ACTION0 { r#type = "type": u32, calloutId: u32 }

    /// `fwpstypes.h`. `FWPS_FILTER0` to `3` differ only in what `providerContext`
    /// points to.
    struct FWPS_FILTER3 {
        filterId: u64,
        weight: FWP_VALUE0,
        subLayerWeight: u16,
        flags: u16,
        numFilterConditions: u32,
        filterCondition: Address,
        action: FWPS_ACTION0,
        context: u64,
        providerContext: Address,
    }

    /// `fwpstypes.h`.
    struct FWPS_CLASSIFY_OUT0 {
        actionType: u32,
        outContext: u64,
        filterId: u64,
        rights: u32,
        flags: u32,
        reserved: u32,
    }

    /// `fwpstypes.h`.
    struct FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 }

    /// `fwpstypes.h`.
    struct FWPS_INCOMING_VALUES0 { layerId: u16, valueCount: u32, incomingValue: Address }

    /// `fwpstypes.h`.
    struct FWPS_DISCARD_METADATA0 { discardModule: u32, discardReason: u32, filterId: u64 }

    /// `fwpstypes.h`.
    struct FWPS_INBOUND_FRAGMENT_METADATA0 {
        fragmentIdentification: u32,
        fragmentOffset: u16,
        fragmentLength: u32,
    }

    /// `fwpsk.h`, with every version guard enabled.
    struct FWPS_INCOMING_METADATA_VALUES0 {
        currentMetadataValues: u32,
        flags: u32,
        reserved: u64,
        discardMetadata: FWPS_DISCARD_METADATA0,
        flowHandle: u64,
        ipHeaderSize: u32,
        transportHeaderSize: u32,
        processPath: Address,
        token: u64,
        processId: u64,
        sourceInterfaceIndex: u32,
        destinationInterfaceIndex: u32,
        compartmentId: u32,
        fragmentMetadata: FWPS_INBOUND_FRAGMENT_METADATA0,
        pathMtu: u32,
        completionHandle: Address,
        transportEndpointHandle: u64,
        remoteScopeId: u32,
        controlData: Address,
        controlDataLength: u32,
        packetDirection: u32,
        headerIncludeHeader: Address,
        headerIncludeHeaderLength: u32,
        destinationPrefix: [u32; 8],
        frameLength: u16,
        parentEndpointHandle: u64,
        icmpIdAndSequence: u32,
        localRedirectTargetPID: u32,
        originalDestination: Address,
        redirectRecords: Address,
        currentL2MetadataValues: u32,
        l2Flags: u32,
        ethernetMacHeaderSize: u32,
        wiFiOperationMode: u32,
        vSwitchSourcePortId: u32,
        vSwitchSourceNicIndex: u16,
        vSwitchDestinationPortId: u32,
        vSwitchPacketContext: Address,
        subProcessTag: Address,
        reserved1: u64,
    }

    /// `fwpsk.h`. `FWPS_TRANSPORT_SEND_PARAMS1` begins with it.
    struct FWPS_TRANSPORT_SEND_PARAMS0 {
        remoteAddress: Address,
        remoteScopeId: u32,
        controlData: Address,
        controlDataLength: u32,
    }

    /// `ws2def.h`. The family comes first, then the port in network order.
    struct SOCKADDR_STORAGE {
        ss_family: u16,
        __ss_pad1: [u8; 6],
        __ss_align: u64,
        __ss_pad2: [u64; 14],
    }

    /// `fwpsk.h`.
    struct FWPS_CONNECT_REQUEST0 {
        localAddressAndPort: SOCKADDR_STORAGE,
        remoteAddressAndPort: SOCKADDR_STORAGE,
        portReservationToken: u64,
        localRedirectTargetPID: u32,
        previousVersion: Address,
        modifierFilterId: u64,
        localRedirectHandle: HANDLE,
        localRedirectContext: Address,
        localRedirectContextSize: usize,
    }

    /// `fwpsk.h`.
    struct FWPS_BIND_REQUEST0 {
        localAddressAndPort: SOCKADDR_STORAGE,
        portReservationToken: u64,
        previousVersion: Address,
        modifierFilterId: u64,
    }

    /// `fwpsk.h`.
    struct FWPS_STREAM_DATA_OFFSET0 {
        netBufferList: Address,
        netBuffer: Address,
        mdl: Address,
        mdlOffset: u32,
        netBufferOffset: u32,
        streamDataOffset: u64,
    }

    /// `fwpsk.h`.
    struct FWPS_STREAM_DATA0 {
        flags: u32,
        dataOffset: FWPS_STREAM_DATA_OFFSET0,
        dataLength: u64,
        netBufferListChain: Address,
    }

    /// `fwpsk.h`.
    struct FWPS_STREAM_CALLOUT_IO_PACKET0 {
        streamData: Address,
        missedBytes: u64,
        countBytesRequired: u32,
        countBytesEnforced: u64,
        streamAction: u32,
    }
}

/// `FWPS_METADATA_FIELD_*` (`fwpsk.h`).
#[allow(missing_docs, reason = "the names are fwpsk.h's own")]
pub mod metadata_field {
    pub const DISCARD_REASON: u32 = 0x1;
    pub const FLOW_HANDLE: u32 = 0x2;
    pub const IP_HEADER_SIZE: u32 = 0x4;
    pub const PROCESS_PATH: u32 = 0x8;
    pub const TOKEN: u32 = 0x10;
    pub const PROCESS_ID: u32 = 0x20;
    pub const SYSTEM_FLAGS: u32 = 0x40;
    pub const TRANSPORT_HEADER_SIZE: u32 = 0x400;
    pub const COMPARTMENT_ID: u32 = 0x800;
    pub const FRAGMENT_DATA: u32 = 0x1000;
    pub const PATH_MTU: u32 = 0x2000;
    pub const COMPLETION_HANDLE: u32 = 0x4000;
    pub const TRANSPORT_ENDPOINT_HANDLE: u32 = 0x8000;
    pub const REMOTE_SCOPE_ID: u32 = 0x2_0000;
    pub const PACKET_DIRECTION: u32 = 0x4_0000;
    pub const ALE_CLASSIFY_REQUIRED: u32 = 0x40_0000;
    pub const PARENT_ENDPOINT_HANDLE: u32 = 0x400_0000;
    pub const ICMP_ID_AND_SEQUENCE: u32 = 0x800_0000;
    pub const LOCAL_REDIRECT_TARGET_PID: u32 = 0x1000_0000;
    pub const ORIGINAL_DESTINATION: u32 = 0x2000_0000;
    pub const SUB_PROCESS_TAG: u32 = 0x8000_0000;
}
