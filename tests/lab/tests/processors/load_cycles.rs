//! Many cycles of load and unload do not grow memory.

use std::process::Command;
use std::time::Instant;

use lab::hushport;
use lab::storm::clean;
use machine::nt::Options;

use super::stage::file;

/// Default number of cycles; `HUSHPORT_LAB_CYCLES=N` sets another.
const CYCLES: u64 = 2000;

/// Environment variable of the child process that measures, without other tests.
const ALONE: &str = "HUSHPORT_LAB_ALONE";

/// Resident bytes of this process, and the number of its mappings.
fn memory() -> (usize, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    (pages * 4096, std::fs::read_to_string("/proc/self/maps").unwrap().lines().count())
}

#[test]
fn cycles_leave_memory_flat() {
    if std::env::var_os(ALONE).is_none() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "load_cycles::cycles_leave_memory_flat", "--nocapture"]);
        let output = alone.env(ALONE, "1").output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{output:?}");
        print!("{printed}");
        return;
    }
    let given = std::env::var("HUSHPORT_LAB_CYCLES").ok();
    let cycles = given.map_or(CYCLES, |text| text.parse().expect("HUSHPORT_LAB_CYCLES is a number"));
    let mut machine = hushport::machine(Options::default());
    let mut cycle = || {
        machine.start_file(file()).unwrap();
        let left = machine.stop().unwrap();
        assert!(left.is_empty(), "{left}");
    };
    // The first cycles fill quarantines and the journal.
    let warm = 1200.min(cycles / 2);
    (0..warm).for_each(|_| cycle());
    let before = memory();
    let began = Instant::now();
    (warm..cycles).for_each(|_| cycle());
    let elapsed = began.elapsed();
    let after = memory();
    let rate = (cycles - warm) as f64 / elapsed.as_secs_f64();
    println!(
        "{rate:.0} cycles/s; resident {} to {} KB, mappings {} to {}",
        before.0 >> 10,
        after.0 >> 10,
        before.1,
        after.1
    );
    assert!(after.0 < before.0 + (1 << 20), "resident {} to {}", before.0, after.0);
    assert!(after.1 < before.1 + 200, "mappings {} to {}", before.1, after.1);
    clean(machine.kernel(), machine.engine(), 0);
}
