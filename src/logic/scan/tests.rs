//! Simulated scans, floods and slow remotes.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::logic::tcp::TcpFlags;

const WINDOW: u32 = 10_000;
/// The interval between sweeps.
const TICK: u64 = WINDOW as u64 / 8;
const SETTINGS: Settings = Settings { ports: 16, seed: Seed::new(mix(0x5eed, 0)) };

/// The tables of several processors, and what was reported.
struct World<const SETS: usize, const CELLS: usize> {
    tables: Vec<Box<Table<SETS, CELLS>>>,
    window_ms: u32,
    settings: Settings,
    spans: Spans,
    next_sweep: u64,
    scans: Vec<(u64, Scan)>,
}

/// At most as many remotes as in the driver's table.
type Small = World<16, 256>;

impl<const SETS: usize, const CELLS: usize> World<SETS, CELLS> {
    fn new(processors: usize, settings: Settings) -> Self {
        Self {
            tables: (0..processors).map(|_| Box::new(Table::empty())).collect(),
            window_ms: WINDOW,
            settings,
            spans: Spans::new(0, WINDOW),
            next_sweep: 0,
            scans: Vec::new(),
        }
    }

    fn starting(mut self, span: u32, now: u64) -> Self {
        self.next_sweep = now;
        self.spans = Spans { number: span.into(), window_ms: WINDOW.into(), began_ms: now.into() };
        self
    }

    /// Sweeps when a sweep is due.
    fn pass(&mut self, now: u64) {
        while self.next_sweep <= now {
            let (at, mut found) = (self.next_sweep, Vec::new());
            let span = self.spans.advance_to(at, self.window_ms);
            sweep(self.tables.iter().map(|table| &**table), span, &self.settings, |scan| {
                found.push((at, scan))
            });
            self.scans.extend(found);
            self.next_sweep += TICK;
        }
    }

    fn meet(&mut self, processor: usize, remote: Remote, port: u16, now: u64) {
        self.pass(now);
        let span = self.spans.current();
        let met = Encounter { remote, port, technique: Technique::Syn };
        self.tables[processor].meet(&met, span, self.settings.seed);
    }

    fn reports_of(&self, remote: Remote) -> usize {
        self.scans.iter().filter(|(_, scan)| scan.remote == remote).count()
    }
}

fn v4(number: u32) -> Remote {
    Ipv4Addr::from_bits(number).into()
}

const SCANNER: Remote = Remote(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).to_bits());

/// nmap shuffles the ports (`--randomize-ports` is the default).
fn shuffled(count: u16, seed: u64) -> Vec<u16> {
    let mut ports: Vec<u16> = (1..=count).collect();
    // Not with the key of the tables' hash.
    ports.sort_by_key(|port| mix((*port).into(), seed + (1 << 40)));
    ports
}

#[test]
fn a_scan_is_reported_once_a_window_with_its_ports() {
    for remote in [v4(0x0a4d_0001), SCANNER] {
        let mut world = Small::new(1, SETTINGS);
        for (at, port) in shuffled(100, 1).into_iter().enumerate() {
            world.meet(0, remote, port, at as u64);
        }
        world.pass(u64::from(WINDOW) - 1);
        assert_eq!(world.scans.len(), 1);
        let (at, scan) = world.scans[0];
        assert!(at <= TICK);
        // Within three standard errors of 100 (`estimate`).
        assert!((52..=154).contains(&scan.ports), "{scan:?}");
        assert_eq!(scan.remote, remote);
        world.pass(10 * u64::from(WINDOW));
        assert_eq!(world.scans.len(), 1, "a scan that is over is not reported again");
    }
}

#[test]
fn a_lasting_scan_is_reported_about_once_a_window() {
    let mut world = Small::new(1, SETTINGS);
    for (at, port) in shuffled(4000, 2).into_iter().enumerate() {
        world.meet(0, SCANNER, port, at as u64 * 25);
    }
    // 100 s, with a report every twelve eighths of a window at the soonest.
    assert!((6..=9).contains(&world.scans.len()), "{}", world.scans.len());
}

