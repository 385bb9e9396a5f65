//! Property test: exchanges over a network with faults have no deviation.
//!
//! The network loses, repeats, delays, reorders, merges, fragments and corrupts packets,
//! and adds forged ones.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use machine::wire::Family;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::network::{Changing, ECHO, HOLD, HTTP, Net, Watched, host_at, peer_at};
use super::network_faults::{self, NetworkFaults, Tally};
use super::segment::{SYN, Segment};

/// Who opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// The peer, at this port.
    Peer(u16),
    Host,
    /// Both, at once (RFC 9293, 3.5, figure 7).
    Both,
}

/// How the peer ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By a FIN after its last data.
    Sent,
    /// By a FIN after the host's.
    Answered,
    /// By a RST.
    Abort,
    /// Not at all, as after a reboot.
    Silence,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    family: Family,
    opening: Opening,
    /// One of two ports of the peer, so that connections reuse ports.
    port: u16,
    /// Bytes that the peer sends.
    bytes: usize,
    ending: Ending,
    /// Milliseconds after the previous exchange began.
    after: u64,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let opening = prop_oneof![
        2 => Just(Opening::Peer(HTTP)),
        2 => Just(Opening::Peer(ECHO)),
        2 => Just(Opening::Peer(HOLD)),
        2 => Just(Opening::Host),
        1 => Just(Opening::Both),
    ];
    let bytes = prop_oneof![Just(0_usize), 1_usize..3, 3_usize..3_000, 3_000_usize..20_000];
    let ending = prop_oneof![
        4 => Just(Ending::Sent),
        4 => Just(Ending::Answered),
        1 => Just(Ending::Abort),
        1 => Just(Ending::Silence),
    ];
    let after = prop_oneof![0_u64..50, 50_u64..30_000];
    (family, opening, 0_u16..2, bytes, ending, after).prop_map(
        |(family, opening, port, bytes, ending, after)| Exchange {
            family,
            opening,
            port,
            bytes,
            ending,
            after,
        },
    )
}

/// The peer's end of an exchange.
struct Talk {
    exchange: Exchange,
    socket: SocketHandle,
    request: Vec<u8>,
    sent: usize,
    since: Duration,
    over: bool,
}

/// The time limit of an exchange.
const LONGEST: Duration = Duration::from_secs(180);
/// How long the network runs after the last exchange.
const AFTERWARDS: Duration = Duration::from_secs(150);
/// The longest step of the clock.
const STEP: Duration = Duration::from_secs(2);

impl Talk {
    fn begin(exchange: Exchange, net: &mut Net) -> Option<Self> {
        let Exchange { family, opening, port, bytes, .. } = exchange;
        let (mut local, filler) = (40_000 + port, vec![b'x'; bytes]);
        let mut request = filler.clone();
        let socket = match opening {
            Opening::Peer(at) => {
                if at == HTTP {
                    let close = "HTTP/1.1\r\nConnection: close\r\n\r\n";
                    request = format!("GET /bytes/{bytes} {close}").into_bytes();
                }
                net.peer.connect(peer_at(family, local), host_at(family, at))
            }
            Opening::Host => {
                let socket = net.peer.listen(peer_at(family, local));
                net.host.connect(peer_at(family, local), filler).unwrap();
                socket
            }
            Opening::Both => {
                local += 100;
                net.host.connect(peer_at(family, local), filler).unwrap();
                // The SYN shows the port of the host. It is sent later.
                let syn = net.host.transmit().expect("a SYN");
                let host_port = Segment::read(&syn).filter(|segment| segment.flags() == SYN)?.tcp.source_port;
                net.put_back(syn);
                net.peer.connect(peer_at(family, local), host_at(family, host_port))
            }
        };
        let since = net.now;
        Some(Self { exchange, socket: socket?, request, sent: 0, since, over: false })
    }

    /// Whether both use one port of the peer.
    fn has_place_of(&self, other: &Exchange) -> bool {
        let place = |exchange: &Exchange| (exchange.family, exchange.port, exchange.opening);
        place(&self.exchange) == place(other)
    }

    /// Runs the peer's application once.
    fn go_on(&mut self, net: &mut Net) {
        let lazy = net.draw(3) == 0;
        let socket = net.peer.socket(self.socket);
        let mut read = [0; 4096];
        while !lazy && matches!(socket.recv_slice(&mut read), Ok(1..)) {}
        if socket.may_send() && self.sent < self.request.len() {
            self.sent += socket.send_slice(&self.request[self.sent..]).unwrap_or(0);
        }
        let sent = self.sent == self.request.len();
        match self.exchange.ending {
            Ending::Sent if sent && socket.may_send() => socket.close(),
            Ending::Answered if socket.state() == tcp::State::CloseWait => socket.close(),
            Ending::Abort if socket.may_send() && (sent || lazy) => socket.abort(),
            _ => {}
        }
        let closed = matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
        self.over = closed || net.now > self.since + LONGEST;
    }
}

