//! What connections and endpoints have passed, on all processors.
//!
//! A [`Tie`] holds this for one connection (its addresses, ports and protocol), for
//! one endpoint (its handle), or for the ICMP errors to one address. So the check
//! knows what is missing although the layers name different things: the IP layers a
//! packet, STREAM a connection, the calls an endpoint.
//!
//! A connection's state is made of marks and of the highest sequence numbers that
//! each layer has seen. Both only grow. So they do not depend on the order in which
//! processors are served, and a packet that comes again changes nothing.
//!
//! # Limits
//!
//! The table has a fixed size. A tie that finds no room is not made. A tie is
//! [`BEGUN`] if its beginning was certainly seen: the check was on for
//! [`SETTLED_MS`], and its set has lost no tie for as long. Only such a tie tells
//! that something is missing.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::flow_order::Direction;
use super::layer::LayerIndex;
use super::rows::{
    ACCEPT, ACCEPT_DISCARD, ASSIGNMENT, BIND_REDIRECT, CLOSURE, CONNECT, CONNECT_DISCARD, CONNECT_REDIRECT,
    DATAGRAM, ERROR, ESTABLISHED, IN, IN_DISCARD, IN_IP, IN_IP_DISCARD, Kinds, LISTEN, OUT, OUT_IP, RELEASE,
    STREAM,
};
use super::walk::Deviation;
use crate::logic::protocol::{TCP, UDP};

/// Milliseconds after which everything in progress at the start of a check is over.
/// A half-open connection lasts shorter.
pub const SETTLED_MS: u32 = 60_000;

/// Milliseconds after which a tie may be evicted.
const AGED_MS: u32 = 10_000;

const WAYS: usize = 4;
const SETS: usize = 2048;

/// The number of ties. Together they take half a megabyte.
pub const TIE_SETS: usize = SETS;

/// The table of all ties.
#[derive(Clone, Copy)]
pub struct Ties<'a> {
    sets: &'a [TieSet],
    common: &'a Common,
    /// The number of the check.
    check: u16,
}

/// What holds for the whole machine.
#[derive(Debug, Default)]
pub struct Common {
    /// The number of the check that the rest belongs to, and [`SECURED`] and
    /// [`FORWARDS`] above it.
    state: AtomicU32,
    /// When the check began, in milliseconds.
    since: AtomicU32,
}

/// IPsec secures packets: the IP layers show them encrypted.
const SECURED: u32 = 1 << 16;
/// The machine forwards packets, which pass the IP layers only.
const FORWARDS: u32 = 1 << 17;

/// Ties with one hash. It contains only integers, and zero means empty, so that it can
/// be made in zeroed memory.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct TieSet {
    keys: [AtomicU64; WAYS],
    /// When each tie was made, in milliseconds.
    made: [AtomicU32; WAYS],
    /// When a tie was last evicted or found no room; 0 means never.
    lost: AtomicU32,
    ties: [Tie; WAYS],
}

