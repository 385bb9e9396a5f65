//! The interface of the filter engine.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::arbitration::{Run, Snapshot};
use super::callout::{Callouts, Unregister};
use super::filter::StoredFilter;
use super::flow::Flows;
use super::journal::Journal;
use super::lock::{Locked, read, write};
use super::store::Lifetime;
use super::transaction::Core;
use super::{
    CalloutDriver, Change, Decision, Demands, FlowHandle, Guid, LayerId, LayerInfo, Options, Request, Rule,
    RuntimeFilter, Violation, layer,
};
use crate::driver::DriverId;
use crate::schedule::Bell;
use crate::status::Status;

/// An open engine handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Called at once for each rule that a callout breaks.
pub type Observer = Box<dyn Fn(&Violation) + Send + Sync>;

/// The filter engine of one simulated machine.
pub struct Engine {
    pub(super) options: Options,
    pub(super) core: Mutex<Core>,
    pub(super) transaction_free: Bell,
    pub(super) callouts: Callouts,
    pub(super) flows: Flows,
    /// Indexed by run-time layer id.
    layers: Vec<LayerState>,
    last_id: AtomicU64,
    /// What drivers ask of the stack.
    pub demands: Demands,
    violations: Mutex<Vec<Violation>>,
    observer: OnceLock<Observer>,
}

