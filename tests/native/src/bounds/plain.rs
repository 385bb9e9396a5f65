//! Valid indications, from which the cases are made.

use lab::bench::indication::{self, Subject};
use lab::traffic::{self, Data, Family};
use machine::nt::fwp::hostile::Indication;
use machine::wfp::{DataType, LayerInfo, Value, layers};

/// The kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A RST: NoAnswer if its header can be read, else Silenced.
    Reset,
    /// A datagram to `EXEMPT_PORT`.
    Datagram,
    /// An echo request.
    Echo,
}

/// All kinds.
pub const KINDS: [Kind; 3] = [Kind::Reset, Kind::Datagram, Kind::Echo];

/// An exempt port. The verdict shows whether the driver has read the header.
pub const EXEMPT_PORT: u16 = 53;

/// TCP's RST (RFC 9293, 3.1).
const RST: u8 = 0x04;

/// Bytes of an ICMP error before the quoted packet (RFC 792, RFC 4443).
const ERROR_HEADER: usize = 8;

/// A valid indication.
#[derive(Clone, Debug)]
pub struct Plain {
    /// The layer.
    pub layer: &'static LayerInfo,
    /// The kind of packet.
    pub kind: Kind,
    /// The indication.
    pub indication: Indication,
    /// The packet, if the layer shows one.
    pub packet: Option<Packet>,
}

/// A packet and the offsets of its parts.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Its bytes. It has no payload.
    pub bytes: Vec<u8>,
    /// Offset of the data.
    pub data_start: usize,
    /// Offset of the transport header.
    pub transport: usize,
    /// Offset of the IP header, if the layer shows it.
    pub network: Option<usize>,
}

impl Plain {
    /// The valid indication of a kind at a layer.
    pub fn new(layer: &'static LayerInfo, kind: Kind) -> Self {
        let family = if layer.name.contains("_V6") { Family::V6 } else { Family::V4 };
        let subject = subject(kind, family);
        let mut shown = subject.at(layer);
        fill(&mut shown);
        let mut packet = None;
        if let Data::Packet(bytes, data_start) = &mut shown.data {
            if layer.name.contains("ICMP_ERROR") {
                // The error quotes a packet of the other direction.
                *bytes = error(&subject, layer);
            }
            let transport = bytes.len() - subject.upper();
            if kind == Kind::Echo {
                let [message, code] = [subject.local_port, subject.remote_port].map(|word| word as u8);
                bytes[transport..transport + 4].copy_from_slice(&[message, code, 0, 0]);
            }
            let ip_header = if family == Family::V6 { 40 } else { 20 };
            let network = transport.checked_sub(ip_header);
            packet = Some(Packet { bytes: bytes.clone(), data_start: *data_start, transport, network });
        }
        Self { layer, kind, indication: Indication::whole(&shown.request()), packet }
    }
}

fn subject(kind: Kind, family: Family) -> Subject {
    let syn = Subject::syn(family);
    match kind {
        Kind::Reset => Subject { flags: RST, ..syn },
        Kind::Datagram => Subject { protocol: indication::UDP, local_port: EXEMPT_PORT, payload: 0, ..syn },
        // At layers with port fields, type and code are in these fields.
        Kind::Echo => match family {
            Family::V4 => Subject { protocol: 1, local_port: 8, remote_port: 0, ..syn },
            Family::V6 => Subject { protocol: 58, local_port: 128, remote_port: 0, ..syn },
        },
    }
}

/// An ICMP error about a received or a sent packet.
fn error(subject: &Subject, layer: &LayerInfo) -> Vec<u8> {
    let family = if layer.name.contains("_V6") { "V6" } else { "V4" };
    let of = if layer.name.starts_with("OUTBOUND") { "INBOUND" } else { "OUTBOUND" };
    let name = format!("{of}_IPPACKET_{family}");
    let quoted = layers().iter().find(|layer| layer.name == name).expect("a layer of the tables");
    let Data::Packet(bytes, _) = subject.at(quoted).data else { panic!("{name} shows a packet") };
    [vec![0; ERROR_HEADER], bytes].concat()
}

/// Gives every field a value of its type.
fn fill(shown: &mut traffic::Indication) {
    // Port unreachable (RFC 792, RFC 4443 3.1).
    let unreachable = if shown.layer.name.contains("_V6") { [1, 4] } else { [3, 3] };
    if shown.layer.name.contains("ICMP_ERROR") {
        shown.set("ICMP_TYPE", Value::Uint16(unreachable[0]));
        shown.set("ICMP_CODE", Value::Uint16(unreachable[1]));
    }
    for (field, value) in shown.layer.data_fields.iter().zip(&mut shown.values) {
        if *value != Value::Empty {
            continue;
        }
        *value = match field.data_type {
            DataType::Uint8 => Value::Uint8(1),
            DataType::Uint16 => Value::Uint16(1),
            DataType::Uint32 => Value::Uint32(1),
            DataType::Uint64 => Value::Uint64(1),
            DataType::ByteArray16 => Value::ByteArray16([1; 16]),
            DataType::ByteBlob => Value::ByteBlob([1; 7].into()),
            // One authority (ntifs.h): 1 and 8 + 4 bytes.
            DataType::Sid => Value::Sid([1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0].into()),
            DataType::TokenAccessInformation => Value::TokenAccessInformation([1; 9].into()),
            _ => Value::Empty,
        };
    }
}
