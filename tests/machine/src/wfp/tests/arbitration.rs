//! The rules of arbitration, one by one.

use super::*;

const BLOCK: ActionType = ActionType::BLOCK;
const PERMIT: ActionType = ActionType::PERMIT;
const CONTINUE: ActionType = ActionType::CONTINUE;
const UNKNOWN: ActionType = ActionType::CALLOUT_UNKNOWN;
const TERMINATING: ActionType = ActionType::CALLOUT_TERMINATING;
const INSPECTION: ActionType = ActionType::CALLOUT_INSPECTION;

/// One filter per sublayer, the heaviest one first.
struct Stack {
    engine: Arc<Engine>,
    session: SessionId,
    layer: &'static str,
    next: u16,
}

impl Stack {
    fn at(layer: &'static str, options: Options) -> Self {
        let engine = Engine::with_options(options);
        let session = open(&engine);
        Self { engine, session, layer, next: 0 }
    }

    fn new() -> Self {
        Self::at(LAYER, Options::default())
    }

    /// Adds a filter in a new, lighter sublayer. Returns its id.
    fn filter(&mut self, flags: u32, action: ActionType) -> u64 {
        self.add(Filter { flags, ..filter(action) })
    }

    /// Adds a filter with a callout of its own.
    fn callout(&mut self, flags: u32, action: ActionType, fake: Fake) -> (u64, Arc<Fake>) {
        let fake = Arc::new(fake);
        let number = u128::from(self.next) + 100;
        self.engine.callout_register(key(number), 0, fake.clone()).unwrap();
        (self.unregistered(flags, action), fake)
    }

    fn unregistered(&mut self, flags: u32, action: ActionType) -> u64 {
        let number = u128::from(self.next) + 100;
        let added = Callout { applicable_layer: layer_key(self.layer), ..callout(number) };
        self.engine.callout_add(self.session, added).unwrap();
        self.add(Filter { flags, ..callout_filter(action, number) })
    }

    fn add(&mut self, filter: Filter) -> u64 {
        self.next += 1;
        let number = u128::from(self.next);
        let own = sublayer(number, 1000 - self.next);
        assert_eq!(self.engine.sublayer_add(self.session, own), Status::SUCCESS);
        let layer = layer_key(self.layer);
        let placed = Filter { sublayer: key(number), layer, ..filter };
        self.engine.filter_add(self.session, placed).unwrap()
    }

    fn classify(&self) -> Decision {
        classify(&self.engine, self.layer)
    }

    fn rules(&self) -> Vec<Rule> {
        self.engine.take_violations().iter().map(|violation| violation.rule).collect()
    }
}

/// A callout that writes the action and clears the right.
fn final_(action: ActionType) -> Fake {
    Fake::new(move |_, _, out| {
        out.action = action;
        out.rights &= !RIGHT_ACTION_WRITE;
    })
}

#[test]
fn without_a_decision_the_engine_permits() {
    let decision = Stack::new().classify();
    assert!(!decision.blocked() && !decision.hard);
    assert_eq!(decision.filter_id, None);
}

#[test]
fn a_filters_block_is_hard_and_its_permit_soft() {
    let mut stack = Stack::new();
    let permit = stack.filter(0, PERMIT);
    assert_eq!((stack.classify().filter_id, stack.classify().hard), (Some(permit), false));
    let block = stack.filter(0, BLOCK);
    assert_eq!((stack.classify().filter_id, stack.classify().hard), (Some(block), true));
    stack.filter(0, PERMIT);
    assert_eq!(stack.classify().filter_id, Some(block));
}

#[test]
fn a_callouts_block_is_soft_and_can_be_overridden() {
    let mut stack = Stack::new();
    stack.callout(0, UNKNOWN, Fake::returning(BLOCK));
    let decision = stack.classify();
    assert!(decision.blocked() && !decision.hard);
    stack.filter(0, PERMIT);
    assert!(!stack.classify().blocked());
}

#[test]
fn a_callout_that_clears_the_right_is_final() {
    let mut stack = Stack::new();
    let (block, _) = stack.callout(0, UNKNOWN, final_(BLOCK));
    stack.filter(0, PERMIT);
    let decision = stack.classify();
    assert_eq!((decision.filter_id, decision.hard), (Some(block), true));
}

#[test]
fn clear_action_right_makes_a_permit_hard() {
    let mut stack = Stack::new();
    let permit = stack.filter(FILTER_FLAG_CLEAR_ACTION_RIGHT, PERMIT);
    stack.filter(0, BLOCK);
    let decision = stack.classify();
    assert_eq!((decision.filter_id, decision.hard), (Some(permit), true));
}

#[test]
fn only_a_veto_overrides_a_hard_permit() {
    let mut stack = Stack::new();
    stack.filter(FILTER_FLAG_CLEAR_ACTION_RIGHT, PERMIT);
    let (veto, _) = stack.callout(0, TERMINATING, Fake::returning(BLOCK));
    let decision = stack.classify();
    assert!(decision.blocked() && decision.hard);
    assert_eq!(decision.filter_id, Some(veto));
    let before = decision.invocations[0].before;
    assert_eq!((before.action, before.rights), (PERMIT, 0));
    assert_eq!(stack.rules(), []);
}

