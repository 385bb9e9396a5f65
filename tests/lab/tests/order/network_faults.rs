//! The faults of the simulated network.

use std::collections::BTreeMap;
use std::time::Duration;

use machine::schedule::Random;
use proptest::prelude::*;

use super::segment::{ACK, FIN, RST, SYN, Segment, fragments, unreachable};

/// How often each fault happens, of 100 packets, and a seed that fixes to which.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkFaults {
    pub seed: u64,
    pub lost: u8,
    pub repeated: u8,
    /// Delayed up to two minutes: beyond the end of its connection, or into the
    /// next one between the same ends.
    pub late: u8,
    /// Merged with the segment before it.
    pub merged: u8,
    pub fragmented: u8,
    /// One bit is changed.
    pub spoiled: u8,
    /// A segment made from it is added, or replaces it; see [`BESIDE`].
    pub forged: u8,
    /// The largest delay in milliseconds, drawn for every packet.
    pub jitter: u16,
}

/// Any faults: some faults often, some seldom, some never.
pub fn any() -> impl Strategy<Value = NetworkFaults> {
    let often = || prop_oneof![2 => Just(0_u8), 3 => 0_u8..12, 2 => 12_u8..40];
    let seldom = || prop_oneof![3 => Just(0_u8), 2 => 1_u8..8];
    let jitter = prop_oneof![Just(0_u16), 1_u16..40, 40_u16..1500];
    let often = (often(), often(), often(), often());
    (any_seed(), often, seldom(), seldom(), seldom(), jitter).prop_map(
        |(seed, (lost, repeated, merged, forged), late, fragmented, spoiled, jitter)| NetworkFaults {
            seed,
            lost,
            repeated,
            late,
            merged,
            fragmented,
            spoiled,
            forged,
            jitter,
        },
    )
}

fn any_seed() -> impl Strategy<Value = u64> {
    proptest::num::u64::ANY
}

/// How often each thing has happened.
pub type Tally = BTreeMap<&'static str, u64>;

/// One direction of the network.
#[derive(Default)]
pub struct Link {
    under_way: BTreeMap<(Duration, u64), Vec<u8>>,
    taken: u64,
    /// Some earlier packets.
    before: Vec<Vec<u8>>,
}

/// Packets that a link remembers for [`forge`].
const REMEMBERED: usize = 64;
/// The shortest time of a packet on the link.
const DELAY: Duration = Duration::from_millis(1);

impl Link {
    /// Takes a packet and decides what arrives of it, and when. Returns the ICMP
    /// error that its sender gets, if any.
    pub fn send(
        &mut self,
        packet: Vec<u8>,
        now: Duration,
        faults: &NetworkFaults,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Option<Vec<u8>> {
        let mut happens = |percent: u8, what: &'static str| {
            let happens = random.below(100) < percent.into();
            *tally.entry(what).or_default() += u64::from(happens);
            happens
        };
        let [lost, repeated, late] = [
            happens(faults.lost, "lost"),
            happens(faults.repeated, "repeated"),
            happens(faults.late, "late"),
        ];
        let [merged, fragmented, spoiled, forged] = [
            happens(faults.merged, "to be merged"),
            happens(faults.fragmented, "fragmented"),
            happens(faults.spoiled, "spoiled"),
            happens(faults.forged, "forged"),
        ];
        let forgery = forged.then(|| forge(&packet, &self.before, random, tally)).flatten();
        self.remember(&packet, random);
        let mut error = None;
        match forgery {
            Some(Forgery::Beside(other)) => self.put(other, now, faults, random),
            Some(Forgery::Error(icmp)) => error = Some(icmp),
            Some(Forgery::Instead(other)) => {
                self.put(other, now, faults, random);
                return None;
            }
            None => {}
        }
        if lost || merged && self.merge(&packet, tally) {
            return error;
        }
        let mut packets = match fragmented {
            true => fragments(&packet, 8 * (1 + random.below(40)), random.number() as u16),
            false => vec![packet],
        };
        if spoiled && let Some(last) = packets.last_mut().and_then(|packet| packet.last_mut()) {
            *last ^= 1 << random.below(8);
        }
        if repeated {
            packets.extend_from_within(..);
        }
        let held = if late { Duration::from_millis(random.below(120_000) as u64) } else { Duration::ZERO };
        for packet in packets {
            self.put(packet, now + held, faults, random);
        }
        error
    }

