//! Keys, bits and the estimate of the number of ports.

use super::*;

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
