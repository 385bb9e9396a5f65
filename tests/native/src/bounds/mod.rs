//! Indications that are too short or have wrong lengths, at every callout.
//!
//! Everything that a callout gets ends at a guard page, so that it faults if it reads one
//! byte too many. [`Expected`] has the expected verdict, from the documents.

mod expected;
mod fields;
mod headers;
mod packets;
mod plain;

use hushport_native_driver::logic::callouts::CALLOUTS;
use hushport_native_driver::logic::stealth::Verdict;
use machine::nt::fwp::hostile::Indication;
use machine::nt::types::FWPS_CLASSIFY_OUT0;
use machine::wfp::{ActionType, RIGHT_ACTION_WRITE};

use crate::builds::Callout;

pub use expected::{Read, SETUPS, Setup};
pub use plain::{KINDS, Kind};

use plain::Plain;

/// An indication and its expected verdict.
#[derive(Clone, Debug)]
pub struct Case {
    /// The difference.
    pub name: String,
    /// The indication.
    pub indication: Indication,
    /// The expected count.
    pub expected: Expected,
}

/// The count of a callout for an indication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these verdicts, once.
    OneOf(Vec<Verdict>),
    /// Nothing, because the indication does not name its layer.
    Nothing,
}

/// All cases of a kind at a callout.
pub fn cases(callout: &Callout, setup: &Setup, kind: Kind) -> Vec<Case> {
    let plain = Plain::new(callout.layer, kind);
    let mut cases = Cases { setup, plain: &plain, cases: Vec::new() };
    cases.add("nothing amiss", plain.indication.clone(), Read::all());
    fields::add(&mut cases);
    if plain.packet.is_some() {
        packets::add(&mut cases);
        headers::add(&mut cases);
    }
    cases.cases
}

/// The number of the callout at a layer, as in the driver's counters.
///
/// # Panics
/// If the driver has no callout there.
pub fn number(callout: &Callout) -> usize {
    let at = CALLOUTS.iter().position(|known| known.layer_id == callout.layer.id.0);
    at.expect("the driver's table has the layer")
}

/// Compares the decision and the counters with a case.
///
/// # Errors
/// The difference.
pub fn check(case: &Case, counted: &[u64], after: Option<FWPS_CLASSIFY_OUT0>) -> Result<(), String> {
    let verdicts: Vec<_> = counted.iter().enumerate().filter(|(_, count)| **count != 0).collect();
    let blocked = match (&case.expected, &verdicts[..]) {
        (Expected::Nothing, []) => false,
        (Expected::OneOf(these), [(verdict, 1)]) if these.iter().any(|one| *one as usize == *verdict) => {
            *verdict == Verdict::Silenced as usize
        }
        _ => return Err(format!("counted {verdicts:?}, expected {:?}", case.expected)),
    };
    let (Some(before), Some(after)) = (case.indication.out, after) else { return Ok(()) };
    let (action, rights) = match blocked {
        true => (ActionType::BLOCK.0, before.rights & !RIGHT_ACTION_WRITE),
        false => (ActionType::CONTINUE.0, before.rights),
    };
    let others = |out: FWPS_CLASSIFY_OUT0| (out.outContext, out.filterId, out.flags, out.reserved);
    let is_right = (after.actionType, after.rights, others(after)) == (action, rights, others(before));
    if is_right { Ok(()) } else { Err(format!("answered {after:?}")) }
}

/// The cases, while they are made.
struct Cases<'a> {
    setup: &'a Setup,
    plain: &'a Plain,
    cases: Vec<Case>,
}

impl Cases<'_> {
    /// Adds an indication of which these parts can be read.
    fn add(&mut self, name: impl Into<String>, indication: Indication, read: Read) {
        self.add_either(name, indication, &[read]);
    }

    /// Adds an indication with several permitted verdicts: no document decides.
    fn add_either(&mut self, name: impl Into<String>, indication: Indication, read: &[Read]) {
        let verdicts = read.iter().map(|read| self.setup.verdict(self.plain, read)).collect();
        self.put(name, indication, Expected::OneOf(verdicts));
    }

    fn put(&mut self, name: impl Into<String>, indication: Indication, expected: Expected) {
        self.cases.push(Case { name: name.into(), indication, expected });
    }
}
