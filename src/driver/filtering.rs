//! The session with BFE: our objects in it, for as long as BFE runs.

use super::policy::Policies;
use crate::kernel::irql::Passive;
use crate::kernel::mutex::Mutex;
use crate::kernel::pool::PoolArc;
use crate::kernel::status::Result;
use crate::kernel::wfp::bfe::{self, Follow, Subscription};
use crate::kernel::wfp::engine::{Action, Callout, Display, Engine, Filter, Provider, Sublayer};
use crate::logic::callouts::CALLOUTS;
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
    /// BFE does not run, or refused.
    Closed,
    /// Our objects are in the engine.
    Open(#[expect(dead_code, reason = "dropped to close it")] Engine),
    /// The driver stops.
    Ended,
}

impl Filtering {
    /// No session yet.
    pub fn new(policies: PoolArc<Policies>, irql: &Passive) -> Result<Self> {
        Ok(Self { policies, session: Mutex::new(Session::Closed, irql)? })
    }

    /// Opens or closes the session, as BFE's state asks. Fails where BFE runs
    /// and refuses; then nothing is left behind, and the next change of its
    /// state tries again.
    pub fn bring_about(&self, irql: &Passive) -> Result {
        let mut session = self.session.lock(irql);
        match (&*session, bfe::is_running(irql)) {
            (Session::Closed, true) => {
                // Copied, since opening takes long and changes of the policy
                // wait for its readers.
                let policy = self.policies.current(irql).map_or(Policy::DEFAULT, |current| current.values());
                match open(&policy, irql) {
                    Ok(engine) => *session = Session::Open(engine),
                    // BFE stopped meanwhile: its next change asks for another
                    // look.
                    Err(_) if !bfe::is_running(irql) => {}
                    Err(status) => return Err(status),
                }
            }
            (Session::Open(_), false) => *session = Session::Closed,
            _ => {}
        }
        Ok(())
    }

    /// Closes a session that BFE has ended, though it may run again by now.
    fn forget(&self, irql: &Passive) {
        let mut session = self.session.lock(irql);
        if let Session::Open(_) = *session {
            *session = Session::Closed;
        }
    }

    /// Closes the session for good.
    pub fn end(&self, irql: &Passive) {
        *self.session.lock(irql) = Session::Ended;
    }
}

impl Follow for Filtering {
    fn follow(&self, interrupted: bool, irql: &Passive) {
        if interrupted {
            self.forget(irql);
        }
        // What BFE refuses now, it may grant after its next change of state.
        let _open_or_closed = self.bring_about(irql);
    }
}

/// Brings the session about for the first time. Fails where BFE refused and
/// ran all the while: one that stopped and started again, under a session that
/// was being opened, refused nothing.
pub fn begin(filtering: &Subscription<Filtering>, irql: &Passive) -> Result {
    loop {
        let before = filtering.changes();
        match filtering.follower().bring_about(irql) {
            Err(_) if filtering.changes() != before => {}
            result => return result,
        }
    }
}

/// Puts every object into the engine in one transaction.
fn open(policy: &Policy, irql: &Passive) -> Result<Engine> {
    let provider = Provider {
        key: PROVIDER_KEY,
        display: Display::new(&["hushport"], "Keeps closed ports silent and watches the layers"),
    };
    let sublayer = Sublayer {
        key: SUBLAYER_KEY,
        display: Display::new(&["hushport"], "Filters of hushport"),
        weight: policy.sublayer_weight,
    };
    let mut engine = Engine::open(&provider.display, irql)?;
    let mut transaction = engine.transaction(irql)?;
    transaction.add_provider(&provider)?;
    transaction.add_sublayer(&sublayer, &provider)?;
    for callout in &CALLOUTS {
        let [layer, family, discard] = callout.name();
        let (action, description) = match callout.role {
            Role::Observe => (Action::Inspect, "Observes"),
            Role::Decide(_) => (Action::Decide, "Keeps silent what nobody is here for"),
        };
        let display = Display::new(&["hushport ", layer, family, discard], description);
        let (key, layer) = (callout.key(), callout.layer_key);
        transaction.add_callout(&Callout { key, layer, display: &display }, &provider)?;
        if callout.role.has_filter(policy) {
            let filter = Filter { key: callout.filter_key(), layer, callout: key, action, display: &display };
            transaction.add_filter(&filter, &sublayer, &provider)?;
        }
    }
    transaction.commit()?;
    Ok(engine)
}
