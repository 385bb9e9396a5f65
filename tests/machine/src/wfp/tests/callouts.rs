//! Registration, unregistration and notification of callouts.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::*;

const INSPECTION: ActionType = ActionType::CALLOUT_INSPECTION;

#[test]
fn a_key_is_registered_once_and_keeps_its_id() {
    let engine = Engine::new();
    let session = open(&engine);
    let added_first = engine.callout_add(session, callout(2)).unwrap();
    assert_eq!(engine.callout_register(key(2), 0, Fake::idle()), Ok(added_first));
    let id = engine.callout_register(key(1), 0, Fake::idle()).unwrap();
    assert_ne!(id, added_first);
    assert_eq!(engine.callout_add(session, callout(1)), Ok(id));
    let again = engine.callout_register(key(1), 0, Fake::idle());
    assert_eq!(again, Err(Status::FWP_ALREADY_EXISTS));
    assert_eq!(engine.callout_unregister_by_key(key(1)), Status::SUCCESS);
    assert_eq!(engine.callout_register(key(1), 0, Fake::idle()), Ok(id));
}

#[test]
fn registering_needs_a_key_and_known_flags() {
    let engine = Engine::new();
    let refused = engine.callout_register(Guid::nil(), 0, Fake::idle());
    assert_eq!(refused, Err(Status::INVALID_PARAMETER));
    let refused = engine.callout_register(key(1), 0x800, Fake::idle());
    assert_eq!(refused, Err(Status::FWP_INVALID_FLAGS));
    assert!(engine.callout_register(key(1), 0x7FF, Fake::idle()).is_ok());
}

#[test]
fn a_callout_that_is_not_registered_cannot_be_unregistered() {
    let engine = Engine::new();
    let id = engine.callout_register(key(1), 0, Fake::idle()).unwrap();
    let unknown = Status::FWP_CALLOUT_NOT_FOUND;
    assert_eq!(engine.callout_unregister_by_id(id + 1), unknown);
    assert_eq!(engine.callout_unregister_by_key(key(2)), unknown);
    assert_eq!(engine.callout_unregister_by_id(id), Status::SUCCESS);
    assert_eq!(engine.callout_unregister_by_id(id), unknown);
    assert_eq!(engine.callout_unregister_by_key(key(1)), unknown);
}

#[test]
fn unregistering_succeeds_while_filters_refer_to_it() {
    let fake = Arc::new(Fake::returning(ActionType::PERMIT));
    let (engine, session, id) = with_callout(0, fake.clone());
    engine.filter_add(session, callout_filter(ActionType::CALLOUT_TERMINATING, 1)).unwrap();
    assert!(!classify(&engine, LAYER).blocked());
    assert_eq!(engine.callout_unregister_by_id(id), Status::SUCCESS);
    assert!(classify(&engine, LAYER).blocked());
    assert_eq!(fake.calls(), 1);
    // Filters find the callout by key, so they work again with the next driver.
    let next = Arc::new(Fake::returning(ActionType::PERMIT));
    engine.callout_register(key(1), 0, next.clone()).unwrap();
    assert!(!classify(&engine, LAYER).blocked());
    assert_eq!((fake.calls(), next.calls()), (1, 1));
    assert_eq!(next.notices(), [], "filters that were added before are not notified again");
}

#[test]
fn unregistering_waits_for_running_classifies() {
    let (inside, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered, left) = (inside.clone(), leave.clone());
    let fake = Arc::new(Fake::new(move |_, _, _| {
        entered.wait();
        left.wait();
    }));
    let (engine, session, id) = with_callout(0, fake);
    engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| classify(&engine, LAYER));
        inside.wait();
        let unregistering = scope.spawn(|| engine.callout_unregister_by_id(id));
        while engine.callout_register(key(1), 0, Fake::idle()) != Err(Status::FWP_IN_USE) {
            thread::yield_now();
        }
        assert_eq!(engine.callout_unregister_by_key(key(1)), Status::FWP_IN_USE);
        assert!(classify(&engine, LAYER).invocations.is_empty(), "no new call begins");
        thread::sleep(Duration::from_millis(10));
        assert!(!unregistering.is_finished());
        leave.wait();
        assert_eq!(unregistering.join().unwrap(), Status::SUCCESS);
    });
    assert!(engine.callout_register(key(1), 0, Fake::idle()).is_ok());
}

/// Runs `during` while a classify of the callout runs, and `after` when it has returned.
fn while_a_classify_runs(
    options: Options,
    during: impl FnOnce(&Engine, u32) + Send,
    after: impl FnOnce(&Engine, u32),
) {
    let (inside, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered, left) = (inside.clone(), leave.clone());
    let fake = Arc::new(Fake::new(move |_, _, _| {
        entered.wait();
        left.wait();
    }));
    let engine = Engine::with_options(options);
    let session = open(&engine);
    let id = engine.callout_register(key(1), 0, fake).unwrap();
    engine.callout_add(session, callout(1)).unwrap();
    engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| classify(&engine, LAYER));
        inside.wait();
        during(&engine, id);
        leave.wait();
    });
    after(&engine, id);
}

