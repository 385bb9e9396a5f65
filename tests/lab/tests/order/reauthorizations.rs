//! Each trigger of "ALE Reauthorization" is in order, and so are datagrams that the
//! host sends first.

use std::sync::Arc;
use std::time::Duration;

use machine::host::{Event, Filter, Interface, Options, State};
use machine::wire::{Family, compose};

use super::network::{Changing, Net, Watched, host_at, peer_at};
use super::network_faults::NetworkFaults;

const SERVER: u16 = 9000;

/// Lets both sides send until neither has anything more to send for a second.
fn settle(net: &mut Net) {
    let end = net.now + Duration::from_secs(1);
    while net.now < end {
        net.step(Duration::from_millis(50));
    }
}

#[test]
fn each_trigger_of_a_reauthorization_is_in_order() {
    let watched = Watched::start();
    let engine: Arc<dyn Filter> = Arc::clone(watched.machine.engine()) as _;
    let filter = Changing::new(engine);
    let mut net = Net::new(Arc::clone(&filter) as _, NetworkFaults::default());
    for family in Family::BOTH {
        // A connect is pended, then completed.
        let server = net.peer.listen(peer_at(family, SERVER)).unwrap();
        filter.pend(true);
        let id = net.host.connect(peer_at(family, SERVER), b"question".to_vec()).unwrap();
        settle(&mut net);
        filter.pend(false);
        net.host.complete(id).unwrap();
        settle(&mut net);
        assert_eq!(net.host.outcome(id).unwrap().state, State::Open);
        // The filters change, and the next segment is the host's or the peer's.
        filter.change();
        net.peer.socket(server).send_slice(b"answer").unwrap();
        settle(&mut net);
        net.peer.socket(server).close();
        filter.change();
        settle(&mut net);
        assert_eq!(net.host.outcome(id).unwrap().state, State::Closed);

        // The host sends first. The answer comes from another interface.
        let remote = peer_at(family, SERVER);
        let local = net.host.send_datagram(remote, b"question").unwrap();
        let mut answer = Vec::new();
        let ip = compose::ip(remote.ip(), local.ip());
        ip.udp(remote.port(), local.port()).write(&mut answer, b"answer").unwrap();
        let other = Interface { luid: 6 << 48 | 0x9000 << 24, index: 9, ..Options::default().interface };
        for _ in 0..2 {
            net.host.receive_on(other.clone(), &answer, net.now);
        }
        filter.change();
        net.host.send_datagram_from(local, remote, b"again").unwrap();
        net.host.receive(&answer, net.now);
        net.host.close_datagrams(local).unwrap();
        settle(&mut net);

        // A datagram socket of a server.
        let server = host_at(family, SERVER);
        net.host.echo_datagrams(server).unwrap();
        let mut question = Vec::new();
        let ip = compose::ip(remote.ip(), server.ip());
        ip.udp(remote.port(), SERVER).write(&mut question, b"question").unwrap();
        for interface in [Options::default().interface, other.clone(), other] {
            net.host.receive_on(interface, &question, net.now);
        }
        net.host.close_datagrams(server).unwrap();
        settle(&mut net);
    }
    let events: Vec<_> = net.host.log().records().map(|record| record.event).collect();
    for event in [
        Event::CompletionPasses,
        Event::ReauthorizationPassesElsewhere,
        Event::DatagramReauthorizationPasses,
        Event::FirstDatagramOut,
    ] {
        assert!(events.contains(&event), "no {event}");
    }
    let deviations = watched.deviations();
    assert!(deviations.is_empty(), "{deviations:?}");
    drop(net);
    drop(filter);
    watched.end();
}
