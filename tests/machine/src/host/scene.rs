//! The circumstances of an indication, and the values and data made from them.
//!
//! The definition of a layer lists its fields. What a field holds is decided here,
//! once for all layers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::layers::{Field, Layer};
use super::log::Ends;
use super::open_points::{DataStart, OpenPoints};
use super::options::{Interface, Options};
use super::received_error;
use crate::wfp::{FlowHandle, Injection, LayerData, Packet, Value};
use crate::wire::{Family, Parsed, Transport, protocol};

/// `FWP_CONDITION_FLAG_*` (`fwptypes.h`) that the host knows.
#[allow(missing_docs, reason = "the names are those of the headers")]
pub mod flag {
    pub const IS_LOOPBACK: u32 = 0x1;
    pub const IS_IPSEC_SECURED: u32 = 0x2;
    pub const IS_REAUTHORIZE: u32 = 0x4;
    pub const IS_WILDCARD_BIND: u32 = 0x8;
    pub const IS_FRAGMENT: u32 = 0x20;
    pub const REQUIRES_ALE_CLASSIFY: u32 = 0x100;
    pub const IS_REASSEMBLED: u32 = 0x400;
    pub const IS_CONNECTION_REDIRECTED: u32 = 0x10_0000;
}

/// `FWP_DIRECTION` (`fwptypes.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Direction {
    Outbound = 0,
    Inbound = 1,
}

