//! TCP sequences that are easily misread are replayed correctly.

use lab::trace::Played;
use lab::trace::arbitrary::Player;
use machine::host::Event;

use super::captures::*;

/// Plays packets of [`HOST`] with `CheckOrder`. No deviation is permitted.
fn played(packets: &[Vec<u8>]) -> Played {
    let file = pcap(packets);
    let mut watching = machine(&[("CheckOrder", 1)]);
    let player = Player::new(watching.kernel(), watching.engine());
    assert_eq!(player.play_file(&file, &["192.0.2.1", "2001:db8::1"]).unwrap(), Vec::<String>::new());
    drop(player);
    assert!(watching.stop().unwrap().is_empty());
    let plan = lab::trace::Plan { local: vec!["192.0.2.1".parse().unwrap()], ..plan() };
    let played = play(&file, &plan, &[]);
    assert_eq!(played.account.deviations, 0, "{:?}", played.account.deviating);
    played
}

/// How often each of these events was seen.
fn met_of(played: &Played, events: &[Event]) -> Vec<usize> {
    let rows = || played.account.conversations.iter().flat_map(|conversation| &conversation.rows);
    let is = |wanted: Event| {
        rows().filter(
            move |row| matches!(&row.content, lab::trace::Content::Event { event, .. } if *event == wanted),
        )
    };
    events.iter().map(|event| is(*event).count()).collect()
}

fn ends() -> (std::net::SocketAddr, std::net::SocketAddr) {
    (at(HOST[0], 80), at(PEER[0], 4000))
}

#[test]
fn a_closed_pair_is_used_again_without_its_syn() {
    let (host, peer) = ends();
    let mut packets = exchange(host, peer);
    packets.extend([
        tcp(host, peer, "SA", (9_000, 7_001), b""),
        tcp(peer, host, "A", (7_001, 9_001), b""),
        tcp(peer, host, "PA", (7_001, 9_001), b"again"),
        tcp(host, peer, "PA", (9_001, 7_006), b"yes"),
    ]);
    let events = [Event::SynAckOut, Event::AckIn, Event::DataReceived, Event::DataSent];
    assert_eq!(met_of(&played(&packets), &events), [2, 2, 2, 2]);
}

#[test]
fn bytes_sent_on_a_closed_pair_begin_another_connection() {
    let (host, peer) = ends();
    let mut packets = exchange(host, peer);
    packets.push(tcp(host, peer, "PA", (508, 110), b"more"));
    // Data that was sent before belongs to the old connection.
    packets.push(tcp(host, peer, "PA", (501, 109), b"answer"));
    let played = played(&packets);
    assert_eq!(met_of(&played, &[Event::DataSent, Event::NothingNew]), [2, 1]);
}

#[test]
fn a_fin_with_a_rst_or_a_syn_is_no_end_of_the_stream() {
    let (host, peer) = ends();
    let handshake = &exchange(host, peer)[..3];
    for flags in ["RFA", "SFA", "SF"] {
        let packets = [handshake, &[tcp(host, peer, flags, (501, 101), b"")]].concat();
        let answers = played(&packets).account.answers;
        assert!(!answers.contains_key("STREAM_V4"), "{flags}: {answers:?}");
    }
}

#[test]
fn segments_without_an_ack_do_nothing_to_a_half_open_connection() {
    let (host, peer) = ends();
    let half_open = &exchange(host, peer)[..2];
    for flags in ["SF", "F", "", "P", "FP"] {
        let packets = [half_open, &[tcp(peer, host, flags, (101, 501), b"x")]].concat();
        let played = played(&packets);
        assert_eq!(met_of(&played, &[Event::NothingNew, Event::AckIn]), [1, 0], "{flags:?}");
        assert!(!played.account.answers.contains_key("STREAM_V4"));
    }
    // A segment that acknowledges unsent data does nothing, either.
    let packets = [half_open, &[tcp(peer, host, "A", (101, 500), b"")]].concat();
    assert_eq!(met_of(&played(&packets), &[Event::LaterAckIn, Event::AckIn]), [1, 0]);
}

#[test]
fn a_syn_within_a_connection_opens_another_only_if_it_is_accepted() {
    let (host, peer) = ends();
    let handshake = &exchange(host, peer)[..3];
    let syn = tcp(peer, host, "S", (90_000, 0), b"");
    let challenged = [handshake, &[syn.clone(), tcp(host, peer, "A", (501, 101), b"")]].concat();
    let events = [Event::SynIn, Event::SynAgain, Event::SynNobodyListening];
    assert_eq!(met_of(&played(&challenged), &events), [1, 1, 0]);
    let accepted = [handshake, &[syn.clone(), tcp(host, peer, "SA", (7_000, 90_001), b"")]].concat();
    assert_eq!(met_of(&played(&accepted), &events), [2, 0, 0]);
    let refused = [handshake, &[syn, tcp(host, peer, "RA", (0, 90_001), b"")]].concat();
    let refused = played(&refused);
    assert_eq!(met_of(&refused, &events), [1, 0, 1]);
    assert_eq!((refused.account.silenced, refused.account.suppressed), (1, 1));
}

