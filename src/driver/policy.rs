//! The policy in force, and how it is read from the registry.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::kernel::current::Current;
use crate::kernel::entry::DriverObject;
use crate::kernel::irql::{Dispatch, Passive};
use crate::kernel::pool::{PoolBox, tag};
use crate::kernel::registry::{Keys, Room, Source, ValueError};
use crate::kernel::status::{Result, Status};
use crate::logic::events::REASONS;
use crate::logic::mix::mix;
use crate::logic::policy::values::MODE;
use crate::logic::policy::{Exemptions, Mode, Policy, Reason, Rejected, VALUES, ValueSet};
use crate::logic::stealth::Rules;

/// The policy in force, and what was refused.
#[repr(C)]
pub struct Policies {
    report: Report,
    current: Current<Applied>,
    /// The part of the policy that is read first, see [`PolicyWord`].
    word: AtomicU32,
    last_check: AtomicU16,
}

/// The policy in one word: its [`Rules`], and above them the number of the order
/// check, 0 if the order is not checked. A flow stores the number at its start, so
/// that a later check knows that it has not seen the whole flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyWord(u32);

impl PolicyWord {
    const fn new(rules: Rules, order_check: u16) -> Self {
        Self((order_check as u32) << u16::BITS | rules.bits() as u32)
    }

    /// The rules, which are all that a packet needs if the policy has no lists.
    #[inline(always)]
    pub const fn rules(self) -> Rules {
        Rules::of_bits(self.0 as u16)
    }

    /// Whether a verdict needs the rules only: they are a whole policy, and the order
    /// is not checked.
    #[inline(always)]
    pub const fn is_only_rules(self) -> bool {
        self.0 & !(Rules::WHOLE as u32) == 0
    }

    /// Whether echo requests are not decided about, and the order is not checked.
    #[inline(always)]
    pub const fn leaves_echo(self) -> bool {
        const ORDER_CHECK: u32 = (u16::MAX as u32) << u16::BITS;
        self.0 & (ORDER_CHECK | Rules::ECHO as u32) == 0
    }

    /// The number of the order check, 0 if the order is not checked.
    #[inline(always)]
    pub const fn order_check(self) -> u16 {
        (self.0 >> u16::BITS) as u16
    }
}

/// A policy, with the memory of its lists.
pub struct Applied {
    /// The [`Rules`] as a number. They contain the mode in force, which can change
    /// alone, see [`Applied::switch`].
    rules: AtomicU16,
    policy: Policy,
    exemptions: Option<PoolBox<Exemptions>>,
    /// Which values are from Group Policy, as a [`ValueSet`]. The source of `Mode` can
    /// change alone, too.
    group_policy: AtomicU32,
}

/// What was applied, and what was refused.
///
/// In a debugger: the fifth word of [`Shared`](super::shared::Shared) points to a
/// reference count, which this follows.
#[derive(Default)]
#[repr(C)]
struct Report {
    /// Policies that have been put in force.
    applied: AtomicU32,
    /// What was refused when the registry was last read, indexed as `VALUES`. The
    /// low 8 bits are the reason, the bits above them the entry, and the highest bit says
    /// that the value is from Group Policy; 0 means not refused.
    /// The last one is about all values: why nothing could be read.
    refused: [AtomicU64; VALUES.len() + 1],
    /// What is in force if something was refused: a [`Holds`].
    holds: AtomicU8,
}

impl Report {
    /// What is noted about all values.
    fn whole(&self) -> &AtomicU64 {
        let [.., whole] = &self.refused;
        whole
    }
}

/// What is in force if a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Holds {
    /// The defaults of the refused values, and the other values as set.
    Default,
    /// The previous policy, as a whole.
    LastPolicy,
    /// The previous policy with the registry's `Mode`, which is 0 or 1.
    LastPolicyExceptMode,
}

impl Holds {
    /// The name in events and entries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::LastPolicy => "LastPolicy",
            Self::LastPolicyExceptMode => "LastPolicyExceptMode",
        }
    }
}

/// What one reading has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusals {
    /// A value is refused.
    any: bool,
    /// The registry has refused to read a value, so another reading may find it good.
    pub is_unread: bool,
}

impl Refusals {
    /// Nothing.
    pub const NONE: Self = Self { any: false, is_unread: false };
}

/// The name that stands for all values, if none could be read.
const ALL_VALUES: &str = "*";

/// A refused value, as events and entries name it.
pub struct Refusal {
    /// The name of the value.
    pub value: &'static str,
    /// The name of the reason.
    pub reason: &'static str,
    /// The entry of a list, counted from 1; 0 if it is not about an entry.
    pub entry: u32,
    /// The name of the key that has it.
    pub source: &'static str,
}

/// The name of the key that has a value, in events and entries.
const fn source_name(source: Source) -> &'static str {
    match source {
        Source::GroupPolicy => "GroupPolicy",
        Source::Parameters => "Registry",
    }
}

