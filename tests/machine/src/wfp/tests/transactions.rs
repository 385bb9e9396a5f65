//! Sessions, transactions and the engine-wide lock.

use std::thread;
use std::time::{Duration, Instant};

use super::*;

fn engine() -> (Arc<Engine>, SessionId) {
    let engine = Engine::new();
    let session = open(&engine);
    (engine, session)
}

fn open_waiting(engine: &Engine, txn_wait_timeout_ms: u32) -> SessionId {
    engine.open(Session { txn_wait_timeout_ms, ..Session::default() }).unwrap()
}

#[test]
fn abort_undoes_all_changes() {
    let (engine, session) = engine();
    let kept = engine.filter_add(session, filter(ActionType::BLOCK)).unwrap();
    let before = engine.objects();
    let generation = engine.generation(layer::layer_by_name(AleFields::Headers, LAYER).unwrap().id);

    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(1)), Status::SUCCESS);
    assert_eq!(engine.sublayer_add(session, sublayer(2, 1)), Status::SUCCESS);
    engine.callout_add(session, callout(3)).unwrap();
    engine.filter_add(session, callout_filter(ActionType::CALLOUT_TERMINATING, 3)).unwrap();
    assert_eq!(engine.filter_delete_by_id(session, kept), Status::SUCCESS);
    assert_eq!(classify(&engine, LAYER).filter_id, Some(kept), "changes are invisible before commit");
    assert_eq!(engine.transaction_abort(session), Status::SUCCESS);

    assert_eq!(engine.objects(), before);
    assert_eq!(classify(&engine, LAYER).filter_id, Some(kept));
    assert_eq!(engine.generation(layer::layer_by_name(AleFields::Headers, LAYER).unwrap().id), generation);
    assert_eq!(engine.provider_add(session, provider(1)), Status::SUCCESS);
}

#[test]
fn commit_makes_all_changes_at_once() {
    let (engine, session) = engine();
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    engine.filter_add(session, filter(ActionType::BLOCK)).unwrap();
    engine.filter_add(session, filter(ActionType::BLOCK)).unwrap();
    assert!(!classify(&engine, LAYER).blocked());
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert!(classify(&engine, LAYER).blocked());
    let layer = layer::layer_by_name(AleFields::Headers, LAYER).unwrap().id;
    assert_eq!(engine.generation(layer), 1, "one commit, one change");
}

#[test]
fn a_failed_call_does_not_abort() {
    let (engine, session) = engine();
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(1)), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(1)), Status::FWP_ALREADY_EXISTS);
    assert_eq!(engine.provider_add(session, provider(2)), Status::SUCCESS);
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert_eq!(engine.objects().providers.len(), 2);
}

#[test]
fn one_transaction_per_session() {
    let (engine, session) = engine();
    assert_eq!(engine.transaction_commit(session), Status::FWP_NO_TXN_IN_PROGRESS);
    assert_eq!(engine.transaction_abort(session), Status::FWP_NO_TXN_IN_PROGRESS);
    assert_eq!(engine.transaction_begin(session, 2), Status::FWP_INVALID_FLAGS);
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    assert_eq!(engine.transaction_begin(session, 0), Status::FWP_TXN_IN_PROGRESS);
    assert_eq!(engine.transaction_commit(session), Status::SUCCESS);
    assert_eq!(engine.transaction_commit(session), Status::FWP_NO_TXN_IN_PROGRESS);
}

#[test]
fn a_read_only_transaction_changes_nothing() {
    let (engine, session) = engine();
    assert_eq!(engine.transaction_begin(session, TXN_READ_ONLY), Status::SUCCESS);
    assert_eq!(engine.provider_add(session, provider(1)), Status::FWP_INCOMPATIBLE_TXN);
    let refused = engine.filter_add(session, filter(ActionType::BLOCK));
    assert_eq!(refused, Err(Status::FWP_INCOMPATIBLE_TXN));
    let reader = open_waiting(&engine, 10);
    assert_eq!(engine.transaction_begin(reader, TXN_READ_ONLY), Status::SUCCESS);
    let writer = open_waiting(&engine, 10);
    assert_eq!(engine.provider_add(writer, provider(1)), Status::FWP_TIMEOUT);
    assert_eq!(engine.transaction_commit(reader), Status::SUCCESS);
    assert_eq!(engine.transaction_abort(session), Status::SUCCESS);
    assert_eq!(engine.provider_add(writer, provider(1)), Status::SUCCESS);
}

