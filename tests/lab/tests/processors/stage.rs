//! The driver file and the seeds to play.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use lab::setup::{self, Target};
use lab::storm::{self, Loaded, Meanwhile};
use machine::image::PeFile;
use machine::schedule::{Log, Scheduling};

/// The driver file, parsed once.
pub fn file() -> Arc<PeFile> {
    static FILE: LazyLock<Arc<PeFile>> = LazyLock::new(|| {
        let sys: &Path = &setup::build(Target::X64).unwrap().sys;
        Arc::new(PeFile::read(sys).unwrap())
    });
    Arc::clone(&FILE)
}

/// Seeds to play: `few`, or as many as `HUSHPORT_LAB_SEEDS` says.
pub fn seeds(few: u64) -> std::ops::Range<u64> {
    let seeds = std::env::var("HUSHPORT_LAB_SEEDS").ok();
    0..seeds.map_or(few, |text| text.parse().expect("HUSHPORT_LAB_SEEDS is a number"))
}

/// Runs a storm with the image on a new machine.
pub fn storm(scheduling: Scheduling, lives: usize, meanwhile: Meanwhile) -> Log {
    let (Scheduling::Deterministic { seed } | Scheduling::Parallel { seed }) = scheduling;
    storm::storm(&mut Loaded::new(file(), storm::options(seed)), scheduling, lives, meanwhile)
}
