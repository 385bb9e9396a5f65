//! Containers have network compartments of their own, whose closed ports answer.

use std::net::{IpAddr, SocketAddr};

use lab::variants::Variant;
use lab::world::Plan;
use machine::etw::{Event, Value};
use machine::host::{Application, OpenPoints, Options, State};
use machine::wire::{Family, compose};

use super::stacks::Stacks;

/// The machine's own stack, and those of two containers.
const COMPARTMENTS: [u32; 3] = [1, 2, 7];

fn start(values: &[(&str, u32)], open_points: &OpenPoints) -> Stacks {
    let options = COMPARTMENTS.map(|compartment| Options {
        compartment,
        seed: compartment.into(),
        ..Options::default()
    });
    Stacks::start(values, &options, open_points)
}

/// What becomes of a connect from one stack to a closed port of another.
fn connect(stacks: &mut Stacks, from: usize, to: SocketAddr) -> State {
    let id = stacks.hosts[from].connect(to, b"hello".to_vec()).unwrap();
    stacks.run();
    stacks.hosts[from].outcome(id).unwrap().state
}

fn verdicts(stacks: &Stacks) -> Vec<(String, u64)> {
    let shown = stacks.events("Classified");
    let shown = shown.iter().filter(|event| event.text("Layer").starts_with("INBOUND_TRANSPORT_V"));
    let shown = shown.filter(|event| event.text("Layer").ends_with("_DISCARD"));
    shown.map(|event| (event.text("Verdict").to_owned(), event.number("Compartment"))).collect()
}

/// A program in a container that connects to a closed port of another container is
/// refused at once. The machine's own closed ports stay silent, also for containers.
#[test]
fn a_connection_between_containers_is_refused_and_one_to_the_machine_is_not() {
    for name in [None, Some("compartment-in-field-only")] {
        let mut plan = Plan::default();
        if let Some(name) = name {
            Variant::named(name).unwrap().turn(&mut plan);
        }
        for family in Family::BOTH {
            let mut stacks = start(&[("CheckOrder", 1)], &plan.open_points);
            let closed = |stacks: &Stacks, host| stacks.host_at(host, family, 9999);
            for (from, to) in [(1, 2), (2, 1), (0, 1)] {
                let closed = closed(&stacks, to);
                assert_eq!(connect(&mut stacks, from, closed), State::Aborted, "{from} to {to}");
            }
            assert!(stacks.events("Silenced").is_empty());
            let expected = [7, 2, 2].map(|compartment| ("ExemptCompartment".to_owned(), compartment));
            assert_eq!(verdicts(&stacks), expected);
            let own = closed(&stacks, 0);
            assert_eq!(connect(&mut stacks, 1, own), State::Connecting);
            let silenced = stacks.events("Silenced");
            assert_eq!(silenced.iter().map(|event| event.number("Compartment")).collect::<Vec<_>>(), [1]);
            // UDP and its ICMP error, too.
            let (from, to) = (stacks.host_at(1, family, 5000), closed(&stacks, 2));
            let mut packet = Vec::new();
            compose::ip(from.ip(), to.ip()).udp(5000, to.port()).write(&mut packet, b"?").unwrap();
            stacks.give(&packet);
            assert_eq!(stacks.hosts[2].counters().silenced, 0);
            let errors = stacks.events("Classified");
            let errors: Vec<_> =
                errors.iter().filter(|event| event.text("Layer").starts_with("OUTBOUND_ICMP")).collect();
            assert_eq!(errors.len(), 1);
            assert_eq!(
                (errors[0].text("Verdict"), errors[0].number("Compartment")),
                ("ExemptCompartment", 7)
            );
            assert!(stacks.events("OrderDeviation").is_empty(), "{:#?}", stacks.events("OrderDeviation"));
            stacks.end();
        }
    }
}

/// Open ports work in and between all compartments, and the order of layers is kept,
/// though two stacks use equal ports at the same time.
#[test]
fn open_ports_work_between_compartments_and_in_order() {
    for family in Family::BOTH {
        let mut stacks = start(&[("CheckOrder", 1)], &OpenPoints::default());
        for host in 0..COMPARTMENTS.len() {
            let local = stacks.host_at(host, family, 80);
            stacks.hosts[host].listen(local, Application::Http).unwrap();
        }
        for from in 0..COMPARTMENTS.len() {
            for to in (0..COMPARTMENTS.len()).filter(|to| *to != from) {
                let open = stacks.host_at(to, family, 80);
                let id = stacks.hosts[from].connect(open, b"GET / HTTP/1.0\r\n\r\n".to_vec()).unwrap();
                stacks.run();
                let outcome = stacks.hosts[from].outcome(id).unwrap();
                assert!(
                    outcome.received.starts_with(b"HTTP/1.0 200")
                        || outcome.received.starts_with(b"HTTP/1.1 200"),
                    "{from} to {to}: {outcome:?}"
                );
            }
        }
        assert!(stacks.events("OrderDeviation").is_empty(), "{:#?}", stacks.events("OrderDeviation"));
        stacks.end();
    }
}

fn remote(event: &Event) -> IpAddr {
    match event.field("Remote") {
        Some(Value::Socket(remote)) => remote.ip(),
        other => panic!("{other:?}"),
    }
}

/// What is answered is no step of a scan. `ExemptCompartments` 0 silences all
/// compartments; an exempt packet is permitted with `AnswerExempt`.
#[test]
fn the_value_decides_and_scans_of_containers_count_only_if_they_are_silent() {
    for (values, silent, scanned) in [
        (&[][..], [true, false, false], 1),
        (&[("ExemptCompartments", 0)], [true; 3], 3),
        (&[("AnswerExempt", 1)], [true, false, false], 1),
    ] {
        let mut stacks = start(values, &OpenPoints::default());
        for (host, silent) in silent.into_iter().enumerate() {
            let scanner: IpAddr = [198, 51, 100, host as u8].into();
            stacks.lost.clear();
            stacks.probe(host, scanner, 100..140);
            assert_eq!(stacks.lost.len(), if silent { 0 } else { 40 }, "{values:?} {host}");
        }
        let scans = stacks.scans();
        let remotes: std::collections::BTreeSet<_> = scans.iter().map(remote).collect();
        assert_eq!(remotes.len(), scanned, "{values:?}");
        assert!(remotes.contains(&[198, 51, 100, 0].into()));
        stacks.end();
    }
}

/// A container's address may be another machine's outside, so a handshake in a container
/// proves nothing about it.
#[test]
fn a_handshake_in_a_container_proves_no_address_of_the_machine() {
    for (host, expected) in [(1, false), (0, true)] {
        let mut stacks = start(&[], &OpenPoints::default());
        let local = stacks.host_at(host, Family::V4, 80);
        stacks.hosts[host].listen(local, Application::Hold).unwrap();
        stacks.connect(host, Family::V4, 80);
        let scanner = stacks.peer_at(Family::V4, 0).ip();
        stacks.probe(0, scanner, 100..140);
        let scans = stacks.scans();
        assert_eq!(scans.len(), 1);
        assert_eq!(scans[0].field("Proven"), Some(&Value::Bool(expected)), "{host}");
        stacks.end();
    }
}
