//! Limits of a handle's queue: how many, how large, how long.

use std::time::Duration;

use machine::wire::{Family, compose};

use super::client::parameter::{QUEUE_LENGTH, QUEUE_SIZE, QUEUE_TIME};
use super::client::{Divert, Layer, flag};
use super::world::{A_WHILE, SOON, World, near, own, packet_for};
use super::{start, stop, sys};

/// Makes events that a handle of the layer sees, one for each number.
fn make(world: &mut World, layer: Layer, family: Family, count: u16) {
    for number in 0..count {
        match layer {
            Layer::Network => world.arrives(&unanswered(family, number)),
            Layer::Forward => world.arrives(&packet_for(layer, family, number, &[0; 1372])),
            Layer::Flow => drop(world.host.send_datagram(near(family, 9), b"?").unwrap()),
            Layer::Socket => world.host.echo_datagrams(own(family, 100 + number)).unwrap(),
            Layer::Reflect => world.open(Layer::Network, number as i16, flag::SEND_ONLY).close(),
        }
    }
    assert!(world.machine.kernel().work().drain(SOON));
}

/// A RST to nobody, which gets no answer (RFC 9293, 3.10.7.1).
fn unanswered(family: Family, number: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = compose::ip(near(family, 0).ip(), own(family, 0).ip());
    header.tcp(number, 9, 0, 0).rst().write(&mut packet, &[0; 1372]).unwrap();
    packet
}

/// The sizes of what waits in a handle.
fn waiting(handle: &Divert) -> Vec<usize> {
    std::iter::from_fn(|| handle.receive(A_WHILE)).map(|(data, _)| data.len()).collect()
}

/// A handle that only watches, of each layer in both families.
fn every(sys: &std::path::Path, mut test: impl FnMut(&mut World, &Divert, Layer, Family)) {
    for layer in Layer::ALL {
        for family in Family::BOTH {
            let mut world = World::of(sys, layer);
            let handle = world.open(layer, 0, flag::SNIFF | flag::RECV_ONLY);
            test(&mut world, &handle, layer, family);
            handle.close();
            world.end();
        }
    }
}

#[test]
fn they_have_their_defaults_and_bounds() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    for layer in Layer::ALL {
        let handle = Divert::open(machine.kernel(), layer, 0, layer.flags()).unwrap();
        // "WINDIVERT_PARAM_QUEUE_LENGTH: default 4096, minimum 32, maximum 16384",
        // "QUEUE_TIME: 2000, 100, 16000", "QUEUE_SIZE: 4194304, 65535, 33554432".
        for (parameter, default, least, most) in [
            (QUEUE_LENGTH, 4096, 32, 16_384),
            (QUEUE_TIME, 2000, 100, 16_000),
            (QUEUE_SIZE, 4_194_304, 65_535, 33_554_432),
        ] {
            let what = format!("{layer:?}, parameter {parameter}");
            assert_eq!(handle.parameter(parameter), Ok(default), "{what}");
            for value in [least, most] {
                assert_eq!(handle.set_parameter(parameter, value), Ok(()), "{what}, {value}");
                assert_eq!(handle.parameter(parameter), Ok(value), "{what}");
            }
            for value in [least - 1, most + 1] {
                assert!(handle.set_parameter(parameter, value).is_err(), "{what}, {value}");
                assert_eq!(handle.parameter(parameter), Ok(most), "{what}");
            }
        }
        handle.close();
    }
    stop(machine);
}

/// "Sets the maximum length of the packet queue".
#[test]
fn a_queue_holds_no_more_packets_than_its_length() {
    let Some(sys) = sys() else { return };
    every(&sys, |world, handle, layer, family| {
        handle.set_parameter(QUEUE_LENGTH, 32).unwrap();
        make(world, layer, family, 60);
        assert_eq!(waiting(handle).len(), 32, "{layer:?}, {family}");
        // There is room again.
        make(world, layer, family, 0);
        handle.set_parameter(QUEUE_LENGTH, 64).unwrap();
    });
}

/// "Sets the maximum number of bytes that can be stored in the packet queue".
#[test]
fn a_queue_holds_no_more_bytes_than_its_size() {
    let Some(sys) = sys() else { return };
    const SIZE: usize = 65_535;
    const BESIDE: usize = 128;
    every(&sys, |world, handle, layer, family| {
        if ![Layer::Network, Layer::Forward].contains(&layer) {
            return;
        }
        handle.set_parameter(QUEUE_SIZE, SIZE as u64).unwrap();
        make(world, layer, family, 60);
        let sizes = waiting(handle);
        // The driver may count what it keeps beside a packet, too.
        let (sum, one, count) = (sizes.iter().sum::<usize>(), sizes[0], sizes.len());
        let next = sum + one + BESIDE * (count + 1);
        assert!(sum <= SIZE && next > SIZE, "{layer:?}, {family}: {sum} bytes in {count}");
    });
}

/// "Sets the minimum time, in milliseconds, a packet can be queued before it is
/// automatically dropped."
#[test]
fn a_packet_waits_its_time_and_no_longer() {
    let Some(sys) = sys() else { return };
    every(&sys, |world, handle, layer, family| {
        for (passed, left) in [(1900, 1), (2500, 0)] {
            make(world, layer, family, 1);
            world.machine.kernel().pass(Duration::from_millis(passed));
            let read: Vec<_> = waiting(handle);
            let is_bounded = if layer == Layer::Reflect { 2 * left } else { left };
            assert_eq!(read.len(), is_bounded, "{layer:?}, {family}: after {passed} ms");
            if layer == Layer::Socket {
                world.host.close_datagrams(own(family, 100)).unwrap();
                assert!(world.machine.kernel().work().drain(SOON));
                waiting(handle);
            }
        }
    });
}
