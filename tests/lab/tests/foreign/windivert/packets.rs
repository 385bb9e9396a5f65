//! Packets and events of a host with WinDivert.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use machine::Machine;
use machine::host::{Application, Host, OpenPoints, Options};
use machine::wire::{Network, compose};

use super::client::{Divert, Layer, flag};
use super::{start, stop, sys};

/// A host whose packets pass the driver.
struct World {
    host: Host,
    began: Instant,
}

impl World {
    fn new(machine: &Machine) -> Self {
        let filter = Arc::clone(machine.engine());
        Self { host: Host::new(filter, Options::default(), OpenPoints::default()), began: Instant::now() }
    }

    /// A packet from the network.
    fn arrives(&mut self, packet: &[u8]) {
        self.host.receive(packet, self.began.elapsed());
    }

    /// The next packet to the network, if one comes within this time.
    fn sends(&mut self, within: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + within;
        loop {
            self.host.poll(self.began.elapsed());
            if let Some(packet) = self.host.transmit() {
                return Some(packet);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Long enough for what is expected, and for what is not.
const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(50);

fn ping(ipv6: bool) -> Vec<u8> {
    let network = Network::default();
    let (from, to): (IpAddr, IpAddr) = match ipv6 {
        true => (network.near.1.into(), network.host.1.into()),
        false => (network.near.0.into(), network.host.0.into()),
    };
    let mut packet = Vec::new();
    let header = compose::ip(from, to);
    match ipv6 {
        true => header.icmpv6_echo_request(1, 1).write(&mut packet, b"ping").unwrap(),
        false => header.icmpv4_echo_request(1, 1).write(&mut packet, b"ping").unwrap(),
    }
    packet
}

#[test]
fn a_ping_is_diverted_sent_back_and_answered_and_so_is_its_reply() {
    let Some(sys) = sys() else { return };
    for ipv6 in [false, true] {
        let machine = start(&sys);
        let mut world = World::new(&machine);
        let handle = Divert::open(machine.kernel(), Layer::Network, 0, 0).unwrap();
        let family = if ipv6 { 0x10 } else { 0 };
        let request = ping(ipv6);
        world.arrives(&request);
        assert_eq!(world.sends(A_WHILE), None, "the ping was not diverted");
        let read = handle.start_receive(1500);
        let reply = read.reply(None).unwrap();
        assert!(reply.status.is_success(), "{:?}", reply.status);
        assert_eq!(reply.output[..reply.information as usize], request);
        assert_eq!(read.address().bits(), family, "inbound");
        handle.send(&request, &read.address().bytes).unwrap();
        // The echo reply leaves the host, and is diverted, too.
        assert_eq!(world.sends(A_WHILE), None, "the reply was not diverted");
        let read = handle.start_receive(1500);
        let reply = read.reply(Some(SOON)).expect("the host answers the injected ping");
        let answer = reply.output[..reply.information as usize].to_vec();
        assert_eq!(read.address().bits(), family | 2, "outbound");
        handle.send(&answer, &read.address().bytes).unwrap();
        assert_eq!(world.sends(SOON).as_deref(), Some(&answer[..]));
        handle.close();
        drop(world);
        stop(machine);
    }
}

#[test]
fn a_sniffed_packet_goes_on_and_a_dropped_one_ends() {
    let Some(sys) = sys() else { return };
    for (flags, answered, read) in [(flag::SNIFF, true, true), (flag::DROP, false, false)] {
        let machine = start(&sys);
        let mut world = World::new(&machine);
        let handle = Divert::open(machine.kernel(), Layer::Network, 0, flags).unwrap();
        world.arrives(&ping(false));
        assert_eq!(world.sends(if answered { SOON } else { A_WHILE }).is_some(), answered, "flags {flags}");
        let receive = handle.start_receive(1500);
        let reply = receive.reply(Some(if read { SOON } else { A_WHILE }));
        assert_eq!(reply.is_some_and(|reply| reply.status.is_success()), read, "flags {flags}");
        if read {
            assert_eq!(receive.address().bits(), 1, "sniffed, inbound");
        }
        handle.close();
        drop(world);
        stop(machine);
    }
}

#[test]
fn packets_that_wait_in_a_closed_handle_are_dropped() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    let mut world = World::new(&machine);
    let handle = Divert::open(machine.kernel(), Layer::Network, 0, 0).unwrap();
    for _ in 0..20 {
        world.arrives(&ping(false));
    }
    handle.close();
    assert!(machine.kernel().work().drain(SOON));
    while world.sends(A_WHILE).is_some() {}
    // Without the handle, the host answers by itself.
    world.arrives(&ping(false));
    assert!(world.sends(SOON).is_some());
    drop(world);
    stop(machine);
}

#[test]
fn a_socket_handle_sees_a_bind_and_a_listen() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    let mut world = World::new(&machine);
    let handle = Divert::open(machine.kernel(), Layer::Socket, 0, flag::SNIFF | flag::RECV_ONLY).unwrap();
    let local = SocketAddr::new(Network::default().host.0.into(), 80);
    world.host.listen(local, Application::Http).unwrap();
    let mut events = Vec::new();
    for _ in 0..2 {
        let read = handle.start_receive(0);
        let reply = read.reply(Some(SOON)).expect("an event");
        assert!(reply.status.is_success(), "{:?}", reply.status);
        events.push((read.address().event(), read.address().local()));
    }
    // SOCKET_BIND and SOCKET_LISTEN of TCP port 80.
    assert_eq!(events, [(3, (80, 6)), (5, (80, 6))]);
    handle.close();
    drop(world);
    stop(machine);
}