    /// When the next packet arrives.
    pub fn due(&self) -> Option<Duration> {
        self.under_way.keys().next().map(|(due, _)| *due)
    }

    /// The next packet that has arrived.
    pub fn next(&mut self, now: Duration) -> Option<Vec<u8>> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn put(&mut self, packet: Vec<u8>, now: Duration, faults: &NetworkFaults, random: &mut Random) {
        let jitter = Duration::from_millis(random.below(usize::from(faults.jitter) + 1) as u64);
        self.taken += 1;
        self.under_way.insert((now + DELAY + jitter, self.taken), packet);
    }

    fn remember(&mut self, packet: &[u8], random: &mut Random) {
        match self.before.len() {
            REMEMBERED => self.before[random.below(REMEMBERED)] = packet.to_vec(),
            _ => self.before.push(packet.to_vec()),
        }
    }

    /// Merges a packet with one on the link, if both are contiguous.
    fn merge(&mut self, packet: &[u8], tally: &mut Tally) -> bool {
        let Some(next) = Segment::read(packet) else { return false };
        for waiting in self.under_way.values_mut().rev() {
            if let Some(merged) = Segment::read(waiting).and_then(|before| before.merged(&next)) {
                *waiting = merged.packet();
                *tally.entry("merged").or_default() += 1;
                return true;
            }
        }
        false
    }
}

/// What the network makes of a segment.
enum Forgery {
    Beside(Vec<u8>),
    Instead(Vec<u8>),
    /// An ICMP error for the sender.
    Error(Vec<u8>),
}

/// Makes a segment from another.
type Making = fn(Segment) -> Segment;

/// Segments that are added beside a real one, and how each is made from it: probes,
/// resets, half of the data, segments of no correct peer.
const BESIDE: [(&str, Making); 11] = [
    ("keep-alive", |segment| segment.bare().moved(-1)),
    ("keep-alive with an octet", |segment| segment.bare().moved(-1).with_payload(&[0])),
    ("SYN inside", |segment| segment.bare().with_flags(SYN)),
    ("SYN-ACK inside", |segment| segment.bare().with_flags(SYN | ACK)),
    ("reset", |segment| segment.bare().with_flags(RST | ACK)),
    ("reset beside the window", |segment| segment.bare().moved(-100_000).with_flags(RST)),
    ("an acknowledgment of what was not sent", |segment| {
        let mut bare = segment.bare();
        bare.tcp.acknowledgment_number = bare.tcp.acknowledgment_number.wrapping_add(100_000);
        bare
    }),
    ("bare acknowledgment", Segment::bare),
    ("first half alone", |segment| {
        let half = segment.payload.len() / 2;
        segment.clone().bare().with_payload(&segment.payload[..half])
    }),
    ("second half alone", |segment| {
        let half = segment.payload.len() / 2;
        segment.clone().with_payload(&segment.payload[half..]).moved(half as i32)
    }),
    ("FIN before its time", |segment| {
        let flags = segment.flags() | FIN;
        segment.with_flags(flags)
    }),
];

fn forge(packet: &[u8], before: &[Vec<u8>], random: &mut Random, tally: &mut Tally) -> Option<Forgery> {
    let segment = Segment::read(packet)?;
    let which = random.below(BESIDE.len() + 3);
    let (name, forgery) = match (BESIDE.get(which), which - BESIDE.len().min(which)) {
        (Some((name, make)), _) => (*name, Forgery::Beside(make(segment).packet())),
        (None, 0) => {
            let mut closed = segment;
            closed.tcp.window_size = 0;
            ("window closed", Forgery::Instead(closed.packet()))
        }
        (None, 1) => ("unreachable", Forgery::Error(unreachable(packet))),
        _ => ("old duplicate", Forgery::Beside(random.pick(before)?.clone())),
    };
    *tally.entry(name).or_default() += 1;
    Some(forgery)
}
