//! What a tie tells: the layer that is missing.

use super::tie::*;
use super::{Missing, Numbers, Passing};
use crate::logic::atomic::Ordering;
use crate::logic::order::flow_order::Direction;
use crate::logic::order::layer::LayerIndex;
use crate::logic::order::rows::{
    ACCEPT, ACCEPT_DISCARD, ASSIGNMENT, BIND_REDIRECT, CLOSURE, CONNECT, CONNECT_DISCARD, CONNECT_REDIRECT,
    DATAGRAM, ESTABLISHED, IN, IN_DISCARD, IN_IP, IN_IP_DISCARD, Kinds, LISTEN, OUT, OUT_IP, RELEASE, STREAM,
};
use crate::logic::protocol::{TCP, UDP};

impl Tie {
    /// What an endpoint must have passed: the missing layer.
    pub(super) fn of_endpoint(&self, passing: &Passing, is_new: bool) -> Option<LayerIndex> {
        let mark = match passing.layer {
            BIND_REDIRECT => {
                // A handle may be used again.
                let _before = self.marks.swap(BEGUN | BIND_REDIRECTED, Ordering::AcqRel);
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
        let due = |mark: u32, layer: LayerIndex| if before & mark == 0 { Some(layer) } else { None };
        match passing.layer {
            // Promiscuous mode of a raw socket is shown here, too ("ALE Layers").
            ASSIGNMENT if is_new && matches!(passing.protocol, TCP | UDP) => Some(BIND_REDIRECT),
            LISTEN | CONNECT_REDIRECT => due(BOUND, ASSIGNMENT),
            CONNECT if mark != 0 => due(BOUND, ASSIGNMENT).or(due(CONNECT_REDIRECTED, CONNECT_REDIRECT)),
            ACCEPT if passing.reauthorizes => None,
            ACCEPT if passing.protocol == TCP => due(BOUND, ASSIGNMENT).or(due(LISTENING, LISTEN)),
            ACCEPT => due(BOUND, ASSIGNMENT),
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

    pub(super) fn of_datagrams(
        &self,
        passing: &Passing,
        before: u32,
        is_new: bool,
        ip: bool,
    ) -> Option<Missing> {
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
            DATAGRAM if passing.is_unauthorized && before & AUTHORIZED_ELSEWHERE == 0 => {
                return Some(Some(ACCEPT));
            }
            DATAGRAM if before & (ACCEPTED | FLOWING) == ACCEPTED => return Some(Some(ESTABLISHED)),
            _ => {}
        }
        None
    }

    pub(super) fn of_connection(
        &self,
        passing: &Passing,
        before: u32,
        is_new: bool,
        ip: bool,
    ) -> Option<Missing> {
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
            let differs = self.ends_at(end) != end && has(END_KNOWN);
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
        if passing.is_unauthorized && !has(AUTHORIZED_ELSEWHERE) {
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
}