#[test]
fn a_running_classify_can_make_unregistering_busy() {
    let options = Options { running_calls: RunningCalls::Refused, ..Options::default() };
    while_a_classify_runs(
        options,
        |engine, id| {
            assert_eq!(engine.callout_unregister_by_id(id), Status::DEVICE_BUSY);
            assert_eq!(engine.callout_unregister_by_key(key(1)), Status::DEVICE_BUSY);
        },
        |engine, id| assert_eq!(engine.callout_unregister_by_id(id), Status::SUCCESS),
    );
}

#[test]
fn unregistering_can_ignore_a_running_classify() {
    let options = Options { running_calls: RunningCalls::Ignored, ..Options::default() };
    while_a_classify_runs(
        options,
        |engine, id| {
            assert_eq!(engine.callout_unregister_by_id(id), Status::SUCCESS);
            assert!(engine.registered_callouts().is_empty());
            assert!(classify(engine, LAYER).invocations.is_empty(), "no new call begins");
        },
        |engine, id| assert_eq!(engine.callout_unregister_by_id(id), Status::FWP_CALLOUT_NOT_FOUND),
    );
}

#[test]
fn a_level_of_windows_knows_its_flags_only() {
    for level in CalloutFlags::ALL {
        for refusal in [Status::FWP_INVALID_FLAGS, Status::INVALID_PARAMETER] {
            let options = Options { callout_flags: level, flags_refusal: refusal, ..Options::default() };
            let engine = Engine::with_options(options);
            for bit in 0..12 {
                let registered = engine.callout_register(key(bit + 1), 1 << bit, Fake::idle());
                let known = level.known() & 1 << bit != 0;
                assert_eq!(registered.is_ok(), known, "{level:?} {bit}");
                assert!(known || registered == Err(refusal));
            }
        }
    }
}

#[test]
fn unregistering_from_inside_is_noted() {
    type Own = Option<(std::sync::Weak<Engine>, u32)>;
    let own: Arc<Mutex<Own>> = Arc::default();
    let inner = own.clone();
    let fake = Arc::new(Fake::new(move |_, _, _| {
        let (engine, id) = inner.locked().take().unwrap();
        let status = engine.upgrade().unwrap().callout_unregister_by_id(id);
        assert_eq!(status, Status::FWP_IN_USE);
    }));
    let (engine, session, id) = with_callout(0, fake);
    *own.locked() = Some((Arc::downgrade(&engine), id));
    engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    classify(&engine, LAYER);
    let violations = engine.take_violations();
    assert_eq!(violations[0].rule, Rule::WaitsForItself);
    assert_eq!(violations[0].callout_id, Some(id));
}

#[test]
fn notices_follow_a_filters_life() {
    use NotifyType::{AddFilter, AddFilterPostCommit, DeleteFilter};
    let fake = Fake::idle();
    let (engine, session, _) = with_callout(0, fake.clone());
    let named = Filter { key: key(5), ..callout_filter(INSPECTION, 1) };
    let id = engine.filter_add(session, named.clone()).unwrap();
    assert_eq!(*fake.notices.locked(), [(AddFilter, Some(key(5)), id)]);
    assert_eq!(engine.filter_delete_by_id(session, id), Status::SUCCESS);
    assert_eq!(fake.notices.locked()[1..], [(DeleteFilter, None, id)]);

    let fake = Fake::idle();
    let flags = CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY;
    let (engine, session, _) = with_callout(flags, fake.clone());
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    let id = engine.filter_add(session, named).unwrap();
    assert_eq!(fake.notices(), [AddFilter]);
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert_eq!(fake.notices.locked()[1..], [(AddFilterPostCommit, Some(key(5)), id)]);
}

#[test]
fn a_rollback_notifies_the_callout_of_a_delete() {
    use NotifyType::{AddFilter, DeleteFilter};
    let fake = Fake::idle();
    let (engine, session, _) = with_callout(0, fake.clone());
    let begin = || assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    begin();
    let kept = engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    begin();
    engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    assert_eq!(engine.filter_delete_by_id(session, kept), Status::SUCCESS);
    assert_eq!(fake.notices(), [AddFilter, AddFilter], "the delete is not committed yet");
    assert_eq!(engine.transaction_abort(session), Status::SUCCESS);
    assert_eq!(fake.notices(), [AddFilter, AddFilter, DeleteFilter]);
    // A filter that is added and deleted in one transaction.
    begin();
    let brief = engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    assert_eq!(engine.filter_delete_by_id(session, brief), Status::SUCCESS);
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert_eq!(fake.notices()[3..], [AddFilter, DeleteFilter]);
}

