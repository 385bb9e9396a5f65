//! Filters of others that name a driver's callouts.
//!
//! The engine calls such a callout as soon as the driver has registered it, also before
//! the driver has a session. So a flow can be open whatever the driver does next.

use std::sync::Arc;

use super::Expectations;
use crate::Machine;
use crate::image::PeFile;
use crate::nt::Options;
use crate::status::Status;
use crate::wfp::{
    ActionType, Callout, Change, DisplayData, Engine, FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, Filter,
    Guid, LayerData, Metadata, Provider, Request, Session, Sublayer, Value,
};

/// The layer at which a flow begins.
const BEGINS: &str = "ALE_FLOW_ESTABLISHED_V4";

/// The changes with which a driver adds its provider, its sublayer, and its objects at the
/// layer at which a flow begins. It runs once, on a machine of its own.
pub(super) fn objects_of(expected: &dyn Expectations, file: &Arc<PeFile>) -> Vec<Change> {
    let mut machine = Machine::new(expected.service(), Options::default());
    let begins = machine.engine().layer_by_name(BEGINS).map(|layer| layer.key);
    let objects = match machine.start_file(Arc::clone(file)) {
        Ok(()) => machine.engine().journal(),
        // The run without failures reports it.
        Err(_) => Vec::new(),
    };
    let _reported_in_the_run_without_failures = machine.stop();
    let is_needed = |change: &Change| match change {
        Change::CalloutAdd { layer, .. } | Change::FilterAdd { layer, .. } => Some(*layer) == begins,
        _ => true,
    };
    objects.into_iter().filter(is_needed).collect()
}

/// Adds the objects that a driver has added, in a session that does not end with the
/// driver.
///
/// # Panics
/// If the engine refuses an object.
pub fn leave_behind(engine: &Engine, before: &[Change]) {
    let display = DisplayData { name: Some("left".into()), description: None };
    let session = engine.open(Session { display: display.clone(), ..Session::default() }).expect("a session");
    let mut own_sublayer = Guid::nil();
    for change in before {
        let display = display.clone();
        match *change {
            Change::ProviderAdd { key } => {
                let provider = Provider { key, display, ..Provider::default() };
                let added = engine.provider_add(session, provider);
                assert!(matches!(added, Status::SUCCESS | Status::FWP_ALREADY_EXISTS), "{added}");
            }
            Change::SublayerAdd { key } => {
                own_sublayer = key;
                let sublayer = Sublayer { key, display, ..Sublayer::default() };
                assert_eq!(engine.sublayer_add(session, sublayer), Status::SUCCESS);
            }
            Change::CalloutAdd { key, layer, provider } => {
                let callout = Callout { key, display, provider, applicable_layer: layer, flags: 0 };
                engine.callout_add(session, callout).expect("a callout");
            }
            Change::FilterAdd { key, layer, callout, provider } => {
                let filter = Filter {
                    key,
                    display,
                    // While the driver is gone, these filters block nothing.
                    flags: FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
                    provider,
                    layer,
                    sublayer: own_sublayer,
                    weight: Value::Empty,
                    conditions: Vec::new(),
                    action: ActionType::CALLOUT_UNKNOWN,
                    callout,
                    raw_context: 0,
                };
                engine.filter_add(session, filter).expect("a filter");
            }
            _ => {}
        }
    }
    assert_eq!(engine.close(session), Status::SUCCESS);
}

/// A TCP flow begins, and does not end.
///
/// # Panics
/// Never: the layer is built in.
pub fn open_flow(engine: &Engine) {
    /// IPPROTO_TCP.
    const PROTOCOL: u8 = 6;
    let layer = engine.layer_by_name(BEGINS).expect("a built-in layer");
    let mut values = vec![Value::Empty; layer.fields];
    if let Some(protocol) = layer.field("IP_PROTOCOL") {
        values[protocol] = Value::Uint8(PROTOCOL);
    }
    let metadata = Metadata { flow_handle: Some(engine.flow_create()), ..Metadata::default() };
    let request = Request { layer: layer.id, values: &values, metadata: &metadata, data: LayerData::None };
    engine.classify(&request);
}
