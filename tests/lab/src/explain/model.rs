//! Arbitration with what is not known left open.
//!
//! Conditions have three answers: yes, no, and not known. A callout of another
//! product may do anything. So a layer has a set of possible ends, and each end has
//! the deciders that can bring it about.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use machine::wfp::{ActionType, Guid, MatchType, Value, condition_holds, named_guid};

use super::state::{Condition, Filter, State, Sublayer};
use crate::hushport::SUBLAYER;

/// What is known of a field.
#[derive(Clone, Debug)]
pub enum Known {
    /// Its value.
    Value(Value),
    /// Some bits of a field of flags: their values, and which they are.
    Bits(u32, u32),
    /// A program's path. Volumes have other names in conditions, so that only what
    /// follows the volume is compared.
    Path(String),
}

/// What is known of a packet or an operation, by the field's `FWPM_CONDITION_*`.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    fields: BTreeMap<Guid, Known>,
    /// Whether the stack found no endpoint for the packet, which is why it discards it;
    /// `None` at a layer that discards nothing.
    pub no_endpoint: Option<bool>,
}

impl Facts {
    /// Notes a field, named without prefix.
    pub fn set(&mut self, field: &str, known: Known) {
        if let Some(key) = named_guid(&format!("FWPM_CONDITION_{field}")) {
            self.fields.insert(key, known);
        }
    }

    /// Whether a condition holds; `None` if that is not known.
    fn holds(&self, condition: &Condition) -> Option<bool> {
        let known = self.fields.get(&condition.field.guid?)?;
        let (match_type, wanted) = (condition.match_type?, condition.value.as_ref()?);
        match known {
            // Other types than the field's make the comparison meaningless.
            Known::Value(value) => {
                comparable(value, wanted).then(|| condition_holds(match_type, value, wanted))
            }
            Known::Bits(bits, known) => {
                flags(match_type, *bits, *known, u32::try_from(wanted.unsigned()?).ok()?)
            }
            Known::Path(path) => same_program(match_type, path, wanted),
        }
    }
}

fn comparable(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Uint32(_), Value::V4AddrMask(..)) | (Value::ByteArray16(_), Value::V6AddrMask(..)) => true,
        (_, Value::Range(ends)) => {
            ends.0.data_type() == value.data_type() && ends.1.data_type() == value.data_type()
        }
        _ => value.data_type() == wanted.data_type(),
    }
}

fn flags(match_type: MatchType, bits: u32, known: u32, wanted: u32) -> Option<bool> {
    let (set, clear) = (bits & known & wanted, !bits & known & wanted);
    let all_known = wanted & !known == 0;
    match match_type {
        MatchType::FlagsAllSet if clear != 0 => Some(false),
        MatchType::FlagsAnySet if set != 0 => Some(true),
        MatchType::FlagsNoneSet if set != 0 => Some(false),
        MatchType::FlagsAllSet => all_known.then_some(true),
        MatchType::FlagsAnySet => all_known.then_some(false),
        MatchType::FlagsNoneSet => all_known.then_some(true),
        _ => None,
    }
}

fn same_program(match_type: MatchType, path: &str, wanted: &Value) -> Option<bool> {
    let Value::ByteBlob(blob) = wanted else { return None };
    let units: Vec<u16> = blob.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let wanted = String::from_utf16(&units).ok()?;
    let same = behind_volume(path) == behind_volume(wanted.trim_end_matches('\0'));
    match match_type {
        MatchType::Equal | MatchType::EqualCaseInsensitive => Some(same),
        MatchType::NotEqual => Some(!same),
        _ => None,
    }
}

/// `\program files\a.exe` of `C:\Program Files\a.exe` and of
/// `\device\harddiskvolume3\program files\a.exe`.
fn behind_volume(path: &str) -> String {
    let path = path.to_lowercase();
    let device =
        path.strip_prefix("\\device\\").and_then(|rest| rest.find('\\').map(|at| rest[at..].to_owned()));
    let drive = || path.get(2..).filter(|_| path.as_bytes()[1] == b':').map(str::to_owned);
    device.or_else(drive).unwrap_or(path)
}

/// What a sublayer, and in the end a layer, can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Says {
    Nothing,
    /// A lighter sublayer can override it.
    SoftPermit,
    HardPermit,
    SoftBlock,
    HardBlock,
    /// A block that overrides a hard permit.
    Veto,
}

impl Says {
    fn blocks(self) -> bool {
        matches!(self, Self::SoftBlock | Self::HardBlock | Self::Veto)
    }

    fn is_hard(self) -> bool {
        matches!(self, Self::HardPermit | Self::HardBlock | Self::Veto)
    }
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decider {
    /// No filter: the engine permits.
    Nobody,
    /// hushport.
    Hushport,
    /// A filter, by its index in [`State::filters`].
    Filter(usize),
}

/// What hushport does at a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// It lets others decide.
    Continue,
    /// It blocks.
    Block,
    /// It permits, so that no lighter sublayer can block (`AnswerExempt`).
    Permit,
}

