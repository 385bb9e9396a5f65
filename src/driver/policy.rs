//! The policy that holds, and how the registry's values become one.

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::events;
use super::filtering::Filtering;
use super::shared::Shared;
use crate::kernel::clock;
use crate::kernel::current::{Current, Reading};
use crate::kernel::entry::DriverObject;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox};
use crate::kernel::registry::{Key, Room, ValueError};
use crate::kernel::status::Result;
use crate::kernel::watch::Follow;
use crate::logic::policy::values::mode;
use crate::logic::policy::{Exemptions, Mode, Policy, Reason, Rejected, VALUES, Value};
use crate::logic::stealth::Rules;

/// The policy that classifies go by, and what became of the values.
#[repr(C)]
pub struct Policies {
    report: Report,
    current: Current<Applied>,
    /// What can be asked before anything else is, see [`Standing`].
    standing: AtomicU32,
    last_watch: AtomicU16,
}

/// The policy in one word: its [`Rules`], and above them the number of the watch
/// over the order of layers that is on, 0 for none. What is watched knows by
/// that number whether it missed a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing(u32);

impl Standing {
    const fn new(rules: Rules, order_watch: u16) -> Self {
        Self((order_watch as u32) << u16::BITS | rules.bits() as u32)
    }

    /// What packets ask the policy, where they need no lists for it.
    #[inline(always)]
    pub const fn rules(self) -> Rules {
        Rules::of_bits(self.0 as u16)
    }

    /// Whether its rules are all that a verdict needs: there are no lists of
    /// exemptions, and no order is checked.
    #[inline(always)]
    pub const fn is_only_rules(self) -> bool {
        self.0 & !(Rules::WITHOUT_LISTS as u32) == 0
    }

    /// The watch that is on, 0 for none.
    #[inline(always)]
    pub const fn order_watch(self) -> u16 {
        (self.0 >> u16::BITS) as u16
    }
}

/// A policy with the memory that its lists are in.
pub struct Applied {
    /// The [`Rules`] as a number. They hold the mode that is in force, which
    /// can change alone, see [`Applied::switch`].
    rules: AtomicU16,
    policy: Policy,
    exemptions: Option<PoolBox<Exemptions>>,
}

/// What became of the values.
///
/// In a debugger: the fifth word of [`Shared`] leads to a count
/// of owners, and this lies behind it.
#[derive(Default)]
#[repr(C)]
struct Report {
    /// Policies that have been put in force.
    applied: AtomicU32,
    /// What was refused when the registry was last read, by place in `VALUES`:
    /// the reason, and from the ninth bit on the entry; 0 where nothing was.
    refused: [AtomicU64; VALUES.len()],
    /// What is in force where something was refused: a [`Holds`].
    holds: AtomicU8,
}

