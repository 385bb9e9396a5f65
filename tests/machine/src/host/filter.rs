//! The interface to a filter engine, so that tests can replace the engine.

use crate::wfp::{AleFields, Decision, Demands, Engine, FlowHandle, LayerId, Request};

/// The functions of a filter engine that a host calls.
pub trait Filter: Send + Sync {
    /// Evaluates a layer's filters for one indication.
    fn classify(&self, request: &Request<'_>) -> Decision;
    /// Increases whenever a filter at the layer is added or removed.
    fn generation(&self, layer: LayerId) -> u64;
    /// The data fields that the ALE layers have at their end.
    fn ale_fields(&self) -> AleFields {
        AleFields::default()
    }
    /// Starts a data flow.
    fn flow_create(&self) -> FlowHandle;
    /// Ends a data flow.
    fn flow_end(&self, flow: FlowHandle);
    /// What drivers ask of the stack; `None` if nothing can.
    fn demands(&self) -> Option<&Demands> {
        None
    }
}

impl Filter for Engine {
    fn classify(&self, request: &Request<'_>) -> Decision {
        self.classify(request)
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.generation(layer)
    }

    fn ale_fields(&self) -> AleFields {
        self.options().ale_fields
    }

    fn flow_create(&self) -> FlowHandle {
        self.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.flow_end(flow);
    }

    fn demands(&self) -> Option<&Demands> {
        Some(&self.demands)
    }
}