#[test]
fn spread_over_processors_it_is_one_scan() {
    let mut world = World::<16, 64>::new(8, SETTINGS);
    for (at, port) in shuffled(32, 3).into_iter().enumerate() {
        world.meet(at % 8, SCANNER, port, at as u64);
    }
    world.pass(2 * TICK);
    assert_eq!(world.reports_of(SCANNER), 1);
    assert_eq!(world.scans.len(), 1);
}

#[test]
fn one_port_over_and_over_is_no_scan() {
    let mut world = Small::new(1, SETTINGS);
    for now in 0..60_000 {
        world.meet(0, SCANNER, 80 + (now % 15) as u16, now);
    }
    assert_eq!(world.scans, []);
}

#[test]
fn a_slow_remote_is_never_reported() {
    // 15 ports in one and a half windows, for an hour.
    let mut world = Small::new(1, SETTINGS);
    let gap = u64::from(WINDOW) * 3 / 2 / 15;
    for (at, port) in shuffled(3600, 4).into_iter().enumerate() {
        world.meet(0, SCANNER, port, at as u64 * gap);
    }
    assert_eq!(world.scans, []);
}

#[test]
fn time_wraps_without_a_gap() {
    // The numbers of spans wrap; those in reports wrap earlier.
    for (span, start) in [(u32::MAX - 3, 200), (u32::MAX, u64::from(u32::MAX) - 200), (u16::MAX.into(), 0)] {
        let mut world = Small::new(1, SETTINGS).starting(span, start);
        for (at, port) in shuffled(24, 5).into_iter().enumerate() {
            world.meet(0, SCANNER, port, start + at as u64 * 20);
        }
        world.pass(start + 2 * TICK);
        assert_eq!(world.reports_of(SCANNER), 1, "{start}");
    }
    let spans = Spans::new(7, WINDOW);
    assert_eq!(
        (spans.advance_to(7, 1), spans.advance_to(7, WINDOW)),
        (4, 8),
        "another window is another time"
    );
    let spans = Spans::new(7, WINDOW);
    for (now, expected) in [(7, 0), (3756, 0), (3757, 1), (11_256, 2), (11_257, 3), (0, 3), (u64::MAX, 7)] {
        assert_eq!(spans.advance_to(now, WINDOW), expected, "{now}");
    }
}

const SCAN_START: u64 = 2_000;

/// A slow scanner among spoofed sources that send one segment each. It begins when
/// they have taken every slot.
fn flooded<const S: usize, const C: usize>(world: &mut World<S, C>, per_second: u64, seconds: u64) -> usize {
    let (mut next_port, mut source) = (0_u16, 0_u32);
    let step = 1_000_000 / per_second;
    let scan_every = 400_000;
    for now in (0..seconds * 1_000_000).step_by(step as usize) {
        source += 1;
        world.meet(0, v4(mix(source.into(), 9) as u32), source as u16, now / 1000);
        if now >= SCAN_START * 1000 && now % scan_every < step {
            next_port += 1;
            world.meet(0, SCANNER, next_port, now / 1000);
        }
    }
    world.pass(seconds * 1000);
    world.reports_of(SCANNER)
}

#[test]
fn a_flood_does_not_hide_a_slow_scanner() {
    // A window brings 40,000 sources to 64 slots and 8192 cells in a row. The
    // scanner meets 25 ports in it.
    let mut world = World::<16, { 4 * 8192 }>::new(1, SETTINGS);
    let reports = flooded(&mut world, 4_000, 20);
    assert!(reports >= 1);
    let first = world.scans.iter().find(|(_, scan)| scan.remote == SCANNER).unwrap().0;
    assert!(first <= SCAN_START + u64::from(WINDOW) + TICK, "{first} ms");
    assert_eq!(reports, world.scans.len(), "no spoofed source is taken for a scanner");
}

