//! A second arbitration, written directly from the documents.
//!
//! It is slow and simple on purpose and shares nothing with the engine. It sorts
//! plain lists for each decision and follows *Filter Arbitration* and
//! `FWPS_CLASSIFY_OUT0` sentence by sentence.

use super::{AfterBlock, DiscardRights, Rule};

pub(super) const BLOCK: u32 = 0x1001;
pub(super) const PERMIT: u32 = 0x1002;
pub(super) const TERMINATING: u32 = 0x5003;
pub(super) const INSPECTION: u32 = 0x6004;
pub(super) const UNKNOWN: u32 = 0x4005;
pub(super) const CONTINUE: u32 = 0x2006;
const NONE: u32 = 7;
const NONE_NO_MATCH: u32 = 8;

/// A layer with its sublayers, filters and callouts.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// The weight of each sublayer.
    pub(super) sublayers: Vec<u16>,
    pub(super) filters: Vec<Filter>,
    /// `None` if not registered.
    pub(super) callouts: Vec<Option<Behaviour>>,
    pub(super) is_discard: bool,
    pub(super) is_stream: bool,
    pub(super) allows_absorb: bool,
    pub(super) after_block: AfterBlock,
    pub(super) discard_rights: DiscardRights,
}

#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) sublayer: usize,
    pub(super) weight: u64,
    pub(super) action: u32,
    /// The index of the callout, for callout actions.
    pub(super) callout: usize,
    pub(super) clear_action_right: bool,
    pub(super) permit_if_unregistered: bool,
    pub(super) conditions: Vec<Condition>,
}

/// Field (0 or 1), test, operand.
pub(super) type Condition = (usize, Test, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Greater,
    LessOrEqual,
    AllSet,
    NoneSet,
}

/// What a callout does to `FWPS_CLASSIFY_OUT0`, allowed or not.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    /// Writes this value, whatever the rights are, unless `polite`.
    pub(super) write: Option<u32>,
    /// Does not write without the right.
    pub(super) polite: bool,
    pub(super) clear_right: bool,
    pub(super) raise_right: bool,
    pub(super) absorb: bool,
    pub(super) conditional_on_flow: bool,
}

/// Action, rights, flags.
pub(super) type Out = (u32, u32, u32);

impl Behaviour {
    pub(super) fn run(&self, before: Out) -> Out {
        let (mut action, mut rights, mut flags) = before;
        if self.polite && rights == 0 {
            return before;
        }
        if let Some(write) = self.write {
            action = write;
        }
        if self.clear_right {
            rights = 0;
        }
        if self.raise_right {
            rights = 1;
        }
        if self.absorb {
            flags = 1;
        }
        (action, rights, flags)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) blocked: bool,
    pub(super) hard: bool,
    pub(super) absorbed: bool,
    /// The index of the filter that decided.
    pub(super) filter: Option<usize>,
    /// The filters whose callouts were called, in order, with their input.
    pub(super) calls: Vec<(usize, Out)>,
    pub(super) rules: Vec<Rule>,
}

