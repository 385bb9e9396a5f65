//! The session with BFE: our objects in it, for as long as BFE runs.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::kernel::irql::Passive;
use crate::kernel::mutex::Mutex;
use crate::kernel::status::Result;
use crate::kernel::wfp::bfe::{self, Follow};
use crate::kernel::wfp::engine::{Action, Callout, Display, Engine, Filter, Provider, Sublayer};
use crate::logic::callouts::CALLOUTS;
use crate::logic::layers::{Guid, Role};
use crate::logic::policy::Policy;

const PROVIDER_KEY: Guid = 0x5b8e21f6_7a3c_4d90_8f14_c2e6907b3d51;
const SUBLAYER_KEY: Guid = 0xd47a9c03_16eb_4f58_b02d_8a35f1e64c79;

/// Keeps a session open while BFE runs.
pub struct Filtering {
    policy: Policy,
    session: Mutex<Session>,
    /// BFE has not run all the time since the session was last looked at.
    interrupted: AtomicBool,
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
    pub fn new(policy: Policy, irql: &Passive) -> Result<Self> {
        let session = Mutex::new(Session::Closed, irql)?;
        Ok(Self { policy, session, interrupted: AtomicBool::new(false) })
    }

    /// Opens or closes the session, as BFE's state asks. Fails where BFE runs
    /// and refuses; then nothing is left behind, and the next change of its
    /// state tries again.
    pub fn bring_about(&self, irql: &Passive) -> Result {
        let mut session = self.session.lock(irql);
        // One look may answer for several changes: a session from before BFE
        // stopped is dead, though BFE runs again.
        if self.interrupted.swap(false, Ordering::AcqRel) && matches!(*session, Session::Open(_)) {
            *session = Session::Closed;
        }
        match (&*session, bfe::is_running(irql)) {
            (Session::Closed, true) => match open(&self.policy, irql) {
                Ok(engine) => *session = Session::Open(engine),
                // BFE stops or has stopped meanwhile: its change asks for
                // another look.
                Err(_) if self.interrupted.load(Ordering::Acquire) || !bfe::is_running(irql) => {}
                Err(status) => return Err(status),
            },
            (Session::Open(_), false) => *session = Session::Closed,
            _ => {}
        }
        Ok(())
    }

    /// Closes the session for good.
    pub fn end(&self, irql: &Passive) {
        *self.session.lock(irql) = Session::Ended;
    }
}

impl Follow for Filtering {
    fn follow(&self, irql: &Passive) {
        // What BFE refuses now, it may grant after its next change of state.
        let _open_or_closed = self.bring_about(irql);
    }

    fn interrupted(&self) {
        self.interrupted.store(true, Ordering::Release);
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
            Role::Decide(_) => (Action::Decide, "Keeps ports without endpoint silent"),
        };
        let display = Display::new(&["hushport ", layer, family, discard], description);
        let (key, layer) = (callout.key(), callout.layer_key);
        transaction.add_callout(&Callout { key, layer, display: &display }, &provider)?;
        if policy.observe || callout.role != Role::Observe {
            let filter = Filter { key: callout.filter_key(), layer, callout: key, action, display: &display };
            transaction.add_filter(&filter, &sublayer, &provider)?;
        }
    }
    transaction.commit()?;
    Ok(engine)
}
