//! What connections and endpoints have passed, on all processors.
//!
//! A [`Tie`](tie::Tie) holds this for one connection (its addresses, ports and protocol), for
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
//! [`SETTLED_MS`](table::SETTLED_MS), and its set has lost no tie for as long. Only such a tie tells
//! that something is missing.

#[cfg(all(test, loom))]
mod model;
mod table;
mod tells;
mod tie;

use super::flow_order::Direction;
use super::layer::LayerIndex;
use super::rows::{
    ACCEPT, ASSIGNMENT, BIND_REDIRECT, CONNECT, ERROR, ESTABLISHED, IN, IN_DISCARD, IN_IP, IN_IP_DISCARD,
    Kinds, OUT, OUT_IP,
};
use super::walk::Deviation;
use crate::logic::atomic::Ordering;
use crate::logic::protocol::TCP;
use table::{FORWARDS, Found, SECURED};
use tie::{AUTHORIZED_ELSEWHERE, BEGUN, DISCARDED, ERROR_MADE, OUT_SEEN, UNCLEAR};

#[cfg(test)]
pub use table::SETTLED_MS;
pub use table::{Common, TIE_SETS, TieSet};

/// The table of all ties.
#[derive(Clone, Copy)]
pub struct Ties<'a> {
    sets: &'a [TieSet],
    common: &'a Common,
    /// The number of the check.
    check: u16,
}

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

type Missing = Option<LayerIndex>;

impl<'a> Ties<'a> {
    /// The ties of a check. `now`: milliseconds, asked when a check begins.
    pub fn new(sets: &'a [TieSet], common: &'a Common, check: u16, now: impl FnOnce() -> u64) -> Self {
        if common.state.load(Ordering::Acquire) as u16 != check {
            common.begin(check, now() as u32);
        }
        Self { sets, common, check }
    }

    /// IPsec secures packets, see `SECURED`.
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
        // If the IP layers show packets encrypted, or those of others, only the
        // layers above are compared.
        let ip = !self.common.has(SECURED | FORWARDS);
        let (of_endpoint, of_calls) = self.of_endpoint(passing, &now);
        let (of_pair, of_packets) = match passing.pair {
            0 => (None, false),
            _ => self.of_pair(passing, ip, &now),
        };
        let (missing, scattered) = (of_endpoint.or(of_pair), of_calls || of_packets);
        let deviation = missing.map(|expected| Deviation { expected, seen });
        Told { deviation, scattered: scattered || !ip }
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
        let is_missing = !found.leave() && is_missing;
        is_missing.then_some(Deviation { expected: Some(expected), seen: Some(layer) })
    }

    /// What an endpoint must have passed; and whether its calls pass their layers on
    /// several processors.
    fn of_endpoint(&self, passing: &Passing, now: &impl Fn() -> u64) -> (Option<Missing>, bool) {
        let [own, parent] = passing.endpoints;
        let is_call = passing.kinds == Kinds::CALL || passing.layer == CONNECT;
        let (key, makes) = match passing.layer {
            ACCEPT if passing.protocol == TCP => (parent, false),
            _ if is_call => (own, true),
            ACCEPT | OUT | ESTABLISHED => (own, false),
            _ => return (None, false),
        };
        let found = if makes && key != 0 { self.enter(key, now) } else { self.find(key) };
        let Some(found) = found else { return (None, false) };
        let Found { tie, is_new, .. } = found;
        if is_new && !matches!(passing.layer, BIND_REDIRECT | ASSIGNMENT) {
            // It was bound before the check, or forgotten.
            tie.mark_only(UNCLEAR);
        }
        let [latest, ..] = &tie.processors;
        let scattered = is_call && tie.moves(latest, passing.processor);
        let missing = tie.of_endpoint(passing, is_new);
        self::told(found, missing.map(Some), scattered)
    }

    /// What a connection or a flow of datagrams must have passed.
    fn of_pair(&self, passing: &Passing, ip: bool, now: &impl Fn() -> u64) -> (Option<Missing>, bool) {
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
        let missing = match passing.protocol {
            TCP => tie.of_connection(passing, before, found.is_new, ip),
            _ => tie.of_datagrams(passing, before, found.is_new, ip),
        };
        if layer == ACCEPT && !passing.is_unauthorized {
            tie.mark_only(AUTHORIZED_ELSEWHERE);
        }
        self::told(found, missing, scattered)
    }
}

/// What a tie tells: what is missing, if its beginning was seen and everything about it
/// is understood, and whether it is scattered. A tie that was evicted meanwhile tells
/// nothing: what was read may be of another.
#[inline(always)]
fn told(found: Found<'_>, missing: Option<Missing>, scattered: bool) -> (Option<Missing>, bool) {
    let is_clear = found.tie.marks.load(Ordering::Relaxed) & (BEGUN | UNCLEAR) == BEGUN;
    let is_evicted = found.leave();
    (missing.filter(|_| is_clear && !is_evicted), scattered || is_evicted)
}
