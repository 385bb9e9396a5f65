//! The first pass: learns from the whole capture which sockets answer.
//!
//! Only a later packet shows what becomes of a SYN. So the file is read twice:
//! first to learn who answers where, then to be played. The memory is bounded; what
//! does not fit is counted.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use anyhow::Result;
use machine::host::is_plain_syn;
use machine::wire::{Family, Parsed, Tcp, TcpFlags, Transport, protocol};

use super::feed::{Item, Visitor};
use super::link::whole;
use super::roles::{Ballot, Prefix, Roles, Seen};

/// The maximum number of conversations, of connections and sockets, and of changes
/// of one socket.
const CONVERSATIONS: usize = 1 << 20;
const PAIRS: usize = 1 << 18;
const SOCKETS: usize = 1 << 18;
const SPANS: usize = 64;
/// The maximum number of acknowledged SYNs.
const ANSWERS: usize = 1 << 20;

/// The state of a socket over a part of the capture, known from its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    open: bool,
    last: u64,
}

/// Two sockets and a protocol, in an order that does not depend on the direction.
type Conversation = (u8, SocketAddr, SocketAddr);

/// The result of the first pass.
#[derive(Default)]
pub struct Survey {
    ballot: Ballot,
    /// The hashes of the conversations met so far; they are only counted.
    met: HashSet<u64>,
    hasher: RandomState,
    /// Which side has sent a segment of an established connection: the lower
    /// socket, the higher socket.
    pairs: HashMap<Conversation, [bool; 2]>,
    sockets: HashMap<(u8, SocketAddr), Vec<Span>>,
    /// What SYN-ACKs acknowledge: hashes of sender, receiver and sequence number.
    answers: HashSet<u64>,
    /// The number of packets of connections and of changes of sockets that did not
    /// fit.
    pub forgotten: u64,
    /// Is called with the number of bytes read, to show the progress.
    progress: Option<Box<dyn Fn(u64) + Send>>,
}

impl Survey {
    /// A survey that reports its progress.
    pub fn new(progress: impl Fn(u64) + Send + 'static) -> Self {
        Self { progress: Some(Box::new(progress)), ..Self::default() }
    }

    /// The roles as inferred from the capture.
    pub fn roles(&self) -> Roles {
        self.ballot.roles()
    }

    /// The roles for the given addresses of the host.
    pub fn roles_given(&self, prefixes: Vec<Prefix>) -> Roles {
        Roles::given(prefixes).with_groups(&self.ballot)
    }

    /// Whether a SYN-ACK from `from` to `to` acknowledges everything before this
    /// sequence number.
    pub fn acknowledges(&self, from: SocketAddr, to: SocketAddr, before: u32) -> bool {
        self.answers.contains(&self.hasher.hash_one((from, to, before)))
    }

    /// Whether a socket is open when the frame `index` arrives. The next answer
    /// decides, otherwise the last one. Without any answer the socket is closed.
    pub fn is_open(&self, protocol: u8, socket: SocketAddr, index: u64) -> bool {
        let Some(spans) = self.sockets.get(&(protocol, socket)) else {
            return false;
        };
        spans.iter().find(|span| index <= span.last).or(spans.last()).is_some_and(|span| span.open)
    }

    /// Whether `local` has sent `remote` a segment of an established connection.
    pub fn speaks(&self, protocol: u8, local: SocketAddr, remote: SocketAddr) -> bool {
        let (key, side) = conversation(protocol, local, remote);
        self.pairs.get(&key).is_some_and(|spoken| spoken[side])
    }

    fn segment(&mut self, key: Conversation, side: usize, parsed: &Parsed<'_>, tcp: Tcp) {
        const WITHIN: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::RST.0 | TcpFlags::ACK.0);
        if tcp.flags.0 & WITHIN.0 == TcpFlags::ACK.0 {
            if self.pairs.len() < PAIRS || self.pairs.contains_key(&key) {
                self.pairs.entry(key).or_default()[side] = true;
            } else {
                self.forgotten += 1;
            }
        }
        if tcp.flags.has(TcpFlags::SYN | TcpFlags::ACK) {
            let answer = self.hasher.hash_one((parsed.source, parsed.destination, tcp.acknowledgment));
            if self.answers.len() < ANSWERS {
                self.answers.insert(answer);
            } else {
                self.forgotten += u64::from(!self.answers.contains(&answer));
            }
        }
    }

    fn answer(&mut self, protocol: u8, socket: SocketAddr, index: u64, open: bool) {
        if self.sockets.len() >= SOCKETS && !self.sockets.contains_key(&(protocol, socket)) {
            self.forgotten += 1;
            return;
        }
        let spans = self.sockets.entry((protocol, socket)).or_default();
        let full = spans.len() >= SPANS;
        match spans.last_mut() {
            Some(last) if last.open == open => last.last = index,
            _ if full => self.forgotten += 1,
            _ => spans.push(Span { open, last: index }),
        }
    }
}

