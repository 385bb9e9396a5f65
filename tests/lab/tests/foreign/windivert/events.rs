//! Events of the FLOW, SOCKET and REFLECT layers, in both families.

use std::net::SocketAddr;

use machine::host::{Application, IDLE, SocketError};
use machine::wire::{Family, compose};
use smoltcp::socket::tcp;

use super::client::{Address, Divert, Filter, Layer, PROCESS, bit, flag};
use super::sys;
use super::world::{A_WHILE, SOON, World, near, own};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The process that owns the host's sockets.
const OWNER: u32 = 4242;

/// `WINDIVERT_EVENT_*`.
mod event {
    pub const FLOW_ESTABLISHED: u8 = 1;
    pub const FLOW_DELETED: u8 = 2;
    pub const BIND: u8 = 3;
    pub const CONNECT: u8 = 4;
    pub const LISTEN: u8 = 5;
    pub const ACCEPT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const REFLECT_OPEN: u8 = 8;
    pub const REFLECT_CLOSE: u8 = 9;
}

/// Event, whether it is outbound, protocol, and both ends.
type Seen = (u8, bool, u8, [SocketAddr; 2]);

fn seen(address: &Address) -> Seen {
    let outbound = address.bits() & bit::OUTBOUND != 0;
    (address.event(), outbound, address.protocol(), address.ends())
}

/// "For IPv4, the … fields will be IPv4-mapped IPv6 addresses".
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        std::net::IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        std::net::IpAddr::V6(_) => address,
    }
}

/// The events that wait in a handle.
fn events(world: &World, handle: &Divert) -> Vec<Address> {
    assert!(world.machine.kernel().work().drain(SOON));
    std::iter::from_fn(|| handle.receive(A_WHILE))
        .map(|(data, address)| {
            assert!(data.is_empty(), "FLOW and SOCKET events have no data");
            address
        })
        .collect()
}

const PORT: u16 = 80;
const PEER_PORT: u16 = 40_000;

/// How a flow begins and ends, and its ends; the host's port may be one that it has
/// chosen.
struct Course {
    protocol: u8,
    outbound: bool,
    run: fn(&mut World, Family) -> [SocketAddr; 2],
}

const COURSES: [Course; 4] = [
    Course { protocol: TCP, outbound: false, run: accepts },
    Course { protocol: TCP, outbound: true, run: connects },
    Course { protocol: UDP, outbound: false, run: is_asked },
    Course { protocol: UDP, outbound: true, run: asks },
];

/// A client of the network asks for a page.
fn accepts(world: &mut World, family: Family) -> [SocketAddr; 2] {
    let (local, remote) = (own(family, PORT), near(family, PEER_PORT));
    world.host.listen(local, Application::Http).unwrap();
    let client = world.peer.connect(remote, local).unwrap();
    world.run();
    world.peer.socket(client).send_slice(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    world.run();
    world.peer.socket(client).close();
    world.run();
    [local, remote]
}

/// The host connects to a server of the network, which closes the connection.
fn connects(world: &mut World, family: Family) -> [SocketAddr; 2] {
    let remote = near(family, PORT);
    let server = world.peer.listen(remote).unwrap();
    world.host.connect(remote, b"question".to_vec()).unwrap();
    world.run();
    let local = world.peer.socket(server).remote_endpoint().unwrap();
    world.peer.socket(server).close();
    world.run();
    [SocketAddr::new(local.addr.into(), local.port), remote]
}

/// A datagram comes, and its flow ends for lack of others.
fn is_asked(world: &mut World, family: Family) -> [SocketAddr; 2] {
    let (local, remote) = (own(family, PORT), near(family, PEER_PORT));
    world.host.echo_datagrams(local).unwrap();
    let mut packet = Vec::new();
    compose::ip(remote.ip(), local.ip()).udp(PEER_PORT, PORT).write(&mut packet, b"?").unwrap();
    world.arrives(&packet);
    world.passes(IDLE);
    [local, remote]
}

/// The host sends a datagram, and closes its socket.
fn asks(world: &mut World, family: Family) -> [SocketAddr; 2] {
    let remote = near(family, PORT);
    let local = world.host.send_datagram(remote, b"?").unwrap();
    world.host.close_datagrams(local).unwrap();
    [local, remote]
}

#[test]
fn a_flow_handle_sees_flows_begin_and_end() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        for Course { protocol, outbound, run } in COURSES {
            let what = format!("{family}, protocol {protocol}, outbound {outbound}");
            let mut world = World::new(&sys);
            let handle = world.open(Layer::Flow, 0, Layer::Flow.flags());
            let ends = run(&mut world, family).map(mapped);
            let events = events(&world, &handle);
            let expected =
                [event::FLOW_ESTABLISHED, event::FLOW_DELETED].map(|event| (event, outbound, protocol, ends));
            assert_eq!(events.iter().map(seen).collect::<Vec<_>>(), expected, "{what}");
            for address in &events {
                assert_eq!(address.process(), OWNER, "{what}");
                assert_eq!(
                    address.bits() & (bit::SNIFFED | bit::IPV6),
                    bit::SNIFFED | ipv6(family),
                    "{what}"
                );
                assert_eq!(address.endpoints(), events[0].endpoints(), "{what}");
            }
            // An accepted connection names its listener.
            let [endpoint, parent] = events[0].endpoints();
            assert!(endpoint != 0, "{what}");
            assert_eq!(parent != 0, protocol == TCP && !outbound, "{what}");
            handle.close();
            world.end();
        }
    }
}

