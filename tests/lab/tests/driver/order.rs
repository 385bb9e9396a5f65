//! `CheckOrder` on real connections: a layer out of order is reported.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::variants::Variant;
use lab::world::Plan;
use machine::host::{Application, Disorder, Fault};
use machine::wfp::Engine;
use machine::wire::Family;

use super::world::{ECHO, end, eventually, exchange, plan, start};

/// If `CheckOrder` becomes 1 during a connection, the driver does not report the part
/// that it has not seen.
#[test]
fn the_watch_can_be_switched_while_connections_last() {
    let world = start(&plan(&[]));
    let address = world.address(Family::V4, ECHO);
    let mut stream = world.namespace.run(move || TcpStream::connect(address).unwrap()).unwrap();
    let mut echo = |text: &[u8]| {
        stream.write_all(text).unwrap();
        stream.read_exact(&mut vec![0; text.len()]).unwrap();
    };
    for on in [1, 0, 1, 0, 1] {
        echo(b"between");
        world.machine.set("CheckOrder", on);
        world.machine.kernel().pass(lab::hushport::LOOK);
        std::thread::sleep(Duration::from_millis(150));
        echo(b"behind");
        exchange(&world, Family::V6, 10, 2);
    }
    drop(stream);
    let now = eventually("flows end", &world, |now| now.flows_ended == 6);
    assert!(now.deviations.is_empty(), "{now:?}");
    assert!((3..6).contains(&now.flows_in_order), "flows that were checked: {now:?}");
    end(world);
}

/// The second packet of a connection misses a layer, or passes it twice. The first
/// packet is not always followed from its start.
#[test]
fn a_layer_out_of_order_is_reported() {
    let layer = |name: &str| Engine::new().layer_by_name(name).unwrap().id;
    for (name, fault, at) in [
        ("INBOUND_TRANSPORT_V4", Fault::Doubled, 1),
        ("INBOUND_IPPACKET_V4", Fault::Doubled, 1),
        ("OUTBOUND_TRANSPORT_V4", Fault::Doubled, 1),
        ("ALE_FLOW_ESTABLISHED_V4", Fault::Doubled, 0),
        ("ALE_BIND_REDIRECT_V4", Fault::Doubled, 3),
        ("STREAM_V4", Fault::Dropped, 1),
        ("ALE_RESOURCE_ASSIGNMENT_V4", Fault::Doubled, 3),
    ] {
        let disorder = Some(Disorder { layer: layer(name), fault, at });
        let world = start(&Plan { disorder, ..plan(&[("CheckOrder", 1)]) });
        // This is the fourth bind. Three came before the session.
        world.host.listen(world.address(Family::V4, 81), Application::Hold).unwrap().unwrap();
        exchange(&world, Family::V4, 100, 3);
        let now = eventually("a deviation", &world, |now| !now.deviations.is_empty() && now.flows_ended > 0);
        let [deviation] = &now.deviations[..] else {
            panic!("{name} {fault:?} expected one deviation: {now:?}")
        };
        if fault == Fault::Doubled {
            assert_eq!(deviation.text("Seen"), name.trim_end_matches("_V4"));
            assert_ne!(deviation.text("Expected"), deviation.text("Seen"));
            assert_eq!(deviation.text("Layer"), name);
        }
        end(world);
    }
}

/// Flows are still counted, and no layer counts as missing or out of order.
#[test]
fn a_flow_handle_that_comes_after_authorization_is_no_deviation() {
    let mut plan = plan(&[("CheckOrder", 1)]);
    Variant::named("flow-handle-later").unwrap().turn(&mut plan);
    let world = start(&plan);
    for family in Family::BOTH {
        exchange(&world, family, 100, 3);
    }
    let now = eventually("flows end", &world, |now| now.flows_ended == 2);
    assert_eq!((now.flows_in_order, now.deviations.len()), (2, 0), "{now:?}");
    end(world);
}

/// Authorizations for any reason, packets that another product has injected, packets from
/// two interfaces, and layers that no page has in a sequence.
#[test]
fn what_happens_to_flows_on_windows_is_no_deviation() {
    let names = [
        "stream-packet-above-transport",
        "stream-packet-below-transport",
        "always-reauthorized",
        "weak-host",
        "received-injected",
        "received-injected-at-transport",
    ];
    for name in names {
        let mut plan = plan(&[("CheckOrder", 1)]);
        Variant::named(name).unwrap().turn(&mut plan);
        let world = start(&plan);
        for family in Family::BOTH {
            exchange(&world, family, 100, 3);
        }
        let now = eventually("flows end", &world, |now| now.flows_ended == 2);
        assert_eq!((now.flows_in_order, now.deviations.len()), (2, 0), "{name}: {now:?}");
        end(world);
    }
}
