//! The input and the output of a classify.

use super::{Guid, Injections, Value};
use crate::driver::DriverId;
use crate::status::Status;

/// A run-time layer id (`FWPS_BUILTIN_LAYERS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

/// A data flow's handle (`FWPS_METADATA_FIELD_FLOW_HANDLE`); never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowHandle(pub u64);

/// `FWPS_DISCARD_METADATA0`: module, reason within it, and the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// `FWPS_DISCARD_MODULE0`: 0 network, 1 transport, 2 general.
    pub module: u32,
    /// `IP_DISCARD_REASON`, `INET_DISCARD_REASON` or `FWPS_GENERAL_DISCARD_REASON0`.
    pub reason: u32,
    /// The filter that dropped, 0 if none.
    pub filter_id: u64,
}

/// `FWPS_INBOUND_FRAGMENT_METADATA0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentData {
    /// The number of the datagram that the fragment belongs to.
    pub identification: u32,
    /// The position of its data in the datagram, in bytes.
    pub offset: u16,
    /// The size of its data, in bytes.
    pub length: u32,
}

/// The metadata of an indication. `Some` sets the field's bit in
/// `currentMetadataValues`; sizes are in bytes.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of FWPS_INCOMING_METADATA_VALUES0")]
pub struct Metadata {
    pub discard: Option<Discard>,
    pub flow_handle: Option<FlowHandle>,
    pub ip_header_size: Option<u32>,
    pub transport_header_size: Option<u32>,
    pub process_path: Option<std::sync::Arc<[u8]>>,
    pub process_id: Option<u64>,
    pub token: Option<u64>,
    pub system_flags: Option<u32>,
    pub compartment_id: Option<u32>,
    pub fragment: Option<FragmentData>,
    pub path_mtu: Option<u32>,
    pub completion_handle: Option<u64>,
    pub transport_endpoint_handle: Option<u64>,
    pub parent_endpoint_handle: Option<u64>,
    pub remote_scope_id: Option<u32>,
    pub packet_direction: Option<u32>,
    pub icmp_id_and_sequence: Option<u32>,
    pub sub_process_tag: Option<u32>,
    pub original_destination: Option<std::net::SocketAddr>,
    pub local_redirect_target_pid: Option<u32>,
    /// `FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED`, a bit without a field.
    pub ale_classify_required: bool,
    /// How the packet was injected. No field: `FwpsQueryPacketInjectionState0` tells it.
    pub injections: Injections,
    /// The callout that has injected the stream data. No field: only callouts behind it see
    /// them.
    pub injected_by: Option<u32>,
}

/// A packet in a NET_BUFFER_LIST.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The whole packet from its IP header on; from the transport header on at
    /// outbound layers before the IP header exists.
    pub bytes: &'a [u8],
    /// The offset in `bytes` at which the data of the NET_BUFFER start, in bytes.
    pub data_start: usize,
}

/// The `layerData` of an indication.
#[derive(Clone, Copy, Debug)]
pub enum LayerData<'a> {
    /// NULL.
    None,
    /// A NET_BUFFER_LIST.
    Packet(Packet<'a>),
    /// An `FWPS_STREAM_CALLOUT_IO_PACKET0` over these stream bytes.
    Stream {
        /// The indicated bytes; empty for a FIN alone.
        bytes: &'a [u8],
        /// `FWPS_STREAM_FLAG_*`.
        flags: u32,
    },
}

/// An indication to the engine.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The layer.
    pub layer: LayerId,
    /// The values of all data fields, in index order.
    pub values: &'a [Value],
    /// Metadata.
    pub metadata: &'a Metadata,
    /// `layerData`.
    pub data: LayerData<'a>,
}

/// `FWP_ACTION_TYPE`. A foreign value, so any number is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are fwptypes.h's own")]
pub struct ActionType(pub u32);