#[test]
fn a_callout_without_the_right_that_writes_nothing_changes_nothing() {
    let mut stack = Stack::new();
    let permit = stack.filter(FILTER_FLAG_CLEAR_ACTION_RIGHT, PERMIT);
    stack.callout(0, TERMINATING, Fake::new(|_, _, _| {}));
    assert_eq!(stack.classify().filter_id, Some(permit));
    assert_eq!(stack.rules(), []);
}

#[test]
fn writing_without_the_right_is_ignored_and_noted() {
    for written in [PERMIT, CONTINUE] {
        let mut stack = Stack::new();
        let block = stack.filter(0, BLOCK);
        let (_, fake) = stack.callout(0, UNKNOWN, Fake::returning(written));
        assert_eq!(stack.classify().filter_id, Some(block));
        assert_eq!(fake.calls(), 1);
        let violations = stack.engine.take_violations();
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].rule, Rule::WriteWithoutRight);
        assert_eq!(
            violations[0].layer,
            layer::layer_by_name(AleFields::Headers, LAYER).map(|layer| layer.id)
        );
        assert_eq!(violations[0].callout_id, Some(stack.classify().invocations[0].callout_id));
    }
}

#[test]
fn raising_the_right_is_noted_and_has_no_effect() {
    let mut stack = Stack::new();
    let block = stack.filter(0, BLOCK);
    stack.callout(0, UNKNOWN, Fake::new(|_, _, out| out.rights |= RIGHT_ACTION_WRITE));
    stack.filter(0, PERMIT);
    assert_eq!(stack.classify().filter_id, Some(block));
    assert_eq!(stack.rules(), [Rule::RightRaised]);
}

#[test]
fn within_a_sublayer_the_heaviest_decision_wins() {
    let mut stack = Stack::new();
    let block = stack.filter(0, BLOCK);
    let heavier = Filter { sublayer: key(1), weight: Value::Uint64(u64::MAX), ..filter(PERMIT) };
    let heavier = stack.engine.filter_add(stack.session, heavier).unwrap();
    assert_eq!(stack.classify().filter_id, Some(heavier));
    assert_eq!(stack.engine.filter_delete_by_id(stack.session, heavier), Status::SUCCESS);
    assert_eq!(stack.classify().filter_id, Some(block));
}

#[test]
fn inspection_never_decides() {
    let mut stack = Stack::new();
    let (_, fake) = stack.callout(0, INSPECTION, final_(BLOCK));
    let decision = stack.classify();
    assert_eq!((decision.blocked(), decision.filter_id), (false, None));
    assert_eq!(fake.calls(), 1);
}

#[test]
fn a_terminating_callout_that_does_not_decide_blocks() {
    for result in [CONTINUE, ActionType::NONE, ActionType::NONE_NO_MATCH, ActionType(99)] {
        let mut stack = Stack::new();
        stack.callout(0, TERMINATING, Fake::returning(result));
        assert!(stack.classify().blocked(), "{result:?}");
        let mut stack = Stack::new();
        stack.callout(0, UNKNOWN, Fake::returning(result));
        assert!(!stack.classify().blocked(), "{result:?}");
    }
}

#[test]
fn an_unregistered_callout_blocks_unless_told_otherwise() {
    const PERMIT_IF: u32 = FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED;
    for (action, flags, expected) in [
        (TERMINATING, 0, Some(true)),
        (UNKNOWN, 0, Some(true)),
        (TERMINATING, PERMIT_IF, Some(false)),
        (UNKNOWN, PERMIT_IF, Some(false)),
        (INSPECTION, 0, None),
    ] {
        let mut stack = Stack::new();
        let id = stack.unregistered(flags, action);
        let decision = stack.classify();
        assert_eq!(decision.filter_id, expected.map(|_| id), "{action:?} {flags}");
        assert_eq!(decision.blocked(), expected == Some(true), "{action:?} {flags}");
    }
}

#[test]
fn after_a_block_each_reading_does_as_it_says() {
    for (after_block, soft, hard) in
        [(AfterBlock::EvaluateAll, 1, 1), (AfterBlock::StopWhenHard, 1, 0), (AfterBlock::Stop, 0, 0)]
    {
        let options = Options { after_block, ..Options::default() };
        let mut stack = Stack::at(LAYER, options.clone());
        stack.callout(0, UNKNOWN, Fake::returning(BLOCK));
        let (_, later) = stack.callout(0, INSPECTION, Fake::new(|_, _, _| {}));
        assert!(stack.classify().blocked());
        assert_eq!(later.calls(), soft, "{after_block:?} soft");

        let mut stack = Stack::at(LAYER, options);
        stack.filter(0, BLOCK);
        let (_, later) = stack.callout(0, INSPECTION, Fake::new(|_, _, _| {}));
        assert!(stack.classify().blocked());
        assert_eq!(later.calls(), hard, "{after_block:?} hard");
    }
}

