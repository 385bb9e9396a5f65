//! Providers, sublayers, callouts: refused calls, lifetimes, reports.

use super::*;

fn engine() -> (Arc<Engine>, SessionId) {
    let engine = Engine::new();
    let session = open(&engine);
    (engine, session)
}

#[test]
fn objects_need_names_known_flags_and_fresh_keys() {
    let (engine, session) = engine();
    let nameless = DisplayData::default();
    let status = engine.provider_add(session, Provider { display: nameless.clone(), ..provider(1) });
    assert_eq!(status, Status::FWP_NULL_DISPLAY_NAME);
    let status = engine.sublayer_add(session, Sublayer { display: nameless.clone(), ..sublayer(1, 0) });
    assert_eq!(status, Status::FWP_NULL_DISPLAY_NAME);
    let status = engine.callout_add(session, Callout { display: nameless, ..callout(1) });
    assert_eq!(status, Err(Status::FWP_NULL_DISPLAY_NAME));

    let invalid = Status::FWP_INVALID_FLAGS;
    assert_eq!(engine.provider_add(session, Provider { flags: 0x10, ..provider(1) }), invalid);
    assert_eq!(engine.sublayer_add(session, Sublayer { flags: 2, ..sublayer(1, 0) }), invalid);
    let registered = Callout { flags: 0x4_0000, ..callout(1) };
    assert_eq!(engine.callout_add(session, registered), Err(invalid));

    for expected in [Status::SUCCESS, Status::FWP_ALREADY_EXISTS] {
        assert_eq!(engine.provider_add(session, provider(1)), expected);
        assert_eq!(engine.sublayer_add(session, sublayer(1, 0)), expected);
        let status = engine.callout_add(session, callout(1)).err().unwrap_or(Status::SUCCESS);
        assert_eq!(status, expected);
    }
}

#[test]
fn referenced_objects_must_exist() {
    let (engine, session) = engine();
    let missing = Some(key(9));
    let status = engine.sublayer_add(session, Sublayer { provider: missing, ..sublayer(1, 0) });
    assert_eq!(status, Status::FWP_PROVIDER_NOT_FOUND);
    let status = engine.callout_add(session, Callout { provider: missing, ..callout(1) });
    assert_eq!(status, Err(Status::FWP_PROVIDER_NOT_FOUND));
    let status = engine.callout_add(session, Callout { applicable_layer: key(9), ..callout(1) });
    assert_eq!(status, Err(Status::FWP_LAYER_NOT_FOUND));
}

#[test]
fn referenced_objects_cannot_be_deleted() {
    let (engine, session) = engine();
    let owner = Some(key(1));
    assert_eq!(engine.provider_add(session, provider(1)), Status::SUCCESS);
    let own = Sublayer { provider: owner, ..sublayer(2, 0) };
    assert_eq!(engine.sublayer_add(session, own), Status::SUCCESS);
    assert_eq!(engine.provider_delete(session, key(1)), Status::FWP_IN_USE, "by a sublayer");
    engine.callout_add(session, callout(3)).unwrap();
    let using = Filter { sublayer: key(2), ..callout_filter(ActionType::CALLOUT_INSPECTION, 3) };
    let id = engine.filter_add(session, using).unwrap();
    assert_eq!(engine.sublayer_delete(session, key(2)), Status::FWP_IN_USE);
    assert_eq!(engine.callout_delete(session, key(3)), Status::FWP_IN_USE);

    assert_eq!(engine.filter_delete_by_id(session, id), Status::SUCCESS);
    assert_eq!(engine.callout_delete(session, key(3)), Status::SUCCESS);
    assert_eq!(engine.sublayer_delete(session, key(2)), Status::SUCCESS);
    let of_provider = Callout { provider: owner, ..callout(3) };
    engine.callout_add(session, of_provider).unwrap();
    assert_eq!(engine.provider_delete(session, key(1)), Status::FWP_IN_USE, "by a callout");
    assert_eq!(engine.callout_delete(session, key(3)), Status::SUCCESS);
    let of_provider = Filter { provider: owner, key: key(4), ..filter(ActionType::PERMIT) };
    engine.filter_add(session, of_provider).unwrap();
    assert_eq!(engine.provider_delete(session, key(1)), Status::FWP_IN_USE, "by a filter");
    assert_eq!(engine.filter_delete_by_key(session, key(4)), Status::SUCCESS);
    assert_eq!(engine.provider_delete(session, key(1)), Status::SUCCESS);

    assert_eq!(engine.provider_delete(session, key(1)), Status::FWP_PROVIDER_NOT_FOUND);
    assert_eq!(engine.sublayer_delete(session, key(2)), Status::FWP_SUBLAYER_NOT_FOUND);
    assert_eq!(engine.callout_delete(session, key(3)), Status::FWP_CALLOUT_NOT_FOUND);
}