fn conversation(protocol: u8, one: SocketAddr, other: SocketAddr) -> (Conversation, usize) {
    if one <= other { ((protocol, one, other), 0) } else { ((protocol, other, one), 1) }
}

impl Visitor for Survey {
    fn packet(&mut self, item: &Item<'_>) -> Result<bool> {
        let parsed = &item.parsed;
        let Parsed { source, destination, .. } = *parsed;
        let tcp = parsed.tcp();
        let (key, side) = conversation(parsed.protocol, source, destination);
        // A fragment opens no conversation; the reassembled datagram does.
        let opens = !matches!(parsed.transport, Transport::Fragment)
            && self.met.len() < CONVERSATIONS
            && self.met.insert(self.hasher.hash_one(key));
        if let Some(tcp) = tcp {
            self.segment(key, side, parsed, tcp);
        }
        let syn = tcp.is_some_and(|tcp| is_plain_syn(tcp.flags));
        let (from, to) = (source.ip(), destination.ip());
        self.ballot.packet(&Seen { from, to, way: item.way, cast: item.cast, opens, syn });
        if let Some((protocol, socket, open)) = statement(parsed) {
            self.answer(protocol, socket, item.index, open);
        }
        Ok(true)
    }

    fn position(&mut self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress(bytes);
        }
    }
}

/// What a packet shows about its sender's socket: whether it is open.
fn statement(parsed: &Parsed<'_>) -> Option<(u8, SocketAddr, bool)> {
    match parsed.transport {
        Transport::Tcp(tcp) => {
            let answers = |flags: TcpFlags| tcp.flags.has(flags | TcpFlags::ACK);
            // A RST to a SYN has sequence number 0 (RFC 9293, 3.10.7.1). A RST to
            // another segment says nothing about listeners.
            let open = match () {
                () if answers(TcpFlags::RST) && tcp.sequence == 0 => false,
                () if answers(TcpFlags::SYN) && !tcp.flags.has(TcpFlags::RST) => true,
                () => return None,
            };
            Some((protocol::TCP, parsed.source, open))
        }
        Transport::Udp | Transport::Other => Some((parsed.protocol, parsed.source, true)),
        Transport::Icmp { kind, code, .. } => {
            let (protocol, socket, _) = refused(parsed, kind, code)?;
            Some((protocol, socket, false))
        }
        Transport::Fragment | Transport::Malformed => None,
    }
}

/// The protocol, the closed socket and the sender of the datagram that an ICMP
/// error refuses (RFC 792: type 3, codes 2 and 3; RFC 4443: type 1 code 4, type 4
/// code 1).
pub(super) fn refused(parsed: &Parsed<'_>, kind: u8, code: u8) -> Option<(u8, SocketAddr, SocketAddr)> {
    let refusing: [(u8, u8); 2] = match parsed.family() {
        Family::V4 => [(3, 2), (3, 3)],
        Family::V6 => [(1, 4), (4, 1)],
    };
    let quoted = parsed.payload().get(8..).filter(|_| refusing.contains(&(kind, code)))?;
    let quoted = whole(quoted, true);
    let quoted = Parsed::new(&quoted)?;
    Some((quoted.protocol, quoted.destination, quoted.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_answer_shows_whether_a_port_is_open() {
        let mut survey = Survey::default();
        let port: SocketAddr = ([10, 0, 0, 1], 80).into();
        for (index, open) in [(10, true), (20, true), (30, false), (40, true)] {
            survey.answer(6, port, index, open);
        }
        let open: Vec<_> = [1, 15, 20, 21, 30, 31, 99].map(|index| survey.is_open(6, port, index)).into();
        assert_eq!(open, [true, true, true, false, false, true, true]);
        assert!(!survey.is_open(17, port, 1));
    }
}