/// In [`Report::refused`]: the value is from Group Policy.
const GROUP_POLICY: u64 = 1 << 63;

impl Policies {
    /// Reads the policy at the start. There is no previous policy to keep, so a
    /// refused value means its default, and the other values apply as set.
    pub fn start(object: &DriverObject, irql: &Passive) -> Result<Self> {
        let report = Report::default();
        let keys = Keys::open(object, irql)?;
        let (applied, _refused) = read(&keys, &report, irql)?;
        report.applied.store(1, Ordering::Relaxed);
        let (rules, check_order) = (applied.rules(), applied.policy.checks_order());
        let policies = Self {
            report,
            current: Current::new(PoolBox::new(tag::APPLIED, applied)?, irql)?,
            word: AtomicU32::new(PolicyWord::new(rules, 0).0),
            last_check: AtomicU16::new(0),
        };
        policies.publish_word(rules, check_order);
        Ok(policies)
    }

    /// The policy in one word.
    #[inline(always)]
    pub fn word(&self) -> PolicyWord {
        PolicyWord(self.word.load(Ordering::Relaxed))
    }

    /// Publishes the word of a policy. Only one thread at a time calls this.
    fn publish_word(&self, rules: Rules, check_order: bool) {
        self.change_word(|word| {
            let order_check = match (check_order, word.order_check()) {
                (false, _) => 0,
                (true, 0) => self.next_check(),
                (true, check) => check,
            };
            PolicyWord::new(rules, order_check)
        });
    }

    /// Begins another order check, if the order is checked: the filters have changed,
    /// so what passed before was not seen.
    pub fn restart_check(&self) {
        self.change_word(|word| match word.order_check() {
            0 => word,
            _ => PolicyWord::new(word.rules(), self.next_check()),
        });
    }

