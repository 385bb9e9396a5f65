//! Waits of the driver's own threads, above all on a machine with a time of its own
//! ([`Options::own_time`]).
//!
//! Time moves from the end of one wait to the next. Before it moves, each thread of the
//! driver must wait, so a thread needs no time for what it does. One thread at a time
//! may drive such a machine from outside: it moves the time, and time also moves while
//! driver code that it has called waits.
//!
//! [`Options::own_time`]: super::Options::own_time

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::clock::units;
use super::guest::Stop;
use super::kernel::{Kernel, SYSTEM_THREAD};
use super::status;
use super::work::WORKER;
use crate::schedule::{Bell, Waited};
use crate::status::Status;

/// The waits of the driver's own threads: its system threads, and its jobs in the work
/// queue.
#[derive(Debug, Default)]
pub struct Sleepers {
    state: Mutex<State>,
    /// Rung when a thread has looked at its condition, and when one ends.
    looked: Bell,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    waits: BTreeMap<u64, Wait>,
    /// A thread of the driver has not come to a wait within the patience. It is not
    /// waited for again.
    is_restless: bool,
}

/// A wait in progress.
#[derive(Debug)]
struct Wait {
    /// When it is over, in unbiased interrupt time, and the period after which it would be
    /// over again, in 100 ns units. `None` if it has no timeout.
    timeout: Option<(u64, u64)>,
    /// Whether it waits for a system time, which goes on while the machine sleeps.
    absolute: bool,
    /// How often the machine's bell had rung when the thread found that it must wait.
    looked_at: Option<u64>,
}

impl Sleepers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a thread of the driver begins to wait. `timeout` as in [`Wait`]. Returns
    /// the wait's number.
    pub(super) fn begin(&self, timeout: Option<(u64, u64)>, absolute: bool) -> u64 {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        state.waits.insert(number, Wait { timeout, absolute, looked_at: None });
        number
    }

    /// Lets waits end earlier by the time that the machine has slept: those for a system
    /// time, or all.
    pub(super) fn slept(&self, time: Duration, all: bool) {
        let mut state = self.state();
        for wait in state.waits.values_mut().filter(|wait| all || wait.absolute) {
            if let Some((end, _)) = &mut wait.timeout {
                *end = end.saturating_sub(units(time));
            }
        }
    }

    /// Notes that the thread has looked and must wait. `rung`: how often the machine's bell
    /// had rung before it looked.
    pub(super) fn looked(&self, number: u64, rung: u64) {
        let mut state = self.state();
        let Some(wait) = state.waits.get_mut(&number) else { return };
        let is_news = wait.looked_at.replace(rung) != Some(rung);
        drop(state);
        if is_news {
            self.looked.ring();
        }
    }

    /// Notes that a wait has ended.
    pub(super) fn end(&self, number: u64) {
        self.state().waits.remove(&number);
    }

    /// To be called when a thread or a job of the driver has ended.
    pub(super) fn ended(&self) {
        self.looked.ring();
    }
}

impl State {
    /// The earliest time at which a wait is over.
    fn next(&self) -> Option<u64> {
        self.waits.values().filter_map(|wait| Some(wait.timeout?.0)).min()
    }

    /// Lets waits that repeat be over as late as possible, but not after `to`.
    fn skip(&mut self, to: u64) {
        for (over, period) in self.waits.values_mut().filter_map(|wait| wait.timeout.as_mut()) {
            let periods = to.saturating_sub(*over).checked_div(*period).unwrap_or(0);
            *over = over.saturating_add(periods.saturating_mul(*period));
        }
    }
}

impl Kernel {
    /// Moves a machine with a time of its own forward to `time` since the machine was
    /// made. Waits whose timeout is over on the way end in order, each at its time.
    ///
    /// If nothing else happens for `quiet`, the rest passes at once: a thread that waits
    /// again and again is woken once more, as late as it would be, but not in between.
    ///
    /// Has no effect on a machine that has the host's time.
    pub fn run_until(&self, time: Duration, quiet: Duration) {
        if !self.options().own_time {
            return;
        }
        let (to, mut limit) = (units(time), Some(self.clock().unbiased_time().saturating_add(units(quiet))));
        while let Some(next) = self.next_end().filter(|next| *next <= to) {
            if limit.is_some_and(|limit| next > limit) {
                limit = None;
                self.sleepers.state().skip(to);
                continue;
            }
            self.clock().move_to(next);
            self.bell.ring();
        }
        self.clock().move_to(to);
    }