/// What one connection or endpoint has passed. Numbers of the connection count from
/// its SYN, which is number 0.
#[derive(Debug, Default)]
struct Tie {
    marks: AtomicU32,
    /// The processor of the latest packet at INBOUND_IPPACKET, INBOUND_TRANSPORT,
    /// OUTBOUND_TRANSPORT and OUTBOUND_IPPACKET; 0 if there was none.
    processors: [AtomicU8; 4],
    inbound: Half,
    outbound: Half,
    /// The number of the peer's FIN.
    end: AtomicU32,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Half {
    /// The sequence number of the SYN.
    start: AtomicU32,
    /// The number behind the last byte that was seen at the IP layer.
    packet: AtomicU32,
    /// At the transport layer.
    segment: AtomicU32,
    /// At STREAM.
    stream: AtomicU32,
}

/// Its beginning was seen.
const BEGUN: u32 = 1;
/// Something about it is not understood, so it tells nothing.
const UNCLEAR: u32 = 1 << 1;
const SYN_IN_PACKET: u32 = 1 << 2;
const SYN_IN: u32 = 1 << 3;
const LATER_IN_PACKET: u32 = 1 << 4;
const ACCEPTED: u32 = 1 << 5;
const REFUSED: u32 = 1 << 6;
const FLOWING: u32 = 1 << 7;
const CLOSED: u32 = 1 << 8;
const SYN_OUT: u32 = 1 << 9;
const LATER_OUT: u32 = 1 << 10;
const LATER_LEFT: u32 = 1 << 11;
const DISCARDED: u32 = 1 << 12;
const INBOUND_KNOWN: u32 = 1 << 13;
const OUTBOUND_KNOWN: u32 = 1 << 14;
const END_KNOWN: u32 = 1 << 15;
const ENDS_DIFFER: u32 = 1 << 16;
const OUT_SEEN: u32 = 1 << 17;
const ERROR_MADE: u32 = 1 << 18;
const BIND_REDIRECTED: u32 = 1 << 19;
const BOUND: u32 = 1 << 20;
const LISTENING: u32 = 1 << 21;
const CONNECT_REDIRECTED: u32 = 1 << 22;
const CONNECTED: u32 = 1 << 23;
const FIN_OUT: u32 = 1 << 24;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgment number; `None` without the flag.
    pub acknowledgment: Option<u32>,
    /// Bytes of payload; `None` if unknown.
    pub payload: Option<u32>,
    /// Whether it has a FIN.
    pub fin: bool,
}

/// What passes a layer.
#[derive(Clone, Copy, Debug)]
pub struct Passing {
    /// The layer.
    pub layer: LayerIndex,
    /// The direction of the packet or of the data.
    pub direction: Direction,
    /// What passes.
    pub kinds: Kinds,
    /// The IP protocol.
    pub protocol: u8,
    /// A hash of protocol, addresses and ports; 0 if they are not known.
    pub pair: u64,
    /// The handles of the endpoint and of the endpoint that has made it; 0 if not
    /// known.
    pub endpoints: [u64; 2],
    /// The segment.
    pub numbers: Option<Numbers>,
    /// A flow is authorized again.
    pub reauthorizes: bool,
    /// Not every layer may show it: it does not leave this machine.
    pub is_unclear: bool,
    /// A packet that the layer before wanted to be authorized was not.
    pub is_unauthorized: bool,
    /// What is authorized has one receiver.
    pub is_for_one: bool,
    /// Bytes at STREAM, and whether the peer's end comes with them.
    pub stream: (u32, bool),
    /// A number of the processor that is not 0.
    pub processor: u8,
}

/// What the ties tell of a classify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Something is missing.
    pub deviation: Option<Deviation>,
    /// Packets of the connection pass their layers on several processors, or not all
    /// layers show them. So the walk on this processor has not seen everything.
    pub scattered: bool,
}

impl Common {
    /// Begins a check.
    #[cold]
    fn begin(&self, check: u16, now: u32) {
        self.since.store(now, Ordering::Relaxed);
        self.state.store(check.into(), Ordering::Release);
    }

    fn has(&self, flag: u32) -> bool {
        self.state.load(Ordering::Relaxed) & flag != 0
    }

    fn set(&self, flag: u32) {
        if !self.has(flag) {
            self.state.fetch_or(flag, Ordering::Relaxed);
        }
    }
}

/// A found or new tie.
struct Found<'a> {
    tie: &'a Tie,
    key: &'a AtomicU64,
    wanted: u64,
    is_new: bool,
}

impl Drop for Found<'_> {
    /// If the tie was evicted meanwhile, what was added to it belongs to another.
    fn drop(&mut self) {
        if self.key.load(Ordering::Acquire) != self.wanted {
            self.tie.mark(UNCLEAR);
        }
    }
}

type Missing = Option<LayerIndex>;

