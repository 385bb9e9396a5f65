//! What the machine does meanwhile: other threads are busy, it sleeps, and each call of a
//! callout has a place of its own.

use std::sync::Arc;
use std::time::Duration;

use machine::host::Filter;
use machine::nt::Kernel;
use machine::schedule::Random;
use machine::wfp::{AleFields, Decision, Demands, Engine, FlowHandle, LayerId, Request};

use super::rest;

/// The highest priority that [`Restless`] gives a busy thread. The highest of all is
/// reserved for moments in which a driver must run.
const BUSY: i32 = 30;

/// The priorities of threads of the storm: above idle, below real time.
pub fn priority(random: &mut Random) -> i32 {
    1 + random.below(15) as i32
}

/// What disturbs a machine.
#[derive(Clone, Debug)]
pub struct Restless {
    random: Random,
    busy: bool,
    sleeps: bool,
}

impl Restless {
    /// What a seed gives.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0B5E_55ED);
        let (busy, sleeps) = (random.once_in(2), random.once_in(2));
        Self { random, busy, sleeps }
    }

    /// Disturbs the machine until `over`. At the end it is at rest.
    pub fn play(mut self, kernel: &Kernel, over: impl Fn() -> bool) {
        while !over() && kernel.stopped().is_none() {
            if self.busy && self.random.once_in(2) {
                self.keep_busy(kernel);
            }
            if self.sleeps && self.random.once_in(3) {
                // Up to two days.
                kernel.sleep(Duration::from_secs(1 << self.random.below(18)));
            }
            rest("the machine is at rest", self.random.below(200));
        }
    }

    /// Threads of a high priority are busy on some processors, or on all.
    fn keep_busy(&mut self, kernel: &Kernel) {
        let lowest = 2;
        let priority = lowest + self.random.below((BUSY - lowest + 1) as usize) as i32;
        let all = self.random.once_in(4);
        let processors = 0..kernel.options().processors;
        for processor in processors.clone() {
            if all || self.random.once_in(2) {
                kernel.keep_busy(processor, Some(priority));
            }
        }
        rest("threads are busy", self.random.below(200));
        processors.for_each(|processor| kernel.keep_busy(processor, None));
    }
}

/// An engine that a thread calls from the place that the machine's options give: a
/// processor and a level.
pub struct Placed {
    /// The machine.
    pub kernel: Arc<Kernel>,
    /// Its engine.
    pub engine: Arc<Engine>,
    /// The thread's processor.
    pub processor: u32,
}

impl Placed {
    /// Calls the engine.
    pub fn at<R>(&self, f: impl FnOnce() -> R) -> R {
        let kernel = &self.kernel;
        let (processor, level) = (kernel.processor_of_call(self.processor), kernel.level_of_call());
        kernel.on_processor(processor, level, |_| f())
    }
}

impl Filter for Placed {
    fn classify(&self, request: &Request<'_>) -> Decision {
        self.at(|| self.engine.classify(request))
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
        self.at(|| self.engine.flow_end(flow));
    }

    fn demands(&self) -> Option<&Demands> {
        Filter::demands(&*self.engine)
    }
}
