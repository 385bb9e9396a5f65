//! A filter engine that gets a layer twice, late or not at all, to test order checks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::filter::Filter;
use crate::wfp::{
    ActionType, AleFields, Decision, Demands, FlowHandle, LayerData, LayerId, Metadata, Packet, Request,
    Value,
};

/// A fault at a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The layer is not classified.
    Dropped,
    /// The layer is classified twice.
    Doubled,
    /// The layer is classified after the next one.
    Exchanged,
}

/// A fault that happens once, at the indication with this number among those of its
/// layer, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disorder {
    /// The layer.
    pub layer: LayerId,
    /// The fault.
    pub fault: Fault,
    /// The number of the indication.
    pub at: u32,
}

/// An engine with a [`Disorder`].
pub struct Disordered {
    inner: Arc<dyn Filter>,
    disorder: Disorder,
    seen: AtomicU32,
    late: Mutex<Option<Late>>,
}

/// A request that is classified after the next one.
struct Late {
    layer: LayerId,
    values: Vec<Value>,
    metadata: Metadata,
    data: LateData,
}

enum LateData {
    None,
    Packet(Vec<u8>, usize),
    Stream(Vec<u8>, u32),
}

impl Late {
    fn of(request: &Request<'_>) -> Self {
        let data = match request.data {
            LayerData::None => LateData::None,
            LayerData::Packet(Packet { bytes, data_start }) => LateData::Packet(bytes.to_vec(), data_start),
            LayerData::Stream { bytes, flags } => LateData::Stream(bytes.to_vec(), flags),
        };
        let (values, metadata) = (request.values.to_vec(), request.metadata.clone());
        Self { layer: request.layer, values, metadata, data }
    }

    fn request(&self) -> Request<'_> {
        let data = match &self.data {
            LateData::None => LayerData::None,
            LateData::Packet(bytes, data_start) => {
                LayerData::Packet(Packet { bytes, data_start: *data_start })
            }
            LateData::Stream(bytes, flags) => LayerData::Stream { bytes, flags: *flags },
        };
        Request { layer: self.layer, values: &self.values, metadata: &self.metadata, data }
    }
}

/// What the host gets for an indication that the engine does not see now.
const UNSEEN: Decision = Decision {
    action: ActionType::PERMIT,
    hard: false,
    absorbed: false,
    filter_id: None,
    invocations: Vec::new(),
};

impl Disordered {
    /// An engine in front of `inner`.
    pub fn new(inner: Arc<dyn Filter>, disorder: Disorder) -> Self {
        Self { inner, disorder, seen: AtomicU32::new(0), late: Mutex::new(None) }
    }
}

impl Filter for Disordered {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Disorder { layer, fault, at } = self.disorder;
        if request.layer == layer && self.seen.fetch_add(1, Ordering::Relaxed) == at {
            match fault {
                Fault::Dropped => return UNSEEN,
                Fault::Doubled => drop(self.inner.classify(request)),
                Fault::Exchanged => {
                    let late = Some(Late::of(request));
                    *self.late.lock().unwrap_or_else(PoisonError::into_inner) = late;
                    return UNSEEN;
                }
            }
        }
        let decision = self.inner.classify(request);
        if let Some(late) = late {
            drop(self.inner.classify(&late.request()));
        }
        decision
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.inner.generation(layer)
    }

    fn ale_fields(&self) -> AleFields {
        self.inner.ale_fields()
    }

    fn flow_create(&self) -> FlowHandle {
        self.inner.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.inner.flow_end(flow);
    }

    fn demands(&self) -> Option<&Demands> {
        self.inner.demands()
    }
}
