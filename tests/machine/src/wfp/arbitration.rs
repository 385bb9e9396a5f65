//! Arbitration: decides from a layer's filters (*Filter Arbitration*).

use std::sync::Arc;

use super::callout::{CALLOUT_FLAG_CONDITIONAL_ON_FLOW, Entered, Slot};
use super::condition::Conditions;
use super::flow::Flow;
use super::{
    ActionType, AfterBlock, CLASSIFY_OUT_FLAG_ABSORB, ClassifyOut, Decision, DiscardRights, InjectedStream,
    Invocation, LayerInfo, NO_ACTION, Options, RIGHT_ACTION_WRITE, Request, Rule, RuntimeFilter, Violation,
};
use crate::driver::DriverId;

/// `FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT`.
pub(super) const RUNTIME_FLAG_CLEAR_ACTION_RIGHT: u16 = 1;
/// `FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED`.
pub(super) const RUNTIME_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u16 = 2;

/// A filter as classify sees it.
pub(super) struct ActiveFilter {
    pub(super) runtime: RuntimeFilter,
    pub(super) conditions: Conditions,
    /// Only for callout actions.
    pub(super) slot: Option<Arc<Slot>>,
}

/// The filters of a layer: sublayers by descending weight, and in each its filters
/// by descending weight.
pub(super) type Snapshot = Vec<Vec<Arc<ActiveFilter>>>;

/// The verdict of a filter, of a sublayer, or of the layer.
#[derive(Clone, Copy)]
struct Verdict {
    action: ActionType,
    hard: bool,
    absorbed: bool,
    /// A block after a hard permit, returned without the right to write.
    veto: bool,
    filter_id: Option<u64>,
}

/// The evaluation of a layer's filters.
pub(super) struct Run<'a> {
    pub(super) layer: &'static LayerInfo,
    pub(super) request: &'a Request<'a>,
    pub(super) options: &'a Options,
    pub(super) flow: Option<Arc<Flow>>,
    pub(super) violations: Vec<Violation>,
    pub(super) invocations: Vec<Invocation>,
}