#[allow(missing_docs, reason = "the names are fwptypes.h's own")]
impl ActionType {
    pub const BLOCK: Self = Self(0x1001);
    pub const PERMIT: Self = Self(0x1002);
    pub const CALLOUT_TERMINATING: Self = Self(0x5003);
    pub const CALLOUT_INSPECTION: Self = Self(0x6004);
    pub const CALLOUT_UNKNOWN: Self = Self(0x4005);
    pub const CONTINUE: Self = Self(0x2006);
    pub const NONE: Self = Self(0x0007);
    pub const NONE_NO_MATCH: Self = Self(0x0008);
}

/// No value of `FWP_ACTION_TYPE`, so that a callout that sets none is noticed.
pub const NO_ACTION: ActionType = ActionType(0);

/// `FWPS_RIGHT_ACTION_WRITE`.
pub const RIGHT_ACTION_WRITE: u32 = 1;
/// `FWPS_CLASSIFY_OUT_FLAG_ABSORB`.
pub const CLASSIFY_OUT_FLAG_ABSORB: u32 = 1;

/// The part of `FWPS_CLASSIFY_OUT0` that a callout may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifyOut {
    /// `actionType`.
    pub action: ActionType,
    /// `rights`.
    pub rights: u32,
    /// `flags`.
    pub flags: u32,
}

/// A filter as a callout sees it (`FWPS_FILTER3`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of FWPS_FILTER3")]
pub struct RuntimeFilter {
    pub filter_id: u64,
    pub weight: u64,
    pub sublayer_weight: u16,
    /// `FWPS_FILTER_FLAG_*`.
    pub flags: u16,
    pub action: ActionType,
    pub callout_id: u32,
    pub layer: LayerId,
    pub raw_context: u64,
}

/// `FWPS_CALLOUT_NOTIFY_TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are fwpsk.h's own")]
pub enum NotifyType {
    AddFilter = 0,
    DeleteFilter = 1,
    AddFilterPostCommit = 2,
}

/// The functions of a callout, as a driver registered them.
///
/// The engine holds no lock of its own when it calls them, so they may call back
/// into it.
pub trait CalloutDriver: Send + Sync {
    /// The driver to which it belongs.
    fn owner(&self) -> DriverId {
        DriverId::SYSTEM
    }
    /// `classifyFn`.
    fn classify(
        &self,
        request: &Request<'_>,
        filter: &RuntimeFilter,
        flow_context: u64,
        out: &mut ClassifyOut,
    );
    /// `notifyFn`; the key is `None` for a delete.
    fn notify(&self, _kind: NotifyType, _key: Option<Guid>, _filter: &RuntimeFilter) -> Status {
        Status::SUCCESS
    }
    /// Whether the callout has a `flowDeleteFn`.
    fn has_flow_delete(&self) -> bool {
        false
    }
    /// `flowDeleteFn`.
    fn flow_delete(&self, _layer: LayerId, _callout_id: u32, _flow_context: u64) {}
}

/// A call of a `classifyFn`, with its changes.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Run-time id of the callout.
    pub callout_id: u32,
    /// Its `calloutKey`.
    pub callout_key: Guid,
    /// The filter that called it.
    pub filter_id: u64,
    /// `FWPS_CLASSIFY_OUT0` before the call.
    pub before: ClassifyOut,
    /// `FWPS_CLASSIFY_OUT0` after the call.
    pub after: ClassifyOut,
}

/// The decision of the engine.
#[derive(Clone, Debug)]
pub struct Decision {
    /// `BLOCK` or `PERMIT`.
    pub action: ActionType,
    /// Whether the right to change it was cleared.
    pub hard: bool,
    /// The block has ABSORB set: no discard layer is indicated, and nothing is
    /// audited.
    pub absorbed: bool,
    /// The filter that decided; `None` if none did.
    pub filter_id: Option<u64>,
    /// The calls of `classifyFn`, in order.
    pub invocations: Vec<Invocation>,
}

impl Decision {
    /// Whether the packet or operation is blocked.
    pub fn blocked(&self) -> bool {
        self.action == ActionType::BLOCK
    }
}
