//! Floods and full tables do not hide scans.

use super::*;

const SCAN_START: u64 = 2_000;

/// A slow scanner among spoofed sources that send one segment each. It begins when
/// they have taken every slot.
pub fn flooded<const S: usize, const C: usize>(
    world: &mut World<S, C>,
    per_second: u64,
    seconds: u64,
) -> usize {
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
