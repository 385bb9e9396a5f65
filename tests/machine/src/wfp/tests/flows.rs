//! Flow contexts.

use std::sync::Weak;

use super::*;

fn here() -> LayerId {
    layer::layer_by_name(AleFields::Headers, LAYER).unwrap().id
}

fn on_flow(engine: &Engine, flow: FlowHandle) -> Decision {
    let metadata = Metadata { flow_handle: Some(flow), ..Metadata::default() };
    classify_with(engine, LAYER, &values(LAYER, &[]), &metadata)
}

/// An engine with a filter that calls the callout.
fn inspected(flags: u32, fake: Arc<Fake>) -> (Arc<Engine>, u32) {
    let (engine, session, id) = with_callout(flags, fake);
    engine.filter_add(session, callout_filter(ActionType::CALLOUT_INSPECTION, 1)).unwrap();
    (engine, id)
}

/// A callout that records the contexts that it gets.
fn noting() -> (Arc<Fake>, Arc<Mutex<Vec<u64>>>) {
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let list = seen.clone();
    (Arc::new(Fake::new(move |_, context, _| list.locked().push(context))), seen)
}

#[test]
fn a_context_is_passed_only_for_its_flow() {
    let (fake, seen) = noting();
    let (engine, id) = inspected(0, fake);
    let (first, second) = (engine.flow_create(), engine.flow_create());
    assert_ne!(first, second);
    assert_eq!(engine.flow_associate(first, here(), id, 7), Status::SUCCESS);
    on_flow(&engine, first);
    on_flow(&engine, second);
    classify(&engine, LAYER);
    assert_eq!(*seen.locked(), [7, 0, 0]);
}

#[test]
fn associating_checks_its_parameters() {
    let (engine, id) = inspected(0, Fake::idle());
    let flow = engine.flow_create();
    let invalid = Status::INVALID_PARAMETER;
    assert_eq!(engine.flow_associate(flow, here(), id, 0), invalid, "zero context");
    assert_eq!(engine.flow_associate(flow, here(), id + 9, 1), invalid, "no such callout");
    assert_eq!(engine.flow_associate(flow, LayerId(999), id, 1), invalid, "no such layer");
    assert_eq!(engine.flow_associate(FlowHandle(99), here(), id, 1), invalid, "no such flow");
    let elsewhere = layer::layer_by_name(AleFields::Headers, "OUTBOUND_TRANSPORT_V4").unwrap().id;
    assert_eq!(engine.flow_associate(flow, elsewhere, id, 1), invalid, "another layer");
    let mut without = Fake::returning(ActionType::CONTINUE);
    without.has_flow_delete = false;
    let other = engine.callout_register(key(2), 0, Arc::new(without)).unwrap();
    assert_eq!(engine.flow_associate(flow, here(), other, 1), invalid, "no flowDeleteFn");
}

#[test]
fn one_context_per_flow_layer_and_callout() {
    let (engine, id) = inspected(0, Fake::idle());
    let flow = engine.flow_create();
    let elsewhere = layer::layer_by_name(AleFields::Headers, "OUTBOUND_TRANSPORT_V4").unwrap().id;
    assert_eq!(engine.flow_associate(flow, here(), id, 1), Status::SUCCESS);
    assert_eq!(engine.flow_associate(flow, here(), id, 2), Status::OBJECT_NAME_EXISTS);
    let other = engine.callout_register(key(2), 0, Fake::idle()).unwrap();
    assert_eq!(engine.flow_associate(flow, elsewhere, other, 3), Status::SUCCESS);
    assert_eq!(engine.objects().flow_contexts.len(), 2);
}

#[test]
fn removing_calls_flow_delete_inside_the_call() {
    let fake = Fake::idle();
    let (engine, id) = inspected(0, fake.clone());
    let flow = engine.flow_create();
    assert_eq!(engine.flow_remove(flow, here(), id), Status::UNSUCCESSFUL);
    assert_eq!(engine.flow_associate(flow, here(), id, 7), Status::SUCCESS);
    assert_eq!(engine.flow_remove(flow, here(), id), Status::SUCCESS);
    assert_eq!(*fake.deleted.locked(), [7]);
    assert_eq!(engine.flow_remove(flow, here(), id), Status::UNSUCCESSFUL);
    assert_eq!(engine.flow_remove(FlowHandle(99), here(), id), Status::UNSUCCESSFUL);
    assert_eq!(engine.flow_associate(flow, here(), id, 8), Status::SUCCESS);
}

