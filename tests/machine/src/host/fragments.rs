//! Reassembles fragmented datagrams (RFC 791, RFC 8200 4.5).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::ip::{Refusal, code, has_whole_chain};
use super::open_points::reason;
use crate::wfp::FragmentData;
use crate::wire::{Family, LARGEST_PACKET, Parsed, Transport, reassembled};

/// The maximum number of incomplete datagrams, of all senders and of one. A new one
/// evicts the oldest, so that fragments without the rest cannot keep other
/// datagrams out.
const MOST: usize = 1024;
const MOST_OF_ONE: usize = 64;

/// The time to wait for the rest, since the first fragment (RFC 8200, 4.5).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What the fragments of a datagram have in common. Over IPv6 the protocol does not
/// belong to it (RFC 8200, 4.5).
type Key = (IpAddr, IpAddr, u32, u8);

/// An incomplete datagram.
struct Partial {
    since: Duration,
    /// The order of datagrams that began at the same time.
    number: u64,
    /// Fragments by their offset; `None` after a conflict, so that later fragments
    /// are dropped, too.
    parts: Option<BTreeMap<usize, Vec<u8>>>,
    /// The end of the last fragment.
    end: Option<usize>,
    /// The first fragment as a packet, which has the headers.
    first: Option<Vec<u8>>,
}

/// The result of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The rest is missing, or the whole datagram was dropped.
    Nothing,
    /// The complete datagram.
    Whole(Vec<u8>),
    Refused(Refusal),
}

/// All incomplete datagrams.
#[derive(Default)]
pub struct Fragments {
    partial: BTreeMap<Key, Partial>,
    last_number: u64,
}

/// A fragment: its position, and whether others follow.
struct Part<'a> {
    key: Key,
    at: usize,
    more: bool,
    body: &'a [u8],
}

impl Fragments {
    /// Adds a fragment of a captured packet, for which no error is sent. Returns
    /// the datagram if it is complete.
    pub fn datagram(&mut self, parsed: &Parsed<'_>, now: Duration) -> Option<Vec<u8>> {
        self.expire(now);
        match self.add(parsed, now) {
            Outcome::Whole(datagram) => Some(datagram),
            Outcome::Nothing | Outcome::Refused(_) => None,
        }
    }

    /// Adds a fragment.
    pub(super) fn add(&mut self, parsed: &Parsed<'_>, now: Duration) -> Outcome {
        let Some(part) = part(parsed) else { return Outcome::Nothing };
        if let Err(outcome) = fits(&part, parsed) {
            return outcome;
        }
        let is_known = self.partial.contains_key(&part.key);
        if !is_known {
            self.make_room(part.key.0);
            self.last_number += 1;
            let (number, parts) = (self.last_number, Some(BTreeMap::new()));
            self.partial.insert(part.key, Partial { since: now, number, parts, end: None, first: None });
        }
        let Some(partial) = self.partial.get_mut(&part.key) else { return Outcome::Nothing };
        partial.add(&part, parsed);
        match partial.whole() {
            None => Outcome::Nothing,
            Some(whole) => {
                self.partial.remove(&part.key);
                Outcome::Whole(whole)
            }
        }
    }

    /// Evicts the oldest datagrams if there are too many.
    fn make_room(&mut self, source: IpAddr) {
        let of_one = self.partial.keys().filter(|key| key.0 == source).count();
        let everywhere = self.partial.len() >= MOST;
        if !everywhere && of_one < MOST_OF_ONE {
            return;
        }
        let theirs = self.partial.iter().filter(|(key, _)| of_one >= MOST_OF_ONE && key.0 == source);
        let oldest = theirs.min_by_key(|(_, partial)| partial.number);
        let oldest = oldest.or_else(|| self.partial.iter().min_by_key(|(_, partial)| partial.number));
        if let Some(key) = oldest.map(|(key, _)| *key) {
            self.partial.remove(&key);
        }
    }

    /// Removes datagrams that have timed out. Returns the first fragment of each,
    /// if it has arrived, because its sender gets an error.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let stale = |_: &Key, partial: &mut Partial| now.saturating_sub(partial.since) >= PATIENCE;
        self.partial.extract_if(.., stale).filter_map(|(_, partial)| partial.first).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.partial.len()
    }
}

