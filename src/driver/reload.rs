//! The driver's thread: reloads the policy, follows BFE, asks the engine again after a
//! refusal, sweeps for scans, logs counters.

use core::ops::RangeInclusive;

use super::events::{self, Occasion};
use super::filtering::Filtering;
use super::policy::{Applied, Refusals};
use super::shared::Shared;
use crate::kernel::clock;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, tag};
use crate::kernel::registry::{Keys, Room, Source};
use crate::kernel::status::{Result, Status};
use crate::kernel::watch::KeyFollower;
use crate::logic::policy::Mode;
use crate::logic::policy::values::mode;

/// Bounds of the time between two sweeps for scans, in milliseconds.
const SWEEP_INTERVAL_MS: RangeInclusive<u32> = 10..=10_000;

/// Milliseconds between two `Counters` events.
const COUNTERS_INTERVAL_MS: u64 = 10_000;

/// Keeps the policy up to date with the registry. Between changes it follows BFE, asks
/// the engine again after a refusal, sweeps for scans and logs the counters.
pub struct Reload {
    shared: PoolArc<Shared>,
    /// The policy determines which filters there are.
    filtering: Filtering,
    /// When the counters were last logged, in milliseconds.
    counters_logged: u64,
    /// Whether the thread has read the registry, which the start has read before.
    has_followed: bool,
    /// Whether the last reading has failed.
    is_unread: bool,
}

impl Reload {
    /// Follows nothing yet.
    pub fn new(shared: PoolArc<Shared>, filtering: Filtering) -> Self {
        Self {
            shared,
            filtering,
            counters_logged: clock::milliseconds(),
            has_followed: false,
            is_unread: false,
        }
    }

    /// Tells events and event log that the driver has started, its policy, and whether it
    /// has its filters.
    pub fn started(&self, irql: &Passive) {
        let Shared { channel, event_log, policies, .. } = &*self.shared;
        let protection = self.shared.protection();
        events::policy(channel, Occasion::Start, policies, irql);
        events::started(channel, Occasion::Start, irql);
        events::protection(channel, Occasion::Start, &protection, irql);
        let policy = policies.values(irql);
        event_log.apply(&policy);
        event_log.started(&policy, irql);
        event_log.refused(policies, irql);
        event_log.protection(&protection, irql);
    }

    /// Reads a new policy, without putting it in force. Fails if nothing can be read, or if
    /// there is no memory for what the policy asks for.
    fn read(&self, keys: &Keys, irql: &Passive) -> Result<core::result::Result<PoolBox<Applied>, Refusals>> {
        let (applied, refusals) = self.shared.policies.read(keys, irql)?;
        if refusals != Refusals::NONE {
            return Ok(Err(refusals));
        }
        if applied.values().checks_order() {
            self.shared.order.prepare(irql)?;
        }
        PoolBox::new(tag::APPLIED, applied).map(Ok)
    }

    /// Puts a good policy in force.
    fn replace(&mut self, applied: PoolBox<Applied>, irql: &Passive) {
        let Shared { policies, channel, event_log, .. } = &*self.shared;
        self.shared.scans.apply(&applied.values());
        event_log.apply(&applied.values());
        policies.replace(applied, irql);
        self.filtering.follow_policy(irql);
        events::policy(channel, Occasion::Change, policies, irql);
    }

    /// Keeps the policy in force, except the registry's `Mode` if that is 0 or 1.
    fn keep(&self, keys: Option<&Keys>, irql: &Passive) {
        let Shared { policies, channel, event_log, .. } = &*self.shared;
        let mode = keys.and_then(|keys| mode_alone(keys, irql)).filter(|(mode, _)| *mode != Mode::Enforce);
        let is_news = event_log.has_news(policies);
        match policies.keep(mode, irql) {
            true => events::policy(channel, Occasion::Change, policies, irql),
            false if self.is_unread && !is_news => {}
            false => events::rejected(channel, Occasion::Change, policies, irql),
        }
        if is_news || self.has_followed && !self.is_unread {
            event_log.refused(policies, irql);
        }
    }
}

impl KeyFollower for Reload {
    /// If a value is refused, the last good policy stays in force as a whole,
    /// because a part of a new policy can mean the opposite of the whole. It also
    /// stays if there is no memory for a new one. `Mode` 0 and 1 always take effect,
    /// so that the driver can always be switched off.
    fn follow(&mut self, keys: &Keys, irql: &Passive) -> bool {
        let is_unread = match self.read(keys, irql) {
            Ok(Ok(applied)) => {
                self.replace(applied, irql);
                (self.has_followed, self.is_unread) = (true, false);
                return true;
            }
            Ok(Err(refusals)) => refusals.is_unread,
            Err(status) => {
                self.shared.policies.note_failure(status);
                true
            }
        };
        self.keep(Some(keys), irql);
        (self.has_followed, self.is_unread) = (true, is_unread);
        !is_unread
    }

    fn lost(&mut self, status: Status, irql: &Passive) {
        self.shared.policies.note_failure(status);
        self.keep(None, irql);
        self.is_unread = true;
    }

    fn tick(&mut self, irql: &Passive) -> u32 {
        let next_try = self.filtering.settle_when_due(irql);
        let Shared { policies, channel, event_log, processors, scans, rare, flows, .. } = &*self.shared;
        let policy = policies.values(irql);
        let processors = processors.all();
        let remotes = |number: usize| Some(&processors.get(number)?.remotes);
        scans.sweep(remotes, &policy, irql, |scan| {
            rare.scan();
            events::scan_detected(channel, &scan, policy.scan_window_ms, irql);
            event_log.scan_detected(&scan, policy.scan_window_ms, irql);
        });
        event_log.tick(|| self.shared.overruled(), flows.refused(), &policy, irql);
        let now = clock::milliseconds();
        if now.saturating_sub(self.counters_logged) >= COUNTERS_INTERVAL_MS {
            self.counters_logged = now;
            self.shared.log_counters(irql);
        }
        let sweep = (policy.scan_window_ms / 8).clamp(*SWEEP_INTERVAL_MS.start(), *SWEEP_INTERVAL_MS.end());
        next_try.map_or(sweep, |next_try| sweep.min(next_try))
    }
}

/// The registry's `Mode`, if it is valid, and where it is from. Allocates no memory.
fn mode_alone(keys: &Keys, irql: &Passive) -> Option<(Mode, Source)> {
    let mut room = Room::<[u8; size_of::<u32>()]>::empty();
    let (source, data) = keys.value("Mode", &mut room, irql).ok()??;
    Some((mode(data.kind, data.bytes)?, source))
}
