//! The points that Microsoft's documents leave open, each as a switch.
//!
//! The defaults follow the documents if they say anything, otherwise the most
//! likely reading.

/// `FWPS_DISCARD_MODULE0`, and the reasons that the host uses (`fwpsk.h`,
/// `fwpstypes.h`).
#[allow(missing_docs, reason = "the names are those of the headers, recased")]
pub mod reason {
    pub const MODULE_NETWORK: u32 = 0;
    pub const MODULE_TRANSPORT: u32 = 1;
    pub const MODULE_GENERAL: u32 = 2;
    pub const GENERAL_FIREWALL_POLICY: u32 = 0;
    pub const IP_BAD_SOURCE_ADDRESS: u32 = 1;
    pub const IP_NOT_LOCALLY_DESTINED: u32 = 2;
    pub const IP_PROTOCOL_UNREACHABLE: u32 = 3;
    pub const IP_PORT_UNREACHABLE: u32 = 4;
    pub const IP_BAD_LENGTH: u32 = 5;
    pub const IP_MALFORMED_HEADER: u32 = 6;
    pub const IP_BAD_CHECKSUM: u32 = 12;
    pub const IP_HOP_LIMIT_EXCEEDED: u32 = 128;
    pub const IP_IPSEC_FAILURE: u32 = 262;
    pub const IP_BAD_OPTION: u32 = 286;
    pub const INET_DESTINATION_MULTICAST: u32 = 1;
    pub const INET_CHECKSUM_INVALID: u32 = 3;
    pub const INET_ENDPOINT_NOT_FOUND: u32 = 4;
    pub const INET_ACK_INVALID: u32 = 8;
    pub const INET_EXPECTED_SYN: u32 = 9;
    pub const INET_LISTENER_INVALID_FLAGS: u32 = 23;
    pub const INET_PAUSE_ACCEPT: u32 = 30;
}

/// The metadata of a discard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardMetadata {
    /// The documented or inferred module and reason.
    Documented,
    /// The documented module, with this number as the reason.
    Reason(u32),
    /// The metadata bit is not set.
    Absent,
}

/// The reason for a segment that a listener cannot use: 8, 9 or 23 of
/// INET_DISCARD_REASON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerReason {
    /// 8 with an ACK, 23 for a SYN with other flags, otherwise 9.
    ByFlags,
    /// Always this number.
    Always(u32),
}

/// The position where the data of an NBL start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DataStart {
    IpHeader,
    TransportHeader,
    Payload,
}

/// Where UDP without an endpoint is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpDiscard {
    /// At INBOUND_IPPACKET_DISCARD only, as in *UDP Packet Flows*.
    IpPacket,
    /// At INBOUND_TRANSPORT_DISCARD only.
    Transport,
    /// At the transport layer's, where security events of real machines show it, then
    /// at the IP layer's discard layer, which the documents name.
    Both,
}

/// What a segment for a broadcast or multicast address shows. The stack drops it without
/// an answer (RFC 9293, 3.9.2.2), but no document says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSegment {
    /// INBOUND_TRANSPORT_DISCARD, for this `INET_DISCARD_REASON`.
    TransportDiscard(u32),
    /// No layer behind INBOUND_IPPACKET.
    Nothing,
}

/// Where the layer STREAM_PACKET shows the segments of TCP.
///
/// No page has it in a sequence. It "allows for inspection of network data on a per-TCP
/// packet basis, including handshake and flow control exchanges" (*Run-time filtering
/// layer identifiers*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPackets {
    /// Nowhere, as in *TCP Packet Flows*.
    NotShown,
    /// Above the transport layers: behind INBOUND_TRANSPORT, before OUTBOUND_TRANSPORT.
    AboveTransport,
    /// Below them: before INBOUND_TRANSPORT, behind OUTBOUND_TRANSPORT.
    BelowTransport,
}