#[test]
fn no_object_may_refer_to_a_shorter_lived_one() {
    let (engine, session) = engine();
    let dynamic = open_dynamic(&engine);
    assert_eq!(engine.provider_add(dynamic, provider(1)), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(2)), Status::SUCCESS);
    let persistent = Provider { flags: FLAG_PERSISTENT, ..provider(3) };
    assert_eq!(engine.provider_add(session, persistent), Status::SUCCESS);

    let mismatch = Status::FWP_LIFETIME_MISMATCH;
    let add = |session, flags, number| {
        let added = Sublayer { flags, provider: Some(key(number)), ..sublayer(0, 0) };
        engine.sublayer_add(session, added)
    };
    assert_eq!(add(dynamic, 0, 1), Status::SUCCESS);
    assert_eq!(add(session, 0, 1), mismatch);
    assert_eq!(add(open_dynamic(&engine), 0, 1), mismatch, "of another dynamic session");
    assert_eq!(add(dynamic, 0, 2), Status::SUCCESS);
    assert_eq!(add(session, FLAG_PERSISTENT, 2), mismatch);
    assert_eq!(add(session, FLAG_PERSISTENT, 3), Status::SUCCESS);

    engine.callout_add(dynamic, callout(4)).unwrap();
    let using = callout_filter(ActionType::CALLOUT_INSPECTION, 4);
    assert_eq!(engine.filter_add(session, using), Err(mismatch));
    assert_eq!(engine.sublayer_add(dynamic, sublayer(5, 0)), Status::SUCCESS);
    let inside = Filter { sublayer: key(5), ..filter(ActionType::PERMIT) };
    assert_eq!(engine.filter_add(session, inside), Err(mismatch));
}

#[test]
fn a_dynamic_session_makes_no_persistent_objects() {
    let engine = Engine::new();
    let dynamic = open_dynamic(&engine);
    let persistent = Provider { flags: FLAG_PERSISTENT, ..provider(1) };
    let status = engine.provider_add(dynamic, persistent);
    assert_eq!(status, Status::FWP_DYNAMIC_SESSION_IN_PROGRESS);
    let boot_time = Filter { flags: FILTER_FLAG_BOOTTIME, ..filter(ActionType::BLOCK) };
    let status = engine.filter_add(dynamic, boot_time);
    assert_eq!(status, Err(Status::FWP_DYNAMIC_SESSION_IN_PROGRESS));
}

#[test]
fn built_in_and_foreign_dynamic_objects_cannot_be_deleted() {
    let (engine, session) = engine();
    let universal = facts::guid("FWPM_SUBLAYER_UNIVERSAL").unwrap();
    assert_eq!(engine.sublayer_delete(session, universal), Status::FWP_BUILTIN_OBJECT);
    let again = Sublayer { key: universal, ..sublayer(0, 1) };
    assert_eq!(engine.sublayer_add(session, again), Status::FWP_ALREADY_EXISTS);
    let dynamic = open_dynamic(&engine);
    assert_eq!(engine.provider_add(dynamic, provider(1)), Status::SUCCESS);
    assert_eq!(engine.provider_delete(session, key(1)), Status::FWP_WRONG_SESSION);
    assert_eq!(engine.provider_delete(dynamic, key(1)), Status::SUCCESS);
}

/// The pages of the DeleteByKey functions: "can be called within a dynamic session if the
/// corresponding object was added during the same session", and the statuses otherwise.
#[test]
fn a_dynamic_session_deletes_only_what_it_has_added() {
    let (engine, session) = engine();
    assert_eq!(engine.provider_add(session, provider(1)), Status::SUCCESS);
    assert_eq!(engine.sublayer_add(session, sublayer(1, 0)), Status::SUCCESS);
    engine.callout_add(session, callout(1)).unwrap();
    let id = engine.filter_add(session, filter(ActionType::BLOCK)).unwrap();
    let (one, other) = (open_dynamic(&engine), open_dynamic(&engine));
    let refused = Status::FWP_DYNAMIC_SESSION_IN_PROGRESS;
    assert_eq!(engine.provider_delete(one, key(1)), refused);
    assert_eq!(engine.sublayer_delete(one, key(1)), refused);
    assert_eq!(engine.callout_delete(one, key(1)), refused);
    assert_eq!(engine.filter_delete_by_id(one, id), refused);
    assert_eq!(engine.provider_add(other, provider(2)), Status::SUCCESS);
    assert_eq!(engine.provider_delete(one, key(2)), Status::FWP_WRONG_SESSION);
    assert_eq!(engine.provider_delete(other, key(2)), Status::SUCCESS);
    assert_eq!(engine.provider_delete(session, key(1)), Status::SUCCESS);
}

