//! The engine's interface.

use std::sync::Arc;

use super::{
    Callout, CalloutDriver, Change, Decision, Filter, FlowHandle, Guid, LayerId, LayerInfo, Provider,
    Request, Session, Sublayer,
};
use crate::status::Status;

/// `FWPM_SERVICE_STATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are fwpmtypes.h's own")]
pub enum BfeState {
    Stopped = 0,
    StartPending = 1,
    StopPending = 2,
    Running = 3,
}

/// An open engine handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// A subscription to changes of the Base Filtering Engine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(pub u64);

/// Everything that is left in the engine, for leak reports; names of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Objects {
    pub registered_callouts: Vec<String>,
    pub sessions: Vec<String>,
    pub providers: Vec<String>,
    pub sublayers: Vec<String>,
    pub callouts: Vec<String>,
    pub filters: Vec<String>,
    pub flow_contexts: Vec<String>,
    pub subscriptions: Vec<String>,
}

/// The filter engine of one simulated machine.
pub struct Engine {}

#[allow(unused_variables, missing_docs, reason = "interface")]
impl Engine {
    pub fn new() -> Arc<Self> {
        todo!()
    }

    // The Base Filtering Engine.
    pub fn bfe_state(&self) -> BfeState {
        todo!()
    }
    /// Stopping it closes every session; subscribers hear each change.
    pub fn set_bfe_state(&self, state: BfeState) {
        todo!()
    }
    pub fn bfe_subscribe(
        &self,
        callback: Arc<dyn Fn(BfeState) + Send + Sync>,
    ) -> Result<SubscriptionId, Status> {
        todo!()
    }
    pub fn bfe_unsubscribe(&self, id: SubscriptionId) -> Status {
        todo!()
    }

    // Callouts, driver side.
    pub fn callout_register(
        &self,
        key: Guid,
        flags: u32,
        driver: Arc<dyn CalloutDriver>,
    ) -> Result<u32, Status> {
        todo!()
    }
    pub fn callout_unregister_by_id(&self, id: u32) -> Status {
        todo!()
    }
    pub fn callout_unregister_by_key(&self, key: Guid) -> Status {
        todo!()
    }

    // Management. The built-in layers and sublayers are there from the start.
    pub fn open(&self, session: Session) -> Result<SessionId, Status> {
        todo!()
    }
    pub fn close(&self, session: SessionId) -> Status {
        todo!()
    }
    pub fn transaction_begin(&self, session: SessionId, flags: u32) -> Status {
        todo!()
    }
    pub fn transaction_commit(&self, session: SessionId) -> Status {
        todo!()
    }
    pub fn transaction_abort(&self, session: SessionId) -> Status {
        todo!()
    }
    pub fn provider_add(&self, session: SessionId, provider: Provider) -> Status {
        todo!()
    }
    pub fn provider_delete(&self, session: SessionId, key: Guid) -> Status {
        todo!()
    }
    pub fn sublayer_add(&self, session: SessionId, sublayer: Sublayer) -> Status {
        todo!()
    }
    pub fn sublayer_delete(&self, session: SessionId, key: Guid) -> Status {
        todo!()
    }
    /// Returns the run-time id.
    pub fn callout_add(&self, session: SessionId, callout: Callout) -> Result<u32, Status> {
        todo!()
    }
    pub fn callout_delete(&self, session: SessionId, key: Guid) -> Status {
        todo!()
    }
    /// Returns the run-time id.
    pub fn filter_add(&self, session: SessionId, filter: Filter) -> Result<u64, Status> {
        todo!()
    }
    pub fn filter_delete_by_id(&self, session: SessionId, id: u64) -> Status {
        todo!()
    }
    pub fn filter_delete_by_key(&self, session: SessionId, key: Guid) -> Status {
        todo!()
    }

    // Run time.
    /// Evaluates the layer's filters. Panics if the layer is unknown or the
    /// number or types of values are not the layer's: that is a fault of the
    /// lab, never of the driver.
    pub fn classify(&self, request: &Request<'_>) -> Decision {
        todo!()
    }
    /// Rises whenever a filter at the layer is added or removed: what was
    /// authorized there before must be authorized again.
    pub fn generation(&self, layer: LayerId) -> u64 {
        todo!()
    }
    pub fn flow_create(&self) -> FlowHandle {
        todo!()
    }
    /// Ends the flow; every context's `flowDeleteFn` is called.
    pub fn flow_end(&self, flow: FlowHandle) {
        todo!()
    }
    pub fn flow_associate(&self, flow: FlowHandle, layer: LayerId, callout_id: u32, context: u64) -> Status {
        todo!()
    }
    pub fn flow_remove(&self, flow: FlowHandle, layer: LayerId, callout_id: u32) -> Status {
        todo!()
    }

    // Looking at it.
    pub fn layer(&self, id: LayerId) -> Option<&'static LayerInfo> {
        todo!()
    }
    pub fn layer_by_key(&self, key: Guid) -> Option<&'static LayerInfo> {
        todo!()
    }
    pub fn layer_by_name(&self, name: &str) -> Option<&'static LayerInfo> {
        todo!()
    }
    /// What drivers and sessions have put in and not taken out.
    pub fn objects(&self) -> Objects {
        todo!()
    }
    /// Every change so far, refused ones left out.
    pub fn journal(&self) -> Vec<Change> {
        todo!()
    }
}