impl<'a> Ties<'a> {
    /// The ties of a check. `now`: milliseconds, asked when a check begins.
    pub fn new(sets: &'a [TieSet], common: &'a Common, check: u16, now: impl FnOnce() -> u64) -> Self {
        if common.state.load(Ordering::Acquire) as u16 != check {
            common.begin(check, now() as u32);
        }
        Self { sets, common, check }
    }

    /// IPsec secures packets, see [`SECURED`].
    pub fn secures(&self) {
        self.common.set(SECURED);
    }

    /// The machine forwards packets.
    pub fn forwards(&self) {
        self.common.set(FORWARDS);
    }

    /// Takes in what passes a layer.
    pub fn see(&self, passing: &Passing, now: impl Fn() -> u64) -> Told {
        let seen = Some(passing.layer);
        let is_scattered = self.common.has(SECURED | FORWARDS);
        let (of_endpoint, of_calls) = self.of_endpoint(passing, &now);
        let (of_pair, of_packets) = match passing.pair {
            0 => (None, false),
            _ => self.of_pair(passing, &now),
        };
        let (missing, scattered) = (of_endpoint.or(of_pair), of_calls || of_packets);
        let deviation = missing.map(|expected| Deviation { expected, seen });
        Told { deviation, scattered: scattered || is_scattered }
    }

    /// The ICMP errors port and protocol unreachable to one address: discarded, made,
    /// sent.
    pub fn see_error(&self, layer: LayerIndex, to: u64, now: impl Fn() -> u64) -> Option<Deviation> {
        let found = match layer {
            IN_DISCARD | IN_IP_DISCARD | ERROR => self.enter(to, &now)?,
            _ => self.find(to)?,
        };
        let (tie, before) = (found.tie, found.tie.marks.load(Ordering::Acquire));
        let (mark, due, expected) = match layer {
            IN_DISCARD | IN_IP_DISCARD => (DISCARDED, 0, ERROR),
            ERROR => (ERROR_MADE, DISCARDED, IN_IP_DISCARD),
            OUT => (OUT_SEEN, ERROR_MADE, ERROR),
            OUT_IP => (0, OUT_SEEN, OUT),
            _ => return None,
        };
        tie.mark(mark);
        let is_missing = before & (BEGUN | UNCLEAR) == BEGUN && before & due != due && due != 0;
        is_missing.then_some(Deviation { expected: Some(expected), seen: Some(layer) })
    }

    /// What an endpoint must have passed; and whether its calls pass their layers on
    /// several processors.
    fn of_endpoint(&self, passing: &Passing, now: &impl Fn() -> u64) -> (Option<Missing>, bool) {
        let [own, parent] = passing.endpoints;
        let is_call = passing.kinds == Kinds::CALL || passing.layer == CONNECT;
        let found = match passing.layer {
            ACCEPT if passing.protocol == TCP => self.find(parent),
            _ if is_call && own != 0 => self.enter(own, now),
            ACCEPT | OUT | ESTABLISHED => self.find(own),
            _ => None,
        };
        let Some(Found { tie, is_new, .. }) = &found else { return (None, false) };
        if *is_new && !matches!(passing.layer, BIND_REDIRECT | ASSIGNMENT) {
            // It was bound before the check, or forgotten.
            tie.mark_only(UNCLEAR);
        }
        let [latest, ..] = &tie.processors;
        let scattered = is_call && tie.moves(latest, passing.processor);
        let missing = tie.of_endpoint(passing, *is_new);
        let clear = tie.marks.load(Ordering::Relaxed) & (BEGUN | UNCLEAR) == BEGUN;
        (missing.map(Some).filter(|_| clear), scattered)
    }

