//! Verdicts of the driver on replayed captures, and the account of them.

use std::sync::Arc;

use lab::hushport;
use lab::setup::{self, Target};
use lab::trace::{self, Content, Entry, Limits, Lines, Plan};
use machine::host::Event;
use machine::nt;
use serde_json::Value;

use super::captures::*;

#[test]
fn a_connection_goes_as_documented_and_a_closed_port_is_silent() {
    for family in [0, 1] {
        let (host, peer) = (HOST[family], PEER[family]);
        let mut packets = exchange(at(host, 80), at(peer, 4000));
        packets.extend(closed(at(host, 81), at(peer, 4001)));
        let played = play(&pcap(&packets), &plan(), &[]);
        assert!(played.roles.is_local(host) && !played.roles.is_local(peer));
        for event in [
            Event::Bind,
            Event::Listen,
            Event::SynIn,
            Event::SynAckOut,
            Event::AckIn,
            Event::DataReceived,
            Event::DataSent,
            Event::EndpointClosed,
            Event::SynNobodyListening,
        ] {
            assert_eq!(met(&played, event), 1, "{event}");
        }
        let account = &played.account;
        assert_eq!((account.silenced, account.suppressed, account.deviations), (1, 1, 0));
        assert_eq!(complete(&played), ["TCP, server", "TCP, nobody listening"]);
        assert_eq!(account.timeline.length(), length(packets.len()));
        let refused = account.conversations.iter().find(|one| one.ends.local == at(host, 81)).unwrap();
        assert!(matches!(refused.rows[..], [_, ref kept] if matches!(kept.content, Content::Suppressed)));
    }
}

/// The lifecycles of which one connection or flow was complete. All of them are in
/// order.
fn complete(played: &trace::Played) -> Vec<&'static str> {
    let courses = played.account.lifecycles.courses();
    let names = courses.into_iter().map(|(lifecycle, course)| {
        assert_eq!((course.complete, &course.deviation), (1, &None), "{}: {course:?}", lifecycle.name);
        lifecycle.name
    });
    names.collect()
}

#[test]
fn as_many_answers_are_suppressed_as_probes_were_silenced() {
    let (host, peer) = (at(HOST[0], 81), at(PEER[0], 4001));
    let [probe, reset] = closed(host, peer).try_into().unwrap();
    // The last RST is no answer to a packet of the capture.
    let packets = [&probe, &probe, &reset, &reset, &reset].map(Clone::clone);
    let played = play(&pcap(&packets), &plan(), &[]);
    assert_eq!((played.account.silenced, played.account.suppressed), (2, 2));
    assert_eq!(met(&played, Event::RstOut), 1);
}

#[test]
fn a_driver_that_only_audits_lets_the_answer_go() {
    let packets = closed(at(HOST[0], 81), at(PEER[0], 4001));
    let played = play(&pcap(&packets), &plan(), &[("Mode", 1)]);
    assert_eq!((played.account.silenced, played.account.suppressed), (0, 0));
    assert_eq!(met(&played, Event::RstOut), 1);
}

/// A decision of another filter is not counted as the driver's.
#[test]
fn a_decision_of_another_filter_is_not_counted_as_the_drivers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    std::fs::write(&path, pcap(&closed(at(HOST[0], 81), at(PEER[0], 4001)))).unwrap();
    let mut machine = hushport::machine(nt::Options { own_time: true, ..nt::Options::default() });
    lab::world::stronger::add(machine.engine(), machine::wfp::ActionType::PERMIT).unwrap();
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    let played = play_on(machine, &path, &plan());
    let answers = played.account.answers["INBOUND_TRANSPORT_V4_DISCARD"];
    assert_eq!((answers.asked, answers.left_alone), (1, 1), "{answers:?}");
    assert_eq!((played.account.silenced, met(&played, Event::RstOut)), (0, 1));
}

#[test]
fn an_observer_that_is_off_is_no_deviation() {
    let packets = exchange(at(HOST[0], 80), at(PEER[0], 4000));
    let relaxed = Plan { everywhere: false, ..plan() };
    let played = play(&pcap(&packets), &relaxed, &[("Observe", 0)]);
    assert_eq!(played.account.deviations, 0);
    let strict = play(&pcap(&packets), &plan(), &[("Observe", 0)]);
    assert!(strict.account.deviations > 0, "the comparison notices a layer that is not seen");
}

#[test]
fn roles_can_be_given() {
    let packets = exchange(at(HOST[0], 80), at(PEER[0], 4000));
    let plan = Plan { local: vec!["192.0.2.2".parse().unwrap()], ..plan() };
    let played = play(&pcap(&packets), &plan, &[]);
    for event in [Event::Connect, Event::SynOut, Event::SynAckIn, Event::AckOut, Event::PortFreed] {
        assert_eq!(met(&played, event), 1, "{event}");
    }
    assert_eq!(played.account.deviations, 0);
    let elsewhere = Plan { local: vec!["198.51.100.0/24".parse().unwrap()], ..plan };
    let played = play(&pcap(&packets), &elsewhere, &[]);
    assert_eq!((played.unplayed.foreign, played.counters.classified), (packets.len() as u64, 0));
}

