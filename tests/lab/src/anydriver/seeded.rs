//! Loads and unloads a driver under traffic on several processors. A seed fixes the
//! order of every step, so a run repeats exactly.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use machine::host::Filter;
use machine::image::PeFile;
use machine::schedule::{self, Random, Scheduling, Thread};
use machine::wire::Family;

use super::{Verdict, report};
use crate::order;
use crate::storm::host::RestlessHost;
use crate::storm::moving::Moving;
use crate::storm::{self, Restless};
use crate::world::Plan;

/// How often the driver is loaded and unloaded.
const LIVES: usize = 3;

/// Plays every documented flow until the driver's lives are over.
fn play_flows(filter: &Arc<dyn Filter>, family: Family, is_over: &dyn Fn() -> bool) {
    while !is_over() {
        // A driver may stop the traffic.
        let _played = order::play(Arc::clone(filter), family);
        schedule::note("all flows were played", 0);
    }
}

/// Makes the run. Returns its verdict.
///
/// # Errors
/// If the file cannot be read.
pub fn play(plan: &Plan<'_>, sys: &Path, seed: u64) -> Result<Verdict> {
    let file = Arc::new(PeFile::read(sys).with_context(|| format!("cannot read {}", sys.display()))?);
    let mut plan = Plan { driver: None, ..plan.clone() };
    storm::draw(seed, &mut plan.machine);
    let mut machine = plan.machine()?;
    let kernel = Arc::clone(machine.kernel());
    let (over, classifies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut outcome = None;
    let mut threads = Vec::new();
    let is_over = || over.load(Ordering::SeqCst) || kernel.stopped().is_some();
    let is_over = &is_over;
    for (number, family) in (1..).zip(Family::BOTH) {
        let filter: Arc<dyn Filter> = Arc::new(Moving::new(&kernel, seed, number, &classifies));
        let traffic = move || play_flows(&filter, family, is_over);
        threads.push(Thread::new(format!("traffic over {family}"), traffic));
    }
    for (number, family) in (3..).zip(Family::BOTH) {
        let filter = Arc::new(Moving::new(&kernel, seed, number, &classifies));
        let host = move || {
            let mut host = RestlessHost::new(filter, family, seed ^ number);
            while !is_over() {
                host.step();
            }
        };
        threads.push(Thread::new(format!("a host that stays, over {family}"), host));
    }
    let (watched, ends) = (Arc::clone(&kernel), Arc::clone(&over));
    let restless = move || Restless::new(seed).play(&watched, || ends.load(Ordering::SeqCst));
    threads.push(Thread::new("machine", restless));
    let mut random = Random::new(!seed);
    let ended = &mut outcome;
    let life_over = Arc::clone(&over);
    threads.push(Thread::new("loads and unloads", move || {
        for _ in 0..LIVES {
            if let Err(error) = machine.start_file(Arc::clone(&file)) {
                *ended = Some(Verdict::of_start(&error, machine.kernel()));
                break;
            }
            if !machine.kernel().can_unload(machine.service()) {
                *ended = Some(Verdict::Stays("it has no unload routine".to_owned()));
                break;
            }
            (0..random.below(2000)).for_each(|step| schedule::note("loaded", step as u64));
            if machine.stop().is_err() {
                break;
            }
        }
        life_over.store(true, Ordering::SeqCst);
    }));
    kernel.run_threads(Scheduling::Deterministic { seed }, threads);
    let verdict = outcome.unwrap_or_else(|| Verdict::of(&kernel));
    let count = classifies.load(Ordering::Relaxed);
    println!(
        "seed {seed}: {LIVES} loads and unloads under {count} classifies on {} processors: {verdict}",
        kernel.options().processors
    );
    if verdict != Verdict::Well {
        print!("{}", report::text(&kernel));
    }
    Ok(verdict)
}
