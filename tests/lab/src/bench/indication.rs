//! Plausible indications at every layer where the driver has a callout.
//!
//! All of them show one packet, or what a socket call shows of it. The layout is
//! that of "Data Offset Positions" for the layer. The metadata are those of
//! "Metadata Fields at Each Filtering Layer" that the driver may read.

use std::net::{IpAddr, Ipv4Addr};

use machine::wfp::{Discard, FlowHandle, LayerInfo, Metadata, Value};
use machine::wire::compose;

use crate::traffic::{Data, Family, Indication};

/// The packet behind an indication.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its family.
    pub family: Family,
    /// TCP or UDP.
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    /// The port on this machine.
    pub local_port: u16,
    /// The port on the remote machine.
    pub remote_port: u16,
    /// The last four bytes of the remote address.
    pub remote: u32,
    /// The size of the payload, in bytes.
    pub payload: usize,
    /// Its flow.
    pub flow: Option<FlowHandle>,
    /// Whether this machine sends it, for layers that see both directions; other
    /// layers imply the direction.
    pub sent: bool,
}

/// `IPPROTO_TCP` and `IPPROTO_UDP`.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// ACK and PSH (RFC 9293, 3.1).
const DATA: u8 = 0x18;
/// `FWPS_STREAM_FLAG_RECEIVE` and `_SEND` (`fwpsk.h`).
const RECEIVE: u32 = 0x1;
const SEND: u32 = 0x1_0000;
/// The LUID of the interface of every indication.
const INTERFACE: u64 = 0x6_0080_0000_0000;
const ENDPOINT: u64 = 0xE4D;
/// The sequence number of every segment.
const FIRST: u32 = 1 << 24;

impl Subject {
    /// A SYN to a closed port.
    pub fn syn(family: Family) -> Self {
        Self {
            family,
            protocol: TCP,
            flags: crate::traffic::SYN,
            local_port: 23,
            remote_port: 40_000,
            remote: 1,
            payload: 0,
            flow: None,
            sent: false,
        }
    }

    /// A data segment of a connection.
    pub fn data(family: Family, flow: FlowHandle) -> Self {
        Self { flags: DATA, local_port: 443, payload: 100, flow: Some(flow), ..Self::syn(family) }
    }

    /// A datagram to a closed port.
    pub fn datagram(family: Family) -> Self {
        Self { protocol: UDP, payload: 12, local_port: 53, ..Self::syn(family) }
    }

    /// The indication at a layer.
    pub fn at(&self, layer: &'static LayerInfo) -> Indication {
        let name = layer.name.trim_end_matches("_DISCARD");
        let outbound = self.sent || name.contains("OUTBOUND") || name.contains("CONNECT");
        let metadata = self.metadata(name, layer.is_discard());
        let values = vec![Value::Empty; layer.fields];
        let data = self.layer_data(name, outbound);
        let mut indication = Indication { layer, values, metadata, data };
        indication.set("IP_PROTOCOL", Value::Uint8(self.protocol));
        indication.set("IP_LOCAL_ADDRESS", self.address(2));
        indication.set("IP_REMOTE_ADDRESS", self.address(self.remote));
        // NlatUnicast (nldef.h).
        indication.set("IP_LOCAL_ADDRESS_TYPE", Value::Uint8(1));
        indication.set("COMPARTMENT_ID", Value::Uint32(1));
        indication.set("IP_LOCAL_PORT", Value::Uint16(self.local_port));
        indication.set("IP_REMOTE_PORT", Value::Uint16(self.remote_port));
        indication.set("IP_LOCAL_INTERFACE", Value::Uint64(INTERFACE));
        indication.set("FLAGS", Value::Uint32(0));
        if name.contains("ICMP_ERROR") {
            // Port unreachable (RFC 792; RFC 4443, 3.1).
            let [kind, code] = match self.family {
                Family::V4 => [3, 3],
                Family::V6 => [1, 4],
            };
            indication.set("ICMP_TYPE", Value::Uint16(kind));
            indication.set("ICMP_CODE", Value::Uint16(code));
        }
        // FWP_DIRECTION_INBOUND, FWP_DIRECTION_OUTBOUND (fwptypes.h).
        indication.set("DIRECTION", Value::Uint32(u32::from(!outbound)));
        indication
    }

    fn address(&self, last: u32) -> Value {
        match self.family {
            Family::V4 => Value::Uint32(0x0a00_0000 | last),
            Family::V6 => Value::ByteArray16(v6(last)),
        }
    }