fn ipv6(family: Family) -> u8 {
    if family == Family::V6 { bit::IPV6 } else { 0 }
}

/// "Due to technical limitations, the WINDIVERT_LAYER_FLOW layer cannot capture flow events
/// that occurred before the handle was opened."
#[test]
fn a_flow_that_began_before_the_handle_is_not_seen() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        let mut world = World::new(&sys);
        let local = world.host.send_datagram(near(family, PORT), b"?").unwrap();
        let handle = world.open(Layer::Flow, 0, Layer::Flow.flags());
        world.host.close_datagrams(local).unwrap();
        assert_eq!(events(&world, &handle).len(), 0, "{family}");
        handle.close();
        world.end();
    }
}

#[test]
fn a_socket_handle_sees_every_operation() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        // "the Socket.RemoteAddr and Socket.RemotePort fields for these events will be zero".
        let none = SocketAddr::new([0; 16].into(), 0);
        let mut world = World::new(&sys);
        let handle = world.open(Layer::Socket, 0, flag::SNIFF | flag::RECV_ONLY);
        let [local, remote] = accepts(&mut world, family).map(mapped);
        let accepted = events(&world, &handle);
        // The connection is closed, the listener is not.
        let expected = [
            (event::BIND, false, TCP, [local, none]),
            (event::LISTEN, false, TCP, [local, none]),
            (event::ACCEPT, false, TCP, [local, remote]),
            (event::CLOSE, false, TCP, [local, remote]),
        ];
        let without_direction = |address: &Address| {
            let (event, _, protocol, ends) = seen(address);
            (event, false, protocol, ends)
        };
        assert_eq!(accepted.iter().map(without_direction).collect::<Vec<_>>(), expected, "{family}");
        assert!(accepted.iter().all(|address| address.process() == OWNER), "{family}");
        world.host.unlisten(own(family, PORT)).unwrap();
        let closed = events(&world, &handle);
        assert!(closed.iter().all(|address| seen(address).0 == event::CLOSE && address.ends()[0] == local));
        assert!(!closed.is_empty(), "{family}: a listener is closed");

        let ends = connects(&mut world, family).map(mapped);
        let connected: Vec<_> = events(&world, &handle).iter().map(seen).collect();
        let connect = (event::CONNECT, true, TCP, ends);
        assert!(connected.contains(&connect), "{family}: {connected:?}");
        // It is bound to a port of every address.
        assert_eq!((connected[0].0, connected[0].3[0].port()), (event::BIND, ends[0].port()), "{family}");
        assert_eq!(connected.last().unwrap().0, event::CLOSE, "{family}: {connected:?}");
        handle.close();
        world.end();
    }
}

