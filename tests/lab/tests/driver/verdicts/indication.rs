//! The indication that the engine makes of a case.

use std::net::IpAddr;

use lab::traffic::{Data, Family, Indication};
use machine::wfp::{Discard, Engine, FlowHandle, Metadata, Value};
use machine::wire::compose;

use super::cases::{self, Case, Decision, Kind, Shape, TCP};

/// IPv6's fragment header (RFC 8200, 4.5).
const FRAGMENT: u8 = 44;

/// Fields, metadata and data of a case at its layer ("Data Offset Positions", "Metadata
/// Fields at Each Filtering Layer").
pub fn of(case: &Case, engine: &Engine) -> Indication {
    let layer = engine.layer_by_name(&cases::layer(case.decision, case.family)).unwrap();
    let (packet, header) = packet(case);
    let (whole, upper) = (packet.len(), upper_header(&case.kind));
    let data = match case.decision {
        // The data starts behind the headers that the stack has parsed.
        Decision::TransportDiscard | Decision::EchoRequest => Data::Packet(packet, header + upper),
        Decision::PacketDiscard => Data::Packet(packet, header),
        // The ICMP header, and behind it the quoted packet.
        Decision::IcmpError => Data::Packet([vec![0; 8], packet].concat(), 0),
    };
    assert!(whole >= header + upper);
    let reads_transport = matches!(case.decision, Decision::TransportDiscard | Decision::EchoRequest);
    let metadata = Metadata {
        discard: case.origin.discard.map(|(module, reason)| Discard { module, reason, filter_id: 9 }),
        flow_handle: case.origin.flow.then_some(FlowHandle(7)),
        transport_endpoint_handle: case.origin.endpoint.then_some(7),
        ip_header_size: (case.decision != Decision::IcmpError).then_some(header as u32),
        transport_header_size: reads_transport.then_some(upper as u32),
        compartment_id: case.spot.compartment.in_metadata,
        ..Metadata::default()
    };
    let values = vec![Value::Empty; layer.fields];
    let mut indication = Indication { layer, values, metadata, data };
    set_fields(&mut indication, case);
    indication
}

fn set_fields(indication: &mut Indication, case: &Case) {
    let address = |address| match address {
        IpAddr::V4(address) => Value::Uint32(address.to_bits()),
        IpAddr::V6(address) => Value::ByteArray16(address.octets()),
    };
    indication.set("IP_LOCAL_ADDRESS", address(local(case.family)));
    indication.set("IP_REMOTE_ADDRESS", address(case.spot.remote));
    if let Some(luid) = case.spot.interface {
        indication.set("IP_LOCAL_INTERFACE", Value::Uint64(luid));
    }
    if let Some(compartment) = case.spot.compartment.in_field {
        indication.set("COMPARTMENT_ID", Value::Uint32(compartment));
    }
    if let Some(address_type) = case.spot.address_type {
        indication.set("IP_LOCAL_ADDRESS_TYPE", Value::Uint8(address_type));
    }
    for field in ["PROFILE_ID", "NEXTHOP_INTERFACE_PROFILE_ID"] {
        if let Some(profile) = case.spot.profile {
            indication.set(field, Value::Uint32(profile));
        }
    }
    indication.set("FLAGS", Value::Uint32(case.flags));
    indication.set("IP_PROTOCOL", Value::Uint8(case.kind.protocol));
    // ICMP's type and code are in their own fields, or in the fields of the ports.
    let [first, second] = match case.kind.icmp {
        Some((kind, code)) => [kind, code],
        None => [case.spot.port, case.spot.remote_port],
    };
    for (field, value) in
        [("IP_LOCAL_PORT", first), ("IP_REMOTE_PORT", second), ("ICMP_TYPE", first), ("ICMP_CODE", second)]
    {
        indication.set(field, Value::Uint16(value));
    }
}

fn local(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, 2]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2]),
    }
}

fn upper_header(kind: &Kind) -> usize {
    if kind.protocol == TCP { 20 } else { 8 }
}

/// The received packet, and the length of its IP header with extensions.
fn packet(case: &Case) -> (Vec<u8>, usize) {
    let (kind, upper) = (case.kind, upper(case));
    let (remote, local) = (case.spot.remote, local(case.family));
    let mut packet = match case.family {
        Family::V4 => {
            let mut header = compose::ip_header(remote, local, kind.protocol, upper.len());
            // Offset in units of 8 bytes, and the flag "more fragments".
            let fragment: u16 = match kind.shape {
                Shape::Whole => 0,
                Shape::FirstFragment => 0x2000,
                Shape::LaterFragment => 0x0010,
            };
            header[6..8].copy_from_slice(&fragment.to_be_bytes());
            header
        }
        Family::V6 => {
            let extension = match kind.shape {
                Shape::Whole => Vec::new(),
                Shape::FirstFragment => vec![kind.protocol, 0, 0, 1, 0, 0, 0, 1],
                Shape::LaterFragment => vec![kind.protocol, 0, 0, 0x80, 0, 0, 0, 1],
            };
            let next = if extension.is_empty() { kind.protocol } else { FRAGMENT };
            let header = compose::ip_header(remote, local, next, extension.len() + upper.len());
            [header, extension].concat()
        }
    };
    let header = packet.len();
    packet.extend(upper);
    (packet, header)
}

/// The transport header, or ICMP's, and a little payload.
fn upper(case: &Case) -> Vec<u8> {
    const PAYLOAD: usize = 4;
    let Kind { protocol, tcp_flags, .. } = case.kind;
    let mut upper = match protocol {
        TCP => compose::tcp_header(case.spot.remote_port, case.spot.port, 0, tcp_flags).to_vec(),
        _ => compose::udp_header(case.spot.remote_port, case.spot.port, PAYLOAD).to_vec(),
    };
    if let (Some((kind, code)), false) = (case.kind.icmp, case.decision == Decision::IcmpError) {
        upper.fill(0);
        upper[..2].copy_from_slice(&[kind as u8, code as u8]);
    }
    upper.resize(upper.len() + PAYLOAD, 0);
    upper
}