    /// What a connection or a flow of datagrams must have passed.
    fn of_pair(&self, passing: &Passing, now: &impl Fn() -> u64) -> (Option<Missing>, bool) {
        let Passing { layer, .. } = *passing;
        let found = match layer {
            IN_IP | IN | IN_DISCARD | IN_IP_DISCARD | OUT | OUT_IP | ACCEPT | CONNECT => {
                self.enter(passing.pair, now)
            }
            _ => self.find(passing.pair),
        };
        let Some(found) = found else { return (None, false) };
        let tie = found.tie;
        if passing.is_unclear {
            tie.mark_only(UNCLEAR);
        }
        if passing.numbers.is_some_and(|numbers| numbers.payload.is_none()) {
            tie.mark_only(UNCLEAR);
        }
        let before = tie.marks.load(Ordering::Acquire);
        let scattered = tie.is_scattered(passing);
        // If the IP layers show packets encrypted, or those of others, only the
        // layers above are compared.
        let ip = !self.common.has(SECURED | FORWARDS);
        let missing = match passing.protocol {
            TCP => tie.of_connection(passing, before, found.is_new, ip),
            _ => tie.of_datagrams(passing, before, found.is_new, ip),
        };
        let clear = tie.marks.load(Ordering::Relaxed) & (BEGUN | UNCLEAR) == BEGUN;
        (missing.filter(|_| clear), scattered)
    }

    fn set(&self, wanted: u64) -> Option<&'a TieSet> {
        self.sets.get(wanted as usize / 64 % SETS)
    }

    fn wanted(&self, key: u64) -> u64 {
        // Not 0, which is empty, and not 1, which is busy.
        key.wrapping_add(u64::from(self.check)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20) | 2
    }

    fn find(&self, key: u64) -> Option<Found<'a>> {
        if key == 0 {
            return None;
        }
        self.find_wanted(self.wanted(key))
    }

    #[inline(never)]
    fn find_wanted(&self, wanted: u64) -> Option<Found<'a>> {
        let set = self.set(wanted)?;
        let mut both = set.keys.iter().zip(&set.ties);
        let (key, tie) = both.find(|(key, _)| key.load(Ordering::Acquire) == wanted)?;
        Some(Found { tie, key, wanted, is_new: false })
    }

    fn enter(&self, key: u64, now: &impl Fn() -> u64) -> Option<Found<'a>> {
        let wanted = self.wanted(key);
        match self.find_wanted(wanted) {
            Some(found) => Some(found),
            None => self.make(wanted, (now() as u32).max(1)),
        }
    }

    /// Makes a tie, in an empty place or in that of an old one.
    #[cold]
    #[inline(never)]
    fn make(&self, wanted: u64, now: u32) -> Option<Found<'a>> {
        let set = self.set(wanted)?;
        let lost = set.lost.load(Ordering::Relaxed);
        let settled = |since: u32| now.wrapping_sub(since) >= SETTLED_MS;
        let begun = settled(self.common.since.load(Ordering::Relaxed)) && (lost == 0 || settled(lost));
        let mut at = None;
        for (way, ((key, made), tie)) in set.keys.iter().zip(&set.made).zip(&set.ties).enumerate() {
            let (held, age) = (key.load(Ordering::Acquire), now.wrapping_sub(made.load(Ordering::Relaxed)));
            let is_closed = tie.marks.load(Ordering::Relaxed) & CLOSED != 0;
            let may_go = held == 0 || held != 1 && (age >= AGED_MS || is_closed && age >= AGED_MS / 8);
            let best =
                at.is_none_or(|(_, best_age, best_held)| best_held != 0 && (held == 0 || age > best_age));
            if may_go && best {
                at = Some((way, age, held));
            }
        }
        let place = at.and_then(|(way, _, held)| {
            let (key, tie, made) = (set.keys.get(way)?, set.ties.get(way)?, set.made.get(way)?);
            key.compare_exchange(held, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
            if held != 0 && tie.marks.load(Ordering::Relaxed) & CLOSED == 0 {
                set.lost.store(now, Ordering::Relaxed);
            }
            Some((key, tie, made))
        });
        let Some((key, tie, made)) = place else {
            set.lost.store(now, Ordering::Relaxed);
            return None;
        };
        // The marks first: who still uses the old tie marks it after its numbers.
        tie.marks.store(if begun { BEGUN } else { 0 }, Ordering::Relaxed);
        tie.processors.iter().for_each(|processor| processor.store(0, Ordering::Relaxed));
        tie.inbound.clear();
        tie.outbound.clear();
        made.store(now, Ordering::Relaxed);
        key.store(wanted, Ordering::SeqCst);
        // Two processors may have made it at once.
        if set.keys.iter().filter(|key| key.load(Ordering::SeqCst) == wanted).count() != 1 {
            set.ties.iter().for_each(|tie| tie.mark_only(UNCLEAR));
        }
        Some(Found { tie, key, wanted, is_new: true })
    }
}

