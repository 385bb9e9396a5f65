//! The session with BFE: it holds our objects as long as BFE runs.

use super::policy::Policies;
use crate::kernel::irql::Passive;
use crate::kernel::mutex::Mutex;
use crate::kernel::pool::PoolArc;
use crate::kernel::status::{Result, Status};
use crate::kernel::wfp::bfe::{self, BfeFollower, Subscription};
use crate::kernel::wfp::engine::{
    CalloutObject, Display, Engine, Filter, FilterAction, Provider, Sublayer, Transaction,
};
use crate::logic::callouts::{CALLOUTS, Callout};
use crate::logic::layers::{Guid, Role};
use crate::logic::policy::Policy;

const PROVIDER_KEY: Guid = 0x5b8e21f6_7a3c_4d90_8f14_c2e6907b3d51;
const SUBLAYER_KEY: Guid = 0xd47a9c03_16eb_4f58_b02d_8a35f1e64c79;

/// Keeps a session open while BFE runs.
pub struct Filtering {
    policies: PoolArc<Policies>,
    session: Mutex<Session>,
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
    /// The driver stops.
    Ended,
}

impl Filtering {
    /// Starts without a session.
    pub fn new(policies: PoolArc<Policies>, irql: &Passive) -> Result<Self> {
        Ok(Self { policies, session: Mutex::new(Session::Closed, irql)? })
    }

    /// Opens or closes the session, depending on the state of BFE. Fails if BFE runs
    /// and refuses. Then no object is left in the engine, and the next change of
    /// BFE's state tries again.
    pub fn open_or_close(&self, irql: &Passive) -> Result {
        let mut session = self.session.lock(irql);
        match (&*session, bfe::is_running(irql)) {
            (Session::Closed, true) => {
                // Copy the policy: opening takes long, and a thread that changes the
                // policy waits for its readers.
                let policy = self.policies.current(irql).map_or(Policy::DEFAULT, |current| current.values());
                match open(&policy, irql) {
                    Ok(engine) => *session = Session::Open { engine, policy },
                    // BFE stopped meanwhile. Its next change of state tries again.
                    Err(_) if !bfe::is_running(irql) => {}
                    Err(status) => return Err(status),
                }
            }
            (Session::Open { .. }, false) => *session = Session::Closed,
            _ => {}
        }
        Ok(())
    }

    /// Adds and deletes filters so that they fit a new policy, in one transaction.
    /// If that fails, the filters stay as they are.
    pub fn update_filters(&self, policy: &Policy, irql: &Passive) -> Result {
        let mut session = self.session.lock(irql);
        let Session::Open { engine, policy: before } = &mut *session else { return Ok(()) };
        let has_changed =
            |callout: &&Callout| callout.role.has_filter(before) != callout.role.has_filter(policy);
        if CALLOUTS.iter().any(|callout| has_changed(&callout)) {
            let (provider, sublayer) = (provider(), sublayer(before));
            let mut transaction = engine.transaction(irql)?;
            for callout in CALLOUTS.iter().filter(has_changed) {
                if callout.role.has_filter(policy) {
                    add_filter(&mut transaction, callout, &sublayer, &provider)?;
                } else {
                    transaction.delete_filter(callout.filter_key())?;
                }
            }
            transaction.commit()?;
        }
        *before = *policy;
        Ok(())
    }

    /// Closes a session that BFE has ended, even if BFE runs again by now.
    fn close_interrupted(&self, irql: &Passive) {
        let mut session = self.session.lock(irql);
        if let Session::Open { .. } = *session {
            *session = Session::Closed;
        }
    }

    /// Closes the session for good.
    pub fn end(&self, irql: &Passive) {
        *self.session.lock(irql) = Session::Ended;
    }
}

impl BfeFollower for PoolArc<Filtering> {
    fn follow(&self, interrupted: bool, irql: &Passive) {
        if interrupted {
            self.close_interrupted(irql);
        }
        // If BFE refuses now, its next change of state tries again.
        let _open_or_closed = self.open_or_close(irql);
    }
}

/// Opens the session for the first time. Tries again if BFE changed its state
/// meanwhile: BFE may have stopped while the session was being opened, which is not
/// a refusal.
pub fn begin(filtering: &Subscription<PoolArc<Filtering>>, irql: &Passive) -> Result {
    loop {
        let before = filtering.changes();
        match filtering.follower().open_or_close(irql) {
            Err(_) if filtering.changes() != before => {}
            result => return result,
        }
    }
}

/// Adds every object to the engine in one transaction.
fn open(policy: &Policy, irql: &Passive) -> Result<Engine> {
    let (provider, sublayer) = (provider(), sublayer(policy));
    let mut engine = Engine::open(&provider.display, irql)?;
    let mut transaction = engine.transaction(irql)?;
    match transaction.add_provider(&provider) {
        Err(Status::FWP_ALREADY_EXISTS) => {
            clear(&mut transaction)?;
            transaction.add_provider(&provider)?;
        }
        added => added?,
    }
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

/// Deletes the objects that an earlier run has left. The engine refuses this if they
/// belong to a session that is still open or if others use them. Then another
/// instance of the driver runs, and this one must not start.
fn clear(transaction: &mut Transaction<'_>) -> Result {
    for callout in &CALLOUTS {
        transaction.delete_filter(callout.filter_key())?;
    }
    for callout in &CALLOUTS {
        transaction.delete_callout(callout.key())?;
    }
    transaction.delete_sublayer(SUBLAYER_KEY)?;
    transaction.delete_provider(PROVIDER_KEY)?;
    Ok(())
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
