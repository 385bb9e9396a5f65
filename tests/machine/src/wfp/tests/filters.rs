//! Filters: refused calls, and weights.

use super::*;

fn engine() -> (Arc<Engine>, SessionId) {
    let engine = Engine::new();
    let session = open(&engine);
    engine.callout_add(session, callout(1)).unwrap();
    (engine, session)
}

fn refused(change: impl Fn(&mut Filter)) -> Status {
    let (engine, session) = engine();
    let mut filter = callout_filter(ActionType::CALLOUT_TERMINATING, 1);
    assert!(engine.filter_add(session, filter.clone()).is_ok());
    change(&mut filter);
    let before = (engine.objects(), engine.journal());
    let status = engine.filter_add(session, filter).err().unwrap_or(Status::SUCCESS);
    assert_eq!((engine.objects(), engine.journal()), before, "a refused call leaves no trace");
    status
}

#[test]
fn the_objects_that_a_filter_references_must_exist() {
    assert_eq!(refused(|it| it.layer = key(9)), Status::FWP_LAYER_NOT_FOUND);
    assert_eq!(refused(|it| it.provider = Some(key(9))), Status::FWP_PROVIDER_NOT_FOUND);
    assert_eq!(refused(|it| it.sublayer = key(9)), Status::FWP_SUBLAYER_NOT_FOUND);
    assert_eq!(refused(|it| it.callout = Some(key(9))), Status::FWP_CALLOUT_NOT_FOUND);
    assert_eq!(refused(|it| it.callout = None), Status::FWP_CALLOUT_NOT_FOUND);
    assert_eq!(refused(|it| it.flags = 4), Status::FWP_PROVIDER_CONTEXT_NOT_FOUND);
}

#[test]
fn a_filter_needs_a_name() {
    assert_eq!(refused(|it| it.display.name = None), Status::FWP_NULL_DISPLAY_NAME);
}

#[test]
fn flags_must_be_known_and_fit_together() {
    const DISABLED: u32 = 0x20;
    for flags in [0x8000_0000, DISABLED, FLAG_PERSISTENT | FILTER_FLAG_BOOTTIME] {
        assert_eq!(refused(|it| it.flags = flags), Status::FWP_INVALID_FLAGS, "{flags:#x}");
    }
    for action in [ActionType::BLOCK, ActionType::PERMIT, ActionType::CALLOUT_INSPECTION] {
        let status = refused(|it| {
            it.action = action;
            it.flags = FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED;
        });
        assert_eq!(status, Status::FWP_INVALID_FLAGS, "{action:?}");
    }
}

#[test]
fn only_five_actions_can_be_asked_for() {
    for action in [ActionType::CONTINUE, ActionType::NONE, ActionType(0), ActionType(0x5001)] {
        assert_eq!(refused(|it| it.action = action), Status::FWP_INVALID_ACTION_TYPE);
    }
}

#[test]
fn a_callout_serves_its_layer_only() {
    let status = refused(|it| it.layer = layer_key("OUTBOUND_TRANSPORT_V4"));
    assert_eq!(status, Status::FWP_INCOMPATIBLE_LAYER);
}

#[test]
fn the_inspection_sublayer_takes_inspection_filters_only() {
    let inspection = facts::guid("FWPM_SUBLAYER_INSPECTION").unwrap();
    let status = refused(|it| it.sublayer = inspection);
    assert_eq!(status, Status::FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER);
    let (engine, session) = engine();
    let mut filter = callout_filter(ActionType::CALLOUT_INSPECTION, 1);
    filter.sublayer = inspection;
    assert!(engine.filter_add(session, filter).is_ok());
}

#[test]
fn conditions_are_checked() {
    let of_other_layer = condition("ALE_APP_ID", MatchType::Equal, Value::Uint8(0));
    let status = refused(|it| it.conditions = vec![of_other_layer.clone()]);
    assert_eq!(status, Status::FWP_CONDITION_NOT_FOUND);
}