/// The possible ends at a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Who can block; empty if it is certain that nobody does.
    pub blocks: BTreeSet<Decider>,
    /// Who can permit.
    pub permits: BTreeSet<Decider>,
}

/// A filter that matches, or may.
#[derive(Clone, Debug)]
pub struct Match<'a> {
    /// Its index in [`State::filters`].
    pub filter: usize,
    /// Conditions of which it is not known whether they hold; if empty, it matches.
    pub unknown: Vec<&'a Condition>,
    says: Vec<Says>,
}

impl Match<'_> {
    /// What it can say, in words.
    pub fn verdicts(&self) -> Vec<&'static str> {
        let words = self.says.iter().map(|says| match says {
            Says::Nothing => "continue",
            Says::SoftPermit | Says::HardPermit => "permit",
            Says::SoftBlock | Says::HardBlock | Says::Veto => "block",
        });
        words.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// A layer's filters in order.
#[derive(Clone, Debug)]
pub struct Layer<'a> {
    state: &'a State,
    /// The sublayers with filters here, and hushport's, heaviest first.
    pub places: Vec<Place<'a>>,
    /// Sublayers that filters name and the file does not have.
    pub unknown_sublayers: BTreeSet<&'a str>,
}

/// A sublayer at a layer.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// `None` for hushport's, if it is not in the file.
    pub sublayer: Option<&'a Sublayer>,
    /// Its weight.
    pub weight: u16,
    /// Whether it is hushport's.
    pub is_hushport: bool,
    /// Its filters' indexes, heaviest first.
    pub filters: Vec<usize>,
}

impl<'a> Layer<'a> {
    /// The layer of a name without prefix. Where hushport is not in the file, it gets
    /// the weight `hushport`.
    pub fn new(state: &'a State, name: &str, hushport: u16) -> Self {
        let key = super::state::Key::new(&format!("FWPM_LAYER_{name}"));
        let mut here: Vec<_> =
            (0..state.filters.len()).filter(|&index| state.filters[index].layer == key).collect();
        here.sort_by_key(|&index| (Reverse(state.filters[index].weight), state.filters[index].id));
        let mut places: Vec<_> = state
            .sublayers
            .iter()
            .map(|sublayer| Place {
                sublayer: Some(sublayer),
                weight: sublayer.weight,
                is_hushport: sublayer.key.is(SUBLAYER),
                filters: here
                    .iter()
                    .copied()
                    .filter(|&index| state.filters[index].sublayer == sublayer.key)
                    .collect(),
            })
            .filter(|place| place.is_hushport || !place.filters.is_empty())
            .collect();
        if !places.iter().any(|place| place.is_hushport) {
            places.push(Place { sublayer: None, weight: hushport, is_hushport: true, filters: Vec::new() });
        }
        places.sort_by_key(|place| Reverse(place.weight));
        let placed: BTreeSet<_> = places.iter().flat_map(|place| place.filters.iter().copied()).collect();
        let lost = here.iter().filter(|index| !placed.contains(index));
        let unknown_sublayers = lost.map(|&index| &*state.filters[index].sublayer.text).collect();
        Self { state, places, unknown_sublayers }
    }

    /// Whether a filter's sublayer is heavier than hushport's.
    pub fn is_before_hushport(&self, filter: usize) -> bool {
        let own = self.places.iter().position(|place| place.is_hushport);
        self.places.iter().position(|place| place.filters.contains(&filter)) < own
    }

