//! Compares the engine with the naive arbitration in random worlds.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::naive::{self, Behaviour, Outcome, Test, World};
use super::*;

/// Values of `actionType`; two of them are garbage.
const RESULTS: [u32; 7] = [naive::BLOCK, naive::PERMIT, naive::CONTINUE, 7, 8, 0x5003, 0xDEAD];
/// A plain layer, one without ABSORB, a discard layer, a stream layer.
const LAYERS: [&str; 4] =
    ["INBOUND_TRANSPORT_V4", "ALE_BIND_REDIRECT_V4", "INBOUND_TRANSPORT_V6_DISCARD", "STREAM_V4"];
/// The two fields that conditions test; all four layers have them.
const FIELDS: [&str; 2] = ["IP_LOCAL_PORT", "FLAGS"];

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let write = proptest::option::of(proptest::sample::select(&RESULTS));
    (write, any::<[bool; 3]>(), 0..8u8).prop_map(|(write, [polite, clear, absorb], rare)| Behaviour {
        write,
        polite,
        clear_right: clear,
        raise_right: rare == 0,
        absorb,
        conditional_on_flow: rare == 1,
    })
}

fn condition_of() -> impl Strategy<Value = naive::Condition> {
    use Test as T;
    let test =
        proptest::sample::select(&[T::Equal, T::NotEqual, T::Greater, T::LessOrEqual, T::AllSet, T::NoneSet]);
    (0..2usize, test, 0..4u16)
}

fn filter_of() -> impl Strategy<Value = naive::Filter> {
    let actions =
        [naive::BLOCK, naive::PERMIT, naive::TERMINATING, naive::INSPECTION, naive::UNKNOWN, naive::UNKNOWN];
    let action = proptest::sample::select(actions.to_vec());
    (0..4usize, 0..4u64, action, 0..3usize, any::<[bool; 2]>(), vec(condition_of(), 0..3)).prop_map(
        |(sublayer, weight, action, callout, [clear, permit], mut conditions)| {
            // The engine refuses duplicates, and conditions that are not grouped by
            // field.
            conditions.sort_by_key(|condition| condition.0);
            conditions.dedup();
            naive::Filter {
                sublayer,
                weight,
                action,
                callout,
                clear_action_right: clear,
                permit_if_unregistered: permit && [naive::TERMINATING, naive::UNKNOWN].contains(&action),
                conditions,
            }
        },
    )
}

fn world() -> impl Strategy<Value = (usize, World)> {
    let after_block =
        proptest::sample::select(&[AfterBlock::EvaluateAll, AfterBlock::StopWhenHard, AfterBlock::Stop]);
    let rights = proptest::sample::select(&[DiscardRights::Write, DiscardRights::NoWrite]);
    let callouts = vec(proptest::option::weighted(0.8, behaviour()), 3);
    let weights = Just(vec![1000, 2000, 3000, 4000]).prop_shuffle();
    (0..LAYERS.len(), weights, vec(filter_of(), 0..8), callouts, after_block, rights).prop_map(
        |(at, sublayers, filters, callouts, after_block, discard_rights)| {
            let world = World {
                sublayers,
                filters,
                callouts,
                is_discard: at == 2,
                is_stream: at == 3,
                allows_absorb: at == 0,
                after_block,
                discard_rights,
            };
            (at, world)
        },
    )
}

fn to_condition(&(field, test, operand): &naive::Condition) -> Condition {
    let match_type = match test {
        Test::Equal => MatchType::Equal,
        Test::NotEqual => MatchType::NotEqual,
        Test::Greater => MatchType::Greater,
        Test::LessOrEqual => MatchType::LessOrEqual,
        Test::AllSet => MatchType::FlagsAllSet,
        Test::NoneSet => MatchType::FlagsNoneSet,
    };
    condition(FIELDS[field], match_type, number(field, operand))
}

/// Ports are UINT16, flags UINT32.
fn number(field: usize, number: u16) -> Value {
    if field == 0 { Value::Uint16(number) } else { Value::Uint32(number.into()) }
}

/// Builds the world in an engine. Returns the run-time ids of the filters.
fn build(layer: &str, world: &World) -> (Arc<Engine>, Vec<u64>) {
    let engine = Engine::with_options(Options {
        after_block: world.after_block,
        discard_rights: world.discard_rights,
        ..Options::default()
    });
    let session = open(&engine);
    for (index, weight) in (1..).zip(&world.sublayers) {
        assert_eq!(engine.sublayer_add(session, sublayer(index, *weight)), Status::SUCCESS);
    }
    for (index, behaviour) in (1..).zip(&world.callouts) {
        let added = Callout { applicable_layer: layer_key(layer), ..callout(index) };
        engine.callout_add(session, added).unwrap();
        let Some(behaviour) = behaviour.clone() else {
            continue;
        };
        let flags = if behaviour.conditional_on_flow { CALLOUT_FLAG_CONDITIONAL_ON_FLOW } else { 0 };
        let fake = Fake::new(move |_, _, out| {
            let (action, rights, flags) = behaviour.run((out.action.0, out.rights, out.flags));
            *out = ClassifyOut { action: ActionType(action), rights, flags };
        });
        engine.callout_register(key(index), flags, Arc::new(fake)).unwrap();
    }
    let mut ids = Vec::new();
    for one in &world.filters {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let added = engine.filter_add(
            session,
            Filter {
                layer: layer_key(layer),
                sublayer: key(one.sublayer as u128 + 1),
                weight: Value::Uint64(one.weight),
                flags: flag(one.clear_action_right, FILTER_FLAG_CLEAR_ACTION_RIGHT)
                    | flag(one.permit_if_unregistered, FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED),
                conditions: one.conditions.iter().map(to_condition).collect(),
                ..callout_filter(ActionType(one.action), one.callout as u128 + 1)
            },
        );
        ids.push(added.unwrap());
    }
    (engine, ids)
}

fn run(layer: &str, engine: &Engine, ids: &[u64], numbers: [u16; 2]) -> Outcome {
    let known = [(FIELDS[0], number(0, numbers[0])), (FIELDS[1], number(1, numbers[1]))];
    let decision = classify_with(engine, layer, &values(layer, &known), &Metadata::default());
    let index = |id: u64| ids.iter().position(|known| *known == id).unwrap();
    let calls = decision.invocations.iter().map(|call| {
        let before = call.before;
        (index(call.filter_id), (before.action.0, before.rights, before.flags))
    });
    Outcome {
        blocked: decision.blocked(),
        hard: decision.hard,
        absorbed: decision.absorbed,
        filter: decision.filter_id.map(index),
        calls: calls.collect(),
        rules: engine.take_violations().iter().map(|violation| violation.rule).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_engine_decides_as_the_documents_say(
        (at, world) in world(),
        packets in vec([0..4u16, 0..4u16], 1..6),
    ) {
        let layer = LAYERS[at];
        let (engine, ids) = build(layer, &world);
        for numbers in packets {
            prop_assert_eq!(run(layer, &engine, &ids, numbers), naive::decide(&world, numbers));
        }
    }
}
