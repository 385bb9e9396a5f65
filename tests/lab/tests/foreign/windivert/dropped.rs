//! Packets that do not go on: those that a handle takes, and those that it damages.

use machine::wire::Family;

use super::client::Layer;
use super::sys;
use super::world::{A_WHILE, SOON, World, packet_for};

/// A block with FWPS_CLASSIFY_OUT_FLAG_ABSORB: the packet is dropped without a word to
/// the discard layers.
#[test]
fn a_packet_that_a_handle_takes_is_not_shown_as_discarded() {
    let Some(sys) = sys() else { return };
    for layer in [Layer::Network, Layer::Forward] {
        for family in Family::BOTH {
            let mut world = World::of(&sys, layer);
            let handle = world.open(layer, 0, 0);
            world.arrives(&packet_for(layer, family, 1, b"ping"));
            assert!(handle.receive(SOON).is_some(), "{layer:?}, {family}");
            let shown: Vec<_> = world.host.log().records().flat_map(|record| record.layers()).collect();
            assert!(!shown.is_empty(), "{layer:?}, {family}");
            assert!(!shown.iter().any(|name| name.contains("DISCARD")), "{layer:?}, {family}: {shown:?}");
            handle.close();
            world.end();
        }
    }
}

/// A program that changes a packet has to make its checksums right.
#[test]
fn a_packet_that_comes_back_damaged_reaches_nobody() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        for damaged in [true, false] {
            let mut world = World::new(&sys);
            let handle = world.open(Layer::Network, 0, 0);
            world.arrives(&packet_for(Layer::Network, family, 1, b"ping"));
            let (mut packet, address) = handle.receive(SOON).unwrap();
            *packet.last_mut().unwrap() ^= u8::from(damaged);
            handle.send(&packet, &address).unwrap();
            let answer = world.diverted(&handle, if damaged { A_WHILE } else { SOON });
            assert_eq!(answer.is_none(), damaged, "{family}");
            handle.close();
            world.end();
        }
    }
}
