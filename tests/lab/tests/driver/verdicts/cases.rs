//! Packets of every kind, origin and exemption for each decision.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::traffic::Family;

use super::oracle::EXEMPT_LUID;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const GRE: u8 = 47;
pub const ICMPV6: u8 = 58;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Where the driver decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    TransportDiscard,
    PacketDiscard,
    IcmpError,
    EchoRequest,
}

/// A packet at a deciding layer.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub decision: Decision,
    pub family: Family,
    pub kind: Kind,
    pub origin: Origin,
    /// The layer's FLAGS.
    pub flags: u32,
    pub spot: Spot,
}

/// The kind of a packet. At [`Decision::IcmpError`], of the quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub protocol: u8,
    pub tcp_flags: u8,
    /// Type and code of the message, or of the error.
    pub icmp: Option<(u16, u16)>,
    pub shape: Shape,
}

impl Kind {
    /// A whole packet of a protocol, without flags.
    pub fn of(protocol: u8) -> Self {
        Self { protocol, tcp_flags: 0, icmp: None, shape: Shape::Whole }
    }
}

/// Whether a packet is a datagram or a fragment of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    FirstFragment,
    /// Its payload looks like a header with the case's ports.
    LaterFragment,
}

/// Discard module and reason, and whether a flow or an endpoint is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub discard: Option<(u32, u32)>,
    pub flow: bool,
    pub endpoint: bool,
}

/// The fields that exemption lists compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub port: u16,
    pub remote_port: u16,
    pub remote: IpAddr,
    pub interface: Option<u64>,
    pub profile: Option<u32>,
    /// `IP_LOCAL_ADDRESS_TYPE`, where the layer has it.
    pub address_type: Option<u8>,
    pub compartment: Compartment,
}

/// The compartment, as the two places show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compartment {
    pub in_metadata: Option<u32>,
    pub in_field: Option<u32>,
}

impl Compartment {
    /// The machine's own (`NET_IF_COMPARTMENT_ID_PRIMARY`, ifdef.h).
    pub const OWN: Self = Self { in_metadata: Some(1), in_field: Some(1) };
}

/// `NlatUnicast` (nldef.h).
pub const UNICAST: u8 = 1;

/// Neither flag; each alone; both; every other flag.
const FLAGS: [u32; 5] = [0, 1, 2, 3, !3];

/// The layer's name.
pub fn layer(decision: Decision, family: Family) -> String {
    match decision {
        Decision::TransportDiscard => format!("INBOUND_TRANSPORT_{family:?}_DISCARD"),
        Decision::PacketDiscard => format!("INBOUND_IPPACKET_{family:?}_DISCARD"),
        Decision::IcmpError => format!("OUTBOUND_ICMP_ERROR_{family:?}"),
        Decision::EchoRequest => format!("INBOUND_TRANSPORT_{family:?}"),
    }
}

/// Every packet of a decision.
pub fn all(decision: Decision, family: Family) -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, (kind, origins)) in kinds(decision, family).into_iter().enumerate() {
        for (index, origin) in origins.into_iter().enumerate() {
            let spots = spots(family, kind.protocol);
            let last = spots.len() - 1;
            for (at, flags) in FLAGS.into_iter().enumerate() {
                for (place, &spot) in spots.iter().enumerate() {
                    // Every pair for the first two kinds. For other kinds one axis at a
                    // time. For other origins the ends of each axis.
                    let is_shown = match (number, index) {
                        (0 | 1, 0) => true,
                        (_, 0) => at == 0 || place == 0,
                        _ => at == 0 && place == last || place == 0,
                    };
                    if is_shown {
                        cases.push(Case { decision, family, kind, origin, flags, spot });
                    }
                }
            }
        }
    }
    cases
}

/// Kinds of a decision, each with its origins, the common origin first.
fn kinds(decision: Decision, family: Family) -> Vec<(Kind, Vec<Origin>)> {
    let icmp = if family == Family::V4 { ICMP } else { ICMPV6 };
    let of = Kind::of;
    let segment = |tcp_flags| Kind { tcp_flags, ..of(TCP) };
    let part = |shape| Kind { shape, ..of(UDP) };
    let error = |quoted, kind, code| Kind { icmp: Some((kind, code)), ..quoted };
    let nowhere = vec![origin(None)];
    match decision {
        Decision::TransportDiscard => {
            let kinds = [segment(SYN), of(UDP), segment(ACK), segment(RST), of(icmp)];
            kinds.map(|kind| (kind, segment_origins())).to_vec()
        }
        Decision::PacketDiscard => {
            let kinds = [
                (of(UDP), 4),
                (of(GRE), 3),
                (of(TCP), 4),
                (of(icmp), 3),
                (part(Shape::FirstFragment), 4),
                (part(Shape::LaterFragment), 4),
            ];
            kinds.map(|(kind, usual)| (kind, packet_origins(usual))).to_vec()
        }
        Decision::IcmpError => {
            let quoted = [of(UDP), of(TCP), of(GRE), part(Shape::FirstFragment), part(Shape::LaterFragment)];
            // Port and protocol unreachable of this family, and of the other;
            // neighbours of theirs: no route, administratively prohibited,
            // fragmentation needed, packet too big, time exceeded, redirect; an unknown
            // option, and a parameter problem of IPv4.
            let answers = match family {
                Family::V4 => [(3, 3), (3, 2)],
                Family::V6 => [(1, 4), (4, 1)],
            };
            let others = [
                (3, 3),
                (3, 2),
                (1, 4),
                (4, 1),
                (1, 0),
                (3, 13),
                (3, 4),
                (2, 0),
                (11, 0),
                (5, 1),
                (4, 0),
                (4, 2),
                (12, 0),
            ];
            let of_each = |quoted| answers.map(|(kind, code)| error(quoted, kind, code));
            let mut kinds: Vec<_> = quoted.into_iter().flat_map(of_each).collect();
            kinds.extend(
                others
                    .iter()
                    .filter(|other| !answers.contains(other))
                    .map(|&(kind, code)| error(of(UDP), kind, code)),
            );
            kinds.into_iter().map(|kind| (kind, nowhere.clone())).collect()
        }
        Decision::EchoRequest => {
            // Echo, another request, the other family's, and replies.
            let request = if family == Family::V4 { [8, 13, 128] } else { [128, 139, 8] };
            let messages = [request[0], request[1], request[2], 0, 129].map(|kind| error(of(icmp), kind, 0));
            let others = [segment(SYN), of(UDP)];
            messages.into_iter().chain(others).map(|kind| (kind, nowhere.clone())).collect()
        }
    }
}

