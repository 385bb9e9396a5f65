//! The engine's interface.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::arbitration::{Run, Snapshot};
use super::callout::{Callouts, Unregister};
use super::filter::StoredFilter;
use super::flow::Flows;
use super::journal::Journal;
use super::lock::{Locked, read, write};
use super::transaction::Core;
use super::{
    CalloutDriver, Change, Decision, FlowHandle, Guid, LayerId, LayerInfo, Options, Request, Rule, Violation,
    layer,
};
use crate::schedule::Bell;
use crate::status::Status;

/// An open engine handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Told of each rule that a callout breaks, at once.
pub type Observer = Box<dyn Fn(&Violation) + Send + Sync>;

/// The filter engine of one simulated machine.
pub struct Engine {
    pub(super) options: Options,
    pub(super) core: Mutex<Core>,
    pub(super) transaction_free: Bell,
    pub(super) callouts: Callouts,
    pub(super) flows: Flows,
    /// By run-time layer id.
    layers: Vec<LayerState>,
    last_id: AtomicU64,
    violations: Mutex<Vec<Violation>>,
    observer: OnceLock<Observer>,
}

/// What classify needs of a layer.
#[derive(Default)]
struct LayerState {
    snapshot: RwLock<Arc<Snapshot>>,
    generation: AtomicU64,
}

impl Engine {
    /// An engine whose Base Filtering Engine runs.
    pub fn new() -> Arc<Self> {
        Self::with_options(Options::default())
    }