impl Tie {
    /// Adds marks; returns those from before.
    fn mark(&self, marks: u32) -> u32 {
        // Write only if a mark is new, because several processors read the line.
        match self.marks.load(Ordering::Acquire) {
            before if before & marks == marks => before,
            _ => self.marks.fetch_or(marks, Ordering::AcqRel),
        }
    }

    fn mark_only(&self, marks: u32) {
        let _before = self.mark(marks);
    }

    /// Stores the processor of a layer; returns whether it was another one before.
    fn moves(&self, latest: &AtomicU8, processor: u8) -> bool {
        let before = latest.load(Ordering::Relaxed);
        if before != processor {
            latest.store(processor, Ordering::Relaxed);
        }
        before != 0 && before != processor
    }

    /// What an endpoint must have passed: the missing layer.
    fn of_endpoint(&self, passing: &Passing, is_new: bool) -> Option<LayerIndex> {
        let mark = match passing.layer {
            BIND_REDIRECT => {
                // A handle may be used again.
                self.marks.store(BEGUN | BIND_REDIRECTED, Ordering::Release);
                return None;
            }
            ASSIGNMENT => BOUND,
            LISTEN => LISTENING,
            CONNECT_REDIRECT => CONNECT_REDIRECTED,
            CONNECT if !passing.reauthorizes => CONNECTED,
            // Another endpoint may get the handle.
            CLOSURE | RELEASE => UNCLEAR,
            _ => 0,
        };
        let before = self.mark(mark);
        let first = |needed: &[(u32, LayerIndex)]| {
            needed.iter().find(|(mark, _)| before & mark == 0).map(|(_, layer)| *layer)
        };
        const TO_CONNECT: [(u32, LayerIndex); 2] =
            [(BOUND, ASSIGNMENT), (CONNECT_REDIRECTED, CONNECT_REDIRECT)];
        match passing.layer {
            // Promiscuous mode of a raw socket is shown here, too ("ALE Layers").
            ASSIGNMENT if is_new && matches!(passing.protocol, TCP | UDP) => Some(BIND_REDIRECT),
            LISTEN | CONNECT_REDIRECT => first(&[(BOUND, ASSIGNMENT)]),
            CONNECT if mark != 0 => first(&TO_CONNECT),
            ACCEPT if passing.reauthorizes => None,
            ACCEPT if passing.protocol == TCP => first(&[(BOUND, ASSIGNMENT), (LISTENING, LISTEN)]),
            ACCEPT => first(&[(BOUND, ASSIGNMENT)]),
            OUT if passing.kinds != Kinds::SYN => None,
            ESTABLISHED if passing.protocol == TCP || passing.direction == Direction::Inbound => None,
            // The first packet comes behind the call that it belongs to.
            OUT | ESTABLISHED => {
                let called = before & (CONNECT_REDIRECTED | CONNECTED) == CONNECT_REDIRECTED;
                if called { Some(CONNECT) } else { None }
            }
            _ => None,
        }
    }

    /// Whether the packets of this direction have passed their layers on several
    /// processors. Stores the processor of this one.
    fn is_scattered(&self, passing: &Passing) -> bool {
        let [in_packet, in_segment, out_segment, out_packet] = &self.processors;
        let here = match passing.layer {
            IN_IP => Some(in_packet),
            IN => Some(in_segment),
            OUT => Some(out_segment),
            OUT_IP => Some(out_packet),
            _ => None,
        };
        let of_way = match passing.direction {
            Direction::Inbound => [in_packet, in_segment],
            Direction::Outbound => [out_segment, out_packet],
        };
        let is_other = |processor: &AtomicU8| {
            let number = processor.load(Ordering::Relaxed);
            number != 0 && number != passing.processor
        };
        let differs = of_way.into_iter().any(is_other);
        if let Some(here) = here
            && here.load(Ordering::Relaxed) != passing.processor
        {
            here.store(passing.processor, Ordering::Relaxed);
        }
        differs
    }