fn origin(discard: Option<(u32, u32)>) -> Origin {
    Origin { discard, flow: false, endpoint: false }
}

/// INET_DISCARD_REASON: no endpoint, no connection, none given, a number that
/// the header does not have; what another filter dropped, for each of its
/// reasons and for the number that means no endpoint elsewhere; a segment that
/// is wrong, and one of a connection.
fn segment_origins() -> Vec<Origin> {
    let no_endpoint = Some((1, 4));
    let discards = [
        no_endpoint,
        Some((1, 25)),
        None,
        Some((1, 4711)),
        Some((0, 4)),
        Some((2, 0)),
        Some((2, 1)),
        Some((2, 4)),
        Some((1, 3)),
        Some((1, 10)),
    ];
    let mut origins = discards.map(origin).to_vec();
    origins.push(Origin { flow: true, ..origin(no_endpoint) });
    origins.push(Origin { endpoint: true, ..origin(no_endpoint) });
    origins.push(Origin { endpoint: true, ..origin(None) });
    origins
}

/// `IP_DISCARD_REASON`: the common reason, both reasons with an answer, one without (no
/// route), none, another module's, and drops by another filter.
fn packet_origins(usual: u32) -> Vec<Origin> {
    let discards = [
        Some((0, usual)),
        Some((0, 7 - usual)),
        Some((0, 7)),
        None,
        Some((1, 4)),
        Some((2, 0)),
        Some((2, 4)),
    ];
    discards.map(origin).to_vec()
}

/// No exemption; each list matched, and missed by as little as possible; several lists
/// matched.
fn spots(family: Family, protocol: u8) -> Vec<Spot> {
    const ELSEWHERE: u64 = 0x6_0081_8765_4321;
    let v4 = |address: [u8; 4]| IpAddr::V4(Ipv4Addr::from(address));
    let v6 = |address: [u16; 8]| IpAddr::V6(Ipv6Addr::from(address));
    // One address within the prefix; then one with another last bit, and first bit.
    let (remote, within, others) = match family {
        Family::V4 => {
            (v4([192, 0, 2, 1]), v4([10, 9, 255, 255]), [v4([10, 8, 255, 255]), v4([138, 9, 0, 1])])
        }
        Family::V6 => (
            v6([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1]),
            v6([0x2001, 0xdb8, 9, 0xffff, 0, 0, 0, 1]),
            [v6([0x2001, 0xdb8, 8, 0xffff, 0, 0, 0, 1]), v6([0xa001, 0xdb8, 9, 0, 0, 0, 0, 1])],
        ),
    };
    let plain = Spot {
        port: 40,
        remote_port: 40_000,
        remote,
        interface: Some(ELSEWHERE),
        profile: Some(1),
        address_type: Some(UNICAST),
        compartment: Compartment::OWN,
    };
    let exempt = Spot { port: if protocol == UDP { 53 } else { 113 }, ..plain };
    let mut spots = vec![plain];
    spots.extend([113, 53, 8000, 8100, 7999, 8101].map(|port| Spot { port, ..plain }));
    spots.extend([within, others[0], others[1]].map(|remote| Spot { remote, ..plain }));
    // The exempt LUID; LUIDs that share its lower or upper half; none.
    let luids = [Some(EXEMPT_LUID), Some(EXEMPT_LUID ^ 1 << 48), Some(EXEMPT_LUID ^ 1 << 24), None];
    spots.extend(luids.map(|interface| Spot { interface, ..plain }));
    // Another interface of an exempt type; the exempt profile, another one, and none.
    spots.push(Spot { interface: Some(131 << 48 | 7 << 24), ..plain });
    spots.extend([Some(2), Some(3), Some(0), None].map(|profile| Spot { profile, ..plain }));
    // Anycast, multicast, broadcast, a number that the header does not have, and none.
    let types = [Some(2), Some(3), Some(4), Some(9), None];
    spots.extend(types.map(|address_type| Spot { address_type, ..plain }));
    // Another compartment in both places, in one of them, and nowhere.
    let compartments = [(Some(2), Some(2)), (None, Some(2)), (None, Some(1)), (Some(3), None), (None, None)];
    spots.extend(compartments.map(|(in_metadata, in_field)| {
        let compartment = Compartment { in_metadata, in_field };
        Spot { compartment, ..plain }
    }));
    spots.push(Spot {
        address_type: Some(3),
        compartment: Compartment { in_metadata: Some(2), in_field: Some(2) },
        ..exempt
    });
    spots.push(Spot { remote: within, ..exempt });
    spots.push(Spot { remote: within, interface: Some(EXEMPT_LUID), ..plain });
    spots.push(Spot { interface: Some(EXEMPT_LUID), ..exempt });
    spots.push(Spot { remote: within, interface: Some(EXEMPT_LUID), ..exempt });
    spots
}