/// The switches of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPoints {
    /// Whether INBOUND_TRANSPORT is classified before its discard layer. *TCP
    /// Packet Flows* does not list it.
    pub transport_before_discard: bool,
    /// The metadata of a discarded packet without endpoint. They do not apply to
    /// packets that a filter dropped.
    pub discard_metadata: DiscardMetadata,
    /// The reason for a segment that a listener cannot use.
    pub listener_reason: ListenerReason,
    /// Where the NBL's data start at INBOUND_TRANSPORT_DISCARD; documented: at the
    /// payload.
    pub transport_discard_start: DataStart,
    /// Where they start at INBOUND_IPPACKET_DISCARD; documented: where the stack
    /// stopped parsing.
    pub ippacket_discard_start: DataStart,
    /// Where UDP without an endpoint is discarded.
    pub udp_discard: UdpDiscard,
    /// What a segment for a broadcast or multicast address shows. *Transport layer discard
    /// reasons* has a reason of its own for it.
    pub group_segment: GroupSegment,
    /// Whether the metadata have the compartment where *Metadata Fields at Each Filtering
    /// Layer* lists it. Listed means possible. The layer's field has it in any case.
    pub compartment_in_metadata: bool,
    /// Whether indications at the authorization layers already have a flow handle.
    pub flow_handle_at_authorization: bool,
    /// Whether IPv4's sockets are dual-stack sockets, whose calls and connections the
    /// ALE layers of IPv6 show with mapped addresses (*ALE Layers*: "may").
    pub dual_stack: bool,
    /// Whether ALE_ENDPOINT_CLOSURE is indicated for an accepted connection whose
    /// handshake was not completed. *ALE Endpoint Lifetime Management*: for every
    /// indication at ALE_AUTH_RECV_ACCEPT; *ALE Layers*: for a connected flow.
    pub half_open_closure: bool,
    /// Whether ALE_RESOURCE_ASSIGNMENT shows the port that the stack has selected for
    /// a bind to port 0, as *ALE Layers* says, or port 0.
    pub selected_port_at_assignment: bool,
    /// Whether an outgoing packet that a driver injects at the network layer passes the
    /// layers from the top, as *Packet Injection Functions* says, or only
    /// OUTBOUND_IPPACKET.
    pub injected_from_the_top: bool,
    /// Whether a forwarded packet passes OUTBOUND_IPPACKET after IPFORWARD. *Management
    /// Filtering Layer Identifiers* has "the sent packet" there.
    pub forwarded_at_outbound: bool,
    /// Whether a packet of `FwpsInjectForwardAsync0` is indicated again. Its page says no;
    /// *Packet Injection Functions* says that an injected packet is.
    pub injected_forward_indicated: bool,
    /// Whether INBOUND_IPPACKET shows IS_FRAGMENT for a fragment. *Filtering condition
    /// flags* says only that the flag means a fragment. WinDivert, which documents that it
    /// can capture fragments there, passes over packets with the flag.
    pub fragments_flagged: bool,
    /// Where STREAM_PACKET shows segments.
    pub stream_packets: StreamPackets,
    /// Whether a received ICMP error is shown at INBOUND_TRANSPORT, before
    /// INBOUND_ICMP_ERROR. The pages name the latter only.
    pub icmp_error_at_transport: bool,
    /// Whether each packet of a flow is a reason to authorize it again. *ALE
    /// Reauthorization* has three reasons, the headers have more, without saying when
    /// each one comes.
    pub always_reauthorized: bool,
    /// Whether packets arrive on the host's own interface and another one in turn, as they
    /// can on a weak host (*ALE Reauthorization*).
    pub weak_host: bool,
    /// Whether a packet of `FwpsInjectTransportReceiveAsync0` passes the layers from the
    /// bottom, as *Packet Injection Functions* says, or from INBOUND_TRANSPORT on, which
    /// "is used to inject packet data from the transport … layers".
    pub received_injection_from_the_bottom: bool,
}

impl Default for OpenPoints {
    fn default() -> Self {
        Self {
            transport_before_discard: false,
            discard_metadata: DiscardMetadata::Documented,
            listener_reason: ListenerReason::ByFlags,
            transport_discard_start: DataStart::Payload,
            ippacket_discard_start: DataStart::TransportHeader,
            udp_discard: UdpDiscard::Both,
            group_segment: GroupSegment::TransportDiscard(reason::INET_DESTINATION_MULTICAST),
            compartment_in_metadata: true,
            flow_handle_at_authorization: true,
            dual_stack: false,
            half_open_closure: true,
            selected_port_at_assignment: true,
            injected_from_the_top: true,
            forwarded_at_outbound: true,
            injected_forward_indicated: false,
            fragments_flagged: true,
            stream_packets: StreamPackets::NotShown,
            icmp_error_at_transport: false,
            always_reauthorized: false,
            weak_host: false,
            received_injection_from_the_bottom: true,
        }
    }
}