    fn of_datagrams(&self, passing: &Passing, before: u32, is_new: bool, ip: bool) -> Option<Missing> {
        match passing.layer {
            IN_IP => self.mark_only(LATER_IN_PACKET),
            IN | IN_DISCARD | IN_IP_DISCARD => {
                self.mark_only(DISCARDED * u32::from(passing.layer != IN));
                if is_new && ip {
                    return Some(Some(IN_IP));
                }
            }
            OUT => self.mark_only(OUT_SEEN),
            ACCEPT | CONNECT if !passing.reauthorizes => {
                self.marks.fetch_and(!(FLOWING | REFUSED | ACCEPTED), Ordering::AcqRel);
                if passing.is_for_one {
                    self.mark_only(ACCEPTED);
                }
            }
            ACCEPT_DISCARD | CONNECT_DISCARD => self.mark_only(REFUSED),
            ESTABLISHED => {
                self.mark_only(FLOWING);
                if before & REFUSED != 0 {
                    return Some(None);
                }
            }
            DATAGRAM if passing.is_unauthorized => return Some(Some(ACCEPT)),
            DATAGRAM if before & (ACCEPTED | FLOWING) == ACCEPTED => return Some(Some(ESTABLISHED)),
            _ => {}
        }
        None
    }

    fn of_connection(&self, passing: &Passing, before: u32, is_new: bool, ip: bool) -> Option<Missing> {
        let has = |mark: u32| before & mark != 0;
        let kinds = passing.kinds;
        let is_syn = kinds == Kinds::SYN;
        let is_syn_ack = kinds == Kinds::SYN_ACK;
        match (passing.layer, passing.numbers) {
            (IN_IP, Some(numbers)) => {
                self.mark_only(if is_syn { SYN_IN_PACKET } else { LATER_IN_PACKET });
                if has(INBOUND_KNOWN) {
                    self.inbound.raise(&self.inbound.packet, &numbers);
                }
                None
            }
            (IN, Some(numbers)) => self.segment_in(passing, &numbers, before, is_new, ip),
            (IN_DISCARD, _) => {
                self.mark_only(DISCARDED);
                (is_new && ip).then_some(Some(IN_IP))
            }
            (ACCEPT, numbers) if !passing.reauthorizes => {
                if let (true, Some(numbers)) = (is_syn, numbers) {
                    self.begin_inbound(&numbers);
                }
                None
            }
            (ACCEPT_DISCARD | CONNECT_DISCARD, _) => {
                self.mark_only(REFUSED);
                None
            }
            (ESTABLISHED, _) => {
                self.mark_only(FLOWING);
                match before & (REFUSED | SYN_IN | ACCEPTED | SYN_OUT) {
                    marks if marks & REFUSED != 0 => Some(None),
                    SYN_IN => Some(Some(ACCEPT)),
                    _ => None,
                }
            }
            (STREAM, _) => self.stream(passing, before),
            (OUT, Some(numbers)) => {
                if is_syn && !(has(SYN_OUT) && self.outbound.starts_at(numbers.sequence)) {
                    self.begin_outbound(&numbers, SYN_OUT);
                } else if is_syn_ack && !(has(OUTBOUND_KNOWN) && self.outbound.starts_at(numbers.sequence)) {
                    self.begin_outbound(&numbers, 0);
                } else if !is_syn && !is_syn_ack {
                    self.mark_only(LATER_OUT);
                }
                self.mark_only(OUT_SEEN);
                let end = self.outbound.raise(&self.outbound.segment, &numbers);
                let marks = before & (SYN_IN_PACKET | SYN_IN | ACCEPTED | SYN_OUT | DISCARDED);
                if is_syn_ack && marks & (SYN_IN | ACCEPTED | SYN_OUT) == SYN_IN {
                    return Some(Some(ACCEPT));
                }
                if kinds == Kinds::RST && marks == SYN_IN_PACKET {
                    return Some(Some(IN_DISCARD));
                }
                if numbers.fin {
                    self.mark_only(FIN_OUT);
                }
                // A keep-alive's garbage octet has the number of the FIN, if it was sent.
                let given = self.outbound.stream.load(Ordering::Acquire) + u32::from(has(FIN_OUT));
                let beyond = end > given && numbers.payload > Some(0);
                let is_known = before & (OUTBOUND_KNOWN | FLOWING) == OUTBOUND_KNOWN | FLOWING;
                (is_known && beyond).then_some(Some(STREAM))
            }
            (OUT_IP, Some(numbers)) => {
                let half = &self.outbound;
                if !is_syn && !is_syn_ack {
                    self.mark_only(LATER_LEFT);
                }
                let end = half.raise(&half.packet, &numbers);
                let is_first = !is_syn && !is_syn_ack && !has(LATER_OUT);
                let is_missing = match has(OUTBOUND_KNOWN) {
                    true => end > half.segment.load(Ordering::Acquire) || has(SYN_OUT) && is_first,
                    // The first packet of the connection, or the answer of a closed
                    // port.
                    false => is_new || !has(OUT_SEEN) && (has(DISCARDED) || is_syn || is_syn_ack),
                };
                (ip && is_missing).then_some(Some(OUT))
            }
            (CLOSURE, _) => {
                self.mark_only(CLOSED);
                None
            }
            _ => None,
        }
    }