#[test]
fn a_scan_after_an_extreme_flood_is_found_within_a_window() {
    let mut world = World::<16, 64>::new(1, SETTINGS);
    flooded(&mut world, 20_000, 20);
    world.scans.clear();
    let end = 20_000 + u64::from(WINDOW);
    for (at, port) in shuffled(40, 6).into_iter().enumerate() {
        world.meet(0, v4(1), port, end + at as u64 * 200);
    }
    world.pass(end + 40 * 200 + TICK);
    assert_eq!(world.reports_of(v4(1)), 1);
}

#[test]
fn a_remote_with_one_port_evicts_no_scanner() {
    let mut world = World::<1, 1024>::new(1, SETTINGS);
    for port in 0..30 {
        for scanner in 0..WAYS as u32 {
            world.meet(0, v4(scanner), port, port.into());
        }
        for source in 0..4 {
            world.meet(0, v4(1000 + 4 * u32::from(port) + source), port, port.into());
        }
    }
    world.pass(TICK);
    assert_eq!(world.scans.len(), WAYS);
}

#[test]
fn the_same_input_gives_the_same_reports() {
    let run = || {
        let mut world = World::<16, 64>::new(1, SETTINGS);
        flooded(&mut world, 2_000, 12);
        world.scans
    };
    assert_eq!(run(), run());
}

#[test]
fn without_slots_or_cells_nothing_happens() {
    fn play<const SETS: usize, const CELLS: usize>() {
        let mut world = World::<SETS, CELLS>::new(1, SETTINGS);
        for port in 0..200 {
            world.meet(0, SCANNER, port, 0);
            world.meet(0, v4(port.into()), port, 0);
        }
        world.pass(TICK);
    }
    play::<0, 0>();
    play::<0, 3>();
    play::<1, 0>();
    play::<0, 4>();
    play::<3, 4>();
}

#[test]
fn extreme_settings_work() {
    for (ports, window_ms) in [(0, 0), (1, 1), (u32::MAX, u32::MAX), (0, u32::MAX), (u32::MAX, 0)] {
        let mut world = World::<2, 8>::new(1, Settings { ports, seed: Seed::new(0) });
        world.window_ms = window_ms;
        for (at, port) in shuffled(1000, 7).into_iter().enumerate() {
            world.meet(0, SCANNER, port, at as u64);
        }
        world.pass(2 * TICK);
        // A bitmap cannot count that far. A full bitmap is enough.
        assert_eq!(world.reports_of(SCANNER) > 0, window_ms > 1, "{ports} in {window_ms}");
    }
}

/// Skipping encounters that would change nothing loses nothing.
#[test]
fn a_known_encounter_changes_nothing() {
    let (table, mut known) = (Table::<2, 8>::empty(), 0);
    for (at, port) in shuffled(4000, 3).into_iter().enumerate() {
        // More spans than are kept.
        let (remote, span) = (v4(at as u32 % 13), at as u32 / 500);
        let technique = Technique::ALL[at / 300 % 2];
        let met = Encounter { remote, port: port % 40, technique };
        if table.has_met(&met, span, SETTINGS.seed) {
            let before = format!("{table:?}");
            table.meet(&met, span, SETTINGS.seed);
            assert_eq!(before, format!("{table:?}"));
            known += 1;
        } else {
            table.meet(&met, span, SETTINGS.seed);
            assert!(table.has_met(&met, span, SETTINGS.seed) || !table.remembers(remote, SETTINGS.seed));
        }
    }
    assert!((500..3500).contains(&known), "{known}");
}

/// With any key every bit of an address counts, and two remotes never share a slot.
#[test]
fn remotes_that_differ_in_one_bit_are_two() {
    for random in 0..64 {
        let seed = Seed::new(mix(random, 11));
        for (base, bits) in [(SCANNER, 128), (v4(0x0a4d_0001), 32), (Remote(0), 128)] {
            for bit in 0..bits {
                let other = Remote(base.0 ^ 1 << bit);
                assert_ne!(base.hash(seed), other.hash(seed), "bit {bit}, {seed:?}");
                let table = Table::<16, 64>::empty();
                let met = Encounter { remote: base, port: 1, technique: Technique::Syn };
                table.meet(&met, 0, seed);
                assert!(table.remembers(base, seed) && !table.remembers(other, seed), "bit {bit}");
                assert!(!table.has_met(&Encounter { remote: other, ..met }, 0, seed), "bit {bit}");
            }
        }
    }
}