/// Plays the exchanges. They overlap if one begins soon after another.
fn play(net: &mut Net, exchanges: &[Exchange], filters: &Changing) {
    let mut talks: Vec<Talk> = Vec::new();
    let mut start = Duration::ZERO;
    for exchange in exchanges {
        start += Duration::from_millis(exchange.after);
        while net.now < start {
            turn(net, &mut talks, filters, start);
        }
        // A client that reuses its port has no socket left there.
        if let Some(at) = talks.iter().position(|talk| talk.has_place_of(exchange)) {
            net.peer.remove(talks.swap_remove(at).socket);
        }
        talks.extend(Talk::begin(*exchange, net));
        if exchange.ending == Ending::Silence {
            let late = net.now + Duration::from_millis(net.draw(3_000) as u64);
            while net.now < late {
                turn(net, &mut talks, filters, late);
            }
            talks.pop().into_iter().for_each(|talk| net.peer.remove(talk.socket));
        }
    }
    while talks.iter().any(|talk| !talk.over) {
        turn(net, &mut talks, filters, net.now + STEP);
    }
    // Wait for the last old duplicates and for the end of TIME-WAIT.
    talks.drain(..).for_each(|talk| net.peer.remove(talk.socket));
    let end = net.now + AFTERWARDS;
    while net.now < end {
        turn(net, &mut talks, filters, end);
    }
}

fn turn(net: &mut Net, talks: &mut [Talk], filters: &Changing, until: Duration) {
    talks.iter_mut().for_each(|talk| talk.go_on(net));
    if net.draw(50) == 0 {
        filters.change();
        *net.tally.entry("filters changed").or_default() += 1;
    }
    net.step(until.saturating_sub(net.now).min(STEP));
}

/// Counts the events of the host's log, and by which segments flows were
/// established.
fn count(net: &Net, tally: &mut Tally) {
    for record in net.host.log().records() {
        let has = |name: &str| record.layers().any(|layer| layer.starts_with(name));
        if has("ALE_FLOW_ESTABLISHED") {
            *tally.entry(record.event.text()).or_default() += 1;
            *tally.entry("flows").or_default() += 1;
        } else {
            *tally.entry(other(record.event)).or_default() += 1;
        }
        if has("ALE_FLOW_ESTABLISHED") && (has("ALE_AUTH_RECV_ACCEPT") || has("ALE_AUTH_CONNECT")) {
            *tally.entry("authorized again while half-open").or_default() += 1;
        }
    }
    for (what, times) in &net.tally {
        *tally.entry(*what).or_default() += times;
    }
}

fn other(event: machine::host::Event) -> &'static str {
    use machine::host::Event;
    match event {
        Event::SynAgain => "a SYN again",
        Event::NothingNew => "nothing new",
        Event::RstIn => "a reset in",
        Event::Unusable => "spoiled in",
        Event::NoConnection | Event::NotForListener => "for nobody",
        _ => "else",
    }
}

/// Each of these must happen in some case, or the property shows little.
const HAPPENED: [&str; 26] = [
    "flows",
    "lost",
    "repeated",
    "late",
    "merged",
    "fragmented",
    "spoiled",
    "keep-alive",
    "keep-alive with an octet",
    "window closed",
    "SYN inside",
    "SYN-ACK inside",
    "reset",
    "old duplicate",
    "unreachable",
    "filters changed",
    "ACK in",
    "SYN-ACK in",
    "ACK in with data",
    "segment with nothing new",
    "authorized again while half-open",
    "a SYN again",
    "nothing new",
    "a reset in",
    "spoiled in",
    "for nobody",
];

/// Enough cases for all of these to happen; `PROPTEST_CASES` sets another number.
const CASES: u32 = 160;

#[test]
fn no_network_fault_makes_a_correct_connection_deviate() {
    let watched = Watched::start();
    let asked = std::env::var_os("PROPTEST_CASES").map(|_| Config::default().cases);
    let cases = asked.unwrap_or(CASES);
    let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    println!("PROPTEST_RNG_SEED={}", std::env::var("PROPTEST_RNG_SEED").unwrap_or_default());
    let tally = RefCell::new(Tally::new());
    let played = runner.run(&(network_faults::any(), vec(exchange(), 1..6)), |(faults, exchanges)| {
        let filters = Changing::new(Arc::clone(watched.machine.engine()) as _);
        let mut net = Net::new(Arc::clone(&filters) as _, faults);
        watched.taken();
        play(&mut net, &exchanges, &filters);
        count(&net, &mut tally.borrow_mut());
        let deviations = watched.deviations();
        prop_assert!(deviations.is_empty(), "{deviations:#?}");
        Ok(())
    });
    println!("{:#?}", tally.borrow());
    if let Err(error) = played {
        panic!("{error}");
    }
    let tally = tally.into_inner();
    let missing: Vec<_> = HAPPENED.iter().filter(|what| tally.get(**what).is_none_or(|n| *n == 0)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    watched.end();
}

/// A seed fixes everything that happens.
#[test]
fn the_same_seed_plays_the_same() {
    let faults =
        NetworkFaults { seed: 7, lost: 20, repeated: 10, jitter: 30, forged: 10, ..NetworkFaults::default() };
    let exchange = Exchange {
        family: Family::V6,
        opening: Opening::Peer(ECHO),
        port: 0,
        bytes: 5_000,
        ending: Ending::Sent,
        after: 0,
    };
    let watched = Watched::start();
    let [one, other] = [(); 2].map(|()| {
        let filters = Changing::new(Arc::clone(watched.machine.engine()) as _);
        let mut net = Net::new(Arc::clone(&filters) as _, faults);
        play(&mut net, &[exchange], &filters);
        let records = net.host.log().records().map(|record| (record.at, record.event));
        (records.collect::<Vec<_>>(), net.tally)
    });
    assert_eq!(one, other);
    watched.end();
}