    fn segment_in(
        &self,
        passing: &Passing,
        numbers: &Numbers,
        before: u32,
        is_new: bool,
        ip: bool,
    ) -> Option<Missing> {
        let has = |mark: u32| before & mark != 0;
        let (half, out) = (&self.inbound, &self.outbound);
        if is_new && ip {
            return Some(Some(IN_IP));
        }
        match passing.kinds {
            Kinds::SYN => {
                self.mark_only(SYN_IN);
                return (ip && !has(SYN_IN_PACKET)).then_some(Some(IN_IP));
            }
            Kinds::SYN_ACK => {
                let answers =
                    numbers.acknowledgment == Some(out.start.load(Ordering::Acquire).wrapping_add(1));
                if has(SYN_OUT) && answers && !has(INBOUND_KNOWN) {
                    half.begin(numbers.sequence);
                    self.mark_only(INBOUND_KNOWN);
                }
            }
            _ => {}
        }
        let first = !has(LATER_IN_PACKET) && before & (ACCEPTED | SYN_OUT) != 0;
        let end = half.raise(&half.segment, numbers);
        let beyond = has(INBOUND_KNOWN) && end > half.packet.load(Ordering::Acquire);
        if numbers.fin && has(INBOUND_KNOWN) && end != 0 {
            let differs = has(END_KNOWN) && self.end.load(Ordering::Acquire) != end;
            self.end.store(end, Ordering::Release);
            self.mark_only(if differs { ENDS_DIFFER } else { END_KNOWN });
        }
        if ip && (first || beyond && numbers.payload > Some(0)) {
            return Some(Some(IN_IP));
        }
        // What the peer acknowledges has left this machine.
        let acknowledged = numbers.acknowledgment?.wrapping_sub(out.start.load(Ordering::Acquire));
        let sent = out.segment.load(Ordering::Acquire);
        let left = out.packet.load(Ordering::Acquire);
        let is_data = passing.kinds.within(Kinds::DATA);
        // A peer sends data when it has got the handshake's last segment.
        let answers = before & (SYN_OUT | FLOWING | LATER_OUT | LATER_LEFT) == SYN_OUT | FLOWING | LATER_OUT;
        let is_missing = acknowledged <= sent.saturating_add(1) && acknowledged.min(sent) > left;
        let is_missing = has(OUTBOUND_KNOWN) && (is_missing || is_data && answers);
        (ip && is_missing).then_some(Some(OUT_IP))
    }

