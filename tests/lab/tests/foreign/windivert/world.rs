//! A host whose packets pass the driver, its peer, and packets for both.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use machine::Machine;
use machine::host::{Host, OpenPoints, Options, Stack};
use machine::wire::{Family, Network, Parsed, compose};

use super::client::{Divert, Layer};
use super::{start, stop};

/// Long enough for what is expected, and for what is not.
pub const SOON: Duration = Duration::from_secs(10);
pub const A_WHILE: Duration = Duration::from_millis(50);

/// The interface of the host.
pub const INTERFACE: u32 = 7;

/// A machine with the driver, a host, and a peer.
pub struct World {
    pub machine: Machine,
    pub host: Host,
    pub peer: Stack,
    began: Instant,
    /// The time by which the host's clock is ahead.
    ahead: Duration,
}

impl World {
    pub fn new(sys: &Path) -> Self {
        Self::with(sys, Options::default(), OpenPoints::default())
    }

    /// A world for a layer: FORWARD needs a router, which indicates again what is
    /// injected there ("injected packets can be captured and diverted again by other
    /// WinDivert handles with lower priorities").
    pub fn of(sys: &Path, layer: Layer) -> Self {
        let forwards = layer == Layer::Forward;
        let points = OpenPoints { injected_forward_indicated: forwards, ..OpenPoints::default() };
        Self::with(sys, Options { forwards, ..Options::default() }, points)
    }

    pub fn with(sys: &Path, options: Options, points: OpenPoints) -> Self {
        let machine = start(sys);
        let host = Host::new(Arc::clone(machine.engine()) as _, options, points);
        let network = Network::default();
        let swapped = Network { near: network.host, host: network.near, ..network };
        let peer = Stack::new(&Options { network: swapped, seed: 2, ..Options::default() });
        Self { machine, host, peer, began: Instant::now(), ahead: Duration::ZERO }
    }

    pub fn open(&self, layer: Layer, priority: i16, flags: u64) -> Divert {
        Divert::open(self.machine.kernel(), layer, priority, flags).unwrap_or_else(|error| panic!("{error}"))
    }

    fn now(&self) -> Duration {
        self.began.elapsed() + self.ahead
    }

    /// A packet from the network.
    pub fn arrives(&mut self, packet: &[u8]) {
        let now = self.now();
        self.host.receive(packet, now);
    }

    /// The next packet to the network, if one comes within this time.
    pub fn sends(&mut self, within: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + within;
        loop {
            let now = self.now();
            self.host.poll(now);
            if let Some(packet) = self.host.transmit() {
                return Some(packet);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What a handle reads within this time, while the host works.
    pub fn diverted(
        &mut self,
        handle: &Divert,
        within: Duration,
    ) -> Option<(Vec<u8>, super::client::Address)> {
        let end = Instant::now() + within;
        let read = handle.start_receive(2000);
        loop {
            let now = self.now();
            self.host.poll(now);
            if read.reply(Some(Duration::from_millis(1))).is_some() || Instant::now() > end {
                return read.packet();
            }
        }
    }

    /// Runs the host and its peer until neither sends anything more.
    pub fn run(&mut self) {
        let mut now = self.now();
        assert!(self.host.exchange(&mut self.peer, &mut now, |_| ()), "they do not stop sending");
        self.ahead = now.saturating_sub(self.began.elapsed());
    }

    /// Lets time pass for the host.
    pub fn passes(&mut self, time: Duration) {
        self.ahead += time;
        let now = self.now();
        self.host.poll(now);
    }

    /// Ends the host, and unloads the driver, which must have left nothing.
    pub fn end(self) {
        let Self { machine, host, .. } = self;
        drop(host);
        stop(machine);
    }
}

/// An address of the host.
pub fn own(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(Network::default().host_address(family), port)
}

/// An address of its peer.
pub fn near(family: Family, port: u16) -> SocketAddr {
    let network = Network::default();
    match family {
        Family::V4 => (network.near.0, port).into(),
        Family::V6 => (network.near.1, port).into(),
    }
}

/// An address elsewhere, to which a router forwards (RFC 5737, RFC 3849).
pub fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([198, 51, 100, 9]),
        Family::V6 => "2001:db8::9".parse().unwrap(),
    }
}

/// An echo request with this number and payload.
pub fn ping(from: IpAddr, to: IpAddr, number: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = compose::ip(from, to);
    match from.is_ipv6() {
        true => header.icmpv6_echo_request(1, number).write(&mut packet, payload).unwrap(),
        false => header.icmpv4_echo_request(1, number).write(&mut packet, payload).unwrap(),
    }
    packet
}

/// A packet that a layer shows: to the host, or through it.
pub fn packet_for(layer: Layer, family: Family, number: u16, payload: &[u8]) -> Vec<u8> {
    let to = if layer == Layer::Forward { elsewhere(family) } else { own(family, 0).ip() };
    ping(near(family, 0).ip(), to, number, payload)
}

/// Whether two packets are equal but for the hops that they have left.
pub fn same_but_hops(one: &[u8], other: &[u8]) -> bool {
    let ends = |packet: &[u8]| {
        let parsed = Parsed::new(packet).unwrap();
        (parsed.source, parsed.destination, parsed.transport_bytes().to_vec())
    };
    ends(one) == ends(other)
}

/// The hops that a packet has left.
pub fn hops(packet: &[u8]) -> u8 {
    packet[if packet[0] >> 4 == 6 { 7 } else { 8 }]
}

/// The same packet with other hops left, and the right checksum of its header.
pub fn with_hops(packet: &[u8], hops: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] = hops;
        return packet;
    }
    packet[8] = hops;
    packet[10..12].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&packet[..20]).ones_complement();
    packet[10..12].copy_from_slice(&sum.to_ne_bytes());
    packet
}