    /// The filters of a sublayer that match or may, up to the first that certainly
    /// decides.
    pub fn matches(&self, place: &Place<'_>, facts: &Facts) -> Vec<Match<'a>> {
        let mut matches = Vec::new();
        for &index in &place.filters {
            let filter = &self.state.filters[index];
            // The first is gone while BFE runs, the second waits for its provider.
            if filter.has_flag("BOOTTIME") || filter.has_flag("DISABLED") {
                continue;
            }
            let Some(unknown) = unknown_conditions(filter, facts) else { continue };
            let says = self.says(filter, facts);
            let is_last = unknown.is_empty() && !says.contains(&Says::Nothing);
            matches.push(Match { filter: index, unknown, says });
            if is_last {
                break;
            }
        }
        matches
    }

    /// What a filter that matches can say.
    fn says(&self, filter: &Filter, facts: &Facts) -> Vec<Says> {
        let clear = filter.has_flag("CLEAR_ACTION_RIGHT");
        let permit = if clear { Says::HardPermit } else { Says::SoftPermit };
        match filter.action {
            ActionType::PERMIT => return vec![permit],
            ActionType::BLOCK => return vec![Says::HardBlock],
            ActionType::CALLOUT_INSPECTION => return vec![Says::Nothing],
            _ => {}
        }
        let callout = self.state.callouts.iter().find(|callout| callout.key == filter.callout);
        if !callout.is_some_and(|callout| callout.registered) {
            let permits = filter.has_flag("PERMIT_IF_CALLOUT_UNREGISTERED");
            return vec![if permits { permit } else { Says::HardBlock }];
        }
        if is_silent_drop(filter) {
            // "Silently drops all incoming packets for which TCP does not have a listening
            // endpoint" (Built-in Callout Identifiers). As the engine's model of it.
            return vec![match (facts.no_endpoint, filter.action) {
                (Some(true) | None, _) => Says::HardBlock,
                (Some(false), ActionType::CALLOUT_TERMINATING) => permit,
                (Some(false), _) => Says::Nothing,
            }];
        }
        let mut says = vec![Says::SoftPermit, Says::HardPermit, Says::SoftBlock, Says::Veto];
        if filter.action == ActionType::CALLOUT_UNKNOWN {
            says.push(Says::Nothing);
        }
        says
    }

    /// The possible ends if hushport does this.
    pub fn outcome(&self, facts: &Facts, hushport: Does) -> Outcome {
        type Ends = BTreeMap<Says, BTreeSet<Decider>>;
        let mut current: Ends = Ends::from([(Says::Nothing, BTreeSet::from([Decider::Nobody]))]);
        for place in &self.places {
            let mut here = Ends::new();
            if place.is_hushport {
                let says = match hushport {
                    Does::Continue => Says::Nothing,
                    Does::Block => Says::HardBlock,
                    Does::Permit => Says::HardPermit,
                };
                here.insert(says, BTreeSet::from([Decider::Hushport]));
            } else {
                let matches = self.matches(place, facts);
                let ends = matches
                    .last()
                    .is_some_and(|last| last.unknown.is_empty() && !last.says.contains(&Says::Nothing));
                for found in matches {
                    for says in found.says.into_iter().filter(|&says| says != Says::Nothing) {
                        here.entry(says).or_default().insert(Decider::Filter(found.filter));
                    }
                }
                if !ends {
                    here.insert(Says::Nothing, BTreeSet::new());
                }
            }
            let mut next = Ends::new();
            for (&before, deciders) in &current {
                for (&says, others) in &here {
                    // hushport does not permit over a heavier sublayer's block.
                    let stands = place.is_hushport && says == Says::HardPermit && before.blocks();
                    let kept = says == Says::Nothing || before.is_hard() && says != Says::Veto || stands;
                    let (says, deciders) = if kept { (before, deciders) } else { (says, others) };
                    next.entry(says).or_default().extend(deciders);
                }
            }
            current = next;
        }
        let mut outcome = Outcome::default();
        for (says, deciders) in current {
            let side = if says.blocks() { &mut outcome.blocks } else { &mut outcome.permits };
            side.extend(deciders);
        }
        outcome
    }
}

/// Whether a filter leads to the callout that drops in silence.
pub fn is_silent_drop(filter: &Filter) -> bool {
    ["V4", "V6"].iter().any(|family| {
        named_guid(&format!("FWPM_CALLOUT_WFP_TRANSPORT_LAYER_{family}_SILENT_DROP"))
            .is_some_and(|key| filter.callout.is(key))
    })
}

/// The conditions of which nothing is known; `None` if the filter does not match.
/// Consecutive conditions on a field are joined by OR, others by AND.
fn unknown_conditions<'a>(filter: &'a Filter, facts: &Facts) -> Option<Vec<&'a Condition>> {
    let mut unknown = Vec::new();
    for group in filter.conditions.chunk_by(|one, other| one.field == other.field) {
        let answers: Vec<_> = group.iter().map(|condition| facts.holds(condition)).collect();
        if answers.contains(&Some(true)) {
            continue;
        }
        let open = group.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let open: Vec<_> = open.map(|(condition, _)| condition).collect();
        if open.is_empty() {
            return None;
        }
        unknown.extend(open);
    }
    Some(unknown)
}

/// Where hushport's sublayer would be: the weight it asks for, or if that is taken
/// the free ones nearby, above and below.
pub fn weights(state: &State, asked: u16) -> Vec<u16> {
    let taken: BTreeSet<_> = state.sublayers.iter().map(|sublayer| sublayer.weight).collect();
    if let Some(own) = state.sublayers.iter().find(|sublayer| sublayer.key.is(SUBLAYER)) {
        return vec![own.weight];
    }
    if !taken.contains(&asked) {
        return vec![asked];
    }
    let above = (asked..=u16::MAX).find(|weight| !taken.contains(weight));
    let below = (0..asked).rev().find(|weight| !taken.contains(weight));
    above.into_iter().chain(below).collect()
}