/// Without the key one cannot know the set of a remote, nor which ports share a bit.
#[test]
fn the_key_moves_remotes_and_ports() {
    const SETS: usize = 128;
    let (one, other) = (Seed::new(mix(1, 13)), Seed::new(mix(2, 13)));
    let remotes = (0..1000).map(|number| v4(0x0a00_0000 + number)).chain((0..1000).map(Remote));
    let stay = remotes
        .filter(|remote| table::set_of(remote.hash(one), SETS) == table::set_of(remote.hash(other), SETS));
    // One in 128 on average.
    assert!(stay.count() < 60);
    let stay = (0..1000).filter(|port| port_bit(*port, one) == port_bit(*port, other)).count();
    // One in 64 on average.
    assert!(stay < 60, "{stay}");
}

/// Ports in a row, every 64th or 1024th: no order maps many ports to one bit, with
/// any key.
#[test]
fn ports_in_any_order_are_spread_over_the_bits() {
    for (step, least) in [(1, 16), (2, 16), (7, 16), (64, 16), (100, 16), (1024, 16)] {
        let bits = (0..500_u64).map(|seed| {
            let ports = (0..32_u16).map(|at| 1 + at * step);
            ports.fold(0_u64, |bits, port| bits | 1 << port_bit(port, Seed::new(mix(seed, 5)))).count_ones()
        });
        let bits: Vec<u32> = bits.collect();
        let mean = f64::from(bits.iter().sum::<u32>()) / 500.0;
        let few = bits.iter().filter(|bits| **bits < least).count();
        assert!(mean > 22.0 && few <= 5, "{step}: {mean}, {few} below {least}: {:?}", bits.iter().min());
    }
}

#[test]
fn the_error_of_the_estimate_is_as_documented() {
    assert_eq!([0, 1, 8, 16, 32].map(estimate), [0, 1, 8, 18, 44]);
    assert_eq!(estimate(64), estimate(u32::MAX));
    for (ports, allowed) in [(16, 0.11), (32, 0.11), (64, 0.13), (128, 0.18), (200, 0.22)] {
        let errors = (0..200_u64).map(|seed| {
            let bits = shuffled(1000, seed)[..ports]
                .iter()
                .fold(0_u64, |bits, port| bits | 1 << port_bit(*port, Seed::new(mix(seed, 77))));
            f64::from(estimate(bits.count_ones())) / ports as f64 - 1.0
        });
        let errors: Vec<f64> = errors.collect();
        let mean = errors.iter().sum::<f64>() / 200.0;
        let deviation = (errors.iter().map(|e| e * e).sum::<f64>() / 200.0).sqrt();
        assert!(mean.abs() < 0.05, "{ports}: {mean}");
        assert!(deviation < allowed, "{ports}: {deviation}");
    }
}

#[test]
fn a_scanner_is_reported_a_few_ports_late() {
    let needed: Vec<usize> = (0..300)
        .map(|seed| {
            let settings = Settings { seed: Seed::new(mix(seed, 3)), ..SETTINGS };
            (16..64)
                .find(|&ports| {
                    let mut world = World::<1, 4>::new(1, settings);
                    shuffled(1000, seed)[..ports].iter().for_each(|port| world.meet(0, SCANNER, *port, 1));
                    world.pass(TICK);
                    world.reports_of(SCANNER) == 1
                })
                .unwrap()
        })
        .collect();
    let mean = needed.iter().sum::<usize>() as f64 / needed.len() as f64;
    assert!((17.0..19.5).contains(&mean), "{mean}");
    assert!(needed.iter().all(|&ports| ports <= 28), "{needed:?}");
}