#[test]
fn a_connection_from_before_the_capture_is_no_scan() {
    let packets = &exchange(at(HOST[0], 80), at(PEER[0], 4000))[3..];
    let played = play(&pcap(packets), &plan(), &[]);
    assert_eq!((played.account.silenced, met(&played, Event::DataReceived)), (0, 1));
    // Without an answer, this segment is a probe.
    let played = play(&pcap(&packets[..1]), &plan(), &[]);
    assert_eq!(played.account.silenced, 1);
}

#[test]
fn datagrams_with_and_without_an_endpoint() {
    for family in [0, 1] {
        let (host, peer) = (at(HOST[family], 53), at(PEER[family], 4000));
        let packets = [
            udp(peer, host, b"question"),
            udp(host, peer, b"answer"),
            udp(peer, at(HOST[family], 54), b"question"),
            udp(at(HOST[family], 5000), at(PEER[family], 123), b"hello"),
            udp(at(HOST[family], 5000), at(PEER[family], 123), b"again"),
        ];
        let played = play(&pcap(&packets), &plan(), &[]);
        let met: Vec<_> =
            [Event::DatagramIn, Event::DatagramOut, Event::EndpointlessDatagram, Event::FirstDatagramOut]
                .map(|event| met(&played, event))
                .into();
        assert_eq!(met, [1, 2, 1, 1]);
        assert_eq!(complete(&played), ["UDP, server", "UDP, client", "UDP, nobody listening"]);
        assert_eq!((played.account.silenced, played.account.deviations), (1, 0));
    }
}

#[test]
fn wrong_checksums_count_only_where_they_are_asked_for() {
    let mut packets = closed(at(HOST[0], 81), at(PEER[0], 4001));
    packets.truncate(1);
    packets[0][36] ^= 1;
    let played = play(&pcap(&packets), &Plan { local: vec!["192.0.2.1".parse().unwrap()], ..plan() }, &[]);
    assert_eq!((played.tally.checksums, played.account.silenced), (1, 1));
    let strict = Plan { checksums: true, ..plan() };
    let strict = Plan { local: vec!["192.0.2.1".parse().unwrap()], ..strict };
    assert_eq!(met(&play(&pcap(&packets), &strict, &[]), Event::SynNobodyListening), 0);
}

#[test]
fn connections_and_rows_beyond_the_limits_are_counted() {
    let packets: Vec<_> =
        (0..50).flat_map(|port| closed(at(HOST[0], 1000 + port), at(PEER[0], 4001))).collect();
    let limits = Limits { connections: 10, rows: 1 };
    let played = play(&pcap(&packets), &Plan { limits, ..plan() }, &[]);
    let account = &played.account;
    assert_eq!((account.conversations.len(), account.others()), (10, (40, false)));
    assert_eq!((account.other_rows, account.conversations[0].more), (80, 1));
    assert_eq!((account.silenced, account.suppressed), (50, 50));
}

#[test]
fn json_lines_equal_the_text_report() {
    let mut packets = exchange(at(HOST[0], 80), at(PEER[0], 4000));
    packets.extend(closed(at(HOST[0], 81), at(PEER[0], 4001)));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    std::fs::write(&path, pcap(&packets)).unwrap();
    let mut machine = machine(&[]);
    let mut bytes = Vec::new();
    let mut lines = Lines::new(&mut bytes);
    let listener = Box::new(|entry: &Entry<'_>| lines.write(entry).map(|()| true));
    let played = trace::play(&path, &plan(), machine.kernel(), Arc::new(|_| ()), listener).unwrap();
    lines.finish(&played).unwrap();
    assert!(machine.stop().unwrap().is_empty());
    let text = String::from_utf8(bytes).unwrap();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, rest) = objects.split_last().unwrap();
    assert_eq!((&summary["type"], &summary["events"]), (&"summary".into(), &played.account.records.into()));
    assert_eq!(rest.len() as u64, played.account.records + played.account.suppressed);
    let silenced = rest.iter().find(|one| one["event"] == "SYN, nobody listening").unwrap();
    let layers = silenced["layers"].as_array().unwrap();
    assert_eq!(layers.last().unwrap()["layer"], "INBOUND_TRANSPORT_V4_DISCARD");
    assert_eq!((&layers.last().unwrap()["driver"], &silenced["order"]), (&"block".into(), &"match".into()));
    assert_eq!(rest.last().unwrap()["type"], "suppressed");
}
