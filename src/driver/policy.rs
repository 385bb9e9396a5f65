//! The policy that holds, and how the registry's values become one.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::events;
use crate::kernel::current::{Current, Reading};
use crate::kernel::entry::DriverObject;
use crate::kernel::etw::Channel;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox};
use crate::kernel::registry::{Key, Room, ValueError};
use crate::kernel::status::Result;
use crate::kernel::watch::Follow;
use crate::logic::policy::{Exemptions, Policy, Reason, Rejected, VALUES, Value};

/// The policy that classifies go by, and what became of the values.
#[repr(C)]
pub struct Policies {
    report: Report,
    current: Current<Applied>,
}

/// A policy with the memory that its lists are in.
pub struct Applied {
    policy: Policy<'static>,
    exemptions: Option<PoolBox<Exemptions>>,
}

/// What became of the values.
///
/// In a debugger: the fifth word of `Shared` (see `Counters`) leads to a count
/// of owners, and this lies behind it.
#[derive(Default)]
#[repr(C)]
struct Report {
    /// Policies that have been put in force.
    applied: AtomicU32,
    /// Values that have been refused.
    rejected: AtomicU32,
    /// The last of them: from the lowest byte its place in `VALUES`, its
    /// `Reason`, and in two bytes its entry.
    last_rejected: AtomicU64,
    /// What was refused when the registry was last read, by place in `VALUES`:
    /// the reason, and from the ninth bit on the entry; 0 where nothing was.
    refused: [AtomicU64; VALUES.len()],
    /// Then the last policy stayed, not only the defaults of those values.
    kept: AtomicBool,
}

/// Why it is said which policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The driver has started.
    Start,
    /// The registry has changed.
    Change,
    /// A session has asked.
    Rundown,
}

impl Policies {
    /// The policy that `Parameters` holds. There is none yet that could stay in
    /// force, so a value that is refused means its default, and the others
    /// mean what they say.
    pub fn start(object: &DriverObject, irql: &Passive) -> Result<Self> {
        let report = Report::default();
        let key = Key::parameters(object, irql)?;
        let (applied, _refused) = read(key.as_ref(), &report, irql)?;
        report.applied.store(1, Ordering::Relaxed);
        Ok(Self { report, current: Current::new(PoolBox::new(applied)?, irql)? })
    }

    /// What holds now.
    pub fn current<'a>(&'a self, irql: &'a MaxDispatch) -> Option<Reading<'a, Applied>> {
        self.current.read(irql)
    }

    /// How many policies have been in force, with this one.
    pub fn number(&self) -> u32 {
        self.report.applied.load(Ordering::Relaxed)
    }

    /// Reason and entry of what was refused when the registry was last read, in
    /// the order of `VALUES`.
    pub fn refused(&self) -> impl Iterator<Item = Option<(u8, u32)>> {
        let refused = self.report.refused.iter().map(|refused| refused.load(Ordering::Relaxed));
        refused.map(|refused| (refused != 0).then_some((refused as u8, (refused >> 8) as u32)))
    }

    /// Whether the last policy stayed then, and not only the defaults of those
    /// values.
    pub fn keeps_the_last(&self) -> bool {
        self.report.kept.load(Ordering::Relaxed)
    }
}

/// Keeps the policies up with the registry.
pub struct Reload(pub PoolArc<Policies>, pub PoolArc<Channel>);

impl Follow for Reload {
    /// Where a value is refused, the last good policy stays as a whole: half of
    /// what an administrator meant is nothing that anybody meant. It stays,
    /// too, where there is no memory for another.
    fn follow(&self, key: Option<&Key>, irql: &Passive) {
        let Self(policies, channel) = self;
        policies.report.kept.store(true, Ordering::Relaxed);
        let Ok((applied, 0)) = read(key, &policies.report, irql) else {
            return events::rejected(channel, Occasion::Change, policies, irql);
        };
        if let Ok(applied) = PoolBox::new(applied) {
            policies.current.replace(applied, irql);
            policies.report.applied.fetch_add(1, Ordering::Relaxed);
            events::policy(channel, Occasion::Change, policies, irql);
        }
    }
}

impl Applied {
    /// The policy without its lists, to be kept.
    pub fn values(&self) -> Policy<'static> {
        self.policy
    }

    /// The policy, lists and all.
    pub fn policy(&self) -> Policy<'_> {
        Policy { exemptions: self.exemptions.as_deref(), ..self.policy }
    }
}

/// Reads every value into a policy of its own. An absent value, or one that is
/// refused, means the default; says how many were refused.
fn read(key: Option<&Key>, report: &Report, irql: &Passive) -> Result<(Applied, usize)> {
    let (mut policy, mut refused) = (Policy::DEFAULT, 0);
    report.refused.iter().for_each(|refused| refused.store(0, Ordering::Relaxed));
    let Some(key) = key else {
        return Ok((Applied { policy, exemptions: None }, refused));
    };
    let mut room = PoolBox::<Room>::zeroed()?;
    let mut exemptions = PoolBox::<Exemptions>::zeroed()?;
    for value in &VALUES {
        let parsed = match key.value(value.name, &mut room, irql) {
            Ok(Some(data)) => value.parse(data.kind, data.bytes, &mut policy, &mut exemptions),
            Ok(None) => Ok(()),
            Err(ValueError::TooLong) => Err(value.rejected(Reason::TooLong)),
            Err(ValueError::Unreadable(_)) => Err(value.rejected(Reason::Unreadable)),
        };
        if let Err(rejected) = parsed {
            report.reject(value, rejected);
            refused += 1;
        }
    }
    let exemptions = (!exemptions.is_empty()).then_some(exemptions);
    Ok((Applied { policy, exemptions }, refused))
}

impl Report {
    fn reject(&self, value: &Value, rejected: Rejected) {
        let place = VALUES.iter().position(|other| core::ptr::eq(other, value)).unwrap_or(VALUES.len());
        let (reason, entry) = (rejected.reason as u64, u64::from(rejected.entry));
        if let Some(refused) = self.refused.get(place) {
            refused.store(reason | entry << 8, Ordering::Relaxed);
        }
        self.last_rejected.store(place as u64 | reason << 8 | entry << 16, Ordering::Relaxed);
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }
}
