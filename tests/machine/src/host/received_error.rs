//! ICMP errors from the network, about packets that this host has sent.
//!
//! INBOUND_ICMP_ERROR is "in the receive path for inspecting received ICMP error messages
//! for the transport protocol" (*Management filtering layer identifiers*).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Host;
use super::inbound::echo_request;
use super::layers::{Field, Layer};
use super::log::RecordId;
use super::options::Options;
use super::scene::{Scene, address};
use crate::wfp::{Packet, Value};
use crate::wire::{Family, Parsed, Transport, extension, protocol};

/// The size of an ICMP error's header, in bytes (RFC 792, RFC 4443).
pub(super) const HEADER: usize = 8;

/// The packet that an ICMP error quotes: its sender is this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub protocol: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Whether the message is an ICMP error (RFC 792; RFC 4443, 2.1).
pub(super) fn is_error(family: Family, kind: u8) -> bool {
    match family {
        // Destination unreachable, source quench, time exceeded, parameter problem.
        Family::V4 => [3, 4, 11, 12].contains(&kind),
        Family::V6 => kind < echo_request(Family::V6),
    }
}

/// The packet that an ICMP error quotes. It is cut off, so only the first bytes of its
/// headers are read. `None` if it is no error, or quotes too little.
pub(super) fn quoted(error: &Parsed<'_>) -> Option<Quoted> {
    let Transport::Icmp { kind, .. } = error.transport else { return None };
    let family = error.family();
    let bytes = error.transport_bytes().get(HEADER..).filter(|_| is_error(family, kind))?;
    let (protocol, source, destination, at): (u8, IpAddr, IpAddr, usize) = match (family, bytes) {
        (Family::V4, [first, ..]) if first >> 4 == 4 => {
            let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            (*bytes.get(9)?, v4(12)?.into(), v4(16)?.into(), usize::from(first & 15) * 4)
        }
        (Family::V6, [first, ..]) if first >> 4 == 6 => {
            let v6 = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            let (source, destination) = (v6(8)?.into(), v6(24)?.into());
            let mut chain = crate::wire::Chain::new(bytes);
            chain.by_ref().for_each(drop);
            (chain.next, source, destination, chain.at)
        }
        _ => return None,
    };
    // A later fragment has no ports.
    let is_first =
        family == Family::V6 || matches!(bytes, [_, _, _, _, _, _, a, b, ..] if a & 0x1F == 0 && *b == 0);
    let port = |at: usize| match bytes.get(at..at + 2) {
        Some(&[high, low]) if is_first && [protocol::TCP, protocol::UDP].contains(&protocol) => {
            u16::from_be_bytes([high, low])
        }
        _ => 0,
    };
    let (local, remote) = (SocketAddr::new(source, port(at)), SocketAddr::new(destination, port(at + 2)));
    (protocol != extension::NO_NEXT).then_some(Quoted { protocol, local, remote })
}

/// `layerData` at INBOUND_ICMP_ERROR: it starts at the quoted IP header ("Data Offset
/// Positions").
pub(super) fn data<'a>(error: &Parsed<'a>) -> Packet<'a> {
    let data_start = (error.ip_header_size + HEADER).min(error.bytes.len());
    Packet { bytes: error.bytes, data_start }
}

/// The value of a field about the quoted packet; `None` for another field.
pub(super) fn value(field: Field, error: Option<&Parsed<'_>>, options: &Options) -> Option<Value> {
    let of = |value: &dyn Fn(Quoted) -> Value| Some(error.and_then(quoted).map_or(Value::Empty, value));
    match field {
        Field::EmbeddedProtocol => of(&|it| Value::Uint8(it.protocol)),
        Field::EmbeddedLocalAddressType => of(&|it| Value::Uint8(options.address_type(it.local.ip()))),
        Field::EmbeddedRemoteAddress => of(&|it| address(it.remote.ip())),
        Field::EmbeddedLocalPort => of(&|it| Value::Uint16(it.local.port())),
        Field::EmbeddedRemotePort => of(&|it| Value::Uint16(it.remote.port())),
        _ => None,
    }
}

impl Host {
    /// An ICMP error. Sockets do not read it, so nothing follows. An error about a packet
    /// of another host is none for a transport protocol here.
    pub(super) fn received_error(&mut self, record: RecordId, scene: &Scene<'_>, parsed: &Parsed<'_>) {
        let Some(quoted) = quoted(parsed).filter(|it| it.local.ip() == self.own(parsed.family())) else {
            return;
        };
        let connection = self.connections.get(&(quoted.local, quoted.remote)).map(|it| it.endpoint);
        let socket = self.datagram_sockets.get(&quoted.local).map(|it| it.endpoint);
        let endpoint = match quoted.protocol {
            protocol::TCP => connection,
            protocol::UDP => socket,
            _ => None,
        };
        let scene = Scene { endpoint, ..*scene };
        let at_transport = self.gate.open_points.icmp_error_at_transport;
        if at_transport && !self.gate.pass(record, Layer::InboundTransport, &scene) {
            return;
        }
        // What the transport protocol learns of it has no effect here.
        let _passed = self.gate.pass(record, Layer::InboundIcmpError, &scene);
    }
}
