//! Tests of the engine, one file for each part, and their common helpers.

mod arbitration;
mod bfe;
mod callouts;
mod conditions;
mod filters;
mod flows;
mod layers;
mod objects;
mod oracle;
mod transactions;
mod windows;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::lock::Locked;
use super::*;
use crate::status::Status;

/// The layer most tests use; it has no special rules.
const LAYER: &str = "INBOUND_TRANSPORT_V4";

type Classify = dyn Fn(&Request<'_>, u64, &mut ClassifyOut) + Send + Sync;

/// A callout whose behavior a test sets.
struct Fake {
    classify: Box<Classify>,
    /// What `notifyFn` returns.
    notify_status: Mutex<Status>,
    notices: Mutex<Vec<(NotifyType, Option<Guid>, u64)>>,
    has_flow_delete: bool,
    deleted: Mutex<Vec<u64>>,
    calls: AtomicUsize,
}

impl Fake {
    fn new(classify: impl Fn(&Request<'_>, u64, &mut ClassifyOut) + Send + Sync + 'static) -> Self {
        Self {
            classify: Box::new(classify),
            notify_status: Mutex::new(Status::SUCCESS),
            notices: Mutex::default(),
            has_flow_delete: true,
            deleted: Mutex::default(),
            calls: AtomicUsize::new(0),
        }
    }

    /// A callout that always returns this action.
    fn returning(action: ActionType) -> Self {
        Self::new(move |_, _, out| out.action = action)
    }

    fn idle() -> Arc<Self> {
        Arc::new(Self::new(|_, _, _| {}))
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    fn notices(&self) -> Vec<NotifyType> {
        self.notices.locked().iter().map(|notice| notice.0).collect()
    }
}

impl CalloutDriver for Fake {
    fn classify(
        &self,
        request: &Request<'_>,
        _filter: &RuntimeFilter,
        flow_context: u64,
        out: &mut ClassifyOut,
    ) {
        self.calls.fetch_add(1, SeqCst);
        (self.classify)(request, flow_context, out);
    }

    fn notify(&self, kind: NotifyType, key: Option<Guid>, filter: &RuntimeFilter) -> Status {
        self.notices.locked().push((kind, key, filter.filter_id));
        *self.notify_status.locked()
    }

    fn has_flow_delete(&self) -> bool {
        self.has_flow_delete
    }

    fn flow_delete(&self, _layer: LayerId, _callout_id: u32, flow_context: u64) {
        self.deleted.locked().push(flow_context);
    }
}

fn key(number: u128) -> Guid {
    Guid::from_u128(number)
}

fn named(name: &str) -> DisplayData {
    DisplayData { name: Some(name.to_owned()), description: None }
}

fn layer_key(name: &str) -> Guid {
    layer::layer_by_name(AleFields::Headers, name).expect("a layer of the table").key
}

fn provider(number: u128) -> Provider {
    Provider { key: key(number), display: named("provider"), ..Provider::default() }
}

fn sublayer(number: u128, weight: u16) -> Sublayer {
    Sublayer { key: key(number), display: named("sublayer"), weight, ..Sublayer::default() }
}

fn callout(number: u128) -> Callout {
    Callout {
        key: key(number),
        display: named("callout"),
        applicable_layer: layer_key(LAYER),
        ..Callout::default()
    }
}

/// A filter at [`LAYER`] in the default sublayer.
fn filter(action: ActionType) -> Filter {
    Filter { display: named("filter"), ..Filter::new(layer_key(LAYER), action) }
}

fn callout_filter(action: ActionType, callout: u128) -> Filter {
    Filter { callout: Some(key(callout)), ..filter(action) }
}

fn condition(field: &str, match_type: MatchType, value: Value) -> Condition {
    let field = facts::guid(&format!("FWPM_CONDITION_{field}")).expect("a known condition");
    Condition { field, match_type, value }
}

/// The values of a layer; all others are unknown.
fn values(layer: &str, known: &[(&str, Value)]) -> Vec<Value> {
    let layer = layer::layer_by_name(AleFields::Headers, layer).expect("a layer of the table");
    let mut values = vec![Value::Empty; layer.fields];
    for (name, value) in known {
        values[layer.field(name).expect("a field of the layer")] = value.clone();
    }
    values
}

fn classify_with(engine: &Engine, layer: &str, values: &[Value], metadata: &Metadata) -> Decision {
    let layer = layer::layer_by_name(AleFields::Headers, layer).expect("a layer of the table").id;
    engine.classify(&Request { layer, values, metadata, data: LayerData::None })
}

/// Classifies a packet with unknown values.
fn classify(engine: &Engine, layer: &str) -> Decision {
    classify_with(engine, layer, &values(layer, &[]), &Metadata::default())
}

fn open(engine: &Engine) -> SessionId {
    engine.open(Session::default()).expect("the engine runs")
}

fn open_dynamic(engine: &Engine) -> SessionId {
    let session = Session { flags: SESSION_FLAG_DYNAMIC, ..Session::default() };
    engine.open(session).expect("the engine runs")
}

/// An engine with one callout, registered and added at [`LAYER`] under key 1.
fn with_callout(flags: u32, fake: Arc<Fake>) -> (Arc<Engine>, SessionId, u32) {
    let engine = Engine::new();
    let id = engine.callout_register(key(1), flags, fake).expect("a new key");
    let session = open(&engine);
    assert_eq!(engine.callout_add(session, callout(1)), Ok(id));
    (engine, session, id)
}
