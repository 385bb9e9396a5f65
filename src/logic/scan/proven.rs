//! Remotes that have proven their addresses.
//!
//! Anybody can send a SYN or a datagram with somebody else's address. But only who
//! receives what is sent to an address can complete a TCP handshake from it (RFC 9293,
//! 3.5). So a remote that began a connection to this machine and completed the handshake
//! has proven its address. A handshake that this machine began proves nothing here: a
//! stranger may know whom this machine talks to, such as its resolver, and forge exactly
//! these addresses.
//!
//! Each processor remembers the handshakes that it has seen, and the sweep asks all
//! processors. If there are too many handshakes, the oldest are forgotten. Then a scan is
//! reported as not proven, which is the safe error.

use super::{Remote, Seed, mix};
use crate::logic::atomic::{AtomicU64, Ordering::Relaxed};

/// The entries in a set, which is a cache line.
const WAYS: usize = 8;

/// How many spans a handshake is remembered: six times the window, so a minute by
/// default. Nothing else is remembered for longer.
pub(super) const KEPT: u64 = 16;

const _: () = assert!(KEPT >= super::SPANS as u64);

/// The lower bits of an entry are the span of the last handshake. The others are the
/// remote's [`Tag`].
const SPAN: u64 = (1 << 24) - 1;

/// By what a remote is recognized: 39 bits of a hash with a key that the network does not
/// know. It is never 0, and its lower 24 bits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub u64);

impl Tag {
    /// The tag of a remote. The hash of a remote is one multiplication. Mixed, it is well
    /// spread whatever the key is.
    pub const fn of(remote: Remote, seed: Seed) -> Self {
        Self((mix(remote.hash(seed), 0) & !SPAN) | (SPAN + 1))
    }
}

/// The remotes of one set that have completed a handshake, as one processor has seen it.
/// Zero means empty, so that it can be made in zeroed memory.
///
/// An entry is one number, so it needs no lock: the processor writes it as a whole, and the
/// sweep reads it as a whole.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Proven([AtomicU64; WAYS]);

impl Proven {
    /// Notes a handshake. It takes the remote's own entry, else the oldest.
    pub fn note(&self, Tag(tag): Tag, span: u32) {
        let (mut to, mut oldest) = (None, 0);
        for entry in &self.0 {
            let known = entry.load(Relaxed);
            let age = match known & !SPAN {
                known if known == tag => u64::MAX,
                0 => u64::MAX - 1,
                _ => age(known, span) + 1,
            };
            if age > oldest {
                (to, oldest) = (Some(entry), age);
            }
        }
        if let Some(entry) = to {
            entry.store(tag | u64::from(span) & SPAN, Relaxed);
        }
    }

    /// The remotes that have completed a handshake within the spans that are kept.
    pub fn tags(&self, span: u32) -> impl Iterator<Item = Tag> {
        let known = self.0.iter().map(|entry| entry.load(Relaxed));
        known
            .filter(move |known| known & !SPAN != 0 && age(*known, span) < KEPT)
            .map(|known| Tag(known & !SPAN))
    }
}

/// How many spans ago an entry was written.
const fn age(entry: u64, span: u32) -> u64 {
    (span as u64).wrapping_sub(entry) & SPAN
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed::new(mix(0x5eed, 1));
    const REMOTE: Tag = Tag::of(Remote(0xffff_0808_0808), SEED);

    fn has(proven: &Proven, tag: Tag, span: u32) -> bool {
        proven.tags(span).any(|known| known == tag)
    }

    #[test]
    fn a_handshake_is_remembered_for_some_spans() {
        for first in [0, 5, SPAN as u32 - 3, u32::MAX - 3] {
            let proven = Proven::default();
            assert_eq!(proven.tags(first).count(), 0);
            proven.note(REMOTE, first);
            for passed in 0..40 {
                let kept = u64::from(passed) < KEPT;
                assert_eq!(has(&proven, REMOTE, first.wrapping_add(passed)), kept, "{first} + {passed}");
            }
            let later = first.wrapping_add(30);
            proven.note(REMOTE, later);
            assert!(has(&proven, REMOTE, later));
        }
    }

    #[test]
    fn tags_differ() {
        let tags = (0..100_000).map(|number| Tag::of(Remote(number), SEED).0);
        let tags: std::collections::BTreeSet<_> = tags.collect();
        assert_eq!(tags.len(), 100_000);
        assert!(tags.iter().all(|tag| tag & SPAN == 0 && *tag != 0));
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_one_remote_has_one_entry() {
        let proven = Proven::default();
        let other = |number: u32| Tag::of(Remote(number.into()), SEED);
        for span in 1..200 {
            proven.note(REMOTE, span);
            (0..7).for_each(|number| proven.note(other(span * 1000 + number), span));
            assert_eq!(proven.tags(span).filter(|tag| *tag == REMOTE).count(), 1, "{span}");
        }
        (0..8).for_each(|number| proven.note(other(number), 201));
        assert!(!has(&proven, REMOTE, 201));
    }
}
