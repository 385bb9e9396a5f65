//! The session with BFE: it holds our objects as long as BFE runs.
//!
//! The engine may refuse, because its lock is taken, memory is short or BFE is about to
//! stop. After a refusal the driver's thread tries again until the engine has what the
//! policy needs. [`Filtering::settle`] is the only place that decides when.
//!
//! After the start only the driver's thread asks the engine: to wait for the engine's lock
//! takes long, which a system work item must not.

use core::sync::atomic::{AtomicBool, Ordering};

use super::events::{self, Occasion};
use super::shared::Shared;
use crate::kernel::clock;
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolArc;
use crate::kernel::status::Result;
use crate::kernel::thread::Signal;
use crate::kernel::wfp::bfe::{self, BfeFollower, Subscription};
use crate::kernel::wfp::engine::{
    CalloutObject, Display, Engine, Filter, FilterAction, Provider, Sublayer, Transaction,
};
use crate::logic::callouts::{CALLOUTS, Callout};
use crate::logic::layers::{Guid, Role};
use crate::logic::policy::Policy;
use crate::logic::protection::{Backoff, Protection, State};

const PROVIDER_KEY: Guid = 0x5b8e21f6_7a3c_4d90_8f14_c2e6907b3d51;
const SUBLAYER_KEY: Guid = 0xd47a9c03_16eb_4f58_b02d_8a35f1e64c79;

/// How long a transaction waits for the engine's lock, in milliseconds: when the driver
/// starts, the engine's default of 15 s, because a refusal fails the start. Later, less:
/// the driver tries again, and an unload waits for a try that runs.
const LOCK_WAIT_AT_START_MS: u32 = 0;
const LOCK_WAIT_MS: u32 = 2_000;

/// Keeps a session open while BFE runs, with the filters that the policy needs. Dropping
/// it closes the session. The driver's thread owns it, and before that the thread that
/// loads the driver. So no lock is held while the engine is asked.
pub struct Filtering {
    shared: PoolArc<Shared>,
    changes: PoolArc<Changes>,
    session: Session,
    backoff: Backoff,
}

/// What BFE's changes of state leave for the driver's thread.
pub struct Changes {
    /// Wakes the driver's thread.
    signal: PoolArc<Signal>,
    /// BFE has changed its state since the driver's thread last looked.
    has_changed: AtomicBool,
    /// BFE was not running at some time since then.
    interrupted: AtomicBool,
}

enum Session {
    /// BFE does not run, or it refused.
    Closed,
    /// Our objects are in the engine.
    Open {
        engine: Engine,
        /// The policy that the filters in the engine were made for.
        policy: Policy,
    },
}

impl Filtering {
    /// Opens the session for the first time, if BFE runs. Tries again if BFE changed its
    /// state meanwhile: BFE may have stopped while the session was being opened, which is
    /// not a refusal.
    pub fn begin(shared: PoolArc<Shared>, following: &Following, irql: &Passive) -> Result<Self> {
        let changes = following.follower().clone();
        let mut filtering = Self { shared, changes, session: Session::Closed, backoff: Backoff::default() };
        loop {
            let before = following.changes();
            match filtering.settle(LOCK_WAIT_AT_START_MS, irql) {
                Err(_) if following.changes() != before => {}
                result => return result.map(|()| filtering),
            }
        }
    }

    /// Adds and deletes filters so that they fit the policy in force, in one
    /// transaction.
    pub fn follow_policy(&mut self, irql: &Passive) {
        // After a refusal the thread of this call tries again.
        let _settled_or_refused = self.settle(LOCK_WAIT_MS, irql);
    }

    /// Follows a change of BFE's state, and asks the engine again if it has refused and
    /// the time has come. Returns how many milliseconds are left until the next try, if
    /// one is needed.
    pub fn settle_when_due(&mut self, irql: &Passive) -> Option<u32> {
        let has_changed = self.changes.has_changed.swap(false, Ordering::AcqRel);
        let Protection { state, next_try_ms, .. } = self.shared.protection();
        if has_changed || state.is_refused() && next_try_ms == 0 {
            if self.changes.interrupted.swap(false, Ordering::AcqRel) {
                // BFE has ended the session, even if it runs again by now.
                self.session.close();
            }
            if has_changed {
                self.backoff = Backoff::default();
            }
            let _settled_or_refused = self.settle(LOCK_WAIT_MS, irql);
        }
        let Protection { state, next_try_ms, .. } = self.shared.protection();
        state.is_refused().then_some(next_try_ms)
    }

    /// Gives the engine what the state of BFE and the policy ask for, or decides when
    /// to try again. Between two tries the driver holds no lock and no transaction.
    fn settle(&mut self, lock_wait_ms: u32, irql: &Passive) -> Result {
        let Shared { policies, channel, event_log, shown, .. } = &*self.shared;
        let policy = policies.values(irql);
        let settled = self.session.settle(&policy, lock_wait_ms, irql).map(|has_changed| {
            if has_changed {
                policies.restart_check();
            }
        });
        let state = match (&self.session, &settled) {
            (Session::Open { .. }, Ok(())) => State::Active,
            (Session::Closed, Ok(())) => State::WaitingForBfe,
            (Session::Open { .. }, Err(_)) => State::Outdated,
            (Session::Closed, Err(_)) => State::Refused,
        };
        let (status, next_try_ms) = match settled {
            Ok(()) => {
                self.backoff = Backoff::default();
                (0, 0)
            }
            Err(status) => (status.code(), self.backoff.next_wait()),
        };
        let protection = Protection { state, status, next_try_ms };
        if shown.set(&protection, clock::milliseconds()) {
            events::protection(channel, Occasion::Change, &protection, irql);
            event_log.protection(&protection, irql);
        }
        settled
    }
}