impl Run<'_> {
    pub(super) fn decide(&mut self, snapshot: &Snapshot) -> Decision {
        let verdict = if self.layer.is_stream() { self.chain(snapshot) } else { self.arbitrate(snapshot) };
        Decision {
            action: verdict.map_or(ActionType::PERMIT, |verdict| verdict.action),
            hard: verdict.is_some_and(|verdict| verdict.hard),
            absorbed: verdict.is_some_and(|verdict| verdict.absorbed),
            filter_id: verdict.and_then(|verdict| verdict.filter_id),
            invocations: std::mem::take(&mut self.invocations),
        }
    }

    /// Evaluates all sublayers, heaviest first. A lighter one can override a soft
    /// verdict.
    fn arbitrate(&mut self, snapshot: &Snapshot) -> Option<Verdict> {
        let no_write = self.options.discard_rights == DiscardRights::NoWrite;
        let mut current = (self.layer.is_discard() && no_write).then_some(Verdict {
            action: ActionType::PERMIT,
            hard: true,
            absorbed: false,
            veto: false,
            filter_id: None,
        });
        for sublayer in snapshot {
            // The first filter that permits or blocks decides for its sublayer.
            let verdict = sublayer.iter().find_map(|filter| self.apply(filter, current));
            let Some(verdict) = verdict else { continue };
            current = Some(match current {
                Some(kept) if kept.hard && !verdict.veto => kept,
                _ => verdict,
            });
            let block = current.filter(|current| current.action == ActionType::BLOCK);
            let stop = match self.options.after_block {
                AfterBlock::EvaluateAll => false,
                AfterBlock::StopWhenHard => block.is_some_and(|block| block.hard),
                AfterBlock::Stop => block.is_some(),
            };
            if stop {
                break;
            }
        }
        current
    }

    /// The chain of the stream layers: every callout gets what the ones before it
    /// have passed on, and rights have no meaning (*Using a Callout for Deep
    /// Inspection*). A block ends the chain; a permit of a filter without a callout
    /// ends its sublayer (inferred). Streams are not buffered: NONE, which asks for
    /// more data, passes the data on.
    fn chain(&mut self, snapshot: &Snapshot) -> Option<Verdict> {
        let mut last = None;
        let injected_by = self.request.metadata.injected_by;
        let first = injected_by.map_or(Some((0, 0)), |callout| self.behind(snapshot, callout))?;
        for (number, sublayer) in snapshot.iter().enumerate().skip(first.0) {
            let from = if number == first.0 { first.1 } else { 0 };
            for filter in &sublayer[from..] {
                // Wherever else its filters are, the callout does not see its own data.
                let slot = filter.slot.as_ref().map(|slot| slot.id);
                if slot.is_some() && slot == injected_by {
                    continue;
                }
                let Some(verdict) = self.apply(filter, None) else {
                    continue;
                };
                let verdict = Verdict { hard: false, ..verdict };
                if verdict.action == ActionType::BLOCK {
                    return Some(verdict);
                }
                last = Some(verdict);
                if filter.slot.is_none() {
                    break;
                }
            }
        }
        last
    }

    /// Where stream data that a callout has injected go on: sublayer, and filter in it. `None`
    /// if no filter names the callout any more.
    fn behind(&self, snapshot: &Snapshot, callout: u32) -> Option<(usize, usize)> {
        let is_its = |filter: &Arc<ActiveFilter>| filter.slot.as_ref().is_some_and(|slot| slot.id == callout);
        let places = snapshot.iter().enumerate();
        let mut own = places.filter_map(|(at, sublayer)| Some((at, sublayer.iter().position(is_its)?)));
        own.next().map(|(sublayer, filter)| match self.options.injected_stream {
            InjectedStream::LighterSublayers => (sublayer + 1, 0),
            InjectedStream::LighterFilters => (sublayer, filter + 1),
        })
    }

    /// The verdict of a filter; `None` if it does not match, is skipped, or returns
    /// Continue.
    fn apply(&mut self, filter: &ActiveFilter, current: Option<Verdict>) -> Option<Verdict> {
        if !filter.conditions.hold(self.request.values) {
            return None;
        }
        let runtime = &filter.runtime;
        let clear = runtime.flags & RUNTIME_FLAG_CLEAR_ACTION_RIGHT != 0;
        let of_filter = |action| Verdict {
            action,
            hard: clear || action == ActionType::BLOCK,
            absorbed: false,
            veto: false,
            filter_id: Some(runtime.filter_id),
        };
        let Some(slot) = &filter.slot else {
            return Some(of_filter(runtime.action));
        };
        let Some(callout) = slot.enter() else {
            let permit = runtime.flags & RUNTIME_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED != 0;
            return match runtime.action {
                ActionType::CALLOUT_INSPECTION => None,
                _ if permit => Some(of_filter(ActionType::PERMIT)),
                _ => Some(of_filter(ActionType::BLOCK)),
            };
        };
        let (before, after) = self.invoke(slot, &callout, runtime, current)?;
        self.judge((callout.driver.owner(), slot.id), runtime.action, before, after);
        let result = verdict_of_callout(runtime, before, after)?;
        Some(Verdict { absorbed: result.absorbed && self.layer.allows_absorb(), ..result })
    }

    /// Calls `classifyFn`; `None` if CONDITIONAL_ON_FLOW skips it.
    fn invoke(
        &mut self,
        slot: &Slot,
        callout: &Entered<'_>,
        filter: &RuntimeFilter,
        current: Option<Verdict>,
    ) -> Option<(ClassifyOut, ClassifyOut)> {
        let layer = self.layer.id;
        let flow = self.flow.clone().filter(|_| callout.driver.has_flow_delete());
        let context = flow.as_ref().map_or(0, |flow| flow.begin_classify(layer, slot.id));
        let skipped = callout.flags & CALLOUT_FLAG_CONDITIONAL_ON_FLOW != 0 && context == 0;
        let called = (!skipped).then(|| {
            // A callout sees the action of the heavier sublayers, and whether it may
            // write another.
            let so_far = current.map_or(self.options.initial_action, |current| current.action);
            let before = ClassifyOut {
                action: if self.must_act(filter.action) { NO_ACTION } else { so_far },
                rights: if current.is_some_and(|current| current.hard) { 0 } else { RIGHT_ACTION_WRITE },
                flags: 0,
            };
            let mut after = before;
            callout.driver.classify(self.request, filter, context, &mut after);
            (before, after)
        });
        if let Some(flow) = flow {
            flow.end_classify(layer, callout, slot.id);
        }
        let (before, after) = called?;
        self.invocations.push(Invocation {
            callout_id: slot.id,
            callout_key: slot.key,
            filter_id: filter.filter_id,
            before,
            after,
        });
        Some((before, after))
    }

    /// Whether the callout of a filter must set an action, whatever it decides
    /// (*Using a Callout for Deep Inspection*).
    fn must_act(&self, action: ActionType) -> bool {
        self.layer.is_stream() && action != ActionType::CALLOUT_INSPECTION
    }

    /// Reports the rules that the callout has broken: those of `FWPS_CLASSIFY_OUT0`,
    /// and two of Microsoft's CodeQL queries for callout drivers.
    fn judge(
        &mut self,
        (driver, callout_id): (DriverId, u32),
        of_filter: ActionType,
        before: ClassifyOut,
        after: ClassifyOut,
    ) {
        let forgot = self.must_act(of_filter) && after.action == NO_ACTION;
        let mut note = |rule, text: String| {
            let (callout_id, layer) = (Some(callout_id), Some(self.layer.id));
            self.violations.push(Violation { driver, callout_id, layer, rule, text });
        };
        let held = before.rights & RIGHT_ACTION_WRITE != 0;
        let (from, to) = (before.action.0, after.action.0);
        if forgot {
            note(Rule::NoStreamAction, "actionType is not set".into());
        } else if !is_return_value(after.action) {
            note(Rule::UnknownAction, format!("actionType {to:#x} is not a value that a callout may return"));
        }
        if !held && before.action != after.action && !is_veto(before, after) {
            note(
                Rule::WriteWithoutRight,
                format!("actionType {from:#x} became {to:#x} without the right to write it"),
            );
        }
        if !held && after.rights & RIGHT_ACTION_WRITE != 0 {
            note(Rule::RightRaised, "the right to write actionType was set again".into());
        }
        let of_flow = self.layer.name.starts_with("ALE_FLOW_ESTABLISHED_") && !self.layer.is_discard();
        if of_flow && held && after.action == ActionType::BLOCK && before.action != ActionType::BLOCK {
            note(Rule::BlockedFlow, "the connection is closed".into());
        }
        if after.flags & CLASSIFY_OUT_FLAG_ABSORB != 0 {
            if !self.layer.allows_absorb() {
                note(Rule::InvalidAbsorb, "ABSORB is not valid at this layer".into());
            } else if after.action != ActionType::BLOCK {
                note(Rule::InvalidAbsorb, format!("ABSORB without a block (actionType {to:#x})"));
            }
        }
    }
}

