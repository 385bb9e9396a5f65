//! The machine sleeps: clocks jump, connections survive or do not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::traffic::{Family as Shown, Indication, SYN};
use lab::variants::Variant;
use machine::wire::Family;

use super::world::{ECHO, Watched, end, eventually, exchange, noticed, plan, start};

const NIGHT: Duration = Duration::from_secs(8 * 3600);

fn open(world: &Watched, family: Family) -> TcpStream {
    let address = world.address(family, ECHO);
    let stream = world.namespace.run(move || TcpStream::connect(address).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn echo(mut stream: &TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    stream.read_exact(&mut vec![0; text.len()]).unwrap();
}

/// Whether closed ports are silent.
fn is_silent(world: &Watched) -> bool {
    let syn = Indication::closed_port(Shown::V4, 1000, SYN);
    world.machine.engine().classify(&syn.request()).blocked()
}

/// A flow goes on with all of its bytes. Its duration is without the sleep, because the
/// driver measures with unbiased interrupt time.
#[test]
fn connections_that_survive_sleep_are_followed_to_their_end() {
    for variant in [None, Some("sleep-ends-waits")] {
        let mut plan = plan(&[("Mode", 2), ("CheckOrder", 1)]);
        if let Some(name) = variant {
            Variant::named(name).unwrap().turn(&mut plan);
        }
        let world = start(&plan);
        let streams = Family::BOTH.map(|family| open(&world, family));
        for text in [&b"evening"[..], b"morning", b"next day"] {
            streams.iter().for_each(|stream| echo(stream, text));
            world.machine.kernel().sleep(NIGHT);
        }
        drop(streams);
        let now = eventually("flows end", &world, |now| now.flows_ended == 2);
        assert_eq!((now.flows_in_order, now.deviations.len()), (2, 0), "{variant:?}: {now:?}");
        assert_eq!(now.bytes, [2 * 22; 2], "{variant:?}");
        for event in world.session.events().iter().filter(|event| event.name == "FlowEnded") {
            assert!(event.number("DurationMs") < 60_000, "{variant:?}: {event:?}");
        }
        // What was set during sleep is read at the driver's next look.
        assert!(is_silent(&world));
        world.machine.set("Mode", 0);
        world.machine.kernel().sleep(NIGHT);
        if variant.is_none() {
            world.machine.kernel().pass(lab::hushport::LOOK);
        }
        eventually("the policy after sleep", &world, |_| !is_silent(&world));
        end(world);
    }
}

/// The network has gone meanwhile: every flow ends at once, and new ones are followed.
#[test]
fn connections_that_do_not_survive_sleep_end_and_leave_nothing() {
    let world = start(&plan(&[("Mode", 2), ("CheckOrder", 1)]));
    let streams: Vec<_> = (0..8).map(|number| open(&world, Family::BOTH[number % 2])).collect();
    streams.iter().for_each(|stream| echo(stream, b"evening"));
    world.machine.kernel().sleep(NIGHT);
    world.host.lose_connections().unwrap();
    let now = eventually("flows end", &world, |now| now.flows_ended == 8);
    assert!(now.deviations.is_empty(), "{now:?}");
    assert_eq!(now.bytes, [8 * 7; 2]);
    assert!(world.machine.engine().objects().flow_contexts.is_empty());
    drop(streams);
    exchange(&world, Family::V4, 10, 2);
    eventually("another flow ends", &world, |now| now.flows_ended == 9);
    assert!(noticed(&world).deviations.is_empty() && is_silent(&world));
    end(world);
}