#[test]
fn the_wait_for_the_lock_ends_with_a_timeout() {
    let options = Options { txn_wait: Duration::from_millis(30), ..Options::default() };
    assert_eq!(Options::default().txn_wait, Duration::from_secs(15));
    let engine = Engine::with_options(options);
    let owner = open(&engine);
    assert_eq!(engine.transaction_begin(owner, 0), Status::SUCCESS);
    for (session, least) in [(open_waiting(&engine, 0), 30), (open_waiting(&engine, 60), 60)] {
        for begin in [true, false] {
            let start = Instant::now();
            let status = if begin {
                engine.transaction_begin(session, 0)
            } else {
                engine.provider_add(session, provider(1))
            };
            assert_eq!(status, Status::FWP_TIMEOUT);
            assert!(start.elapsed() >= Duration::from_millis(least));
        }
    }
    assert_eq!(engine.transaction_commit(owner), Status::SUCCESS);
}

#[test]
fn a_waiting_session_goes_on_when_the_lock_is_free() {
    let (engine, owner) = engine();
    let waiting = open_waiting(&engine, u32::MAX);
    assert_eq!(engine.transaction_begin(owner, 0), Status::SUCCESS);
    thread::scope(|scope| {
        let other = scope.spawn(|| engine.provider_add(waiting, provider(1)));
        thread::sleep(Duration::from_millis(20));
        assert!(!other.is_finished());
        assert!(engine.objects().providers.is_empty());
        assert_eq!(engine.transaction_commit(owner), Status::SUCCESS);
        assert_eq!(other.join().unwrap(), Status::SUCCESS);
    });
}

#[test]
fn closing_a_session_aborts_its_transaction() {
    let (engine, session) = engine();
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    engine.filter_add(session, filter(ActionType::BLOCK)).unwrap();
    assert!(engine.objects().sessions[0].contains("transaction in progress"));
    assert_eq!(engine.close(session), Status::SUCCESS);
    assert_eq!(engine.objects(), Objects::default());
    assert_eq!(engine.provider_add(open(&engine), provider(1)), Status::SUCCESS);
}

#[test]
fn a_closed_handle_is_invalid() {
    let (engine, session) = engine();
    assert_eq!(engine.close(session), Status::SUCCESS);
    let invalid = Status::INVALID_HANDLE;
    assert_eq!(engine.close(session), invalid);
    assert_eq!(engine.transaction_begin(session, 0), invalid);
    assert_eq!(engine.transaction_commit(session), invalid);
    assert_eq!(engine.provider_add(session, provider(1)), invalid);
    assert_eq!(engine.filter_add(session, filter(ActionType::BLOCK)), Err(invalid));
}

#[test]
fn sessions_have_flags_and_keys() {
    let engine = Engine::new();
    let refused = engine.open(Session { flags: 2, ..Session::default() });
    assert_eq!(refused, Err(Status::FWP_INVALID_FLAGS));
    let named = Session { key: key(1), ..Session::default() };
    let first = engine.open(named.clone()).unwrap();
    assert_eq!(engine.open(named.clone()), Err(Status::FWP_ALREADY_EXISTS));
    assert_eq!(engine.close(first), Status::SUCCESS);
    assert!(engine.open(named).is_ok());
}

#[test]
fn a_dynamic_session_waits_for_the_lock_to_close() {
    let (engine, owner) = engine();
    let session = Session { flags: SESSION_FLAG_DYNAMIC, txn_wait_timeout_ms: 10, ..Session::default() };
    let dynamic = engine.open(session).unwrap();
    assert_eq!(engine.provider_add(dynamic, provider(1)), Status::SUCCESS);
    assert_eq!(engine.transaction_begin(owner, 0), Status::SUCCESS);
    assert_eq!(engine.close(dynamic), Status::FWP_TIMEOUT);
    assert_eq!(engine.transaction_commit(owner), Status::SUCCESS);
    assert_eq!(engine.close(dynamic), Status::SUCCESS);
    assert!(engine.objects().providers.is_empty());
}