#[test]
fn the_bytes_of_a_syn_are_received_once() {
    let (host, peer) = ends();
    let syn = tcp(peer, host, "S", (100, 0), b"GET /");
    let events = [Event::SynIn, Event::DataReceived, Event::DataSent];
    // The SYN-ACK acknowledges them. The answer comes before the handshake ends.
    let fast = [
        syn.clone(),
        tcp(host, peer, "SA", (500, 106), b""),
        tcp(host, peer, "PA", (501, 106), b"answer"),
        tcp(peer, host, "A", (106, 507), b""),
        // A retransmission of received data is nothing new.
        tcp(peer, host, "PA", (101, 507), b"GET /"),
    ];
    assert_eq!(met_of(&played(&fast), &events), [1, 1, 1]);
    // The SYN-ACK does not acknowledge them: they are sent again after the handshake.
    let slow = [
        syn,
        tcp(host, peer, "SA", (500, 101), b""),
        tcp(peer, host, "A", (101, 501), b""),
        tcp(peer, host, "PA", (101, 501), b"GET /"),
        tcp(host, peer, "PA", (501, 106), b"answer"),
    ];
    assert_eq!(met_of(&played(&slow), &events), [1, 1, 1]);
}

#[test]
fn the_bytes_of_a_syn_ack_are_received_once() {
    let (host, peer) = (at(HOST[0], 40_000), at(PEER[0], 80));
    let packets = [
        tcp(host, peer, "S", (500, 0), b""),
        tcp(peer, host, "SA", (100, 501), b"banner"),
        tcp(host, peer, "A", (501, 107), b""),
    ];
    let played = played(&packets);
    assert_eq!(met_of(&played, &[Event::SynAckIn, Event::DataReceived, Event::AckOut]), [1, 1, 1]);
}

#[test]
fn both_sides_may_ask_at_once() {
    let (host, peer) = (at(HOST[0], 4000), at(PEER[0], 4000));
    let packets = [
        tcp(host, peer, "S", (500, 0), b""),
        tcp(peer, host, "S", (100, 0), b""),
        tcp(host, peer, "SA", (500, 101), b""),
        tcp(peer, host, "SA", (100, 501), b""),
        tcp(host, peer, "PA", (501, 101), b"hello"),
    ];
    let played = played(&packets);
    let events = [Event::SynOut, Event::SynAgain, Event::SynAckIn, Event::AckOutWithData, Event::SynIn];
    assert_eq!(met_of(&played, &events), [1, 1, 1, 1, 0]);
    assert_eq!(played.account.silenced, 0);
}

#[test]
fn keep_alives_are_nothing_new() {
    let (host, peer) = ends();
    let packets = [
        &exchange(host, peer)[..3],
        &[
            tcp(host, peer, "A", (500, 101), b"x"),
            tcp(peer, host, "A", (101, 501), b""),
            tcp(peer, host, "A", (100, 501), b"x"),
            tcp(host, peer, "A", (501, 101), b""),
        ],
    ]
    .concat();
    // `CheckOrder` is off here. The tests in `order` cover keep-alives.
    let plan = lab::trace::Plan { local: vec!["192.0.2.1".parse().unwrap()], ..plan() };
    let played = play(&pcap(&packets), &plan, &[]);
    assert_eq!(met_of(&played, &[Event::NothingNew, Event::DataSent, Event::DataReceived]), [2, 0, 0]);
    assert_eq!(played.account.deviations, 0);
}

#[test]
fn a_capture_may_begin_anywhere_and_lack_one_direction() {
    let (host, peer) = ends();
    let (server, client) = (exchange(host, peer), exchange(at(PEER[0], 80), at(HOST[0], 4000)));
    for packets in [server, client] {
        for from in 0..packets.len() {
            played(&packets[from..]);
        }
        for way in [0, 1] {
            let source = |packet: &&Vec<u8>| packet[15] == [1, 2][way];
            let one: Vec<_> = packets.iter().filter(source).cloned().collect();
            assert!(!one.is_empty());
            played(&one);
        }
    }
}

/// A SYN-ACK whose SYN is not in the capture is no probe.
#[test]
fn a_handshake_without_its_syn_is_not_silenced() {
    let packets = exchange(at(PEER[0], 80), at(HOST[0], 4000));
    let played = played(&packets[1..]);
    assert_eq!(played.account.silenced, 0);
    assert_eq!(met_of(&played, &[Event::SynAckIn, Event::AckOut]), [1, 1]);
}
