//! The table of layers, in the order of the documented flows.
//!
//! Each layer has two families, and most have a discard layer for what was discarded
//! there. Both are data here, not code. Ids and positions are those of `fwpsk.h`
//! (`FWPS_BUILTIN_LAYERS`, `FWPS_FIELDS_*`), keys those of `fwpmk.h`
//! (`FWPM_LAYER_*`).

mod table;
#[cfg(test)]
mod tests;

use super::policy::Policy;
use super::protocol::TCP;

pub use table::LAYERS;

/// A GUID as one number, in the order in which it is written.
pub type Guid = u128;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order of the tables' columns.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// A documented layer, in both families, with its discard layer if there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    /// The name in `fwpsk.h`, without prefix and family.
    pub name: &'static str,
    /// Run-time ids by family. The discard layer has the next id.
    pub ids: [u16; 2],
    /// Management keys by family.
    pub keys: [Guid; 2],
    /// The discard layer.
    pub discard: Option<DiscardLayer>,
    /// Positions of the data fields; equal in both families and in the discard
    /// layer.
    pub fields: Fields,
    /// What the driver does there.
    pub role: Role,
    /// What a classify shows there.
    pub shows: Shows,
    /// For which flows the layer takes contexts.
    pub flows: FlowContexts,
    /// Where the page "TCP packet flows" first names the layer.
    pub first_met: FlowEvent,
}

/// What a classify shows: the type of layerData, and the direction ("Data Offset
/// Positions", "TCP packet flows").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// A socket call. layerData is NULL, or the request itself.
    Call,
    /// A socket call. If the protocol is not TCP, or for a reauthorization,
    /// layerData is the packet that caused it.
    CallOrSegment(Way),
    /// A packet whose data start at its transport header or behind it.
    Segment(Way),
    /// A packet whose data start at its IP header or behind it.
    Packet(Way),
    /// An ICMP error.
    Error(Way),
    /// Bytes of a stream: `FWPS_STREAM_CALLOUT_IO_PACKET0`.
    Stream,
    /// A packet that is forwarded.
    Forwarded,
}

/// Where the direction of a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Outbound.
    Out,
    /// Inbound.
    In,
    /// The field `DIRECTION` at this position: the packet's direction at
    /// DATAGRAM_DATA and STREAM_PACKET, the connection's at ALE_FLOW_ESTABLISHED
    /// ("Filtering Condition Identifiers").
    Field(u8),
}

/// For which flows a layer takes contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowContexts {
    /// For none: contexts are not needed there, or it names no flow.
    Nothing,
    /// For none, but flows begin here.
    Begin,
    /// For all flows.
    Every,
    /// For TCP's flows.
    Streams,
    /// For all but TCP's flows.
    Datagrams,
}

impl FlowContexts {
    /// Whether the layer takes contexts for flows of a protocol.
    pub const fn takes(self, protocol: u8) -> bool {
        match self {
            Self::Nothing | Self::Begin => false,
            Self::Every => true,
            Self::Streams => protocol == TCP,
            Self::Datagrams => protocol != TCP,
        }
    }
}

/// The discard layer of a layer.
#[derive(Debug, PartialEq, Eq)]
pub struct DiscardLayer {
    /// Management keys by family.
    pub keys: [Guid; 2],
    /// What the driver does there.
    pub role: Role,
}

/// What a callout does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It counts and watches, and never decides.
    Observe,
    /// It decides.
    Decide(Decision),
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Whether a packet that the transport layer discarded is answered.
    TransportDiscard,
    /// Whether a packet that the network layer discarded is answered.
    PacketDiscard,
    /// Whether an ICMP error is sent.
    IcmpError,
    /// Whether an echo request is answered.
    EchoRequest,
}

impl Decision {
    /// Whether the packets are probes that met a closed port, and not the answers to
    /// them.
    pub const fn sees_probes(self) -> bool {
        matches!(self, Self::TransportDiscard | Self::PacketDiscard)
    }
}

impl Role {
    /// Whether a callout of this role has a filter. Without a filter it costs no
    /// packet anything.
    pub fn has_filter(self, policy: &Policy) -> bool {
        match self {
            Self::Observe => policy.observe,
            Self::Decide(Decision::EchoRequest) => policy.observe || policy.silence_echo,
            Self::Decide(_) => true,
        }
    }
}

/// Positions in `FWPS_INCOMING_VALUES0::incomingValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// `IP_PROTOCOL`.
    pub protocol: Option<u8>,
    /// `IP_LOCAL_ADDRESS`.
    pub local_address: Option<u8>,
    /// `IP_REMOTE_ADDRESS`.
    pub remote_address: Option<u8>,
    /// `IP_LOCAL_PORT`; for ICMP its type.
    pub local_port: Option<u8>,
    /// `IP_REMOTE_PORT`; for ICMP its code.
    pub remote_port: Option<u8>,
    /// `ICMP_TYPE` and `ICMP_CODE` where they have places of their own.
    pub icmp: Option<[u8; 2]>,
    /// `IP_LOCAL_INTERFACE`.
    pub interface: Option<u8>,
    /// `FLAGS`.
    pub flags: Option<u8>,
    /// `IP_LOCAL_ADDRESS_TYPE`, for layers where packets without endpoint are decided.
    pub address_type: Option<u8>,
    /// `COMPARTMENT_ID`, for layers where the driver decides or flows begin.
    pub compartment: Option<u8>,
    /// The profile of the network: `CURRENT_PROFILE_ID` where a packet arrives,
    /// `NEXTHOP_INTERFACE_PROFILE_ID` where one leaves. Only for layers where the
    /// driver decides.
    pub profile: Option<u8>,
}

impl Fields {
    /// The number of values up to the last of these fields, except the profile and the
    /// compartment: without them no profile and no compartment is exempt, and everything
    /// else is decided.
    pub const fn count(&self) -> usize {
        let icmp = match self.icmp {
            Some([kind, code]) => [Some(kind), Some(code)],
            None => [None, None],
        };
        let positions = [
            self.protocol,
            self.local_address,
            self.remote_address,
            self.local_port,
            self.remote_port,
            icmp[0],
            icmp[1],
            self.interface,
            self.flags,
            self.address_type,
        ];
        let (mut count, mut at) = (0, 0);
        while at < positions.len() {
            if let Some(position) = positions[at]
                && count <= position as usize
            {
                count = position as usize + 1;
            }
            at += 1;
        }
        count
    }
}

/// The events of the page "TCP packet flows" that first name a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlowEvent {
    /// A socket is bound.
    Bind,
    /// A server listens.
    Listen,
    /// A client connects.
    Connect,
    /// The client's SYN leaves.
    SynOut,
    /// The SYN arrives at the server.
    SynIn,
    /// The SYN-ACK arrives at the client.
    SynAckIn,
    /// Data passes.
    Data,
    /// The page does not name the layer.
    NotNamed,
}
