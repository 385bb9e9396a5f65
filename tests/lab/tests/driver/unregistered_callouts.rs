//! Traffic passes filters whose callouts are not registered.

use lab::bench::indication::Subject;
use lab::hushport;
use lab::setup::{self, Target};
use lab::traffic::{Family, Indication};
use machine::Machine;
use machine::nt::Options;
use machine::nt::journal::Call;
use machine::status::Status;
use machine::wfp::{
    ActionType, Callout, Change, Decision, DisplayData, Engine, Filter, LayerInfo, Provider, Session,
    Sublayer, Value,
};

use super::call_arguments::is_deciding;

/// TCP and UDP at a layer; at a deciding layer also a packet that the driver
/// silences there.
fn indications(layer: &'static LayerInfo) -> Vec<Indication> {
    let family = if layer.name.contains("_V6") { Family::V6 } else { Family::V4 };
    let mut shown: Vec<_> = [Subject::syn(family), Subject::datagram(family)].map(|it| it.at(layer)).into();
    if is_deciding(layer.name) {
        // Port unreachable at the ICMP error layer, an echo request at others.
        let (error, echo) = if family == Family::V4 { ((3, 3), (1, 8)) } else { ((1, 4), (58, 128)) };
        let of_error = layer.name.contains("ICMP_ERROR");
        let (protocol, kind, code) = if of_error { (17, error.0, error.1) } else { (echo.0, echo.1, 0) };
        let mut message = shown[1].clone();
        message.set("IP_PROTOCOL", Value::Uint8(protocol));
        for (fields, value) in
            [(["IP_LOCAL_PORT", "ICMP_TYPE"], kind), (["IP_REMOTE_PORT", "ICMP_CODE"], code)]
        {
            fields.iter().for_each(|field| message.set(field, Value::Uint16(value)));
        }
        shown.push(message);
    }
    shown
}

fn decisions(engine: &Engine, layer: &'static LayerInfo) -> Vec<Decision> {
    indications(layer).iter().map(|indication| engine.classify(&indication.request())).collect()
}

/// Starts a driver that silences everything it can. Returns its recorded calls.
fn started() -> (Machine, Vec<Call>) {
    let mut machine = hushport::machine(Options::default());
    machine.set("SilenceEcho", 1);
    machine.kernel().journal().start();
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    let calls = machine.kernel().journal().take();
    (machine, calls)
}

/// Unregisters one callout after the other; the filters stay.
#[test]
fn traffic_passes_the_filter_of_a_callout_that_is_unregistered() {
    let (mut machine, _) = started();
    let engine = machine.engine().clone();
    let (mut deciding, mut observing) = (0, 0);
    for change in engine.journal() {
        let Change::FilterAdd { layer, callout: Some(callout), .. } = change else { continue };
        let layer = engine.layer_by_key(layer).unwrap();
        let before = decisions(&engine, layer);
        assert!(before.iter().all(|decision| decision.invocations.len() == 1), "{}: {before:?}", layer.name);
        // The driver must block before, or the test shows nothing.
        assert_eq!(before.iter().any(Decision::blocked), is_deciding(layer.name), "{}", layer.name);
        assert_eq!(engine.callout_unregister_by_key(callout), Status::SUCCESS);
        for decision in decisions(&engine, layer) {
            assert!(!decision.blocked() && decision.invocations.is_empty(), "{}: {decision:?}", layer.name);
        }
        *if is_deciding(layer.name) { &mut deciding } else { &mut observing } += 1;
    }
    assert_eq!((deciding, observing), (8, 58));
    assert!(machine.stop().unwrap().is_empty());
}

/// Another session adds equal filters, which stay after the driver has stopped.
#[test]
fn traffic_passes_the_same_filters_without_a_driver() {
    let (mut machine, calls) = started();
    let engine = machine.engine().clone();
    assert!(machine.stop().unwrap().is_empty());
    assert_eq!(engine.objects(), Default::default());
    leave(&engine, &calls);
    assert_eq!(engine.objects().filters.len(), 66);
    for layer in engine.journal().into_iter().filter_map(|change| match change {
        Change::FilterAdd { layer, .. } => engine.layer_by_key(layer),
        _ => None,
    }) {
        for decision in decisions(&engine, layer) {
            assert!(!decision.blocked() && decision.invocations.is_empty(), "{}: {decision:?}", layer.name);
        }
    }
}

/// Adds the driver's objects, with their flags and actions, in a session that stays
/// open.
fn leave(engine: &Engine, calls: &[Call]) {
    let display = || DisplayData { name: Some("left".into()), description: None };
    let session = engine.open(Session { display: display(), ..Session::default() }).unwrap();
    for call in calls {
        let guid = |path: &str| call.guid(path).unwrap();
        match call.export {
            "FwpmProviderAdd0" => {
                let key = guid("provider.providerKey");
                let provider = Provider { key, display: display(), ..Provider::default() };
                assert_eq!(engine.provider_add(session, provider), Status::SUCCESS);
            }
            "FwpmSubLayerAdd0" => {
                let key = guid("subLayer.subLayerKey");
                let sublayer = Sublayer { key, display: display(), ..Sublayer::default() };
                assert_eq!(engine.sublayer_add(session, sublayer), Status::SUCCESS);
            }
            "FwpmCalloutAdd0" => {
                let (key, applicable_layer) = (guid("callout.calloutKey"), guid("callout.applicableLayer"));
                let callout = Callout { key, display: display(), applicable_layer, ..Callout::default() };
                engine.callout_add(session, callout).unwrap();
            }
            "FwpmFilterAdd0" => {
                let action = ActionType(call.number("filter.action.type").unwrap() as u32);
                let filter = Filter {
                    display: display(),
                    flags: call.number("filter.flags").unwrap() as u32,
                    sublayer: guid("filter.subLayerKey"),
                    callout: Some(guid("filter.action.@u1")),
                    ..Filter::new(guid("filter.layerKey"), action)
                };
                engine.filter_add(session, filter).unwrap();
            }
            _ => {}
        }
    }
}