/// The fragment in a packet.
fn part<'a>(parsed: &Parsed<'a>) -> Option<Part<'a>> {
    let (source, destination) = (parsed.source.ip(), parsed.destination.ip());
    let body = parsed.transport_bytes();
    let (at, more, identification, protocol) = match parsed.chain() {
        None => {
            let (at, more) = parsed.v4_fragment();
            let identification = u16::from_be_bytes([parsed.bytes[4], parsed.bytes[5]]);
            (at, more, identification.into(), parsed.protocol)
        }
        Some(chain) => {
            let last = chain.last()?;
            let (at, more) = last.fragment()?;
            let identification = last.bytes.get(4..8)?.try_into().ok()?;
            (at, more, u32::from_be_bytes(identification), 0)
        }
    };
    Some(Part { key: (source, destination, identification, protocol), at, more, body })
}

/// What the metadata say of a packet that is a fragment.
pub(super) fn data(parsed: &Parsed<'_>) -> Option<FragmentData> {
    if !matches!(parsed.transport, Transport::Fragment) {
        return None;
    }
    let Part { key: (_, _, identification, _), at, body, .. } = part(parsed)?;
    Some(FragmentData { identification, offset: at as u16, length: body.len() as u32 })
}

/// Checks that a fragment is valid.
fn fits(part: &Part<'_>, parsed: &Parsed<'_>) -> Result<(), Outcome> {
    /// The position of the payload's length in an IPv6 packet, and of the offset in
    /// a fragment header.
    const PAYLOAD_LENGTH: usize = 4;
    const OFFSET: usize = 2;
    let v6 = parsed.family() == Family::V6;
    let refuse = |code, pointer| {
        let refusal = Refusal::parameter(reason::IP_MALFORMED_HEADER, code, pointer);
        Err(if v6 { Outcome::Refused(refusal) } else { Outcome::Nothing })
    };
    if part.body.is_empty() {
        return Err(Outcome::Nothing);
    }
    if part.more && !part.body.len().is_multiple_of(8) {
        return refuse(code::ERRONEOUS_FIELD, PAYLOAD_LENGTH);
    }
    if part.at + part.body.len() > LARGEST_PACKET {
        let header = parsed.chain().and_then(Iterator::last).map_or(0, |header| header.at);
        return refuse(code::ERRONEOUS_FIELD, header + OFFSET);
    }
    if v6 && part.at == 0 && !has_whole_chain(parsed.bytes) {
        return refuse(code::INCOMPLETE_CHAIN, 0);
    }
    Ok(())
}

impl Partial {
    /// Stores a fragment. An exact duplicate changes nothing. Any other overlap, or
    /// data after the end, invalidates the whole datagram (RFC 8200, 4.5; RFC
    /// 5722).
    fn add(&mut self, part: &Part<'_>, parsed: &Parsed<'_>) {
        let Some(parts) = &mut self.parts else { return };
        let end = part.at + part.body.len();
        if parts.get(&part.at).is_some_and(|known| known == part.body) && self.end.is_none_or(|e| e >= end) {
            return;
        }
        let before = parts.range(..end).next_back().map(|(at, body)| at + body.len());
        let overlaps = before.is_some_and(|before| before > part.at);
        let last = parts.last_key_value().map_or(0, |(at, body)| at + body.len());
        let behind = match (self.end, part.more) {
            (Some(known), true) => end > known,
            (Some(_), false) => true,
            (None, false) => last > end,
            (None, true) => false,
        };
        if overlaps || behind {
            (self.parts, self.first) = (None, None);
            return;
        }
        if !part.more {
            self.end = Some(end);
        }
        if part.at == 0 {
            self.first = Some(parsed.bytes.to_vec());
        }
        parts.insert(part.at, part.body.to_vec());
    }

    /// The datagram, if it is complete.
    fn whole(&self) -> Option<Vec<u8>> {
        let (parts, end, first) = (self.parts.as_ref()?, self.end?, self.first.as_ref()?);
        // The fragments do not overlap, so it is enough to compare the sum of their
        // sizes.
        if parts.values().map(Vec::len).sum::<usize>() != end {
            return None;
        }
        let number = Parsed::new(first)?.protocol;
        let payload: Vec<u8> = parts.values().flatten().copied().collect();
        reassembled(first, number, &payload)
    }
}