/// The state of a layer that classify uses.
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

    /// An engine with these options for the open points.
    pub fn with_options(options: Options) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(Core::new(options.bfe_state, options.ale_fields)),
            transaction_free: Bell::default(),
            callouts: Callouts::new(options.silent_drop),
            options,
            flows: Flows::default(),
            layers: (0..layer::layer_ids()).map(|_| LayerState::default()).collect(),
            last_id: AtomicU64::new(0),
            demands: Demands::default(),
            violations: Mutex::default(),
            observer: OnceLock::new(),
        })
    }

    /// The options for the open points.
    pub fn options(&self) -> &Options {
        &self.options
    }

    // The driver's side of callouts.

    /// `FwpsCalloutRegister`. Returns the run-time id, which is also that of
    /// [`Self::callout_add`] for this key.
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
        slot.register(flags, driver, self.next_id(), &self.options).to_result()?;
        self.record(Change::CalloutRegister { key, id: slot.id });
        Ok(slot.id)
    }

    /// `FwpsCalloutUnregisterById0`; [`RunningCalls`](super::RunningCalls) says what
    /// happens while a call of the callout runs.
    pub fn callout_unregister_by_id(&self, id: u32) -> Status {
        let slot = self.callouts.find_id(id);
        slot.map_or(Status::FWP_CALLOUT_NOT_FOUND, |slot| self.unregister(slot.key, id))
    }

    /// `FwpsCalloutUnregisterByKey0`; see [`Self::callout_unregister_by_id`].
    pub fn callout_unregister_by_key(&self, key: Guid) -> Status {
        let slot = self.callouts.find(key);
        slot.map_or(Status::FWP_CALLOUT_NOT_FOUND, |slot| self.unregister(key, slot.id))
    }

    /// The run-time id of a callout's key, if the key is known.
    pub fn callout_id(&self, key: Guid) -> Option<u32> {
        self.callouts.find(key).map(|slot| slot.id)
    }

    fn unregister(&self, key: Guid, id: u32) -> Status {
        let has_contexts = || self.flows.has_contexts_of(id);
        let slot = self.callouts.slot(key);
        let driver = slot.owner();
        match slot.unregister(has_contexts, self.options.running_calls) {
            Ok(()) => {
                self.record(Change::CalloutUnregister { key, id });
                Status::SUCCESS
            }
            Err(Unregister::Refused(status)) => status,
            Err(Unregister::FromInside) => {
                let text = "the callout is unregistered from inside one of its functions";
                self.violate((driver, Some(id)), Rule::WaitsForItself, text);
                Status::FWP_IN_USE
            }
        }
    }

    // Run time.

    /// Evaluates the layer's filters.
    ///
    /// # Panics
    /// If the layer is unknown, or the number or types of the values are not the
    /// layer's. That is a fault of the lab, not of the driver.
    pub fn classify(&self, request: &Request<'_>) -> Decision {
        let layer =
            self.layer(request.layer).unwrap_or_else(|| panic!("layer {} is unknown", request.layer.0));
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

    /// The filters of a layer that call a callout, in the order of arbitration.
    pub fn callout_filters(&self, layer: LayerId) -> Vec<RuntimeFilter> {
        let Some(state) = self.layers.get(usize::from(layer.0)) else { return Vec::new() };
        let snapshot = Arc::clone(&read(&state.snapshot));
        let filters = snapshot.iter().flatten().filter(|filter| filter.slot.is_some());
        filters.map(|filter| filter.runtime.clone()).collect()
    }

    /// The key of a callout with this run-time id.
    pub fn callout_key(&self, id: u32) -> Option<Guid> {
        self.callouts.find_id(id).map(|slot| slot.key)
    }

    /// Increases whenever a filter at the layer is added or removed. Flows that
    /// were authorized before must then be reauthorized.
    pub fn generation(&self, layer: LayerId) -> u64 {
        let state = self.layers.get(usize::from(layer.0));
        state.map_or(0, |state| state.generation.load(SeqCst))
    }

    /// Creates a data flow.
    pub fn flow_create(&self) -> FlowHandle {
        self.flows.create()
    }

    /// Whether there is such a flow.
    pub fn has_flow(&self, flow: FlowHandle) -> bool {
        self.flows.find(flow).is_some()
    }

    /// Ends a flow. `flowDeleteFn` is called for each of its contexts.
    pub fn flow_end(&self, flow: FlowHandle) {
        self.flows.end(flow, &self.callouts);
    }

    /// `FwpsFlowAssociateContext0`.
    pub fn flow_associate(&self, flow: FlowHandle, layer: LayerId, callout_id: u32, context: u64) -> Status {
        let (slot, flow) = (self.callouts.find_id(callout_id), self.flows.find(flow));
        let known = self.layer(layer).is_some_and(|layer| match &slot {
            Some(slot) => self.may_have_context(slot.key, layer.key),
            None => false,
        });
        // A callout that is being unregistered may still associate a context in a
        // classify.
        match (slot.as_ref().and_then(|slot| slot.enter_leaving()), flow) {
            (Some(callout), Some(flow)) if known => flow.associate(layer, &callout, callout_id, context),
            _ => Status::INVALID_PARAMETER,
        }
    }

    /// Whether a callout can have contexts at a layer: it is no callout of Windows, and its
    /// object, if there is one, is for the layer.
    fn may_have_context(&self, callout: Guid, layer: Guid) -> bool {
        let core = self.core.locked();
        let object = core.store.callouts.get(&callout);
        object
            .is_none_or(|entry| entry.lifetime != Lifetime::BuiltIn && entry.object.applicable_layer == layer)
    }

    /// `FwpsFlowRemoveContext0`.
    pub fn flow_remove(&self, flow: FlowHandle, layer: LayerId, callout_id: u32) -> Status {
        let flow = self.flows.find(flow);
        flow.map_or(Status::UNSUCCESSFUL, |flow| flow.remove(layer, callout_id, &self.callouts))
    }

    // Inspection.

    /// Every flow context: its flow, its layer, and the context.
    pub fn flow_contexts(&self) -> Vec<(FlowHandle, LayerId, u64)> {
        let contexts = self.flows.contexts().into_iter();
        contexts.map(|(flow, (layer, _), context)| (flow, layer, context)).collect()
    }

    /// A layer by its run-time id.
    pub fn layer(&self, id: LayerId) -> Option<&'static LayerInfo> {
        layer::layer_by_id(self.options.ale_fields, id)
    }

    /// A layer by its management GUID.
    pub fn layer_by_key(&self, key: Guid) -> Option<&'static LayerInfo> {
        layer::layer_by_key(self.options.ale_fields, key)
    }

    /// A layer by its name without prefix, such as `STREAM_V4`.
    pub fn layer_by_name(&self, name: &str) -> Option<&'static LayerInfo> {
        layer::layer_by_name(self.options.ale_fields, name)
    }

    /// The changes so far without refused ones; if there are many, the last ones.
    pub fn journal(&self) -> Vec<Change> {
        self.core.locked().journal.to_vec()
    }

    /// Empties the journal.
    pub fn clear_journal(&self) {
        self.core.locked().journal = Journal::default();
    }

    /// The keys of registered callouts, in the order of registration.
    pub fn registered_callouts(&self) -> Vec<Guid> {
        self.callouts.in_order()
    }

    /// Sends violations to `observer` instead of storing them. The first observer
    /// stays.
    pub fn set_observer(&self, observer: Observer) {
        // The engine belongs to one machine, which sets one observer.
        let _ = self.observer.set(observer);
    }

    /// The violations since the last call; empty if there is an observer.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.violations.locked())
    }

    // Internal.

    pub(super) fn violate(&self, (driver, callout_id): (DriverId, Option<u32>), rule: Rule, text: &str) {
        let text = text.to_owned();
        self.note(Violation { driver, callout_id, layer: None, rule, text });
    }

    fn note(&self, violation: Violation) {
        match self.observer.get() {
            Some(observer) => observer(&violation),
            None => self.violations.locked().push(violation),
        }
    }

    /// Publishes the filters of a layer to classify.
    pub(super) fn publish<'a>(&self, layer: LayerId, filters: impl Iterator<Item = &'a Arc<StoredFilter>>) {
        let mut filters: Vec<_> = filters.collect();
        filters.sort_by_key(|stored| (stored.sublayer_order(), stored.order()));
        let sublayers = filters.chunk_by(|left, right| left.sublayer_order() == right.sublayer_order());
        let snapshot = sublayers
            .map(|sublayer| sublayer.iter().map(|stored| Arc::clone(&stored.active)).collect())
            .collect();
        if let Some(state) = self.layers.get(usize::from(layer.0)) {
            *write(&state.snapshot) = Arc::new(snapshot);
            // Incremented after the filters are published. Whoever sees the new
            // number has been classified by the new filters; with the old number,
            // either is possible.
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