    fn change_word(&self, change: impl Fn(PolicyWord) -> PolicyWord) {
        let changed = |word| Some(change(PolicyWord(word)).0);
        let _before = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    fn next_check(&self) -> u16 {
        let last = self.last_check.fetch_add(1, Ordering::Relaxed);
        match last.wrapping_add(1) {
            // 0 means no check.
            0 => self.last_check.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
            next => next,
        }
    }

    /// The policy in force.
    #[inline(always)]
    pub fn current<'a>(&'a self, irql: &'a Dispatch<'_>) -> &'a Applied {
        self.current.read(irql)
    }

    /// A copy of the policy in force, without its lists.
    pub fn values(&self, irql: &Passive) -> Policy {
        irql.at_dispatch(|irql| self.current(irql).values())
    }

    /// How many policies have been in force, including this one.
    pub fn number(&self) -> u32 {
        self.report.applied.load(Ordering::Relaxed)
    }

    /// What was refused when the registry was last read, as [`Report`] holds it, in the
    /// order of `VALUES`.
    fn refused(&self) -> impl Iterator<Item = u64> {
        self.report.refused.iter().map(|refused| refused.load(Ordering::Relaxed))
    }

    /// Notes that nothing could be read, or that there is no memory for what was read.
    pub fn note_failure(&self, status: Status) {
        let reason = match status == Status::INSUFFICIENT_RESOURCES {
            true => Reason::NoMemory,
            false => Reason::Unreadable,
        };
        self.report.whole().store(reason as u64, Ordering::Relaxed);
    }

    /// A hash of what was refused when the registry was last read.
    #[inline(never)]
    pub fn digest_of_refusals(&self) -> u64 {
        self.refused().fold(1, mix)
    }

    /// What was refused when the registry was last read.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> {
        self.refused().enumerate().filter(|(_, refused)| *refused != 0).map(|(index, refused)| {
            let source = if refused & GROUP_POLICY != 0 { Source::GroupPolicy } else { Source::Parameters };
            Refusal {
                value: VALUES.get(index).map_or(ALL_VALUES, |value| value.name),
                reason: REASONS.get(usize::from(refused as u8)).copied().unwrap_or_default(),
                entry: (refused >> 8) as u32,
                source: source_name(source),
            }
        })
    }

    /// What has been in force since then, if something was refused.
    pub fn holds(&self) -> Holds {
        match self.report.holds.load(Ordering::Relaxed) {
            holds if holds == Holds::LastPolicy as u8 => Holds::LastPolicy,
            holds if holds == Holds::LastPolicyExceptMode as u8 => Holds::LastPolicyExceptMode,
            _ => Holds::Default,
        }
    }

    /// Reads every value of the keys into a new policy, and notes what was refused.
    pub fn read(&self, keys: &Keys, irql: &Passive) -> Result<(Applied, Refusals)> {
        read(keys, &self.report, irql)
    }

    /// Puts a good policy in force.
    pub fn replace(&self, applied: PoolBox<Applied>, irql: &Passive) {
        // The word comes first, so that no packet uses the old word after the old
        // policy has been freed.
        self.publish_word(applied.rules(), applied.policy.checks_order());
        self.current.replace(applied, irql);
        self.report.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps the policy in force, except its mode if one is given. Returns whether
    /// the mode changed.
    pub fn keep(&self, mode: Option<(Mode, Source)>, irql: &Passive) -> bool {
        let holds = if mode.is_some() { Holds::LastPolicyExceptMode } else { Holds::LastPolicy };
        self.report.holds.store(holds as u8, Ordering::Relaxed);
        mode.is_some_and(|(mode, source)| self.switch(mode, source, irql))
    }

    /// Puts a mode in force and keeps the rest of the policy. Returns whether the
    /// mode changed.
    fn switch(&self, mode: Mode, source: Source, irql: &Passive) -> bool {
        let (before, rules, checks_order) = irql.at_dispatch(|irql| {
            let current = self.current(irql);
            let before = current.rules().mode();
            current.switch(mode, source);
            (before, current.rules(), current.policy.checks_order())
        });
        if before == mode {
            return false;
        }
        self.publish_word(rules, checks_order);
        self.report.applied.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Applied {
    /// A copy of the policy without its lists.
    pub fn values(&self) -> Policy {
        Policy { mode: self.rules().mode(), ..self.policy }
    }

    fn new(policy: Policy, exemptions: Option<PoolBox<Exemptions>>, group_policy: ValueSet) -> Self {
        let rules = Rules::new(&policy, exemptions.is_some());
        let group_policy = AtomicU32::new(group_policy.bits());
        Self { rules: AtomicU16::new(rules.bits()), policy, exemptions, group_policy }
    }

    /// Which values are from Group Policy.
    pub fn group_policy(&self) -> ValueSet {
        ValueSet::of_bits(self.group_policy.load(Ordering::Relaxed))
    }

    /// The rules, with the mode in force.
    #[inline(always)]
    pub fn rules(&self) -> Rules {
        Rules::of_bits(self.rules.load(Ordering::Relaxed))
    }

    /// Changes only the mode, while others read the policy. This needs no memory, so
    /// it cannot fail.
    fn switch(&self, mode: Mode, source: Source) {
        let group_policy = self.group_policy().with(MODE, source == Source::GroupPolicy);
        self.group_policy.store(group_policy.bits(), Ordering::Relaxed);
        let rules = Rules::new(&Policy { mode, ..self.policy }, self.exemptions.is_some());
        self.rules.store(rules.bits(), Ordering::Relaxed);
    }

    /// The lists of exemptions; `None` if all of them are empty.
    #[inline(always)]
    pub fn exemptions(&self) -> Option<&Exemptions> {
        match &self.exemptions {
            Some(exemptions) => Some(exemptions),
            None => None,
        }
    }
}

/// Reads every value into a new policy. A value that is absent or refused means its
/// default. Without memory, nothing is read.
fn read(keys: &Keys, report: &Report, irql: &Passive) -> Result<(Applied, Refusals)> {
    let (mut policy, mut refusals, mut group_policy) = (Policy::DEFAULT, Refusals::NONE, ValueSet::EMPTY);
    let mut room = PoolBox::<Room>::zeroed(tag::VALUE)?;
    let mut exemptions = PoolBox::<Exemptions>::zeroed(tag::EXEMPTIONS)?;
    for ((index, value), noted) in VALUES.iter().enumerate().zip(&report.refused) {
        let (source, parsed) = match keys.value(value.name, &mut *room, irql) {
            Ok(Some((source, data))) => {
                (source, value.parse(data.kind, data.bytes, &mut policy, &mut exemptions))
            }
            Ok(None) => (Source::Parameters, Ok(())),
            Err((source, ValueError::TooLong)) => (source, Err(value.rejected(Reason::TooLong))),
            Err((source, ValueError::Unreadable(_))) => (source, Err(value.rejected(Reason::Unreadable))),
        };
        group_policy = group_policy.with(index, source == Source::GroupPolicy);
        // A session that asks meanwhile sees what was refused before, or now.
        noted.store(parsed.map_or_else(|refused| encode(refused, source), |()| 0), Ordering::Relaxed);
        refusals.any |= parsed.is_err();
        refusals.is_unread |= parsed.is_err_and(|refused| refused.reason == Reason::Unreadable);
    }
    report.whole().store(0, Ordering::Relaxed);
    let exemptions = (!exemptions.is_empty()).then_some(exemptions);
    Ok((Applied::new(policy, exemptions, group_policy), refusals))
}

/// A refusal as [`Report`] holds it.
fn encode(rejected: Rejected, source: Source) -> u64 {
    let of_source = if source == Source::GroupPolicy { GROUP_POLICY } else { 0 };
    rejected.reason as u64 | u64::from(rejected.entry) << 8 | of_source
}
