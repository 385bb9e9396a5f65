//! Scans are reported once a window, with ports and techniques.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::floods::flooded;
use super::*;
use crate::logic::tcp::TcpFlags;

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

/// A handshake on any processor, before the scan or during it, proves the address; a
/// handshake long ago, or of another remote, does not.
#[test]
fn a_report_says_whether_the_remote_has_proven_its_address() {
    let window = u64::from(WINDOW);
    for (prover, at, expected) in [
        (SCANNER, 0, true),
        (SCANNER, 5 * window, true),
        (SCANNER, 20 * window, true),
        (Remote(SCANNER.0 ^ 1), 20 * window, false),
        (v4(0x0a4d_0001), 20 * window, false),
    ] {
        // Nothing is left of what is six windows old.
        for (start, expected) in [(at, expected), (at + 7 * window, false)] {
            let mut world = World::<16, 64>::new(4, SETTINGS);
            world.prove(3, prover, at);
            for (number, port) in shuffled(40, 5).into_iter().enumerate() {
                world.meet(number % 3, SCANNER, port, start + number as u64);
            }
            world.pass(start + 2 * TICK);
            let [(_, scan)] = world.scans[..] else { panic!("{:?}", world.scans) };
            assert_eq!((scan.remote, scan.is_proven), (SCANNER, expected), "{prover:?} {at} {start}");
        }
    }
    // A sleep of hours, without a look for scans in between.
    let mut world = Small::new(2, SETTINGS);
    let later = 3 * 3_600_000;
    world.prove(1, SCANNER, 0);
    world.next_sweep = later;
    (100..140).for_each(|port| world.meet(0, SCANNER, port, later));
    world.pass(later + TICK);
    assert_eq!(world.scans.iter().map(|(_, scan)| scan.is_proven).collect::<Vec<_>>(), [false]);
    let mut world = Small::new(2, SETTINGS);
    shuffled(14, 6).into_iter().for_each(|port| world.meet(0, SCANNER, port, 0));
    world.prove(1, SCANNER, 1);
    (100..120).for_each(|port| world.meet(0, SCANNER, port, 2));
    world.pass(TICK);
    assert!(world.scans[0].1.is_proven, "during the scan");
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
fn probes_of_one_port_are_no_scan() {
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
        (KEPT as u32, 2 * KEPT as u32),
        "another window is another time"
    );
    let spans = Spans::new(7, WINDOW);
    for (now, expected) in
        [(7, 0), (3756, 0), (3757, 1), (11_256, 2), (11_257, 3), (0, 3), (u64::MAX, 3 + KEPT as u32)]
    {
        assert_eq!(spans.advance_to(now, WINDOW), expected, "{now}");
    }
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
    sweep(|number| tables.get(number), 1, &SETTINGS, |scan| scans.push(scan));
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

/// With full tables, the sweep looks at each table equally often, however many there
/// are, and even if the key is a small number.
#[test]
fn a_sweep_takes_time_proportional_to_the_slots() {
    const SETS: usize = 4;
    let looks_at_each = |processors: usize, seed: Seed| {
        let tables: Vec<_> = (0..processors).map(|_| Box::new(Table::<SETS, 8>::empty())).collect();
        for (number, table) in tables.iter().enumerate() {
            for remote in 0..100 {
                let remote = Remote((number as u128 + 1) << 32 | remote);
                let met = |port| Encounter { remote, port, technique: Technique::Syn };
                (0..20).for_each(|port| table.meet(&met(port), 0, seed));
            }
        }
        let (looks, mut scans) = (std::cell::Cell::new(0), 0);
        let table = |number: usize| {
            looks.set(looks.get() + 1);
            Some(&**tables.get(number)?)
        };
        sweep(table, 0, &Settings { seed, ..SETTINGS }, |_| scans += 1);
        assert!(scans >= processors * SETS * WAYS * 9 / 10, "nearly every slot has a remote that scans");
        looks.get() / processors
    };
    for seed in [SETTINGS.seed, Seed::new(0x5eed)] {
        let [few, many] = [8, 256].map(|processors| looks_at_each(processors, seed));
        assert!(many <= 2 * few, "{seed:?}: {few} looks at each of 8 tables, {many} at each of 256");
    }
}