#[test]
fn a_callout_can_refuse_a_filter() {
    let fake = Fake::idle();
    let (engine, session, _) = with_callout(0, fake.clone());
    *fake.notify_status.locked() = Status::INSUFFICIENT_RESOURCES;
    let failed = Err(Status::FWP_CALLOUT_NOTIFICATION_FAILED);
    let before = (engine.objects(), engine.journal());
    assert_eq!(engine.filter_add(session, callout_filter(INSPECTION, 1)), failed);
    assert_eq!((engine.objects(), engine.journal()), before);

    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(3)), Status::SUCCESS);
    assert_eq!(engine.filter_add(session, callout_filter(INSPECTION, 1)), failed);
    *fake.notify_status.locked() = Status::SUCCESS;
    let id = engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert_eq!((engine.objects().filters.len(), engine.objects().providers.len()), (1, 1));

    // A failure on delete is ignored.
    *fake.notify_status.locked() = Status::UNSUCCESSFUL;
    assert_eq!(engine.filter_delete_by_id(session, id), Status::SUCCESS);
    assert_eq!(fake.notices().len(), 4);
}

#[test]
fn a_late_callout_may_see_a_delete_without_an_add() {
    let engine = Engine::new();
    let session = open(&engine);
    engine.callout_add(session, callout(1)).unwrap();
    let id = engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    let fake = Fake::idle();
    engine.callout_register(key(1), 0, fake.clone()).unwrap();
    assert_eq!(fake.notices(), []);
    assert_eq!(engine.filter_delete_by_id(session, id), Status::SUCCESS);
    assert_eq!(fake.notices(), [NotifyType::DeleteFilter]);
}

#[test]
fn a_callout_may_call_the_engine_while_it_is_notified() {
    struct Nosy(Mutex<Option<std::sync::Weak<Engine>>>);
    impl CalloutDriver for Nosy {
        fn classify(&self, _: &Request<'_>, _: &RuntimeFilter, _: u64, _: &mut ClassifyOut) {}
        fn notify(&self, _: NotifyType, _: Option<Guid>, _: &RuntimeFilter) -> Status {
            let engine = self.0.locked().as_ref().unwrap().upgrade().unwrap();
            assert!(engine.objects().filters.is_empty());
            assert_eq!(engine.bfe_state(), BfeState::Running);
            Status::SUCCESS
        }
    }
    let engine = Engine::new();
    let nosy = Nosy(Mutex::new(Some(Arc::downgrade(&engine))));
    engine.callout_register(key(1), 0, Arc::new(nosy)).unwrap();
    let session = open(&engine);
    engine.callout_add(session, callout(1)).unwrap();
    assert!(engine.filter_add(session, callout_filter(INSPECTION, 1)).is_ok());
}

#[test]
fn a_session_closed_during_a_notice_takes_the_filter_along() {
    struct Closing(Mutex<Option<(std::sync::Weak<Engine>, SessionId)>>, Mutex<Vec<NotifyType>>);
    impl CalloutDriver for Closing {
        fn classify(&self, _: &Request<'_>, _: &RuntimeFilter, _: u64, _: &mut ClassifyOut) {}
        fn notify(&self, kind: NotifyType, _: Option<Guid>, _: &RuntimeFilter) -> Status {
            self.1.locked().push(kind);
            let taken = self.0.locked().take();
            if let Some((engine, session)) = taken {
                assert_eq!(engine.upgrade().unwrap().close(session), Status::SUCCESS);
            }
            Status::SUCCESS
        }
    }
    let engine = Engine::new();
    let session = open(&engine);
    engine.callout_add(session, callout(1)).unwrap();
    let closing = Mutex::new(Some((Arc::downgrade(&engine), session)));
    let driver = Arc::new(Closing(closing, Mutex::default()));
    engine.callout_register(key(1), 0, driver.clone()).unwrap();
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    let refused = engine.filter_add(session, callout_filter(INSPECTION, 1));
    assert_eq!(refused, Err(Status::FWP_TXN_ABORTED));
    assert!(engine.objects().filters.is_empty());
    assert_eq!(*driver.1.locked(), [NotifyType::AddFilter, NotifyType::DeleteFilter]);
}

#[test]
fn classify_runs_on_many_threads_while_filters_change() {
    let fake = Fake::idle();
    let (engine, session, _) = with_callout(0, fake.clone());
    engine.filter_add(session, callout_filter(INSPECTION, 1)).unwrap();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let decision = classify(&engine, LAYER);
                        // Both filters come with one commit, so both or none are
                        // called.
                        assert!([1, 3].contains(&decision.invocations.len()));
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
            let added = [(); 2].map(|()| engine.filter_add(session, callout_filter(INSPECTION, 1)));
            assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
            assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
            for id in added {
                assert_eq!(engine.filter_delete_by_id(session, id.unwrap()), Status::SUCCESS);
            }
            assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
        }
    });
}