/// What is in force where a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Holds {
    /// The defaults of the refused values, and the other values as set.
    Default,
    /// The policy from before, as a whole.
    LastPolicy,
    /// The policy from before with the registry's `Mode`, which is 0 or 1.
    LastPolicyExceptMode,
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
        let (rules, check_order) = (applied.rules(), applied.policy.check_order);
        let policies = Self {
            report,
            current: Current::new(PoolBox::new(applied)?, irql)?,
            standing: AtomicU32::new(Standing::new(rules, 0).0),
            last_watch: AtomicU16::new(0),
        };
        policies.stand(rules, check_order);
        Ok(policies)
    }

    /// The policy in one word.
    #[inline(always)]
    pub fn standing(&self) -> Standing {
        Standing(self.standing.load(Ordering::Relaxed))
    }

    /// The word of a policy; changed by one thread at a time.
    fn stand(&self, rules: Rules, check_order: bool) {
        let order_watch = match (check_order, self.standing().order_watch()) {
            (false, _) => 0,
            (true, 0) => {
                let next = self.last_watch.load(Ordering::Relaxed).wrapping_add(1).max(1);
                self.last_watch.store(next, Ordering::Relaxed);
                next
            }
            (true, watch) => watch,
        };
        self.standing.store(Standing::new(rules, order_watch).0, Ordering::Relaxed);
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

    /// What has been in force since then, where something was refused.
    pub fn holds(&self) -> Holds {
        match self.report.holds.load(Ordering::Relaxed) {
            holds if holds == Holds::LastPolicy as u8 => Holds::LastPolicy,
            holds if holds == Holds::LastPolicyExceptMode as u8 => Holds::LastPolicyExceptMode,
            _ => Holds::Default,
        }
    }

    /// Puts a mode in force beside all else that is. Returns whether that
    /// changed anything.
    fn switch(&self, mode: Mode, irql: &Passive) -> bool {
        let Some(current) = self.current(irql) else { return false };
        if current.rules().mode() == mode {
            return false;
        }
        current.switch(mode);
        self.stand(current.rules(), current.policy.check_order);
        self.report.applied.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// Keeps the policies up with the registry, looks who scans in between, and
/// says what was counted.
pub struct Reload {
    shared: PoolArc<Shared>,
    /// Which filters there are depends on the policy.
    pub filtering: PoolArc<Filtering>,
    /// When the counters were said last, in milliseconds.
    counters_said: AtomicU64,
}

/// A look for scans comes at most so often, and at least: milliseconds.
const LOOKS: RangeInclusive<u32> = 10..=10_000;

/// Milliseconds from one saying of the counters to the next.
const COUNTERS_EVERY: u64 = 10_000;

impl Reload {
    /// Nothing is followed yet.
    pub fn new(shared: PoolArc<Shared>, filtering: PoolArc<Filtering>) -> Self {
        Self { shared, filtering, counters_said: AtomicU64::new(clock::milliseconds()) }
    }

    /// Says that the driver runs, and by which policy.
    pub fn started(&self, irql: &Passive) {
        let Shared { channel, policies, .. } = &*self.shared;
        events::policy(channel, Occasion::Start, policies, irql);
        events::started(channel, Occasion::Start, irql);
    }

    /// Puts a good policy in force.
    fn replace(&self, applied: PoolBox<Applied>, irql: &Passive) {
        let Shared { policies, channel, .. } = &*self.shared;
        let (policy, rules) = (applied.values(), applied.rules());
        // First the word, so that no packet uses the old one after the old policy
        // has been freed.
        policies.stand(rules, policy.check_order);
        policies.current.replace(applied, irql);
        policies.report.applied.fetch_add(1, Ordering::Relaxed);
        // What the engine refuses stays as it is; the next change tries
        // again.
        let _adapted_or_not = self.filtering.adapt(&policy, irql);
        events::policy(channel, Occasion::Change, policies, irql);
    }

    /// Keeps the policy that is in force, but for the registry's `Mode`, if that
    /// is 0 or 1.
    fn keep(&self, key: Option<&Key>, irql: &Passive) {
        let Shared { policies, channel, .. } = &*self.shared;
        let mode = key.and_then(|key| mode_alone(key, irql)).filter(|mode| *mode != Mode::Enforce);
        let holds = if mode.is_some() { Holds::LastPolicyExceptMode } else { Holds::LastPolicy };
        policies.report.holds.store(holds as u8, Ordering::Relaxed);
        match mode.is_some_and(|mode| policies.switch(mode, irql)) {
            true => events::policy(channel, Occasion::Change, policies, irql),
            false => events::rejected(channel, Occasion::Change, policies, irql),
        }
    }
}

impl Follow for Reload {
    /// Where a value is refused, the last good policy stays: half of what an
    /// administrator meant may be the opposite of it. It stays, too, where
    /// there is no memory for another. Only `Mode` 0 and 1 always take effect,
    /// so that nothing can keep the driver from being switched off.
    fn follow(&self, key: Option<&Key>, irql: &Passive) {
        let applied = match read(key, &self.shared.policies.report, irql) {
            Ok((applied, 0)) => PoolBox::new(applied),
            Ok(_) => return self.keep(key, irql),
            Err(status) => Err(status),
        };
        match applied {
            Ok(applied) => self.replace(applied, irql),
            Err(_) => self.keep(key, irql),
        }
    }

    fn tick(&self, irql: &Passive) -> u32 {
        let Shared { policies, channel, processors, scans, noticed, .. } = &*self.shared;
        let policy = policies.current(irql).map_or(Policy::DEFAULT, |current| current.values());
        let remotes = processors.all().iter().map(|processor| &processor.remotes);
        scans.sweep(remotes, &policy, irql, |scan| {
            noticed.scan();
            events::scan_detected(channel, &scan, policy.scan_window_ms, irql);
        });
        let now = clock::milliseconds();
        if now.saturating_sub(self.counters_said.load(Ordering::Relaxed)) >= COUNTERS_EVERY {
            self.counters_said.store(now, Ordering::Relaxed);
            events::counters(&self.shared, irql);
        }
        (policy.scan_window_ms / 8).clamp(*LOOKS.start(), *LOOKS.end())
    }
}

impl Applied {
    /// The policy without its lists, to be kept.
    pub fn values(&self) -> Policy {
        Policy { mode: self.rules().mode(), ..self.policy }
    }

    fn new(policy: Policy, exemptions: Option<PoolBox<Exemptions>>) -> Self {
        let rules = Rules::new(&policy, exemptions.is_some());
        Self { rules: AtomicU16::new(rules.bits()), policy, exemptions }
    }

    /// What packets ask it.
    #[inline(always)]
    pub fn rules(&self) -> Rules {
        Rules::of_bits(self.rules.load(Ordering::Relaxed))
    }

    /// Changes the mode and nothing else, under whoever reads it. That takes no
    /// memory, so it cannot fail.
    fn switch(&self, mode: Mode) {
        let rules = Rules::new(&Policy { mode, ..self.policy }, self.exemptions.is_some());
        self.rules.store(rules.bits(), Ordering::Relaxed);
    }

    /// Its lists; `None` where all of them are empty.
    #[inline(always)]
    pub fn exemptions(&self) -> Option<&Exemptions> {
        match &self.exemptions {
            Some(exemptions) => Some(exemptions),
            None => None,
        }
    }
}

/// Reads every value into a policy of its own. An absent value, or one that is
/// refused, means the default; says how many were refused.
fn read(key: Option<&Key>, report: &Report, irql: &Passive) -> Result<(Applied, usize)> {
    let (mut policy, mut refused) = (Policy::DEFAULT, 0);
    report.refused.iter().for_each(|refused| refused.store(0, Ordering::Relaxed));
    let Some(key) = key else {
        return Ok((Applied::new(policy, None), refused));
    };
    let mut room = PoolBox::<Room>::zeroed()?;
    let mut exemptions = PoolBox::<Exemptions>::zeroed()?;
    for value in &VALUES {
        let parsed = match key.value(value.name, &mut *room, irql) {
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
    Ok((Applied::new(policy, exemptions), refused))
}

/// The registry's `Mode`, if it is a good one; read without memory.
fn mode_alone(key: &Key, irql: &Passive) -> Option<Mode> {
    let mut room = Room::<[u8; size_of::<u32>()]>::empty();
    let data = key.value("Mode", &mut room, irql).ok()??;
    mode(data.kind, data.bytes)
}

impl Report {
    fn reject(&self, value: &Value, rejected: Rejected) {
        let place = VALUES.iter().position(|other| core::ptr::eq(other, value)).unwrap_or(VALUES.len());
        let (reason, entry) = (rejected.reason as u64, u64::from(rejected.entry));
        if let Some(refused) = self.refused.get(place) {
            refused.store(reason | entry << 8, Ordering::Relaxed);
        }
    }
}
