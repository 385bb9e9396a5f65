//! Datagrams of which only a part has come (RFC 791, RFC 8200 4.5).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::ip::{Refusal, code, has_whole_chain};
use super::open_points::reason;
use crate::wire::{Family, LARGEST_PACKET, Parsed, reassembled};

/// The most datagrams that are waited for, of all senders and of one. The
/// oldest gives way to a new one, so that parts without the rest keep nobody's
/// datagrams out.
const MOST: usize = 1024;
const MOST_OF_ONE: usize = 64;

/// How long the rest is waited for, from the first that comes (RFC 8200, 4.5).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What parts of one datagram have in common. Over IPv6 the protocol is not
/// among it (RFC 8200, 4.5).
type Key = (IpAddr, IpAddr, u32, u8);

/// One datagram.
struct Partial {
    since: Duration,
    /// Which came first, of those that came at the same time.
    number: u64,
    /// Parts by where they begin. Nothing where they did not fit together: what
    /// still comes of it goes, too.
    parts: Option<BTreeMap<usize, Vec<u8>>>,
    /// Where the last part ends.
    end: Option<usize>,
    /// The first part as a packet, which has the headers.
    first: Option<Vec<u8>>,
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The rest is waited for, or all of it is gone.
    Nothing,
    /// The whole datagram.
    Whole(Vec<u8>),
    Refused(Refusal),
}

/// All of them.
#[derive(Default)]
pub struct Fragments {
    partial: BTreeMap<Key, Partial>,
    last_number: u64,
}

/// A part: where it belongs, and whether others follow.
struct Part<'a> {
    key: Key,
    at: usize,
    more: bool,
    body: &'a [u8],
}

impl Fragments {
    /// Takes a part of a capture's packet, for which nobody is answered. The whole
    /// datagram, if that was the last one.
    pub fn datagram(&mut self, parsed: &Parsed<'_>, now: Duration) -> Option<Vec<u8>> {
        self.expire(now);
        match self.add(parsed, now) {
            Outcome::Whole(datagram) => Some(datagram),
            Outcome::Nothing | Outcome::Refused(_) => None,
        }
    }

    /// Takes a part.
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

    /// Lets the oldest datagrams go where there are too many.
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

    /// Takes out what has waited too long; the first part of each, where that
    /// had come: its sender is told.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let stale = |_: &Key, partial: &mut Partial| now.saturating_sub(partial.since) >= PATIENCE;
        self.partial.extract_if(.., stale).filter_map(|(_, partial)| partial.first).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.partial.len()
    }
}

/// What a packet is a part of.
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

/// Whether a part can be one of a datagram.
fn fits(part: &Part<'_>, parsed: &Parsed<'_>) -> Result<(), Outcome> {
    /// Where an IPv6 packet has its payload's length; a fragment header its
    /// offset.
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
    /// Puts a part in its place. An exact duplicate changes nothing; what
    /// overlaps otherwise, or lies behind the end, spoils the whole datagram
    /// (RFC 8200, 4.5; RFC 5722).
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

    /// The datagram, if nothing is missing.
    fn whole(&self) -> Option<Vec<u8>> {
        let (parts, end, first) = (self.parts.as_ref()?, self.end?, self.first.as_ref()?);
        // They do not overlap, so only their sum is to be right.
        if parts.values().map(Vec::len).sum::<usize>() != end {
            return None;
        }
        let number = Parsed::new(first)?.protocol;
        let payload: Vec<u8> = parts.values().flatten().copied().collect();
        reassembled(first, number, &payload)
    }
}