    fn stream(&self, passing: &Passing, before: u32) -> Option<Missing> {
        let has = |mark: u32| before & mark != 0;
        let is_whole = before & (ACCEPTED | SYN_OUT) != 0;
        if is_whole && !has(FLOWING) {
            return Some(Some(ESTABLISHED));
        }
        if passing.is_unauthorized {
            return Some(Some(if has(SYN_OUT) { CONNECT } else { ACCEPT }));
        }
        let (bytes, ends) = passing.stream;
        let half = if passing.direction == Direction::Inbound { &self.inbound } else { &self.outbound };
        let total = half.stream.fetch_add(bytes, Ordering::AcqRel).wrapping_add(bytes);
        if total >= LIMIT {
            self.mark_only(UNCLEAR);
        }
        if passing.direction == Direction::Outbound || !has(INBOUND_KNOWN) {
            return None;
        }
        if total > half.segment.load(Ordering::Acquire) {
            return Some(Some(IN));
        }
        let is_end = ends && before & (END_KNOWN | ENDS_DIFFER) == END_KNOWN;
        (is_end && total != self.end.load(Ordering::Acquire)).then_some(Some(STREAM))
    }

    /// A SYN was authorized: the connection begins.
    fn begin_inbound(&self, numbers: &Numbers) {
        const KEPT: u32 = BEGUN | SYN_IN_PACKET | SYN_IN | LATER_IN_PACKET;
        self.inbound.begin(numbers.sequence);
        let unclear = if numbers.payload == Some(0) { 0 } else { UNCLEAR };
        let begin = |before: u32| Some(before & KEPT | ACCEPTED | INBOUND_KNOWN | unclear);
        let _begun = self.marks.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin);
    }

    /// A SYN or a SYN-ACK leaves.
    fn begin_outbound(&self, numbers: &Numbers, syn: u32) {
        const KEPT: u32 = BEGUN | LATER_IN_PACKET | LATER_OUT | LATER_LEFT;
        self.outbound.begin(numbers.sequence);
        let unclear = if numbers.payload == Some(0) { 0 } else { UNCLEAR };
        let kept = if syn == 0 { u32::MAX } else { KEPT };
        let begin = |before: u32| Some(before & kept | syn | OUTBOUND_KNOWN | unclear);
        let _begun = self.marks.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin);
    }
}

/// Numbers from here on are not followed.
const LIMIT: u32 = 1 << 30;

impl Half {
    fn clear(&self) {
        for number in [&self.start, &self.packet, &self.segment, &self.stream] {
            number.store(0, Ordering::Relaxed);
        }
    }

    /// Begins at the sequence number of a SYN, which has passed the layers up to
    /// here.
    fn begin(&self, start: u32) {
        self.start.store(start, Ordering::Release);
        self.packet.store(0, Ordering::Release);
        self.segment.store(1, Ordering::Release);
        self.stream.store(1, Ordering::Release);
    }

    fn starts_at(&self, start: u32) -> bool {
        self.start.load(Ordering::Acquire) == start
    }

    /// Raises a number to the end of a segment. Returns that end; 0 if the segment
    /// is none of this connection.
    fn raise(&self, to: &AtomicU32, numbers: &Numbers) -> u32 {
        let start = numbers.sequence.wrapping_sub(self.start.load(Ordering::Acquire));
        // A SYN takes one number.
        let length = if start == 0 { 1 } else { numbers.payload.unwrap_or(0) };
        let end = start.wrapping_add(length);
        if start >= LIMIT || end >= LIMIT {
            return 0;
        }
        if to.load(Ordering::Acquire) < end {
            to.fetch_max(end, Ordering::AcqRel);
        }
        end
    }
}