    fn metadata(&self, name: &str, discarded: bool) -> Metadata {
        let shown = ["PACKET", "TRANSPORT", "DATAGRAM", "RECV_ACCEPT", "FLOW_ESTABLISHED"];
        let packet = shown.iter().any(|part| name.contains(part)) || self.connects_with_a_packet(name);
        let network = name.contains("IPPACKET");
        let call = name.starts_with("ALE");
        let module = if network { 0 } else { 1 };
        Metadata {
            // TRANSPORT: no endpoint found; NETWORK: the protocol or port is
            // unreachable (fwpsk.h).
            discard: discarded.then_some(Discard { module, reason: 4, filter_id: 0 }),
            ip_header_size: packet.then_some(self.ip_header() as u32),
            transport_header_size: (packet && !network).then_some(self.header() as u32),
            compartment_id: Some(1),
            flow_handle: self.flow.filter(|_| !network && !discarded),
            transport_endpoint_handle: (call || self.flow.is_some() && !discarded)
                .then_some(ENDPOINT + u64::from(self.remote_port)),
            process_id: call.then_some(4),
            ..Metadata::default()
        }
    }

    /// At ALE_AUTH_CONNECT TCP's call comes before any packet exists ("Data Offset
    /// Positions").
    fn connects_with_a_packet(&self, name: &str) -> bool {
        name.contains("AUTH_CONNECT") && self.protocol != TCP
    }

    /// Whether a layer shows the packet.
    pub fn is_shown_at(&self, layer: &'static LayerInfo) -> bool {
        matches!(self.at(layer).data, Data::Packet(..))
    }

    /// The size of transport header and payload, in bytes.
    pub fn upper(&self) -> usize {
        self.header() + self.payload
    }

    fn ip_header(&self) -> usize {
        match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    fn header(&self) -> usize {
        if self.protocol == TCP { 20 } else { 8 }
    }

    fn layer_data(&self, name: &str, outbound: bool) -> Data {
        let (ip, header) = (self.ip_header(), self.header());
        let whole = self.bytes(outbound);
        let family = name.rsplit_once('_').map_or(name, |(layer, _)| layer);
        match family {
            "INBOUND_IPPACKET" => Data::Packet(whole, ip),
            "OUTBOUND_IPPACKET" | "IPFORWARD" => Data::Packet(whole, 0),
            "INBOUND_TRANSPORT" => Data::Packet(whole, ip + header),
            "OUTBOUND_TRANSPORT" => Data::Packet(whole[ip..].to_vec(), 0),
            "DATAGRAM_DATA" | "STREAM_PACKET" | "ALE_AUTH_RECV_ACCEPT" | "ALE_FLOW_ESTABLISHED" => {
                match outbound {
                    true => Data::Packet(whole[ip..].to_vec(), 0),
                    false => Data::Packet(whole, ip + header),
                }
            }
            _ if self.connects_with_a_packet(name) => Data::Packet(whole[ip..].to_vec(), 0),
            "OUTBOUND_ICMP_ERROR" | "INBOUND_ICMP_ERROR" => {
                // An error that is sent quotes a packet that was received.
                let mut error = vec![0; 8];
                error.extend(self.bytes(!outbound));
                Data::Packet(error, 0)
            }
            "STREAM" => Data::Stream(vec![0; self.payload.max(1)], if outbound { SEND } else { RECEIVE }),
            _ => Data::None,
        }
    }

    /// The packet from its IP header on. Checksums are not filled in.
    fn bytes(&self, outbound: bool) -> Vec<u8> {
        let (local, remote) = (self.end(2), self.end(self.remote));
        let ports = [self.local_port, self.remote_port];
        let (source, destination, ports) = match outbound {
            true => (local, remote, ports),
            false => (remote, local, [ports[1], ports[0]]),
        };
        let mut bytes = compose::ip_header(source, destination, self.protocol, self.upper());
        if self.protocol == TCP {
            bytes.extend(compose::tcp_header(ports[0], ports[1], FIRST, self.flags));
        } else {
            bytes.extend(compose::udp_header(ports[0], ports[1], self.payload));
        }
        bytes.resize(bytes.len() + self.payload, 0);
        bytes
    }

    fn end(&self, last: u32) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from(0x0a00_0000 | last).into(),
            Family::V6 => v6(last).into(),
        }
    }
}

fn v6(last: u32) -> [u8; 16] {
    let mut address = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    address[12..].copy_from_slice(&last.to_be_bytes());
    address
}
