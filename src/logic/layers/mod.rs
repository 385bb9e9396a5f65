//! The layers that the driver stands at, in the order of the documented flows.
//!
//! A layer comes in two families, and nearly every one with a twin for what
//! was discarded there; both are data here, never code. Ids and positions are
//! those of `fwpsk.h` (`FWPS_BUILTIN_LAYERS`, `FWPS_FIELDS_*`), keys those of
//! `fwpmk.h` (`FWPM_LAYER_*`).

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
    /// Both, in the order of the tables' columns.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// One documented layer: both families and, where there is one, its twin.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    /// `fwpsk.h`'s name without prefix and family.
    pub name: &'static str,
    /// Run-time ids by family; a twin's id is the next one.
    pub ids: [u16; 2],
    /// Management keys by family.
    pub keys: [Guid; 2],
    /// The layer's twin for what was discarded at it.
    pub discard: Option<DiscardLayer>,
    /// Positions of data fields; the same in both families and in the twin.
    pub fields: Fields,
    /// What the driver does there.
    pub role: Role,
    /// What a classify there shows.
    pub shows: Shows,
    /// Which flows it takes contexts of.
    pub flows: FlowContexts,
    /// Where the "TCP packet flows" page first comes to the layer.
    pub first_met: FlowEvent,
}

/// What a classify shows, and which way that goes: what layerData leads to
/// ("Data Offset Positions", "TCP packet flows").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// A socket call. layerData is nothing, or the request itself.
    Call,
    /// A socket call, and, where the protocol is not TCP or the call is asked
    /// about again, the packet that brought it about.
    CallOrSegment(Way),
    /// A packet whose data start at its transport header or behind it.
    Segment(Way),
    /// A packet whose data start at its IP header, or behind it.
    Packet(Way),
    /// An ICMP error.
    Error(Way),
    /// Bytes of a stream, `FWPS_STREAM_CALLOUT_IO_PACKET0`.
    Stream,
    /// What is on its way from elsewhere to elsewhere.
    Forwarded,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From this machine.
    Out,
    /// To it.
    In,
    /// As the field `DIRECTION` at this position says: a packet's own at
    /// DATAGRAM_DATA and STREAM_PACKET, its connection's at
    /// ALE_FLOW_ESTABLISHED ("Filtering Condition Identifiers").
    Field(u8),
}

/// Which flows a layer takes contexts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowContexts {
    /// None: it is not asked, or names no flow.
    Nothing,
    /// They begin here.
    Begin,
    /// All.
    Every,
    /// TCP's.
    Streams,
    /// All but TCP's.
    Datagrams,
}

impl FlowContexts {
    /// Whether it takes contexts of a protocol's flows.
    pub const fn takes(self, protocol: u8) -> bool {
        match self {
            Self::Nothing | Self::Begin => false,
            Self::Every => true,
            Self::Streams => protocol == TCP,
            Self::Datagrams => protocol != TCP,
        }
    }
}

/// A layer's twin.
#[derive(Debug, PartialEq, Eq)]
pub struct DiscardLayer {
    /// Management keys by family.
    pub keys: [Guid; 2],
    /// What the driver does there.
    pub role: Role,
}

/// What a callout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counts and watches, never decides.
    Observe,
    /// Decides.
    Decide(Decision),
}

/// What there is to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Whether what the transport layer discarded is answered.
    TransportDiscard,
    /// Whether what the network layer discarded is.
    PacketDiscard,
    /// Whether an ICMP error goes out.
    IcmpError,
    /// Whether an echo request is taken in.
    EchoRequest,
}

impl Decision {
    /// Whether whoever looks for open ports comes here: with what met a closed
    /// one, not with the answer to it.
    pub const fn is_met_by_scans(self) -> bool {
        matches!(self, Self::TransportDiscard | Self::PacketDiscard)
    }
}

impl Role {
    /// Whether a callout of this role has a filter: one that has nothing to
    /// decide, and is not to observe, costs no packet anything.
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
}

impl Fields {
    /// How many values there are up to the last of these.
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

/// The events of the "TCP packet flows" page that first come to a layer.
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
    /// It arrives at the server.
    SynIn,
    /// The server's answer arrives at the client.
    SynAckIn,
    /// Data passes.
    Data,
    /// The page's TCP flows never come here.
    Beside,
}
