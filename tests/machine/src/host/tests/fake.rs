//! A filter engine that permits everything except what a test blocks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::host::{Filter, Layer, definition};
use crate::wfp::{ActionType, Decision, FlowHandle, LayerData, LayerId, Metadata, Request, Value};
use crate::wire::Family;

/// The id of the filter that blocks.
pub const FILTER_ID: u64 = 77;

/// A stored request.
#[derive(Clone, Debug)]
pub struct Kept {
    pub layer: LayerId,
    pub values: Vec<Value>,
    pub metadata: Metadata,
    /// The data from their start on, and the number of bytes before them.
    pub data: Option<(Vec<u8>, usize)>,
    pub stream_flags: Option<u32>,
}

#[derive(Default)]
struct State {
    blocked: Vec<(LayerId, bool)>,
    generation: u64,
    flows: BTreeSet<FlowHandle>,
    last_flow: u64,
    requests: Vec<Kept>,
}

#[derive(Default)]
pub struct Fake(Mutex<State>);

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks at a layer, or at its discard layer, in both families.
    pub fn block(&self, layer: Layer, discard: bool, absorb: bool) {
        for family in Family::BOTH {
            let id = id(layer, family, discard);
            self.state().blocked.push((id, absorb));
        }
    }

    pub fn permit_all(&self) {
        self.state().blocked.clear();
    }

    /// Acts as if a filter had been added.
    pub fn change_policy(&self) {
        self.state().generation += 1;
    }

    pub fn live_flows(&self) -> usize {
        self.state().flows.len()
    }

    /// Every request at a layer or its discard layer so far.
    pub fn at(&self, layer: Layer, family: Family, discard: bool) -> Vec<Kept> {
        let id = id(layer, family, discard);
        let state = self.state();
        let requests = state.requests.iter();
        requests.filter(|kept| kept.layer == id).cloned().collect()
    }
}

fn id(layer: Layer, family: Family, discard: bool) -> LayerId {
    let definition = definition(layer, family);
    if discard { definition.discard.expect("the layer has a discard layer").0 } else { definition.id }
}

impl Filter for Fake {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let mut state = self.state();
        let (data, stream_flags) = match request.data {
            LayerData::None => (None, None),
            LayerData::Packet(packet) => {
                let bytes = packet.bytes[packet.data_start..].to_vec();
                (Some((bytes, packet.data_start)), None)
            }
            LayerData::Stream { bytes, flags } => (Some((bytes.to_vec(), 0)), Some(flags)),
        };
        state.requests.push(Kept {
            layer: request.layer,
            values: request.values.to_vec(),
            metadata: request.metadata.clone(),
            data,
            stream_flags,
        });
        let blocked = state.blocked.iter().find(|(id, _)| *id == request.layer);
        Decision {
            action: match blocked {
                Some(_) => ActionType::BLOCK,
                None => ActionType::PERMIT,
            },
            hard: blocked.is_some(),
            absorbed: blocked.is_some_and(|(_, absorb)| *absorb),
            filter_id: blocked.map(|_| FILTER_ID),
            invocations: Vec::new(),
        }
    }

    fn generation(&self, _: LayerId) -> u64 {
        self.state().generation
    }

    fn flow_create(&self) -> FlowHandle {
        let mut state = self.state();
        state.last_flow += 1;
        let flow = FlowHandle(state.last_flow);
        state.flows.insert(flow);
        flow
    }

    fn flow_end(&self, flow: FlowHandle) {
        assert!(self.state().flows.remove(&flow), "{flow:?} is not alive");
    }
}
