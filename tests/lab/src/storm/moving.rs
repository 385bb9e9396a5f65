//! The engine as threads of a storm use it: from any processor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use machine::host::Filter;
use machine::nt::Kernel;
use machine::schedule::{self, Random};
use machine::wfp::{AleFields, Decision, Engine, FlowHandle, LayerId, Request};

/// The engine, whose classifies come from a processor that a seed chooses.
pub struct Moving {
    kernel: Arc<Kernel>,
    engine: Arc<Engine>,
    random: Mutex<Random>,
    /// Distinguishes the endpoints of this traffic from those of another one.
    endpoints: u64,
    classifies: Arc<AtomicU64>,
}

impl Moving {
    /// `number` distinguishes the traffic from others of the machine; `classifies` counts.
    pub fn new(kernel: &Arc<Kernel>, seed: u64, number: u64, classifies: &Arc<AtomicU64>) -> Self {
        Self {
            kernel: Arc::clone(kernel),
            engine: Arc::clone(kernel.engine()),
            random: Mutex::new(Random::new(seed ^ number)),
            endpoints: number,
            classifies: Arc::clone(classifies),
        }
    }
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
