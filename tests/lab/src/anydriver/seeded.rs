//! Loads and unloads a driver under traffic on several processors. A seed fixes the
//! order of every step, so a run repeats exactly.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use machine::host::Filter;
use machine::image::PeFile;
use machine::nt::Kernel;
use machine::schedule::{self, Random, Scheduling, Thread};
use machine::wfp::{AleFields, Decision, Engine, FlowHandle, LayerId, Request};
use machine::wire::Family;

use super::{Verdict, report};
use crate::order;
use crate::storm::{self, Restless};
use crate::world::Plan;

/// How often the driver is loaded and unloaded.
const LIVES: usize = 3;

/// The engine, whose classifies come from a processor that a seed chooses.
struct Moving {
    kernel: Arc<Kernel>,
    engine: Arc<Engine>,
    random: Mutex<Random>,
    /// Distinguishes the endpoints of this traffic from those of another one.
    endpoints: u64,
    over: Arc<AtomicBool>,
    classifies: Arc<AtomicU64>,
}

impl Filter for Moving {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let processors = self.kernel.options().processors as usize;
        let processor = self.random.lock().unwrap_or_else(PoisonError::into_inner).below(processors) as u32;
        let mut metadata = request.metadata.clone();
        for handle in [&mut metadata.transport_endpoint_handle, &mut metadata.parent_endpoint_handle] {
            *handle = handle.map(|handle| handle | self.endpoints << 32);
        }
        self.classifies.fetch_add(1, Ordering::Relaxed);
        // Where no filter calls the driver, nothing else lets the other threads run.
        schedule::note("a classify", processor.into());
        let level = self.kernel.level_of_call();
        let request = Request { metadata: &metadata, ..*request };
        self.kernel.on_processor(processor, level, |_| self.engine.classify(&request))
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.engine.generation(layer)
    }

    fn ale_fields(&self) -> AleFields {
        self.engine.options().ale_fields
    }

    fn flow_create(&self) -> FlowHandle {
        self.engine.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.kernel.on_processor(0, self.kernel.level_of_call(), |_| self.engine.flow_end(flow));
    }
}

impl Moving {
    /// Plays every documented flow until the driver's lives are over.
    fn play(self, family: Family) {
        let (over, kernel) = (Arc::clone(&self.over), Arc::clone(&self.kernel));
        let filter: Arc<dyn Filter> = Arc::new(self);
        while !over.load(Ordering::SeqCst) && kernel.stopped().is_none() {
            // A driver may stop the traffic.
            let _played = order::play(Arc::clone(&filter), family);
            schedule::note("all flows were played", 0);
        }
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
    let (kernel, engine) = (Arc::clone(machine.kernel()), Arc::clone(machine.engine()));
    let (over, classifies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut outcome = None;
    let mut threads = Vec::new();
    for (number, family) in (1..).zip(Family::BOTH) {
        let moving = Moving {
            kernel: Arc::clone(&kernel),
            engine: Arc::clone(&engine),
            random: Mutex::new(Random::new(seed ^ number)),
            endpoints: number,
            over: Arc::clone(&over),
            classifies: Arc::clone(&classifies),
        };
        threads.push(Thread::new(format!("traffic over {family}"), move || moving.play(family)));
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
