//! The model's arbitration beside the engine's own.

use lab::explain::{Decider, Does, Facts, Known, Layer, load};
use machine::wfp::{ActionType, BfeState, Engine, LayerData, Metadata, Request, Value};
use proptest::prelude::*;

use super::written::*;

const SUBLAYERS: [&str; 3] = [
    "{00000000-0000-4000-8000-0000000000b1}",
    "{00000000-0000-4000-8000-0000000000b2}",
    "{00000000-0000-4000-8000-0000000000b3}",
];

proptest! {
    /// Where everything is known, there is one end, and it is the engine's.
    #[test]
    fn known_conditions_decide_as_the_engine_does(
        filters in prop::collection::vec((0..3_usize, any::<bool>(), any::<bool>(), 0..3_u8), 0..8),
        weights in Just([100_u16, 200, 300]).prop_shuffle(),
        protocol in 0..3_u8,
    ) {
        let mut written = Written::default();
        for (key, weight) in SUBLAYERS.into_iter().zip(weights) {
            written = written.sublayer(key, "one", weight);
        }
        for &(sublayer, block, clear, wanted) in &filters {
            let value = format!("<uint8>{wanted}</uint8>");
            let action = (if block { "BLOCK" } else { "PERMIT" }, "", if clear { "CLEAR_ACTION_RIGHT" } else { "NONE" });
            let conditions = [("IP_PROTOCOL", "LESS_OR_EQUAL", "FWP_UINT8", &*value)];
            written = written.filter(TRANSPORT_DISCARD, SUBLAYERS[sublayer], action, &conditions);
        }
        let state = written.state();
        let mut facts = Facts::default();
        facts.set("IP_PROTOCOL", Known::Value(Value::Uint8(protocol)));
        let outcome = Layer::new(&state, TRANSPORT_DISCARD, 0).outcome(&facts, Does::Continue);
        prop_assert_eq!(outcome.blocks.len() + outcome.permits.len(), 1, "{:?}", outcome);

        let engine = Engine::new();
        if !filters.is_empty() {
            let loaded = load(&state, &engine).unwrap();
            prop_assert_eq!((loaded.filters, loaded.left_out.len()), (filters.len(), 0));
        }
        let layer = engine.layer_by_name(TRANSPORT_DISCARD).unwrap();
        let mut values = vec![Value::Empty; layer.fields];
        values[layer.field("IP_PROTOCOL").unwrap()] = Value::Uint8(protocol);
        let metadata = Metadata::default();
        let request = Request { layer: layer.id, values: &values, metadata: &metadata, data: LayerData::None };
        let decision = engine.classify(&request);
        prop_assert_eq!(decision.action == ActionType::BLOCK, !outcome.blocks.is_empty(), "{:?}", outcome);
        let decider = *outcome.blocks.iter().chain(&outcome.permits).next().unwrap();
        prop_assert_eq!(decision.filter_id.is_none(), decider == Decider::Nobody);
    }
}

#[test]
fn a_state_is_played() {
    let user = ("ALE_USER_ID", "EQUAL", "FWP_SECURITY_DESCRIPTOR_TYPE", "<sd>O:LS</sd>");
    let written = Written::new().firewall().filter(TRANSPORT_DISCARD, FIREWALL, ("BLOCK", "", ""), &[user]);
    let engine = Engine::new();
    let loaded = load(&written.state(), &engine).unwrap();
    assert_eq!(loaded.filters, 3);
    assert_eq!(loaded.left_out.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [4]);
    assert!(loaded.to_string().contains("filter 4: ALE_USER_ID"), "{loaded}");
    let layer = engine.layer_by_name(TRANSPORT_DISCARD).unwrap();
    for (profile, blocked) in [(1, true), (2, false)] {
        let mut values = vec![Value::Empty; layer.fields];
        values[layer.field("FLAGS").unwrap()] = Value::Uint32(0);
        values[layer.field("PROFILE_ID").or(layer.field("CURRENT_PROFILE_ID")).unwrap()] =
            Value::Uint32(profile);
        let metadata = Metadata::default();
        let request =
            Request { layer: layer.id, values: &values, metadata: &metadata, data: LayerData::None };
        assert_eq!(engine.classify(&request).blocked(), blocked, "{profile}");
    }
}

/// A persistent filter outlives BFE, one for the boot stands in while it is stopped, and
/// the others come back with the services that made them.
#[test]
fn a_restart_of_bfe_keeps_the_filters() {
    const ONE: &str = SUBLAYERS[0];
    let written = Written::default()
        .sublayer(ONE, "one", 100)
        .filter(TRANSPORT_DISCARD, ONE, ("BLOCK", "", "BOOTTIME"), &[])
        .filter(TRANSPORT_DISCARD, ONE, ("PERMIT", "", "PERSISTENT"), &[])
        .filter("INBOUND_IPPACKET_V4_DISCARD", ONE, ("BLOCK", "", "NONE"), &[]);
    let engine = Engine::new();
    let loaded = load(&written.state(), &engine).unwrap();
    assert_eq!((loaded.filters, loaded.left_out.len()), (3, 0), "{loaded}");
    let blocked = |name: &str| {
        let layer = engine.layer_by_name(name).unwrap();
        let (values, metadata) = (vec![Value::Empty; layer.fields], Metadata::default());
        let request =
            Request { layer: layer.id, values: &values, metadata: &metadata, data: LayerData::None };
        let decision = engine.classify(&request);
        (decision.blocked(), decision.filter_id.is_some())
    };
    for _ in 0..2 {
        assert_eq!(blocked(TRANSPORT_DISCARD), (false, true), "the persistent filter");
        assert_eq!(blocked("INBOUND_IPPACKET_V4_DISCARD"), (true, true));
        engine.set_bfe_state(BfeState::Stopped);
        assert_eq!(blocked(TRANSPORT_DISCARD), (true, true), "the filter for the boot");
        assert_eq!(blocked("INBOUND_IPPACKET_V4_DISCARD"), (false, false));
        engine.set_bfe_state(BfeState::Running);
    }
}