#[test]
fn closing_a_dynamic_session_deletes_its_objects() {
    let (engine, session) = engine();
    let dynamic = open_dynamic(&engine);
    assert_eq!(engine.provider_add(session, provider(1)), Status::SUCCESS);
    assert_eq!(engine.provider_add(dynamic, provider(2)), Status::SUCCESS);
    assert_eq!(engine.sublayer_add(dynamic, sublayer(2, 9)), Status::SUCCESS);
    engine.callout_add(dynamic, callout(3)).unwrap();
    let blocking = Filter { sublayer: key(2), ..filter(ActionType::BLOCK) };
    engine.filter_add(dynamic, blocking).unwrap();
    assert!(classify(&engine, LAYER).blocked());

    assert_eq!(engine.close(dynamic), Status::SUCCESS);
    assert!(!classify(&engine, LAYER).blocked());
    let left = engine.objects();
    assert_eq!(left.providers, [format!("provider \"provider\" {{{}}}", key(1))]);
    assert!(left.sublayers.is_empty() && left.callouts.is_empty() && left.filters.is_empty());
    assert_eq!(left.sessions.len(), 1);
    assert_eq!(engine.close(dynamic), Status::INVALID_HANDLE);
}

#[test]
fn everything_left_is_named() {
    let (engine, session, id) = with_callout(0, Fake::idle());
    assert_eq!(engine.provider_add(session, provider(5)), Status::SUCCESS);
    assert_eq!(engine.sublayer_add(session, sublayer(6, 1)), Status::SUCCESS);
    engine.filter_add(session, Filter { key: key(7), ..filter(ActionType::PERMIT) }).unwrap();
    engine.bfe_subscribe(Arc::new(|_| {})).unwrap();
    let flow = engine.flow_create();
    let layer = layer::layer_by_name(AleFields::Headers, LAYER).unwrap().id;
    assert_eq!(engine.flow_associate(flow, layer, id, 0xAB), Status::SUCCESS);

    let left = engine.objects();
    for (list, part) in [
        (&left.registered_callouts, key(1).to_string()),
        (&left.sessions, "unnamed".to_owned()),
        (&left.providers, key(5).to_string()),
        (&left.sublayers, key(6).to_string()),
        (&left.callouts, key(1).to_string()),
        (&left.filters, key(7).to_string()),
        (&left.flow_contexts, "0xab".to_owned()),
        (&left.subscriptions, "BFE".to_owned()),
    ] {
        assert_eq!(list.len(), 1, "{list:?}");
        assert!(list[0].contains(&part), "{list:?}");
    }
}

#[test]
fn the_journal_lists_changes_in_order() {
    let (engine, session, id) = with_callout(0, Fake::idle());
    let by = Some(key(2));
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(2)), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(2)), Status::FWP_ALREADY_EXISTS);
    assert_eq!(engine.sublayer_add(session, sublayer(3, 1)), Status::SUCCESS);
    let inspecting = callout_filter(ActionType::CALLOUT_INSPECTION, 1);
    engine.filter_add(session, Filter { key: key(4), provider: by, ..inspecting }).unwrap();
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert_eq!(engine.filter_delete_by_key(session, key(4)), Status::SUCCESS);
    assert_eq!(engine.close(session), Status::SUCCESS);
    assert_eq!(engine.callout_unregister_by_id(id), Status::SUCCESS);
    let layer = layer_key(LAYER);
    assert_eq!(
        engine.journal(),
        [
            Change::CalloutRegister { key: key(1), id },
            Change::EngineOpen,
            Change::CalloutAdd { key: key(1), layer, provider: None },
            Change::TransactionBegin,
            Change::ProviderAdd { key: key(2) },
            Change::SublayerAdd { key: key(3) },
            Change::FilterAdd { key: key(4), layer, callout: Some(key(1)), provider: by },
            Change::TransactionCommit,
            Change::FilterDelete { key: key(4) },
            Change::EngineClose,
            Change::CalloutUnregister { key: key(1), id },
        ]
    );
}