pub(super) fn decide(world: &World, numbers: [u16; 2]) -> Outcome {
    let mut outcome = Outcome {
        blocked: false,
        hard: false,
        absorbed: false,
        filter: None,
        calls: Vec::new(),
        rules: Vec::new(),
    };
    // The action, and the right to write it, as on the page.
    let mut action = None;
    let mut right = true;
    if world.is_discard && world.discard_rights == DiscardRights::NoWrite {
        action = Some(PERMIT);
        right = false;
    }
    // "Evaluated in order of priority of sub-layers from highest to lowest."
    let mut sublayers: Vec<usize> = (0..world.sublayers.len()).collect();
    sublayers.sort_by_key(|index| -i64::from(world.sublayers[*index]));
    'sublayers: for sublayer in sublayers {
        // "Compute the list of matching filters ordered by weight."
        let mut list: Vec<usize> = (0..world.filters.len()).collect();
        list.retain(|index| world.filters[*index].sublayer == sublayer);
        list.retain(|index| all_conditions_hold(&world.filters[*index].conditions, numbers));
        list.sort_by_key(|index| u64::MAX - world.filters[*index].weight);
        // "Evaluate matching filters in order until Permit or Block."
        for index in list {
            let filter = &world.filters[index];
            let mut result = filter.action;
            let mut final_ = filter.clear_action_right;
            let mut veto = false;
            let mut absorb = false;
            let is_callout = ![BLOCK, PERMIT].contains(&filter.action);
            if is_callout {
                match &world.callouts[filter.callout] {
                    None if filter.action == INSPECTION => continue,
                    None if filter.permit_if_unregistered => result = PERMIT,
                    None => (result, final_) = (BLOCK, true),
                    // No flow has a context here.
                    Some(callout) if callout.conditional_on_flow => continue,
                    Some(callout) => {
                        // On entry it sees the action of the heavier sublayers.
                        let see = match action {
                            _ if world.is_stream && filter.action != INSPECTION => (0, 1, 0),
                            _ if world.is_stream => (CONTINUE, 1, 0),
                            None => (CONTINUE, 1, 0),
                            Some(action) => (action, u32::from(right), 0),
                        };
                        let did = callout.run(see);
                        outcome.calls.push((index, see));
                        // "Each non-inspection callout must set an action."
                        if world.is_stream && filter.action != INSPECTION && did.0 == 0 {
                            outcome.rules.push(Rule::NoStreamAction);
                        } else {
                            note_unknown_action(did, &mut outcome.rules);
                        }
                        note_broken_rules(world, see, did, &mut outcome.rules);
                        veto = see.1 == 0 && see.0 == PERMIT && did.0 == BLOCK;
                        // "May be written only while the right is held."
                        result = if see.1 == 1 || veto { did.0 } else { see.0 };
                        final_ = final_ || veto || did.1 == 0;
                        absorb = result == BLOCK && did.2 == 1 && world.allows_absorb;
                        match filter.action {
                            INSPECTION => result = CONTINUE,
                            TERMINATING if result != BLOCK && result != PERMIT => result = BLOCK,
                            _ => {}
                        }
                    }
                }
            } else if result == BLOCK {
                // "Block of a filter is hard by default."
                final_ = true;
            }
            if result != BLOCK && result != PERMIT {
                continue;
            }
            if world.is_stream {
                outcome.blocked = result == BLOCK;
                outcome.absorbed = absorb;
                outcome.filter = Some(index);
                if result == BLOCK {
                    return outcome;
                }
                if is_callout {
                    continue;
                }
                continue 'sublayers;
            }
            // A soft decision may be overridden; a hard permit may only be vetoed.
            let vetoed = action == Some(PERMIT) && !right && veto;
            if right || vetoed {
                action = Some(result);
                right = !final_;
                outcome.absorbed = absorb;
                outcome.filter = Some(index);
            }
            let blocked = action == Some(BLOCK);
            if world.after_block == AfterBlock::Stop && blocked {
                break 'sublayers;
            }
            if world.after_block == AfterBlock::StopWhenHard && blocked && !right {
                break 'sublayers;
            }
            continue 'sublayers;
        }
    }
    if !world.is_stream {
        outcome.blocked = action == Some(BLOCK);
        outcome.hard = !right;
    }
    outcome
}

/// Different fields are joined by AND, consecutive equal ones by OR.
fn all_conditions_hold(conditions: &[Condition], numbers: [u16; 2]) -> bool {
    let mut at = 0;
    while at < conditions.len() {
        let field = conditions[at].0;
        let mut any = false;
        while at < conditions.len() && conditions[at].0 == field {
            let (_, test, operand) = conditions[at];
            let number = numbers[field];
            any |= match test {
                Test::Equal => number == operand,
                Test::NotEqual => number != operand,
                Test::Greater => number > operand,
                Test::LessOrEqual => number <= operand,
                Test::AllSet => number & operand == operand,
                Test::NoneSet => number & operand == 0,
            };
            at += 1;
        }
        if !any {
            return false;
        }
    }
    true
}

fn note_unknown_action(did: Out, rules: &mut Vec<Rule>) {
    if ![BLOCK, PERMIT, CONTINUE, NONE, NONE_NO_MATCH].contains(&did.0) {
        rules.push(Rule::UnknownAction);
    }
}

fn note_broken_rules(world: &World, see: Out, did: Out, rules: &mut Vec<Rule>) {
    if see.1 == 0 {
        let veto = see.0 == PERMIT && did.0 == BLOCK;
        if see.0 != did.0 && !veto {
            rules.push(Rule::WriteWithoutRight);
        }
        if did.1 == 1 {
            rules.push(Rule::RightRaised);
        }
    }
    if did.2 == 1 && (!world.allows_absorb || did.0 != BLOCK) {
        rules.push(Rule::InvalidAbsorb);
    }
}