#[test]
fn flags_determine_the_technique() {
    use Technique::*;
    for (flags, expected) in [
        (0x02, Some(Syn)),
        (0xc2, Some(Syn)),
        (0x01, Some(Fin)),
        (0x00, Some(Null)),
        (0x29, Some(Xmas)),
        (0x10, Some(Ack)),
        (0x11, Some(Maimon)),
        (0x12, Some(Other)),
        (0x18, Some(Other)),
        (0x03, Some(Other)),
        (0x04, None),
        (0x14, None),
    ] {
        assert_eq!(Technique::of_segment(TcpFlags(flags)), expected, "{flags:#x}");
    }
    for flags in 0..=u8::MAX {
        assert_eq!(Technique::of_segment(TcpFlags(flags)).is_none(), flags & 4 != 0);
    }
}

#[test]
fn techniques_are_reported_separately() {
    let tables: [_; 2] = core::array::from_fn(|_| Table::<2, 8>::empty());
    for port in 0..20 {
        tables[0].meet(&Encounter { remote: SCANNER, port, technique: Technique::Xmas }, 0, SETTINGS.seed);
        tables[1].meet(&Encounter { remote: SCANNER, port, technique: Technique::Udp }, 0, SETTINGS.seed);
    }
    let mut scans = Vec::new();
    sweep(tables.iter(), 1, &SETTINGS, |scan| scans.push(scan));
    let has: Vec<_> = Technique::ALL.into_iter().filter(|t| scans[0].techniques.has(*t)).collect();
    assert_eq!(has, [Technique::Xmas, Technique::Udp]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Compares with a list of everything that happened.
    #[test]
    fn exactly_the_scans_are_reported(
        packets in proptest::collection::vec((0_u32..6, 0_u16..60, 0_u64..250, 0_usize..3), 1..400),
        random: u64,
    ) {
        const SETS: usize = 16;
        let seed = Seed::new(random);
        let settings = Settings { seed, ..SETTINGS };
        let mut world = World::<SETS, 64>::new(3, settings);
        let mut now = 0;
        let mut met: Vec<(u64, Remote, u16)> = Vec::new();
        for (remote, port, gap, processor) in packets {
            now += gap;
            world.meet(processor, v4(remote), port, now);
            met.push((now, v4(remote), port));
        }
        world.pass(now + TICK);
        let ports_within = |remote: Remote, from: u64, to: u64| {
            let ports = met.iter().filter(|(at, who, _)| *who == remote && (from..=to).contains(at));
            ports.map(|(.., port)| *port).collect::<BTreeSet<_>>()
        };
        for (at, scan) in &world.scans {
            let from = at.saturating_sub(u64::from(WINDOW) * 3 / 2);
            prop_assert!(ports_within(scan.remote, from, *at).len() >= 16);
        }
        // Every window with 16 bits has a report near it, except for remotes in a
        // crowded set, which may have to wait.
        let set_of = |remote: Remote| table::set_of(remote.hash(seed), SETS);
        let remotes = met.iter().map(|(_, remote, _)| *remote).collect::<BTreeSet<_>>();
        let crowded = |set| remotes.iter().filter(|remote| set_of(**remote) == set).count() > WAYS;
        for &(to, remote, _) in met.iter().filter(|(_, remote, _)| !crowded(set_of(*remote))) {
            let ports = ports_within(remote, to.saturating_sub(WINDOW.into()), to);
            let bits = ports.iter().fold(0_u64, |bits, port| {
                bits | 1 << port_bit(*port, seed)
            });
            if bits.count_ones() >= 16 {
                let near = to.saturating_sub(u64::from(WINDOW) * 3 / 2 + TICK)..=to + TICK;
                let found = world.scans.iter().any(|(at, scan)| scan.remote == remote && near.contains(at));
                prop_assert!(found, "{remote:?} at {to}");
            }
        }
    }
}