/// What the host knows about an indication.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The addresses.
    pub ends: Ends,
    /// The direction of the connection, or of the datagram if there is none.
    pub direction: Direction,
    /// The packet, and its own direction.
    pub packet: Option<(Direction, Parsed<'a>)>,
    /// Stream bytes and `FWPS_STREAM_FLAG_*`.
    pub stream: Option<(&'a [u8], u32)>,
    /// The flow, once it has a handle.
    pub flow: Option<FlowHandle>,
    /// Handle of the endpoint.
    pub endpoint: Option<u64>,
    /// Handle of the endpoint that created this one.
    pub parent: Option<u64>,
    /// `FWP_CONDITION_FLAG_*`.
    pub flags: u32,
    /// `FWP_CONDITION_REAUTHORIZE_REASON_*`; 0 unless it is a reauthorization.
    pub reauthorize_reason: u32,
    /// The profile at the first authorization, for a reauthorization.
    pub original_profile: Option<u32>,
    /// How the packet was injected.
    pub injections: Option<&'a Arc<[Injection]>>,
    /// The callout that has injected the stream data.
    pub injected_by: Option<u32>,
    /// The remote address before a redirection, and the process that it leads to.
    pub redirected: Option<(SocketAddr, u32)>,
}

impl<'a> Scene<'a> {
    /// A socket call.
    pub fn call(ends: Ends, direction: Direction) -> Self {
        Self {
            ends,
            direction,
            packet: None,
            stream: None,
            flow: None,
            endpoint: None,
            parent: None,
            flags: 0,
            reauthorize_reason: 0,
            original_profile: None,
            injections: None,
            injected_by: None,
            redirected: None,
        }
    }

    /// A packet without an endpoint so far.
    pub fn packet(direction: Direction, parsed: Parsed<'a>) -> Self {
        let (local, remote) = match direction {
            Direction::Inbound => (parsed.destination, parsed.source),
            Direction::Outbound => (parsed.source, parsed.destination),
        };
        let ends = Ends { protocol: parsed.protocol, local, remote: Some(remote) };
        Self { packet: Some((direction, parsed)), ..Self::call(ends, direction) }
    }

    /// What a layer shows: the ALE layers may show a dual-stack socket's IPv4 addresses
    /// as IPv6's.
    pub fn at(&self, layer: Layer, open_points: &OpenPoints) -> Self {
        let is_sockets = [protocol::TCP, protocol::UDP].contains(&self.ends.protocol);
        if !open_points.dual_stack || !is_sockets || !layer.name().starts_with("ALE_") {
            return *self;
        }
        let mapped = |mut address: SocketAddr| {
            if let IpAddr::V4(v4) = address.ip() {
                let v6 = if v4.is_unspecified() { Ipv6Addr::UNSPECIFIED } else { v4.to_ipv6_mapped() };
                address.set_ip(v6.into());
            }
            address
        };
        let Ends { protocol, local, remote } = self.ends;
        Self { ends: Ends { protocol, local: mapped(local), remote: remote.map(mapped) }, ..*self }
    }

    /// The IP version of the addresses.
    pub fn family(&self) -> Family {
        Family::of(self.ends.local.ip())
    }

    /// The direction of this packet or call.
    pub fn passing(&self) -> Direction {
        self.packet.map_or(self.direction, |(direction, _)| direction)
    }

    /// The values at the ports' positions; for ICMP these are type and code.
    fn ports(&self) -> (u16, u16) {
        match self.packet {
            Some((_, parsed)) => match parsed.transport {
                Transport::Icmp { kind, code, .. } => (kind.into(), code.into()),
                _ => self.socket_ports(),
            },
            None => self.socket_ports(),
        }
    }

    fn socket_ports(&self) -> (u16, u16) {
        let remote = self.ends.remote.as_ref().map_or(0, SocketAddr::port);
        (self.ends.local.port(), remote)
    }

    /// IS_LOOPBACK for a call or an outbound packet whose ends are both the host's. An
    /// inbound packet may only claim so; who receives it knows where it comes from.
    fn loopback(&self) -> u32 {
        let claims = self.packet.is_some() && self.passing() == Direction::Inbound;
        match self.ends.remote {
            Some(remote) if !claims && remote.ip() == self.ends.local.ip() => flag::IS_LOOPBACK,
            _ => 0,
        }
    }

    /// The values of a layer's data fields, in index order.
    pub fn values(&self, fields: &[Field], options: &Options, arrival: &Interface) -> Vec<Value> {
        fields.iter().map(|&field| self.value(field, options, arrival)).collect()
    }

    fn value(&self, field: Field, options: &Options, arrival: &Interface) -> Value {
        let local = self.ends.local.ip();
        let remote = self.ends.remote.map(|remote| remote.ip());
        let inbound = self.passing() == Direction::Inbound;
        match field {
            Field::AppId | Field::OriginalAppId => Value::ByteBlob(options.process.path.clone()),
            Field::UserId => Value::TokenAccessInformation(options.process.user.clone()),
            Field::PackageId => Value::Sid(Arc::from(NULL_SID)),
            Field::LocalAddress if local.is_unspecified() => Value::Empty,
            Field::LocalAddress => address(local),
            Field::RemoteAddress => remote.map_or(Value::Empty, address),
            Field::LocalAddressType => Value::Uint8(options.address_type(local)),
            Field::DestinationAddressType => {
                let destination = if inbound { Some(local) } else { remote };
                Value::Uint8(destination.map_or(0, |address| options.address_type(address)))
            }
            Field::LocalPort => Value::Uint16(self.ports().0),
            Field::RemotePort => Value::Uint16(self.ports().1),
            Field::IcmpType => Value::Uint16(self.ports().0),
            Field::IcmpCode => Value::Uint16(self.ports().1),
            Field::Protocol => Value::Uint8(self.ends.protocol),
            Field::Direction => Value::Uint32(self.direction as u32),
            Field::Flags => {
                let extra = options.extra_flags(remote.map(|remote| remote.to_canonical()));
                Value::Uint32(self.flags | self.loopback() | extra)
            }
            Field::ReauthorizeReason => Value::Uint32(self.reauthorize_reason),
            Field::PromiscuousMode | Field::SocketProperty | Field::SystemPort => Value::Uint32(0),
            Field::CompartmentId => Value::Uint32(options.compartment),
            Field::InterfaceQuarantineEpoch => Value::Uint64(0),
            Field::OriginalProfileId => Value::Uint32(self.original_profile.unwrap_or(options.profile)),
            Field::ProfileId
            | Field::CurrentProfileId
            | Field::LocalInterfaceProfileId
            | Field::NexthopInterfaceProfileId
            | Field::ArrivalInterfaceProfileId => Value::Uint32(options.profile),
            // A packet that is forwarded: its own addresses.
            Field::SourceAddress => self.packet.map_or(Value::Empty, |(_, it)| address(it.source.ip())),
            Field::DestinationAddress => {
                self.packet.map_or(Value::Empty, |(_, it)| address(it.destination.ip()))
            }
            // Unknown for this traffic, or without a documented type.
            Field::EffectiveName
            | Field::RemoteMachineId
            | Field::RemoteUserId
            | Field::Fqbn
            | Field::IpsecSecurityRealmId
            | Field::NapContext
            | Field::OriginalIcmpType
            | Field::PackageFamilyName
            | Field::PeerName
            | Field::Reserved0
            | Field::Reserved1
            | Field::Reserved2
            | Field::Reserved3 => Value::Empty,
            field => received_error::value(field, self.packet.as_ref().map(|(_, packet)| packet), options)
                .unwrap_or_else(|| self.interface_value(field, &options.interface, arrival)),
        }
    }

    /// An interface is known for the local address of the packet. The other one is
    /// FWP_EMPTY, like all unknown values.
    fn interface_value(&self, field: Field, own: &Interface, arrived_on: &Interface) -> Value {
        let inbound = self.passing() == Direction::Inbound;
        let interface = if inbound { arrived_on } else { own };
        let arrival = inbound.then_some(interface);
        let nexthop = (!inbound).then_some(interface);
        let bound = (!self.ends.local.ip().is_unspecified()).then_some(own);
        let of = |interface: Option<&Interface>, value: fn(&Interface) -> Value| {
            interface.map_or(Value::Empty, value)
        };
        match field {
            Field::LocalInterface => of(bound, |i| Value::Uint64(i.luid)),
            Field::InterfaceIndex => Value::Uint32(interface.index),
            Field::SubInterfaceIndex => Value::Uint32(interface.sub_index),
            Field::InterfaceType => of(bound, |i| Value::Uint32(i.kind)),
            Field::TunnelType => of(bound, |i| Value::Uint32(i.tunnel)),
            // The lab's host forwards to the network from which a packet has come.
            Field::SourceInterfaceIndex => Value::Uint32(arrived_on.index),
            Field::SourceSubInterfaceIndex => Value::Uint32(arrived_on.sub_index),
            Field::PhysicalArrivalInterface => Value::Uint64(arrived_on.luid),
            Field::ForwardInterface | Field::PhysicalNexthopInterface => Value::Uint64(own.luid),
            Field::DestinationInterfaceIndex => Value::Uint32(own.index),
            Field::DestinationSubInterfaceIndex => Value::Uint32(own.sub_index),
            Field::ArrivalInterface => of(arrival, |i| Value::Uint64(i.luid)),
            Field::ArrivalInterfaceIndex => of(arrival, |i| Value::Uint32(i.index)),
            Field::ArrivalInterfaceType => of(arrival, |i| Value::Uint32(i.kind)),
            Field::ArrivalTunnelType => of(arrival, |i| Value::Uint32(i.tunnel)),
            Field::NexthopInterface => of(nexthop, |i| Value::Uint64(i.luid)),
            Field::NexthopInterfaceIndex => of(nexthop, |i| Value::Uint32(i.index)),
            Field::NexthopSubInterfaceIndex => of(nexthop, |i| Value::Uint32(i.sub_index)),
            Field::NexthopInterfaceType => of(nexthop, |i| Value::Uint32(i.kind)),
            Field::NexthopTunnelType => of(nexthop, |i| Value::Uint32(i.tunnel)),
            other => unreachable!("{other:?} is not a property of an interface"),
        }
    }

    /// `layerData`, with the start of the NBL's data where the layer documents it.
    pub fn data(&self, layer: Layer, discard: bool, open_points: &OpenPoints) -> LayerData<'a> {
        let start = match (layer, discard) {
            (Layer::Stream, _) => {
                return match self.stream {
                    Some((bytes, flags)) => LayerData::Stream { bytes, flags },
                    None => LayerData::None,
                };
            }
            (Layer::InboundTransport, true) => open_points.transport_discard_start,
            (Layer::InboundIppacket, true) => open_points.ippacket_discard_start,
            (Layer::InboundIppacket, false) => DataStart::TransportHeader,
            (Layer::InboundTransport, false) => DataStart::Payload,
            (Layer::InboundIcmpError, _) => {
                return match self.packet {
                    Some((_, error)) => LayerData::Packet(received_error::data(&error)),
                    None => LayerData::None,
                };
            }
            (Layer::OutboundIppacket | Layer::Ipforward, _) => DataStart::IpHeader,
            // No IP header exists at these layers yet.
            (Layer::OutboundTransport | Layer::OutboundIcmpError, _) => DataStart::TransportHeader,
            // A connect call of TCP has no packet yet ("Data Offset Positions").
            (Layer::AleAuthConnect, _) if self.ends.protocol == protocol::TCP => return LayerData::None,
            (
                Layer::StreamPacket
                | Layer::DatagramData
                | Layer::AleAuthConnect
                | Layer::AleAuthRecvAccept
                | Layer::AleFlowEstablished,
                _,
            ) => match self.passing() {
                Direction::Inbound => DataStart::Payload,
                Direction::Outbound => DataStart::TransportHeader,
            },
            _ => return LayerData::None,
        };
        let Some((direction, parsed)) = self.packet else {
            return LayerData::None;
        };
        let has_header = matches!(layer, Layer::OutboundIppacket | Layer::Ipforward);
        let headless = direction == Direction::Outbound && !has_header;
        let (bytes, ip_header) =
            if headless { (parsed.transport_bytes(), 0) } else { (parsed.bytes, parsed.ip_header_size) };
        let data_start = match start {
            DataStart::IpHeader => 0,
            DataStart::TransportHeader => ip_header,
            DataStart::Payload => ip_header + parsed.transport_header_size,
        };
        LayerData::Packet(Packet { bytes, data_start })
    }
}

/// S-1-0-0: the package SID of a process outside any app container.
const NULL_SID: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) fn address(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(address) => Value::Uint32(address.to_bits()),
        IpAddr::V6(address) => Value::ByteArray16(address.octets()),
    }
}