#[test]
fn a_key_is_used_once() {
    let (engine, session) = engine();
    let named = Filter { key: key(7), ..filter(ActionType::PERMIT) };
    let id = engine.filter_add(session, named.clone()).unwrap();
    assert_eq!(engine.filter_add(session, named.clone()), Err(Status::FWP_ALREADY_EXISTS));
    assert_eq!(engine.filter_delete_by_key(session, key(7)), Status::SUCCESS);
    assert_eq!(engine.filter_delete_by_key(session, key(7)), Status::FWP_FILTER_NOT_FOUND);
    assert_eq!(engine.filter_delete_by_id(session, id), Status::FWP_FILTER_NOT_FOUND);
    assert_ne!(engine.filter_add(session, named), Ok(id), "ids are not reused");
}

/// The effective weight that the callout sees.
fn weight(weight: Value, conditions: Vec<Condition>) -> Result<u64, Status> {
    let seen = Arc::new(Mutex::new(None));
    struct Notified(Arc<Mutex<Option<u64>>>);
    impl CalloutDriver for Notified {
        fn classify(&self, _: &Request<'_>, _: &RuntimeFilter, _: u64, _: &mut ClassifyOut) {}
        fn notify(&self, _: NotifyType, _: Option<Guid>, filter: &RuntimeFilter) -> Status {
            *self.0.locked() = Some(filter.weight);
            Status::SUCCESS
        }
    }
    let (engine, session) = engine();
    engine.callout_register(key(1), 0, Arc::new(Notified(seen.clone()))).unwrap();
    let inspection = callout_filter(ActionType::CALLOUT_INSPECTION, 1);
    engine.filter_add(session, Filter { weight, conditions, ..inspection })?;
    Ok(seen.locked().take().expect("the callout was notified"))
}

#[test]
fn weights_are_literal_ranged_or_automatic() {
    assert_eq!(weight(Value::Uint64(u64::MAX), Vec::new()), Ok(u64::MAX));
    assert_eq!(weight(Value::Uint64(0), Vec::new()), Ok(0));
    let port = || vec![condition("IP_LOCAL_PORT", MatchType::Equal, Value::Uint16(80))];
    let automatic = weight(Value::Empty, port()).unwrap();
    assert!(automatic > 0 && automatic < 1 << 60);
    assert_eq!(weight(Value::Uint8(15), port()), Ok(15 << 60 | automatic));
    for wrong in [Value::Uint8(16), Value::Uint16(1), Value::Uint32(1)] {
        assert_eq!(weight(wrong, Vec::new()), Err(Status::FWP_INVALID_WEIGHT));
    }
}

#[test]
fn narrower_conditions_weigh_more() {
    let net = |bits: u32| {
        let net = Value::V4AddrMask(0x0A00_0000, !(u32::MAX >> bits));
        vec![condition("IP_REMOTE_ADDRESS", MatchType::Equal, net)]
    };
    let ports = |low, high| {
        let ends = Box::new((Value::Uint16(low), Value::Uint16(high)));
        vec![condition("IP_LOCAL_PORT", MatchType::Range, Value::Range(ends))]
    };
    let automatic = |conditions| weight(Value::Empty, conditions).unwrap();
    assert!(automatic(Vec::new()) < automatic(net(8)));
    assert!(automatic(net(8)) < automatic(net(24)));
    assert!(automatic(net(24)) < automatic([net(24), ports(1, 1000)].concat()));
    assert!(automatic(ports(1, 1000)) < automatic(ports(80, 81)));
    assert_eq!(automatic(ports(0, u16::MAX)), 0);
}

#[test]
fn generations_rise_with_the_layers_filters() {
    let (engine, session) = engine();
    let at = |name| engine.generation(layer::layer_by_name(AleFields::Headers, name).unwrap().id);
    let (here, elsewhere) = (at(LAYER), at("OUTBOUND_TRANSPORT_V4"));
    let id = engine.filter_add(session, filter(ActionType::PERMIT)).unwrap();
    assert_eq!(at(LAYER), here + 1);
    assert_eq!(engine.filter_delete_by_id(session, id), Status::SUCCESS);
    assert_eq!(at(LAYER), here + 2);
    assert_eq!(at("OUTBOUND_TRANSPORT_V4"), elsewhere);
}
