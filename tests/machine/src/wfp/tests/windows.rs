//! Windows' own sublayers and callouts, and weights that are taken.

use super::*;

/// The weights of sublayers that ask for these, one after the other.
fn weights(taken_weight: TakenWeight, asked: &[u16]) -> Vec<u16> {
    let engine = Engine::with_options(Options { taken_weight, ..Options::default() });
    let session = open(&engine);
    for (number, &weight) in (1..).zip(asked) {
        assert_eq!(engine.sublayer_add(session, sublayer(number, weight)), Status::SUCCESS);
    }
    (1..).zip(asked).map(|(number, _)| weight(&engine, number)).collect()
}

fn weight(engine: &Engine, number: u128) -> u16 {
    engine.core.locked().store.sublayers[&key(number)].object.weight
}

#[test]
fn no_two_sublayers_have_one_weight() {
    // FWPM_SUBLAYER_UNIVERSAL has 0x8000, FWPM_SUBLAYER_LIPS 0x7fff; 0 to 7 are taken.
    let asked = [0x8000, 0x8000, 0xffff, 0xffff, 0xffff, 0, 100];
    assert_eq!(weights(TakenWeight::Above, &asked), [0x8001, 0x8002, 0xffff, 0xfffe, 0xfffd, 8, 100]);
    assert_eq!(weights(TakenWeight::Below, &asked), [0x7ffe, 0x7ffd, 0xffff, 0xfffe, 0xfffd, 8, 100]);
}

#[test]
fn a_deleted_sublayer_frees_its_weight() {
    let engine = Engine::new();
    let session = open(&engine);
    for number in [1, 2] {
        assert_eq!(engine.sublayer_add(session, sublayer(number, 500)), Status::SUCCESS);
    }
    assert_eq!(engine.sublayer_delete(session, key(1)), Status::SUCCESS);
    assert_eq!(engine.sublayer_add(session, sublayer(3, 500)), Status::SUCCESS);
    assert_eq!([2, 3].map(|number| weight(&engine, number)), [501, 500]);
}

#[test]
fn windows_own_callouts_exist_and_leave_no_trace() {
    let engine = Engine::new();
    let session = open(&engine);
    assert_eq!(facts::windows_callouts().count(), 48);
    for windows in facts::windows_callouts() {
        let again = Callout { key: windows.key, ..callout(1) };
        assert_eq!(engine.callout_add(session, again), Err(Status::FWP_ALREADY_EXISTS), "{}", windows.name);
        assert_eq!(engine.callout_delete(session, windows.key), Status::FWP_BUILTIN_OBJECT);
        let fake = Arc::new(Fake::new(|_, _, _| {}));
        let registered = engine.callout_register(windows.key, 0, fake);
        let expected = if windows.registered.is_some() { Err(Status::FWP_ALREADY_EXISTS) } else { Ok(()) };
        assert_eq!(registered.map(drop), expected, "{}", windows.name);
        if windows.registered.is_none() {
            assert_eq!(engine.callout_unregister_by_key(windows.key), Status::SUCCESS);
        }
    }
    engine.close(session).to_result().unwrap();
    assert_eq!(engine.objects(), Objects::default());
    assert!(engine.registered_callouts().is_empty());
}

/// What SILENT_DROP and a terminating filter of another callout of Windows' do with
/// packets that were discarded for a reason.
#[test]
fn silent_drop_drops_what_found_no_endpoint() {
    const DISCARD: &str = "INBOUND_TRANSPORT_V6_DISCARD";
    let discarded = |module, reason| Some(Discard { module, reason, filter_id: 0 });
    for (silent_drop, listener) in [(SilentDrop::NoEndpoint, false), (SilentDrop::Everything, true)] {
        let engine = Engine::with_options(Options { silent_drop, ..Options::default() });
        let session = open(&engine);
        let silent = Filter {
            layer: layer_key(DISCARD),
            sublayer: built_in("MPSSVC_WF"),
            callout: facts::guid("FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V6_SILENT_DROP"),
            ..filter(ActionType::CALLOUT_TERMINATING)
        };
        engine.filter_add(session, silent).unwrap();
        for (discard, dropped) in [
            (discarded(1, 4), true),
            (discarded(1, 30), true),
            (None, true),
            // A listener's segment, and a packet that a filter dropped.
            (discarded(1, 9), listener),
            (discarded(2, 0), listener),
        ] {
            let metadata = Metadata { discard, ..Metadata::default() };
            let decision = classify_with(&engine, DISCARD, &values(DISCARD, &[]), &metadata);
            assert_eq!((decision.blocked(), decision.hard), (dropped, dropped), "{discard:?}");
        }
        // A hard permit of a heavier sublayer is not overridden.
        assert_eq!(engine.sublayer_add(session, sublayer(1, 100)), Status::SUCCESS);
        let permit = Filter {
            layer: layer_key(DISCARD),
            sublayer: key(1),
            flags: FILTER_FLAG_CLEAR_ACTION_RIGHT,
            ..filter(ActionType::PERMIT)
        };
        engine.filter_add(session, permit).unwrap();
        let metadata = Metadata { discard: discarded(1, 4), ..Metadata::default() };
        let decision = classify_with(&engine, DISCARD, &values(DISCARD, &[]), &metadata);
        assert!(!decision.blocked() && decision.hard);
        assert!(engine.take_violations().is_empty());
    }
}

fn built_in(name: &str) -> Guid {
    facts::guid(&format!("FWPM_SUBLAYER_{name}")).unwrap()
}
