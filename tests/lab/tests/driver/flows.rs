//! Real connections and datagrams: flows are counted, limited and released.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::variants::Variant;
use machine::wire::Family;

use super::world::{ECHO, Watched, datagrams, end, eventually, exchange, noticed, plan, start};

#[test]
fn flows_are_counted_by_direction_and_kept_in_order() {
    let world = start(&plan(&[("CheckOrder", 1)]));
    let mut flows = 0;
    for family in Family::BOTH {
        exchange(&world, family, 1000, 10);
        exchange(&world, family, 1, 1);
        flows += 2;
    }
    let now = eventually("flows end", &world, |now| now.flows_ended == flows);
    assert_eq!((now.flows_in_order, now.deviations.len()), (flows, 0));
    // 10 001 bytes in each direction and family. This wire loses nothing, so nothing
    // is sent again.
    assert_eq!(now.bytes, [20_002; 2]);
    for packets in now.packets {
        // Data, acknowledgements, SYN and FIN.
        assert!((20..400).contains(&packets), "{now:?}");
    }
    end(world);
}

#[test]
fn datagrams_have_flows_too() {
    let world = start(&plan(&[("CheckOrder", 1)]));
    for family in Family::BOTH {
        datagrams(&world, family, 5);
    }
    assert!(noticed(&world).deviations.is_empty());
    let contexts = world.machine.engine().objects().flow_contexts.len();
    // INBOUND_TRANSPORT, OUTBOUND_TRANSPORT and DATAGRAM_DATA, for two families.
    assert_eq!(contexts, 6);
    end(world);
}

/// A dual-stack socket's flow is established at the layer of IPv6, and its packets pass
/// those of IPv4.
#[test]
fn flows_with_mapped_addresses_are_counted_and_kept_in_order() {
    let mut plan = plan(&[("CheckOrder", 1)]);
    Variant::named("dual-stack").unwrap().turn(&mut plan);
    let world = start(&plan);
    exchange(&world, Family::V4, 1000, 10);
    let now = eventually("the flow ends", &world, |now| now.flows_ended == 1);
    assert_eq!((now.flows_in_order, now.deviations.len()), (1, 0), "{now:?}");
    assert_eq!(now.bytes, [10_000; 2]);
    assert!(now.packets.iter().all(|packets| (10..200).contains(packets)), "{now:?}");
    datagrams(&world, Family::V4, 5);
    assert!(noticed(&world).deviations.is_empty());
    let shown = world.host.report().unwrap().log;
    let layers: BTreeSet<_> = shown.records().flat_map(|record| record.layers()).collect();
    assert!(layers.contains("ALE_FLOW_ESTABLISHED_V6") && layers.contains("INBOUND_TRANSPORT_V4"));
    assert!(!layers.contains("ALE_FLOW_ESTABLISHED_V4") && !layers.contains("INBOUND_TRANSPORT_V6"));
    end(world);
}

#[test]
fn no_more_flows_are_watched_than_asked_for() {
    let world = start(&plan(&[("FlowLimit", 3)]));
    let address = world.address(Family::V4, ECHO);
    let open = world.namespace.run(move || {
        (0..8)
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap())
            .collect::<Vec<_>>()
    });
    let mut open = open.unwrap();
    for stream in &mut open {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    let contexts = || world.machine.engine().objects().flow_contexts.len();
    assert_eq!(contexts(), 9, "three flows at three layers");
    // Flows that end make room.
    drop(open);
    eventually("flows end", &world, |now| now.flows_ended == 3);
    exchange(&world, Family::V4, 1, 1);
    eventually("another flow ends", &world, |now| now.flows_ended == 4);
    end(world);
}

#[test]
fn open_connections_do_not_stop_the_unload() {
    let Watched { mut world, session: _session } = start(&plan(&[("CheckOrder", 1)]));
    let address = world.address(Family::V6, ECHO);
    let mut stream = world.namespace.run(move || TcpStream::connect(address).unwrap()).unwrap();
    stream.write_all(b"before").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    assert!(!world.machine.engine().objects().flow_contexts.is_empty());
    let left = world.machine.stop().unwrap();
    assert!(left.is_empty(), "{left}");
    stream.write_all(b"after").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    world.host.stop().unwrap();
}
