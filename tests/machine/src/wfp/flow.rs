//! Flow contexts (`FwpsFlowAssociateContext0`, `FwpsFlowRemoveContext0`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

use super::callout::{Callouts, Entered};
use super::lock::{Locked, read, write};
use super::{FlowHandle, LayerId};
use crate::status::Status;

/// A flow has one context for each layer and callout.
type Place = (LayerId, u32);

/// All flows of the machine.
#[derive(Default)]
pub(super) struct Flows {
    last: AtomicU64,
    flows: RwLock<BTreeMap<FlowHandle, Arc<Flow>>>,
}

#[derive(Default)]
pub(super) struct Flow(Mutex<State>);

#[derive(Default)]
struct State {
    contexts: BTreeMap<Place, u64>,
    /// The number of classifies in progress.
    active: BTreeMap<Place, usize>,
    /// Contexts that were removed during a classify. `flowDeleteFn` is called when
    /// the last classify returns.
    due: Vec<(Place, u64)>,
    ended: bool,
}

impl Flows {
    pub(super) fn create(&self) -> FlowHandle {
        let flow = FlowHandle(self.last.fetch_add(1, Relaxed) + 1);
        write(&self.flows).insert(flow, Arc::default());
        flow
    }

    pub(super) fn find(&self, flow: FlowHandle) -> Option<Arc<Flow>> {
        read(&self.flows).get(&flow).cloned()
    }

    /// Ends a flow: `flowDeleteFn` is called for each context, or after the
    /// classify that is in progress.
    pub(super) fn end(&self, flow: FlowHandle, callouts: &Callouts) {
        let Some(flow) = write(&self.flows).remove(&flow) else {
            return;
        };
        let places: Vec<Place> = {
            let mut state = flow.0.locked();
            state.ended = true;
            state.contexts.keys().copied().collect()
        };
        for (layer, callout_id) in places {
            // Another thread may have removed it meanwhile.
            let _removed = flow.remove(layer, callout_id, callouts);
        }
    }

    pub(super) fn has_contexts_of(&self, callout_id: u32) -> bool {
        let flows = read(&self.flows);
        flows.values().any(|flow| flow.has_context_of(callout_id))
    }

    pub(super) fn contexts(&self) -> Vec<(FlowHandle, Place, u64)> {
        let flows = read(&self.flows);
        let each = flows.iter().flat_map(|(handle, flow)| {
            let state = flow.0.locked();
            let kept = state.contexts.iter().map(|(place, context)| (*place, *context));
            let all: Vec<_> = kept.chain(state.due.iter().copied()).collect();
            all.into_iter().map(|(place, context)| (*handle, place, context))
        });
        each.collect()
    }
}

impl Flow {
    pub(super) fn associate(&self, layer: LayerId, callout: &Entered<'_>, id: u32, context: u64) -> Status {
        let mut state = self.0.locked();
        if context == 0 || state.ended || !callout.driver.has_flow_delete() {
            return Status::INVALID_PARAMETER;
        }
        if state.contexts.contains_key(&(layer, id)) {
            return Status::OBJECT_NAME_EXISTS;
        }
        state.contexts.insert((layer, id), context);
        Status::SUCCESS
    }

    /// `FwpsFlowRemoveContext0`. SUCCESS if `flowDeleteFn` ran inside the call,
    /// PENDING if it will run after a classify, UNSUCCESSFUL if there is no
    /// context.
    pub(super) fn remove(&self, layer: LayerId, id: u32, callouts: &Callouts) -> Status {
        let slot = callouts.find_id(id);
        // Enter before the context is removed, so that the callout cannot be
        // unregistered before the call.
        let Some(callout) = slot.as_ref().and_then(|slot| slot.enter_leaving()) else {
            return Status::UNSUCCESSFUL;
        };
        let context = {
            let mut state = self.0.locked();
            let Some(context) = state.contexts.remove(&(layer, id)) else {
                return Status::UNSUCCESSFUL;
            };
            if state.active.contains_key(&(layer, id)) {
                state.due.push(((layer, id), context));
                return Status::PENDING;
            }
            context
        };
        callout.driver.flow_delete(layer, id, context);
        Status::SUCCESS
    }

    /// Marks a classify as in progress and returns the context, or 0.
    pub(super) fn begin_classify(&self, layer: LayerId, id: u32) -> u64 {
        let mut state = self.0.locked();
        *state.active.entry((layer, id)).or_default() += 1;
        state.contexts.get(&(layer, id)).copied().unwrap_or(0)
    }

    /// Ends a classify. The last one delivers the contexts that were removed
    /// meanwhile.
    pub(super) fn end_classify(&self, layer: LayerId, callout: &Entered<'_>, id: u32) {
        let place = (layer, id);
        let due: Vec<_> = {
            let mut state = self.0.locked();
            match state.active.get_mut(&place) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    return;
                }
                _ => state.active.remove(&place),
            };
            state.due.extract_if(.., |(due, _)| *due == place).collect()
        };
        for (_, context) in due {
            callout.driver.flow_delete(layer, id, context);
        }
    }

    fn has_context_of(&self, id: u32) -> bool {
        let state = self.0.locked();
        let mut places = state.contexts.keys().chain(state.due.iter().map(|(place, _)| place));
        places.any(|(_, callout)| *callout == id)
    }
}