    /// Whether time has moved although a thread of the driver did not come to a wait for
    /// as long as [`Options::hang_limit`]. Then its time is not exact.
    ///
    /// [`Options::hang_limit`]: super::Options::hang_limit
    pub fn has_run_ahead(&self) -> bool {
        self.sleepers.state().is_restless
    }

    /// Lets the driver's threads come to their waits. Returns when the first wait is
    /// over; `None` if none has a timeout or the machine has stopped.
    fn next_end(&self) -> Option<u64> {
        if !self.is_calm() {
            let what = || "the driver's threads to wait".to_owned();
            let limit = Some(self.options().hang_limit);
            let waited = self.sleepers.looked.wait(&what, limit, || self.is_calm());
            if waited == Waited::TimedOut {
                self.sleepers.state().is_restless = true;
            }
        }
        self.sleepers.state().next().filter(|_| self.stopped().is_none())
    }

    /// Lets the driver's threads and work items do what there is to do, but not for longer
    /// than `patience`. Returns whether each of them waits or has ended.
    pub fn let_threads_wait(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while !self.is_calm() && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.is_calm()
    }

    /// Whether each of the driver's threads waits and knows what has changed.
    fn is_calm(&self) -> bool {
        let rung = self.bell.rung();
        let (waits, is_restless) = {
            let state = self.sleepers.state();
            let waits = state.waits.values().filter(|wait| wait.looked_at == Some(rung));
            (waits.count(), state.is_restless)
        };
        // In this order: a thread that waits has started others before.
        let own = self.objects().threads.len() + self.work().pending();
        (waits >= own && self.bell.rung() == rung) || is_restless || self.stopped().is_some()
    }

    /// Waits as `ke::wait`, but in the machine's own time.
    pub(super) fn wait_in_own_time(
        &self,
        what: &dyn Fn() -> String,
        timeout: Option<i64>,
        take: impl FnMut() -> bool,
    ) -> Status {
        let absolute = timeout.is_some_and(|timeout| timeout >= 0);
        let timeout = timeout.map(|timeout| {
            let period = units(self.clock().until(timeout));
            (self.clock().unbiased_time().saturating_add(period), period)
        });
        if is_drivers_own() {
            self.sleep_until(what, timeout, absolute, take)
        } else {
            self.run_while_waiting(timeout, take)
        }
    }

    /// A thread of the driver waits until the time is moved.
    fn sleep_until(
        &self,
        what: &dyn Fn() -> String,
        timeout: Option<(u64, u64)>,
        absolute: bool,
        mut take: impl FnMut() -> bool,
    ) -> Status {
        let number = self.sleepers.begin(timeout, absolute);
        let mut over = false;
        let mut ready = || {
            let rung = self.bell.rung();
            if take() {
                return true;
            }
            let now = self.clock().unbiased_time();
            let timeout = match self.sleepers.state().waits.get(&number) {
                Some(wait) => wait.timeout,
                None => return true,
            };
            over = timeout.is_some_and(|(end, _)| end <= now);
            if !over {
                self.sleepers.looked(number, rung);
            }
            over
        };
        // The host's time does not end the wait.
        let waited = self.bell.wait(what, timeout.map(|_| Duration::MAX), &mut ready);
        self.sleepers.end(number);
        match waited {
            Waited::Ready if over => status::TIMEOUT,
            Waited::Ready => Status::SUCCESS,
            Waited::TimedOut | Waited::GaveUp => {
                self.leave_if_stopped();
                status::TIMEOUT
            }
        }
    }

    /// The thread that drives the machine waits in the driver: time passes.
    fn run_while_waiting(&self, timeout: Option<(u64, u64)>, mut take: impl FnMut() -> bool) -> Status {
        let began = Instant::now();
        loop {
            let next = self.next_end();
            self.leave_if_stopped();
            let end = timeout.map(|(end, _)| end);
            if take() {
                return Status::SUCCESS;
            }
            if end.is_some_and(|end| end <= self.clock().unbiased_time()) {
                return status::TIMEOUT;
            }
            match next.into_iter().chain(end).min() {
                Some(next) => self.clock().move_to(next),
                // Another thread of the lab may change what this one waits for.
                None => std::thread::sleep(Duration::from_millis(1)),
            }
            self.bell.ring();
            if end.is_none() && began.elapsed() > self.options().hang_limit {
                self.halt(Stop::Deadlock { waits: "a thread waits in its own time".into() });
            }
        }
    }
}

/// Whether this thread runs the driver's system threads or jobs.
pub(super) fn is_drivers_own() -> bool {
    let thread = std::thread::current();
    thread.name().is_some_and(|name| name == SYSTEM_THREAD || name.starts_with(WORKER))
}
