//! A host, a peer and a simulated clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smoltcp::iface::SocketHandle;

use super::fake::Fake;
use crate::host::stack::Stack;
use crate::host::{Event, Host, OpenPoints, Options, Record};
use crate::wire::compose;
use crate::wire::{Family, Network, Parsed, TcpFlags};

pub const PORT: u16 = 80;
pub const CLOSED: u16 = 81;
pub const PEER_PORT: u16 = 40_000;

pub struct World {
    pub family: Family,
    pub fake: Arc<Fake>,
    pub host: Host,
    pub peer: Stack,
    pub now: Duration,
    /// The packets that the host has sent.
    pub sent: Vec<Vec<u8>>,
}

impl World {
    pub fn new(family: Family) -> Self {
        Self::with(family, Options::default(), OpenPoints::default())
    }

    pub fn with(family: Family, options: Options, open_points: OpenPoints) -> Self {
        let network = Network::default();
        let swapped = Network { near: network.host, host: network.near, ..network };
        let fake = Fake::new();
        Self {
            family,
            host: Host::new(fake.clone(), options, open_points),
            fake,
            peer: Stack::new(&Options { network: swapped, seed: 2, ..Options::default() }),
            now: Duration::ZERO,
            sent: Vec::new(),
        }
    }

    pub fn host_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Network::default().host_address(self.family), port)
    }

    pub fn peer_at(&self, port: u16) -> SocketAddr {
        let near = Network::default().near;
        match self.family {
            Family::V4 => (near.0, port).into(),
            Family::V6 => (near.1, port).into(),
        }
    }

    /// Runs both sides until neither sends anything more.
    pub fn run(&mut self) {
        let is_over = self.host.exchange(&mut self.peer, &mut self.now, |packet| self.sent.push(packet));
        assert!(is_over, "the host and the peer do not stop sending");
    }

    /// Passes a packet to the host, and returns what it sends, without the peer.
    pub fn probe(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.now += Duration::from_millis(1);
        self.host.receive(packet, self.now);
        std::iter::from_fn(|| self.host.transmit()).collect()
    }

    /// The peer connects to the host.
    pub fn connect(&mut self, port: u16) -> SocketHandle {
        let (from, to) = (self.peer_at(PEER_PORT), self.host_at(port));
        let handle = self.peer.connect(from, to).expect("the peer connects");
        self.run();
        handle
    }

    pub fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let taken = self.peer.socket(handle).send_slice(bytes);
        assert_eq!(taken, Ok(bytes.len()));
        self.run();
    }

    /// Everything that the peer can read.
    pub fn read(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        let read = self.peer.socket(handle).recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    pub fn ip(&self) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let (from, to) = (self.peer_at(0).ip(), self.host_at(0).ip());
        compose::ip(from, to)
    }

    /// A segment from the peer's address, outside its own TCP.
    pub fn segment(&self, to: u16, flags: TcpFlags) -> Vec<u8> {
        let mut header = etherparse::TcpHeader::new(50_000, to, 1000, 1024);
        header.fin = flags.has(TcpFlags::FIN);
        header.syn = flags.has(TcpFlags::SYN);
        header.rst = flags.has(TcpFlags::RST);
        header.psh = flags.has(TcpFlags::PSH);
        header.ack = flags.has(TcpFlags::ACK);
        header.urg = flags.has(TcpFlags::URG);
        header.acknowledgment_number = if header.ack { 555 } else { 0 };
        let mut packet = Vec::new();
        self.ip().tcp_header(header).write(&mut packet, &[]).expect("writing to a vector does not fail");
        packet
    }

    pub fn records(&self) -> Vec<Record> {
        self.host.log().records().cloned().collect()
    }

    pub fn events(&self) -> Vec<Event> {
        self.host.log().records().map(|r| r.event).collect()
    }

    /// The number of RSTs among the packets.
    pub fn resets(packets: &[Vec<u8>]) -> usize {
        let parsed = packets.iter().filter_map(|packet| Parsed::new(packet));
        parsed.filter(|packet| packet.has_flags(TcpFlags::RST, TcpFlags::default())).count()
    }

    /// The layers of the last record of an event, without their family.
    pub fn layers(&self, event: Event) -> Vec<String> {
        let records = self.records();
        let record = records.iter().rev().find(|record| record.event == event);
        let record = record.unwrap_or_else(|| panic!("no {event} in {:?}", self.events()));
        let family = format!("_{:?}", self.family);
        record
            .layers()
            .map(|name| {
                assert!(name.contains(&family), "{name} is not a layer of {family}");
                name.replacen(&family, "", 1)
            })
            .collect()
    }
}

/// A datagram that is neither TCP nor ICMP.
pub fn udp(world: &World, to: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = world.ip();
    builder.udp(50_000, to).write(&mut packet, b"anybody?").expect("writing to a vector does not fail");
    packet
}