/// "Unlike the flow layer, most socket-related events can be blocked." Of the close: "The
/// event cannot be blocked."
#[test]
fn a_socket_handle_blocks_each_operation_but_the_close() {
    let Some(sys) = sys() else { return };
    let is_blocked = |outcome: Result<(), SocketError>| match outcome {
        Ok(()) => false,
        Err(SocketError::Blocked(..)) => true,
        Err(other) => panic!("{other}"),
    };
    for family in Family::BOTH {
        for operation in [event::BIND, event::CONNECT, event::LISTEN, event::ACCEPT, event::CLOSE] {
            for flags in [flag::RECV_ONLY, flag::RECV_ONLY | flag::SNIFF, flag::RECV_ONLY | flag::DROP] {
                let what = format!("{family}, event {operation}, flags {flags}");
                let mut world = World::new(&sys);
                let (local, remote) = (own(family, PORT), near(family, PEER_PORT));
                let filter = Filter::socket_event(operation);
                let handle =
                    Divert::open_with(world.machine.kernel(), Layer::Socket, 0, flags, filter).unwrap();
                let blocked = match operation {
                    event::CONNECT => is_blocked(world.host.connect(remote, Vec::new()).map(drop)),
                    event::BIND | event::LISTEN => is_blocked(world.host.listen(local, Application::Hold)),
                    event::ACCEPT => {
                        world.host.listen(local, Application::Hold).unwrap();
                        let client = world.peer.connect(remote, local).unwrap();
                        for _ in 0..3 {
                            let mut now = std::time::Duration::ZERO;
                            world.host.exchange(&mut world.peer, &mut now, |_| ());
                        }
                        world.peer.state(client) != tcp::State::Established
                    }
                    _ => {
                        world.host.listen(local, Application::Hold).unwrap();
                        is_blocked(world.host.unlisten(local))
                    }
                };
                let may_block = operation != event::CLOSE && flags & flag::SNIFF == 0;
                assert_eq!(blocked, may_block, "{what}");
                let events = events(&world, &handle);
                if flags & flag::DROP == 0 {
                    assert!(!events.is_empty(), "{what}");
                    assert!(events.iter().all(|address| address.event() == operation), "{what}");
                    let sniffed = events[0].bits() & bit::SNIFFED != 0;
                    assert_eq!(sniffed, !may_block, "{what}");
                } else {
                    assert!(events.is_empty(), "{what}");
                }
                handle.close();
                world.end();
            }
        }
    }
}

/// "This layer can also capture events that occurred before the handle was opened. This
/// layer cannot capture events related to other WINDIVERT_LAYER_REFLECT-layer handles."
#[test]
fn a_reflect_handle_sees_every_other_handle() {
    let Some(sys) = sys() else { return };
    let world = World::new(&sys);
    let others = [
        (Layer::Network, 7, flag::SNIFF),
        (Layer::Forward, -3, 0),
        (Layer::Flow, 0, Layer::Flow.flags()),
        (Layer::Socket, 1, flag::RECV_ONLY | flag::SNIFF),
    ];
    let [early, late] = [&others[..2], &others[2..]];
    let open = |other: &(Layer, i16, u64)| world.open(other.0, other.1, other.2);
    let mut handles: Vec<Divert> = early.iter().map(open).collect();
    let reflect = world.open(Layer::Reflect, 0, Layer::Reflect.flags());
    let second = world.open(Layer::Reflect, 1, Layer::Reflect.flags());
    handles.extend(late.iter().map(open));
    handles.into_iter().for_each(Divert::close);
    assert!(world.machine.kernel().work().drain(SOON));
    let mut seen = Vec::new();
    while let Some((data, address)) = reflect.receive(A_WHILE) {
        assert!(!data.is_empty(), "the object of the filter");
        seen.push((address.event(), address.reflected()));
    }
    let of =
        |event: u8| others.map(|(layer, priority, flags)| (event, (PROCESS, layer as u32, flags, priority)));
    let count = |event: u8| seen.iter().filter(|(of, _)| *of == event).copied().collect::<Vec<_>>();
    assert_eq!(count(event::REFLECT_OPEN), of(event::REFLECT_OPEN));
    assert_eq!(count(event::REFLECT_CLOSE), of(event::REFLECT_CLOSE));
    assert_eq!(seen.len(), 8);
    second.close();
    reflect.close();
    world.end();
}

/// "Only the WINDIVERT_LAYER_NETWORK and WINDIVERT_LAYER_NETWORK_FORWARD layers support
/// packet injection". The required flags: SNIFF | RECV_ONLY, RECV_ONLY, SNIFF | RECV_ONLY.
#[test]
fn layers_of_events_need_their_flags_and_inject_nothing() {
    let Some(sys) = sys() else { return };
    let world = World::new(&sys);
    for layer in [Layer::Flow, Layer::Socket, Layer::Reflect] {
        for flags in [0, flag::SNIFF, flag::RECV_ONLY, flag::SNIFF | flag::RECV_ONLY] {
            let required = layer.flags();
            let opened = Divert::open(world.machine.kernel(), layer, 0, flags);
            assert_eq!(opened.is_ok(), flags & required == required, "{layer:?}, flags {flags}");
            let Ok(handle) = opened else { continue };
            let packet = super::world::packet_for(Layer::Network, Family::V4, 1, b"ping");
            assert!(handle.send(&packet, &Address::of_packet(0, 7)).is_err(), "{layer:?}");
            handle.close();
        }
    }
    world.end();
}
