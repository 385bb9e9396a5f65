//! Several handles, and packets that another driver injects.

use std::sync::Arc;

use machine::wfp::{Demand, Entry, Injection};
use machine::wire::Family;

use super::client::{Address, Divert, Filter, HOST_UNREACHABLE, Layer, bit, flag};
use super::sys;
use super::world::{A_WHILE, INTERFACE, SOON, World, hops, packet_for, same_but_hops, with_hops};

const HIGHEST: i16 = 30_000;
const LOWEST: i16 = -30_000;

/// "Packets are diverted to higher priority handles before lower priority handles. Packets
/// injected by a handle are then diverted to the next priority handle, and so on".
#[test]
fn a_packet_goes_down_from_the_highest_to_the_lowest_priority() {
    let Some(sys) = sys() else { return };
    // The order in which they are opened does not matter.
    for opened in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        for layer in [Layer::Network, Layer::Forward] {
            for family in Family::BOTH {
                let what = format!("{layer:?}, {family}, opened {opened:?}");
                let mut world = World::of(&sys, layer);
                let priorities = [HIGHEST, 0, LOWEST];
                let mut handles: Vec<(usize, Divert)> =
                    opened.map(|number| (number, world.open(layer, priorities[number], 0))).into();
                handles.sort_by_key(|(number, _)| *number);
                let request = packet_for(layer, family, 1, b"ping");
                world.arrives(&request);
                for (number, handle) in &handles {
                    let (packet, address) = world.diverted(handle, SOON).expect(&what);
                    assert!(same_but_hops(&packet, &request), "{what}");
                    assert_eq!(address.bits() & bit::IMPOSTOR, 0, "{what}, handle {number}");
                    for (other, waits) in &handles {
                        assert!(waits.receive(A_WHILE / 10).is_none(), "{what}: {other} has it, too");
                    }
                    assert_eq!(world.sends(A_WHILE / 10), None, "{what}");
                    handle.send(&packet, &address).unwrap();
                }
                if layer == Layer::Forward {
                    assert!(same_but_hops(&world.sends(SOON).expect(&what), &request), "{what}");
                } else {
                    let first = world.diverted(&handles[0].1, SOON).expect("the answer comes to the first");
                    assert_eq!(first.1.bits() & bit::OUTBOUND, bit::OUTBOUND, "{what}");
                }
                for (_, handle) in handles {
                    handle.close();
                }
                world.end();
            }
        }
    }
}

/// A handle hides packets from lower ones if it drops or keeps them, and does not if it
/// only sniffs or sends.
#[test]
fn the_higher_handle_decides_what_the_lower_one_sees() {
    let Some(sys) = sys() else { return };
    for layer in [Layer::Network, Layer::Forward] {
        for family in Family::BOTH {
            for (flags, seen) in
                [(0, false), (flag::DROP, false), (flag::SNIFF, true), (flag::SEND_ONLY, true)]
            {
                let mut world = World::of(&sys, layer);
                // A handle that only sends asks for no packets.
                let filter = if flags == flag::SEND_ONLY { Filter::none(layer) } else { Filter::all(layer) };
                let higher = Divert::open_with(world.machine.kernel(), layer, 1, flags, filter).unwrap();
                let lower = world.open(layer, -1, flag::SNIFF);
                world.arrives(&packet_for(layer, family, 1, b"ping"));
                let received = lower.receive(if seen { SOON } else { A_WHILE });
                assert_eq!(received.is_some(), seen, "{layer:?}, {family}, flags {flags}");
                // What the higher handle injects comes to the lower one.
                let address = Address::of_packet(0, INTERFACE);
                let new = packet_for(layer, family, 2, b"new");
                while lower.receive(A_WHILE / 5).is_some() {}
                higher.send(&new, &address).unwrap();
                let (packet, _) = world.diverted(&lower, SOON).expect("an injected packet");
                assert!(same_but_hops(&packet, &new));
                higher.close();
                lower.close();
                world.end();
            }
        }
    }
}

