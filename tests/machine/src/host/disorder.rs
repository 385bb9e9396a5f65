//! A filter engine that gets a layer twice or not at all, to test order checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::filter::Filter;
use crate::wfp::{ActionType, Decision, FlowHandle, LayerId, Request};

/// A fault at a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The layer is not classified.
    Dropped,
    /// The layer is classified twice.
    Doubled,
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
}

impl Disordered {
    /// An engine in front of `inner`.
    pub fn new(inner: Arc<dyn Filter>, disorder: Disorder) -> Self {
        Self { inner, disorder, seen: AtomicU32::new(0) }
    }
}

impl Filter for Disordered {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let Disorder { layer, fault, at } = self.disorder;
        if request.layer == layer && self.seen.fetch_add(1, Ordering::Relaxed) == at {
            match fault {
                Fault::Dropped => {
                    return Decision {
                        action: ActionType::PERMIT,
                        hard: false,
                        absorbed: false,
                        filter_id: None,
                        invocations: Vec::new(),
                    };
                }
                Fault::Doubled => drop(self.inner.classify(request)),
            }
        }
        self.inner.classify(request)
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.inner.generation(layer)
    }

    fn flow_create(&self) -> FlowHandle {
        self.inner.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.inner.flow_end(flow);
    }
}