    /// An engine that plays the open points as told.
    pub fn with_options(options: Options) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(Core::new(options.bfe_state)),
            options,
            transaction_free: Bell::default(),
            callouts: Callouts::default(),
            flows: Flows::default(),
            layers: (0..layer::layer_ids()).map(|_| LayerState::default()).collect(),
            last_id: AtomicU64::new(0),
            violations: Mutex::default(),
            observer: OnceLock::new(),
        })
    }

    /// How open points are played.
    pub fn options(&self) -> &Options {
        &self.options
    }

    // Callouts, driver side.

    /// `FwpsCalloutRegister`. Returns the run-time id, the same as
    /// [`Self::callout_add`] gives for the key.
    pub fn callout_register(
        &self,
        key: Guid,
        flags: u32,
        driver: Arc<dyn CalloutDriver>,
    ) -> Result<u32, Status> {
        if key.is_nil() {
            return Err(Status::INVALID_PARAMETER);
        }
        let slot = self.callouts.slot(key);
        slot.register(flags, driver, self.next_id()).to_result()?;
        self.record(Change::CalloutRegister { key, id: slot.id });
        Ok(slot.id)
    }

    /// `FwpsCalloutUnregisterById0`. Waits until calls into the callout have
    /// returned.
    pub fn callout_unregister_by_id(&self, id: u32) -> Status {
        let slot = self.callouts.find_id(id);
        slot.map_or(Status::FWP_CALLOUT_NOT_FOUND, |slot| self.unregister(slot.key, id))
    }

    /// `FwpsCalloutUnregisterByKey0`. Waits until calls into the callout have
    /// returned.
    pub fn callout_unregister_by_key(&self, key: Guid) -> Status {
        let slot = self.callouts.find(key);
        slot.map_or(Status::FWP_CALLOUT_NOT_FOUND, |slot| self.unregister(key, slot.id))
    }

    fn unregister(&self, key: Guid, id: u32) -> Status {
        match self.callouts.slot(key).unregister(|| self.flows.has_contexts_of(id)) {
            Ok(()) => {
                self.record(Change::CalloutUnregister { key, id });
                Status::SUCCESS
            }
            Err(Unregister::Refused(status)) => status,
            Err(Unregister::FromInside) => {
                let text = "the callout is unregistered from inside one of its functions";
                self.violate(Some(id), Rule::WaitsForItself, text);
                Status::FWP_IN_USE
            }
        }
    }

    // Run time.

    /// Evaluates the layer's filters. Panics if the layer is unknown or the
    /// number or types of values are not the layer's: that is a fault of the
    /// lab, never of the driver.
    pub fn classify(&self, request: &Request<'_>) -> Decision {
        let layer = layer::layer_by_id(request.layer)
            .unwrap_or_else(|| panic!("layer {} is unknown", request.layer.0));
        assert_eq!(request.values.len(), layer.fields, "number of values at {}", layer.name);
        for (field, value) in layer.data_fields.iter().zip(request.values) {
            assert!(field.accepts(value), "{} of {} is {value:?}", field.name, layer.name);
        }
        let snapshot = Arc::clone(&read(&self.layers[usize::from(layer.id.0)].snapshot));
        let mut run = Run {
            layer,
            request,
            options: &self.options,
            flow: request.metadata.flow_handle.and_then(|flow| self.flows.find(flow)),
            violations: Vec::new(),
            invocations: Vec::new(),
        };
        let decision = run.decide(&snapshot);
        for violation in run.violations.drain(..) {
            self.note(violation);
        }
        decision
    }

    /// Rises whenever a filter at the layer is added or removed: what was
    /// authorized there before must be authorized again.
    pub fn generation(&self, layer: LayerId) -> u64 {
        let state = self.layers.get(usize::from(layer.0));
        state.map_or(0, |state| state.generation.load(SeqCst))
    }

    /// A new data flow.
    pub fn flow_create(&self) -> FlowHandle {
        self.flows.create()
    }

    /// Ends the flow; every context's `flowDeleteFn` is called.
    pub fn flow_end(&self, flow: FlowHandle) {
        self.flows.end(flow, &self.callouts);
    }

    /// `FwpsFlowAssociateContext0`.
    pub fn flow_associate(&self, flow: FlowHandle, layer: LayerId, callout_id: u32, context: u64) -> Status {
        let (slot, flow) = (self.callouts.find_id(callout_id), self.flows.find(flow));
        let known = layer::layer_by_id(layer).is_some();
        // A callout that is leaving may still be in a classify that associates.
        match (slot.as_ref().and_then(|slot| slot.enter_leaving()), flow) {
            (Some(callout), Some(flow)) if known => flow.associate(layer, &callout, callout_id, context),
            _ => Status::INVALID_PARAMETER,
        }
    }

    /// `FwpsFlowRemoveContext0`.
    pub fn flow_remove(&self, flow: FlowHandle, layer: LayerId, callout_id: u32) -> Status {
        let flow = self.flows.find(flow);
        flow.map_or(Status::UNSUCCESSFUL, |flow| flow.remove(layer, callout_id, &self.callouts))
    }

    // Looking at it.

    /// Every flow context: its flow, the layer it is kept for, and itself.
    pub fn flow_contexts(&self) -> Vec<(FlowHandle, LayerId, u64)> {
        let contexts = self.flows.contexts().into_iter();
        contexts.map(|(flow, (layer, _), context)| (flow, layer, context)).collect()
    }

    /// A layer by its run-time id.
    pub fn layer(&self, id: LayerId) -> Option<&'static LayerInfo> {
        layer::layer_by_id(id)
    }

    /// A layer by its management GUID.
    pub fn layer_by_key(&self, key: Guid) -> Option<&'static LayerInfo> {
        layer::layer_by_key(key)
    }

    /// A layer by its name without prefix.
    pub fn layer_by_name(&self, name: &str) -> Option<&'static LayerInfo> {
        layer::layer_by_name(name)
    }

    /// The changes so far, refused ones left out; of very many the last.
    pub fn journal(&self) -> Vec<Change> {
        self.core.locked().journal.to_vec()
    }

    /// Begins the journal anew.
    pub fn clear_journal(&self) {
        self.core.locked().journal = Journal::default();
    }

    /// Keys of the callouts that are registered, in the order of registering.
    pub fn registered_callouts(&self) -> Vec<Guid> {
        self.callouts.in_order()
    }

    /// Hands what callouts do wrong to `observer`, instead of keeping it. The
    /// first observer stays.
    pub fn set_observer(&self, observer: Observer) {
        // The engine of one machine has one kernel to tell.
        let _ = self.observer.set(observer);
    }

    /// The rules callouts broke since the last call, unless somebody observes.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.violations.locked())
    }

    // Inside.

    pub(super) fn violate(&self, callout_id: Option<u32>, rule: Rule, text: &str) {
        let text = text.to_owned();
        self.note(Violation { callout_id, layer: None, rule, text });
    }

    fn note(&self, violation: Violation) {
        match self.observer.get() {
            Some(observer) => observer(&violation),
            None => self.violations.locked().push(violation),
        }
    }

    /// Puts a layer's filters where classify finds them.
    pub(super) fn publish<'a>(&self, layer: LayerId, filters: impl Iterator<Item = &'a Arc<StoredFilter>>) {
        let mut filters: Vec<_> = filters.collect();
        filters.sort_by_key(|stored| (stored.sublayer_order(), stored.order()));
        let sublayers = filters.chunk_by(|left, right| left.sublayer_order() == right.sublayer_order());
        let snapshot = sublayers
            .map(|sublayer| sublayer.iter().map(|stored| Arc::clone(&stored.active)).collect())
            .collect();
        if let Some(state) = self.layers.get(usize::from(layer.0)) {
            *write(&state.snapshot) = Arc::new(snapshot);
            // After the filters: who saw the old number may have been judged by
            // the old filters, who sees the new one was not.
            state.generation.fetch_add(1, SeqCst);
        }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, SeqCst) + 1
    }

    pub(super) fn record(&self, change: Change) {
        self.core.locked().journal.push(change);
    }
}
