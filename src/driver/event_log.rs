//! Writes the entries of the System event log: one function for each. docs/EVENTS.md
//! describes them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::policy::Policies;
use crate::kernel::clock;
use crate::kernel::entry::DriverObject;
use crate::kernel::error_log::ErrorLog;
use crate::kernel::irql::Passive;
use crate::logic::event_log::messages::{
    ENTRIES_LEFT_OUT, FLOWS_REFUSED, OVERRULED, POLICY_REFUSED, PROTECTION_LOST, PROTECTION_REGAINED,
    SCAN_DETECTED, STARTED, STOPPED, WAITING,
};
use crate::logic::event_log::{Growth, MINUTE_MS, MessageCode, PER_MINUTE, Strings};
use crate::logic::events::{state_name, technique_names};
use crate::logic::policy::Policy;
use crate::logic::protection::{Protection, State};
use crate::logic::rate::RateLimit;
use crate::logic::scan::Scan;

/// The System event log, from the start of the driver to its stop.
pub struct EventLog {
    log: ErrorLog,
    /// `EventLog` of the policy in force; `false` before the driver has started.
    is_on: AtomicBool,
    limit: RateLimit,
    /// Whether the log's readers believe that the driver's filters are in force.
    is_protected: AtomicBool,
    /// A hash of the refusals that were last written.
    refusals: AtomicU64,
    overruled: Growth,
    flows_refused: Growth,
}

impl EventLog {
    /// Nothing is written before [`Self::started`].
    pub fn new(driver: &DriverObject) -> Self {
        Self {
            log: ErrorLog::new(driver),
            is_on: AtomicBool::new(false),
            limit: RateLimit::new(),
            is_protected: AtomicBool::new(true),
            refusals: AtomicU64::new(0),
            overruled: Growth::default(),
            flows_refused: Growth::default(),
        }
    }

    /// Takes `EventLog` from a new policy.
    pub fn apply(&self, policy: &Policy) {
        self.is_on.store(policy.event_log, Ordering::Relaxed);
    }

    /// The driver has started.
    pub fn started(&self, policy: &Policy, irql: &Passive) {
        let mut strings = Strings::new();
        strings.text(env!("CARGO_PKG_VERSION")).number(policy.mode as u64);
        self.write(STARTED, &strings, irql);
    }

    /// The driver stops. This entry is written whatever the limit says.
    pub fn stopped(&self, irql: &Passive) {
        if self.is_on.load(Ordering::Relaxed) {
            self.sum_up(self.limit.take_suppressed(), irql);
            self.log.write(STOPPED, 0, &Strings::new(), irql);
        }
    }

    /// Values are refused.
    #[inline(never)]
    pub fn refused(&self, policies: &Policies, irql: &Passive) {
        self.refusals.store(policies.digest_of_refusals(), Ordering::Relaxed);
        for refusal in policies.refusals() {
            let mut strings = Strings::new();
            strings
                .text(refusal.value)
                .text(refusal.reason)
                .number(refusal.entry.into())
                .text(policies.holds().name())
                .text(refusal.source);
            self.write(POLICY_REFUSED, &strings, irql);
        }
    }

    /// Whether other values are refused than [`Self::refused`] was last told.
    pub fn has_news(&self, policies: &Policies) -> bool {
        self.refusals.load(Ordering::Relaxed) != policies.digest_of_refusals()
    }

    /// The driver waits for something.
    pub fn waiting(&self, awaited: &str, seconds: u32, irql: &Passive) {
        let mut strings = Strings::new();
        strings.text(awaited).number(seconds.into());
        self.write(WAITING, &strings, irql);
    }

    /// Which filters the engine has now. Writes an entry if they are gone or back since
    /// the last one.
    pub fn protection(&self, protection: &Protection, irql: &Passive) {
        let is_protected = protection.state == State::Active;
        if !self.is_on.load(Ordering::Relaxed)
            || self.is_protected.swap(is_protected, Ordering::Relaxed) == is_protected
        {
            return;
        }
        match is_protected {
            true => self.write(PROTECTION_REGAINED, &Strings::new(), irql),
            false => {
                let mut strings = Strings::new();
                strings.text(state_name(protection.state)).status(protection.status);
                self.write_about(PROTECTION_LOST, protection.status, &strings, irql);
            }
        }
    }

    /// A remote scans this machine.
    pub fn scan_detected(&self, scan: &Scan, window_ms: u32, irql: &Passive) {
        // A sweep covers less than one and a half windows.
        let seconds = (u64::from(window_ms) * 3).div_ceil(2 * 1000);
        let mut strings = Strings::new();
        strings
            .address(scan.remote.address().into())
            .number(scan.ports.into())
            .number(seconds)
            .with(technique_names(scan.techniques).as_flattened())
            .text(if scan.is_proven { "yes" } else { "no" });
        self.write(SCAN_DETECTED, &strings, irql);
    }

    /// Called repeatedly: reports counts that have grown, and what the limit has left
    /// out. `overruled` counts packets that another filter has permitted.
    pub fn tick(&self, overruled: impl FnOnce() -> u64, flows_refused: u64, policy: &Policy, irql: &Passive) {
        let now = clock::milliseconds();
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        if self.limit.owes(minute(now)) {
            self.sum_up(self.limit.take_suppressed(), irql);
        }
        if self.overruled.is_due(now)
            && let Some(more) = self.overruled.report(overruled(), now)
        {
            self.write(OVERRULED, Strings::new().number(more), irql);
        }
        if let Some(more) = self.flows_refused.report(flows_refused, now) {
            let mut strings = Strings::new();
            strings.number(more).number(policy.flow_limit.into());
            self.write(FLOWS_REFUSED, &strings, irql);
        }
    }

    fn write(&self, message: MessageCode, strings: &Strings, irql: &Passive) {
        self.write_about(message, 0, strings, irql);
    }

    /// Writes an entry about a status, if the log is on and the limit admits it.
    #[inline(never)]
    fn write_about(&self, message: MessageCode, status: i32, strings: &Strings, irql: &Passive) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        if let Some(left_out) = self.limit.admit(minute(clock::milliseconds()), PER_MINUTE) {
            self.sum_up(left_out, irql);
            self.log.write(message, status, strings, irql);
        }
    }

    #[inline(never)]
    fn sum_up(&self, left_out: u32, irql: &Passive) {
        if left_out != 0 {
            let mut strings = Strings::new();
            strings.number(left_out.into()).number(PER_MINUTE.into());
            self.log.write(ENTRIES_LEFT_OUT, 0, &strings, irql);
        }
    }
}

/// The number of a span of the limit.
fn minute(now: u64) -> u32 {
    (now / MINUTE_MS) as u32
}
