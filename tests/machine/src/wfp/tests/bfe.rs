//! Stops and starts of the Base Filtering Engine.

use std::sync::OnceLock;

use super::*;

/// Records the states that a subscriber gets.
fn listen(engine: &Engine) -> (SubscriptionId, Arc<Mutex<Vec<BfeState>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    let id = engine.bfe_subscribe(Arc::new(move |state| list.locked().push(state))).unwrap();
    (id, heard)
}

#[test]
fn subscribers_hear_each_change_until_they_unsubscribe() {
    let engine = Engine::new();
    let (id, heard) = listen(&engine);
    for state in [BfeState::Running, BfeState::StopPending, BfeState::Stopped] {
        engine.set_bfe_state(state);
        assert_eq!(engine.bfe_state(), state);
    }
    assert_eq!(*heard.locked(), [BfeState::StopPending, BfeState::Stopped], "changes only");
    assert_eq!(engine.bfe_unsubscribe(id), Status::SUCCESS);
    engine.set_bfe_state(BfeState::Running);
    assert_eq!(heard.locked().len(), 2);
    assert_eq!(engine.bfe_unsubscribe(id), Status::INVALID_HANDLE);
}

#[test]
fn sessions_are_opened_only_while_it_runs() {
    for state in [BfeState::Stopped, BfeState::StartPending, BfeState::StopPending] {
        let engine = Engine::with_options(Options { bfe_state: state, ..Options::default() });
        assert_eq!(engine.open(Session::default()), Err(Status::SERVER_UNAVAILABLE));
        engine.set_bfe_state(BfeState::Running);
        assert!(engine.open(Session::default()).is_ok());
    }
}

#[test]
fn stopping_aborts_sessions_and_deletes_their_objects() {
    let engine = Engine::new();
    let (session, dynamic) = (open(&engine), open_dynamic(&engine));
    assert_eq!(engine.provider_add(dynamic, provider(1)), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(2)), Status::SUCCESS);
    let persistent = Provider { flags: FLAG_PERSISTENT, ..provider(3) };
    assert_eq!(engine.provider_add(session, persistent), Status::SUCCESS);
    engine.filter_add(session, filter(ActionType::BLOCK)).unwrap();
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);

    engine.set_bfe_state(BfeState::StopPending);
    assert_eq!(engine.provider_add(session, provider(4)), Status::SUCCESS);
    engine.set_bfe_state(BfeState::Stopped);
    let aborted = Status::FWP_SESSION_ABORTED;
    assert_eq!(engine.provider_add(session, provider(5)), aborted);
    assert_eq!(engine.transaction_commit(session), aborted);
    assert_eq!(engine.transaction_begin(dynamic, 0), aborted);
    assert!(!classify(&engine, LAYER).blocked());
    let left = engine.objects();
    assert_eq!(left.providers, [format!("provider \"provider\" {{{}}}", key(3))]);
    assert_eq!(left.sessions.len(), 2, "handles stay until they are closed");
    assert_eq!(engine.close(session), Status::SUCCESS);
    assert_eq!(engine.close(dynamic), Status::SUCCESS);
    assert!(engine.objects().sessions.is_empty());

    engine.set_bfe_state(BfeState::Running);
    assert_eq!(engine.provider_add(open(&engine), provider(1)), Status::SUCCESS);
}

#[test]
fn callouts_are_notified_of_deleted_filters() {
    let fake = Fake::idle();
    let (engine, session, _) = with_callout(0, fake.clone());
    let inspecting = callout_filter(ActionType::CALLOUT_INSPECTION, 1);
    engine.filter_add(session, inspecting.clone()).unwrap();
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    engine.filter_add(session, inspecting).unwrap();
    engine.set_bfe_state(BfeState::Stopped);
    use NotifyType::{AddFilter, DeleteFilter};
    assert_eq!(fake.notices(), [AddFilter, AddFilter, DeleteFilter, DeleteFilter]);
}

#[test]
fn persistent_filters_come_back_and_boot_time_filters_stand_in() {
    let engine = Engine::new();
    let session = open(&engine);
    let add = |flags, action| engine.filter_add(session, Filter { flags, ..filter(action) });
    let persistent = add(FLAG_PERSISTENT, ActionType::PERMIT).unwrap();
    let boot_time = add(FILTER_FLAG_BOOTTIME, ActionType::BLOCK).unwrap();
    assert_eq!(classify(&engine, LAYER).filter_id, Some(persistent));
    engine.set_bfe_state(BfeState::Stopped);
    assert_eq!(classify(&engine, LAYER).filter_id, Some(boot_time));
    engine.set_bfe_state(BfeState::StartPending);
    assert_eq!(classify(&engine, LAYER).filter_id, Some(boot_time));
    engine.set_bfe_state(BfeState::Running);
    assert_eq!(classify(&engine, LAYER).filter_id, Some(persistent));
}

#[test]
fn a_callback_may_use_the_engine() {
    let engine = Engine::with_options(Options { bfe_state: BfeState::Stopped, ..Options::default() });
    let weak = Arc::downgrade(&engine);
    let opened = Arc::new(Mutex::new(None));
    let result = opened.clone();
    let callback = move |state| {
        let engine = weak.upgrade().unwrap();
        assert_eq!(engine.bfe_state(), state);
        *result.locked() = Some(engine.open(Session::default()));
    };
    engine.bfe_subscribe(Arc::new(callback)).unwrap();
    engine.set_bfe_state(BfeState::Running);
    assert!(opened.locked().take().unwrap().is_ok());
}

#[test]
fn unsubscribing_inside_the_callback_is_noted() {
    let engine = Engine::new();
    let own = Arc::new(OnceLock::new());
    let (weak, id) = (Arc::downgrade(&engine), own.clone());
    let callback = move |_| {
        let engine = weak.upgrade().unwrap();
        assert_eq!(engine.bfe_unsubscribe(*id.get().unwrap()), Status::SUCCESS);
    };
    own.set(engine.bfe_subscribe(Arc::new(callback)).unwrap()).unwrap();
    engine.set_bfe_state(BfeState::StopPending);
    assert_eq!(engine.take_violations()[0].rule, Rule::WaitsForItself);
}