#[test]
fn removing_during_a_classify_is_pending() {
    type Own = Option<(Weak<Engine>, FlowHandle, u32)>;
    let own: Arc<Mutex<Own>> = Arc::default();
    let inner = own.clone();
    let statuses: Arc<Mutex<Vec<Status>>> = Arc::default();
    let list = statuses.clone();
    let fake = Arc::new(Fake::new(move |_, _, _| {
        let (engine, flow, id) = inner.locked().clone().unwrap();
        let engine = engine.upgrade().unwrap();
        list.locked().push(engine.flow_remove(flow, here(), id));
        list.locked().push(engine.flow_remove(flow, here(), id));
        list.locked().push(engine.callout_unregister_by_id(id));
        assert_eq!(engine.objects().flow_contexts.len(), 1, "still to be deleted");
    }));
    let (engine, id) = inspected(0, fake.clone());
    let flow = engine.flow_create();
    *own.locked() = Some((Arc::downgrade(&engine), flow, id));
    assert_eq!(engine.flow_associate(flow, here(), id, 7), Status::SUCCESS);
    on_flow(&engine, flow);
    let expected = [Status::PENDING, Status::UNSUCCESSFUL, Status::DEVICE_BUSY];
    assert_eq!(*statuses.locked(), expected);
    assert_eq!(*fake.deleted.locked(), [7], "after the classify");
    assert!(engine.objects().flow_contexts.is_empty());
}

#[test]
fn the_end_of_a_flow_deletes_its_contexts() {
    let fake = Fake::idle();
    let (engine, id) = inspected(0, fake.clone());
    let (flow, other) = (engine.flow_create(), engine.flow_create());
    let elsewhere = layer::layer_by_name(AleFields::Headers, "OUTBOUND_TRANSPORT_V4").unwrap().id;
    assert_eq!(engine.flow_associate(flow, here(), id, 1), Status::SUCCESS);
    let second = engine.callout_register(key(2), 0, fake.clone()).unwrap();
    assert_eq!(engine.flow_associate(flow, elsewhere, second, 2), Status::SUCCESS);
    assert_eq!(engine.flow_associate(other, here(), id, 3), Status::SUCCESS);
    engine.flow_end(flow);
    assert_eq!(*fake.deleted.locked(), [1, 2]);
    assert_eq!(engine.flow_associate(flow, here(), id, 1), Status::INVALID_PARAMETER);
    engine.flow_end(flow);
    assert_eq!(fake.deleted.locked().len(), 2);
}

#[test]
fn a_callout_with_contexts_is_busy() {
    let (engine, id) = inspected(0, Fake::idle());
    let flow = engine.flow_create();
    assert_eq!(engine.flow_associate(flow, here(), id, 1), Status::SUCCESS);
    assert_eq!(engine.callout_unregister_by_id(id), Status::DEVICE_BUSY);
    assert_eq!(engine.callout_unregister_by_key(key(1)), Status::DEVICE_BUSY);
    assert_eq!(on_flow(&engine, flow).invocations.len(), 1, "it stays registered");
    assert_eq!(engine.flow_remove(flow, here(), id), Status::SUCCESS);
    assert_eq!(engine.callout_unregister_by_id(id), Status::SUCCESS);
}

#[test]
fn conditional_on_flow_skips_flows_without_context() {
    let (fake, seen) = noting();
    let (engine, id) = inspected(CALLOUT_FLAG_CONDITIONAL_ON_FLOW, fake);
    let flow = engine.flow_create();
    assert!(classify(&engine, LAYER).invocations.is_empty());
    assert!(on_flow(&engine, flow).invocations.is_empty());
    assert_eq!(engine.flow_associate(flow, here(), id, 7), Status::SUCCESS);
    assert_eq!(on_flow(&engine, flow).invocations.len(), 1);
    assert_eq!(*seen.locked(), [7]);
}