impl Session {
    /// Opens or closes the session, depending on the state of BFE, and makes the
    /// filters fit the policy. Fails if BFE runs and refuses. Then the engine has no
    /// object of ours, or the filters of the policy before. Returns whether filters were
    /// added or deleted.
    fn settle(&mut self, policy: &Policy, lock_wait_ms: u32, irql: &Passive) -> Result<bool> {
        let settled = match bfe::is_running(irql) {
            true => self.fit(policy, lock_wait_ms, irql),
            false => Ok(false),
        };
        if bfe::is_running(irql) {
            return settled;
        }
        // BFE does not run, which is no refusal. Its next change of state tries again.
        self.close();
        Ok(false)
    }

    fn fit(&mut self, policy: &Policy, lock_wait_ms: u32, irql: &Passive) -> Result<bool> {
        if let Self::Open { engine, policy: before } = self {
            let updated = update(engine, before, policy, irql);
            if updated.is_ok() {
                *before = *policy;
            }
            if !engine.is_lost() {
                return updated;
            }
            // Close the session and open another: the engine deletes our objects, and
            // no transaction is left.
            self.close();
        }
        let is_closed = matches!(self, Self::Closed);
        if is_closed {
            *self = Self::Open { engine: open(policy, lock_wait_ms, irql)?, policy: *policy };
        }
        Ok(is_closed)
    }

    fn close(&mut self) {
        if let Self::Open { .. } = self {
            *self = Self::Closed;
        }
    }
}

impl Changes {
    /// Nothing has changed yet. The signal is that of the thread that calls
    /// [`Filtering::settle_when_due`].
    pub fn new(signal: PoolArc<Signal>) -> Self {
        Self { signal, has_changed: AtomicBool::new(false), interrupted: AtomicBool::new(false) }
    }
}

impl BfeFollower for PoolArc<Changes> {
    fn note(&self, interrupted: bool, irql: &Passive) {
        // In this order: who sees the change sees the interruption.
        self.interrupted.fetch_or(interrupted, Ordering::AcqRel);
        self.has_changed.store(true, Ordering::Release);
        self.signal.wake(irql);
    }
}

/// Follows the state of BFE until dropped.
pub type Following = Subscription<PoolArc<Changes>>;

/// Adds and deletes filters so that they fit a new policy, in one transaction. If that
/// fails, the filters stay as they are, unless the session is lost. Returns whether
/// filters were added or deleted.
fn update(engine: &mut Engine, before: &Policy, policy: &Policy, irql: &Passive) -> Result<bool> {
    let has_changed = |callout: &&Callout| callout.role.has_filter(before) != callout.role.has_filter(policy);
    if !CALLOUTS.iter().any(|callout| has_changed(&callout)) {
        return Ok(false);
    }
    let (provider, sublayer) = (provider(), sublayer(before));
    let mut transaction = engine.transaction(irql)?;
    for callout in CALLOUTS.iter().filter(has_changed) {
        if callout.role.has_filter(policy) {
            add_filter(&mut transaction, callout, &sublayer, &provider)?;
        } else {
            transaction.delete_filter(callout.filter_key())?;
        }
    }
    transaction.commit().map(|()| true)
}

/// Adds every object to the engine in one transaction. Nothing of an earlier session can
/// be left, because the engine deletes a dynamic session's objects when it ends. So if
/// there is an object with one of the keys, it is somebody else's, and the engine refuses.
fn open(policy: &Policy, lock_wait_ms: u32, irql: &Passive) -> Result<Engine> {
    let (provider, sublayer) = (provider(), sublayer(policy));
    let mut engine = Engine::open(&provider.display, lock_wait_ms, irql)?;
    let mut transaction = engine.transaction(irql)?;
    transaction.add_provider(&provider)?;
    transaction.add_sublayer(&sublayer, &provider)?;
    for callout in &CALLOUTS {
        let (key, layer) = (callout.key(), callout.layer_key());
        transaction.add_callout(&CalloutObject { key, layer, display: &display(callout) }, &provider)?;
        if callout.role.has_filter(policy) {
            add_filter(&mut transaction, callout, &sublayer, &provider)?;
        }
    }
    transaction.commit()?;
    Ok(engine)
}

fn add_filter(
    transaction: &mut Transaction<'_>,
    callout: &Callout,
    sublayer: &Sublayer,
    provider: &Provider,
) -> Result {
    let action = match callout.role {
        Role::Observe => FilterAction::Inspect,
        Role::Decide(_) => FilterAction::Decide,
    };
    let (key, layer) = (callout.filter_key(), callout.layer_key());
    let filter = Filter { key, layer, callout: callout.key(), action, display: &display(callout) };
    transaction.add_filter(&filter, sublayer, provider)
}

fn display(callout: &Callout) -> Display {
    let [layer, family, discard] = callout.name();
    let description = match callout.role {
        Role::Observe => "Observes",
        Role::Decide(_) => "Blocks replies for closed ports",
    };
    Display::new(&["hushport ", layer, family, discard], description)
}

fn provider() -> Provider {
    let display = Display::new(&["hushport"], "Blocks replies for closed ports and observes the layers");
    Provider { key: PROVIDER_KEY, display }
}

fn sublayer(policy: &Policy) -> Sublayer {
    let display = Display::new(&["hushport"], "Filters of hushport");
    Sublayer { key: SUBLAYER_KEY, display, weight: policy.sublayer_weight }
}