#[test]
fn a_discard_layer_can_start_with_or_without_the_right() {
    const DISCARD: &str = "INBOUND_TRANSPORT_V4_DISCARD";
    for (discard_rights, rights) in [(DiscardRights::Write, 1), (DiscardRights::NoWrite, 0)] {
        let options = Options { discard_rights, ..Options::default() };
        let mut stack = Stack::at(DISCARD, options.clone());
        stack.callout(0, TERMINATING, final_(BLOCK));
        let decision = stack.classify();
        assert!(decision.blocked() && decision.hard, "{discard_rights:?}");
        assert_eq!(decision.invocations[0].before.rights, rights);
        assert_eq!(stack.rules(), []);

        let mut elsewhere = Stack::at(LAYER, options);
        elsewhere.callout(0, TERMINATING, final_(BLOCK));
        assert_eq!(elsewhere.classify().invocations[0].before.rights, 1);
    }
}

#[test]
fn the_initial_action_type_is_an_option() {
    let options = Options { initial_action: ActionType::NONE, ..Options::default() };
    let mut stack = Stack::at(LAYER, options);
    stack.callout(0, UNKNOWN, Fake::new(|_, _, _| {}));
    assert_eq!(stack.classify().invocations[0].before.action, ActionType::NONE);
}

#[test]
fn absorb_counts_only_where_it_is_valid() {
    let absorbing = |action| {
        Fake::new(move |_, _, out: &mut ClassifyOut| {
            out.action = action;
            out.flags |= CLASSIFY_OUT_FLAG_ABSORB;
        })
    };
    let mut stack = Stack::new();
    stack.callout(0, UNKNOWN, absorbing(BLOCK));
    assert!(stack.classify().absorbed);
    assert_eq!(stack.rules(), []);

    let mut stack = Stack::new();
    stack.callout(0, UNKNOWN, absorbing(PERMIT));
    assert!(!stack.classify().absorbed);
    assert_eq!(stack.rules(), [Rule::InvalidAbsorb]);

    let mut stack = Stack::at("INBOUND_TRANSPORT_V4_DISCARD", Options::default());
    stack.callout(0, UNKNOWN, absorbing(BLOCK));
    let decision = stack.classify();
    assert!(decision.blocked() && !decision.absorbed);
    assert_eq!(stack.rules(), [Rule::InvalidAbsorb]);
}

#[test]
fn garbage_in_action_type_is_noted() {
    let mut stack = Stack::new();
    stack.callout(0, UNKNOWN, Fake::returning(TERMINATING));
    stack.classify();
    let violations = stack.engine.take_violations();
    assert_eq!(violations[0].rule, Rule::UnknownAction);
    assert!(violations[0].to_string().contains(LAYER), "{}", violations[0]);
    assert_eq!(stack.rules(), [], "violations are taken once");
}

#[test]
fn streams_are_a_chain_without_rights() {
    let mut stack = Stack::at("STREAM_V4", Options::default());
    stack.callout(0, UNKNOWN, final_(PERMIT));
    let (block, _) = stack.callout(0, UNKNOWN, final_(BLOCK));
    let (_, later) = stack.callout(0, UNKNOWN, Fake::returning(PERMIT));
    let decision = stack.classify();
    assert_eq!((decision.blocked(), decision.filter_id), (true, Some(block)));
    assert!(!decision.hard);
    assert_eq!(decision.invocations[1].before.rights, RIGHT_ACTION_WRITE);
    assert_eq!(later.calls(), 0, "blocked data goes no further");
    assert_eq!(stack.rules(), []);
}

#[test]
fn in_a_stream_a_callouts_permit_does_not_end_its_sublayer() {
    let mut stack = Stack::at("STREAM_V4", Options::default());
    stack.callout(0, UNKNOWN, Fake::returning(PERMIT));
    let (_, second) = stack.callout(0, UNKNOWN, Fake::returning(PERMIT));
    let same = Filter { sublayer: key(1), ..callout_filter(UNKNOWN, 101) };
    let same = Filter { layer: layer_key("STREAM_V4"), ..same };
    stack.engine.filter_add(stack.session, same).unwrap();
    stack.classify();
    assert_eq!(second.calls(), 2);
}

#[test]
fn the_callout_sees_the_filter_it_was_called_for() {
    let (engine, session, id) = with_callout(0, Fake::idle());
    let raw_context = 0x1234;
    let own = Filter { raw_context, ..callout_filter(INSPECTION, 1) };
    let filter_id = engine.filter_add(session, own).unwrap();
    let call = &classify(&engine, LAYER).invocations[0];
    assert_eq!((call.callout_id, call.callout_key, call.filter_id), (id, key(1), filter_id));
}
