//! Real connections and datagrams: flows are counted, limited and released.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

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