/// Puts a packet into the stack as another driver does.
fn inject(world: &World, layer: Layer, outbound: bool, packet: &[u8]) {
    let entry = match layer {
        Layer::Forward => Entry::Forward { interface: INTERFACE },
        _ if outbound => Entry::NetworkSend,
        _ => Entry::Receive { interface: INTERFACE, sub_interface: 0, at_transport: false },
    };
    let injections: Arc<[Injection]> = Arc::new([Injection { handle: 0xF0_0D, context: 0 }]);
    let demand = Demand::Inject { entry, packets: vec![packet.to_vec()], injections: Some(injections) };
    world.machine.engine().demands.demand(demand, |status| assert!(status.is_success()));
}

/// "An impostor packet is any packet injected by another driver". "For impostor packets …
/// WinDivert will automatically decrement the ip.TTL or ipv6.HopLimit fields before
/// reinjection." "This error occurs when an impostor packet … is injected and the ip.TTL or
/// ipv6.HopLimit field goes to zero."
#[test]
fn another_drivers_packets_are_impostors_and_lose_a_hop_each_time() {
    let Some(sys) = sys() else { return };
    for (layer, outbound) in [(Layer::Network, false), (Layer::Network, true), (Layer::Forward, false)] {
        for family in Family::BOTH {
            let what = format!("{layer:?}, {family}, outbound {outbound}");
            let mut world = World::of(&sys, layer);
            let handle = world.open(layer, 0, 0);
            let inbound = packet_for(layer, family, 1, b"ping");
            let packet = if outbound { answer(&inbound, family) } else { inbound };
            // A router drops a packet without hops before any layer sees it.
            let lefts: &[u8] = if layer == Layer::Forward { &[9] } else { &[9, 1] };
            for &left in lefts {
                let packet = with_hops(&packet, left);
                inject(&world, layer, outbound, &packet);
                let (read, address) = world.diverted(&handle, SOON).expect(&what);
                assert_eq!(address.bits() & bit::IMPOSTOR, bit::IMPOSTOR, "{what}");
                assert!(same_but_hops(&read, &packet), "{what}");
                let sent = handle.send(&read, &address);
                let passes = hops(&read) > 1;
                assert_eq!(sent, if passes { Ok(()) } else { Err(HOST_UNREACHABLE) }, "{what}");
                let next = match layer {
                    // The host's answer is no impostor.
                    Layer::Network if !outbound && passes => {
                        let (_, address) = world.diverted(&handle, SOON).expect(&what);
                        assert_eq!(address.bits() & (bit::IMPOSTOR | bit::OUTBOUND), bit::OUTBOUND, "{what}");
                        None
                    }
                    _ => world.sends(if passes { SOON } else { A_WHILE }),
                };
                // A router takes a hop, too.
                let taken = if layer == Layer::Forward { 2 } else { 1 };
                if let Some(next) = &next {
                    assert_eq!(hops(next), hops(&read) - taken, "{what}");
                }
                assert_eq!(next.is_some(), passes && (outbound || layer == Layer::Forward), "{what}");
            }
            handle.close();
            world.end();
        }
    }
}

/// A packet that the host sends, with the payload of one that it receives.
fn answer(packet: &[u8], family: Family) -> Vec<u8> {
    use super::world::{near, own, ping};
    ping(own(family, 0).ip(), near(family, 0).ip(), u16::from(packet[0]), b"pong")
}

/// Handles that come and go do not lose the place of the others.
#[test]
fn a_handle_that_is_closed_gives_its_place_to_the_next() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        let mut world = World::new(&sys);
        let mut handles: Vec<Divert> =
            [30, 20, 10].map(|priority| world.open(Layer::Network, priority, 0)).into();
        while !handles.is_empty() {
            let request = packet_for(Layer::Network, family, handles.len() as u16, b"ping");
            world.arrives(&request);
            let (packet, _) = world.diverted(&handles[0], SOON).expect("the first handle");
            assert_eq!(packet, request);
            handles.remove(0).close();
            assert!(world.machine.kernel().work().drain(SOON));
        }
        world.arrives(&packet_for(Layer::Network, family, 9, b"ping"));
        assert!(world.sends(SOON).is_some());
        world.end();
    }
}