/// Whether `FWPS_CLASSIFY_OUT0` allows a callout to return this value.
fn is_return_value(action: ActionType) -> bool {
    [ActionType::BLOCK, ActionType::PERMIT, ActionType::CONTINUE, ActionType::NONE, ActionType::NONE_NO_MATCH]
        .contains(&action)
}

fn is_veto(before: ClassifyOut, after: ClassifyOut) -> bool {
    before.rights & RIGHT_ACTION_WRITE == 0
        && before.action == ActionType::PERMIT
        && after.action == ActionType::BLOCK
}

/// The verdict of a callout's result, which depends on the filter's action type
/// (`FWPS_ACTION0`). A write without the right does not count.
fn verdict_of_callout(filter: &RuntimeFilter, before: ClassifyOut, after: ClassifyOut) -> Option<Verdict> {
    let held = before.rights & RIGHT_ACTION_WRITE != 0;
    let veto = is_veto(before, after);
    let result = if held || veto { after.action } else { before.action };
    let action = match (filter.action, result) {
        (ActionType::CALLOUT_INSPECTION, _) => return None,
        (_, ActionType::BLOCK | ActionType::PERMIT) => result,
        (ActionType::CALLOUT_TERMINATING, _) => ActionType::BLOCK,
        _ => return None,
    };
    Some(Verdict {
        action,
        hard: veto
            || filter.flags & RUNTIME_FLAG_CLEAR_ACTION_RIGHT != 0
            || after.rights & RIGHT_ACTION_WRITE == 0,
        absorbed: result == ActionType::BLOCK && after.flags & CLASSIFY_OUT_FLAG_ABSORB != 0,
        veto,
        filter_id: Some(filter.filter_id),
    })
}
