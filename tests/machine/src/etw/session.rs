//! The registered providers and the sessions of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::event::{Event, Filter, Raw};
use super::{Malformed, schema};
use crate::driver::Origin;
use crate::wfp::Guid;

/// The number of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u32);

impl SessionId {
    /// The GUID that the provider gets.
    pub fn source(self) -> Guid {
        Guid::from_u128(0x5e55_1011_0000_0000_0000_0000_0000_0000 | u128::from(self.0))
    }
}

/// How a session's keyword 0 is passed to a provider. The page of EnableTraceEx2
/// says that it means all keywords; no page says where it is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroKeyword {
    /// The provider gets all keywords.
    #[default]
    AsAll,
    /// The provider gets 0.
    AsGiven,
}

/// What a session enables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enable {
    /// The provider's GUID.
    pub provider: Guid,
    /// The events.
    pub filter: Filter,
    /// How a keyword of 0 is passed.
    pub zero: ZeroKeyword,
}

impl Enable {
    /// Enables every event of a provider.
    pub fn all(provider: Guid) -> Self {
        Self { provider, filter: Filter::ALL, zero: ZeroKeyword::default() }
    }
}

/// Is called with each event; such a session stores no events.
pub type Listening = Box<dyn FnMut(&Event) + Send>;

/// A registered provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its GUID.
    pub provider: Guid,
    /// The address of its callback, or 0.
    pub callback: usize,
    /// The context of the callback.
    pub context: usize,
    /// Who has registered it.
    pub origin: Origin,
    /// Whether it writes messages (`EtwRegisterClassicProvider`).
    pub classic: bool,
    /// Its traits, if it has set them.
    pub traits: Option<Vec<u8>>,
    /// The thread that is executing its callback.
    calling: Option<ThreadId>,
}

/// The arguments of a call to the enable callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called {
    /// `EVENT_CONTROL_CODE_*` (evntrace.h): 0 disable, 1 enable, 2 capture state.
    pub control: u32,
    /// The combined filter of all sessions.
    pub filter: Filter,
}

/// Whether a provider's callback may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The provider does not exist any more, or has no callback.
    Gone,
    /// The callback is being called: wait.
    Busy,
    /// It may be called; then [`Tracing::returned`] must follow.
    Go(Registered, Called),
}

/// A message of a classic provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The GUID of the messages of a source file.
    pub guid: Guid,
    /// The number of the message among them.
    pub number: u16,
    /// The values, one after the other.
    pub data: Vec<u8>,
}

/// A handle that is not registered was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// It was registered before.
    Unregistered,
    /// It was never registered.
    Unknown,
}

/// The providers and sessions of a machine.
#[derive(Debug, Default)]
pub struct Tracing {
    state: Mutex<State>,
    unheard: AtomicU64,
}

#[derive(Default)]
struct State {
    registered: BTreeMap<u64, Registered>,
    unregistered: BTreeSet<u64>,
    sessions: BTreeMap<SessionId, Session>,
    last: u32,
}

struct Session {
    enable: Enable,
    events: Vec<Event>,
    messages: Vec<Message>,
    /// The number of events that did not fit.
    lost: u64,
    listening: Option<Listening>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sessions: Vec<_> = self.sessions.keys().collect();
        f.debug_struct("State").field("registered", &self.registered).field("sessions", &sessions).finish()
    }
}

/// The maximum number of events that a session stores.
const KEPT: usize = 1 << 17;

/// Handles look like kernel addresses.
const FIRST_HANDLE: u64 = 0xFFFF_9900_0000_0000;

impl Tracing {
    /// Registers a provider.
    pub fn register(&self, provider: Guid, callback: usize, context: usize, origin: Origin) -> u64 {
        let mut state = self.state();
        let number = state.registered.len() + state.unregistered.len() + 1;
        let handle = FIRST_HANDLE + 0x100 * number as u64;
        let registered =
            Registered { provider, callback, context, origin, classic: false, traits: None, calling: None };
        state.registered.insert(handle, registered);
        handle
    }

    /// Makes a registered provider a classic one.
    pub fn set_classic(&self, handle: u64) {
        if let Some(registered) = self.state().registered.get_mut(&handle) {
            registered.classic = true;
        }
    }

    /// The handle with which a classic provider writes: that of the newest session that enables
    /// it, or 0.
    pub fn logger(&self, provider: Guid) -> u64 {
        let state = self.state();
        let mut of = state.sessions.iter().rev();
        of.find(|(_, session)| session.enable.provider == provider).map_or(0, |(id, it)| logger(*id, it))
    }

    /// The handles of all sessions.
    pub fn loggers(&self) -> Vec<u64> {
        self.state().sessions.iter().map(|(id, session)| logger(*id, session)).collect()
    }

    /// Writes a message to the session of a handle. `false` if there is none.
    pub fn write_message(&self, handle: u64, message: Message) -> bool {
        let mut state = self.state();
        let of = state.sessions.iter_mut().find(|(id, _)| id.0 as u16 == handle as u16);
        let Some((_, session)) = of else { return false };
        match session.messages.len() < KEPT {
            true => session.messages.push(message),
            false => session.lost += 1,
        }
        true
    }

    /// The messages of a session so far.
    pub fn messages(&self, id: SessionId) -> Vec<Message> {
        self.state().sessions.get(&id).map(|session| session.messages.clone()).unwrap_or_default()
    }

    /// Unregisters a provider. If callbacks are `awaited`, returns `false` while another
    /// thread executes its callback.
    pub fn unregister(&self, handle: u64, awaited: bool) -> Result<bool, Misuse> {
        let mut state = self.state();
        let registered = state.registered.get(&handle).ok_or_else(|| state.misuse(handle))?;
        if awaited && registered.calling.is_some_and(|thread| thread != thread::current().id()) {
            return Ok(false);
        }
        state.registered.remove(&handle);
        state.unregistered.insert(handle);
        Ok(true)
    }

    /// Sets a provider's traits.
    pub fn set_traits(&self, handle: u64, traits: &[u8]) -> Result<Result<(), Malformed>, Misuse> {
        let mut state = self.state();
        let misuse = state.misuse(handle);
        let registered = state.registered.get_mut(&handle).ok_or(misuse)?;
        registered.traits = Some(traits.to_vec());
        Ok(schema::traits(traits).map(|_| ()))
    }

    /// Begins a call of a provider's callback.
    pub fn call(&self, handle: u64, control: u32) -> Turn {
        let mut state = self.state();
        let Some(registered) = state.registered.get(&handle).filter(|it| it.callback != 0).cloned() else {
            return Turn::Gone;
        };
        if registered.calling.is_some() {
            return Turn::Busy;
        }
        let wanted = state.wanted(registered.provider);
        // Sessions may have been closed or opened meanwhile.
        let control = match (control, wanted) {
            (0 | 1, Some(_)) => 1,
            (_, None) => 0,
            (control, _) => control,
        };
        if let Some(registered) = state.registered.get_mut(&handle) {
            registered.calling = Some(thread::current().id());
        }
        let filter = wanted.unwrap_or(Filter { level: 0, any: 0, all: 0 });
        Turn::Go(registered, Called { control, filter })
    }

    /// Ends a call of a provider's callback.
    pub fn returned(&self, handle: u64) {
        if let Some(registered) = self.state().registered.get_mut(&handle) {
            registered.calling = None;
        }
    }

    /// Whether any session enables a provider.
    pub fn is_wanted(&self, provider: Guid) -> bool {
        self.state().wanted(provider).is_some()
    }

    /// The handles of a provider's registrations.
    pub fn handles(&self, provider: Guid) -> Vec<u64> {
        let state = self.state();
        let of = state.registered.iter().filter(|(_, registered)| registered.provider == provider);
        of.map(|(handle, _)| *handle).collect()
    }

    /// Every registration, by its handle.
    pub fn registered(&self) -> Vec<(u64, Registered)> {
        self.state().registered.iter().map(|(handle, registered)| (*handle, registered.clone())).collect()
    }

    /// Processes an event that a driver has written. The outer error concerns the
    /// handle. The inner error concerns the event, which then reaches no session.
    pub fn write(&self, handle: u64, raw: &Raw, time: u64) -> Result<Result<(), Malformed>, Misuse> {
        let mut state = self.state();
        let registered = state.registered.get(&handle).ok_or_else(|| state.misuse(handle))?;
        let event = match raw.decode(time, registered.provider, registered.traits.as_deref()) {
            Ok(event) => event,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let mut heard = false;
        for session in state.sessions.values_mut() {
            let Enable { provider, filter, .. } = session.enable;
            if provider != event.provider_id || !filter.takes(event.level, event.keyword) {
                continue;
            }
            heard = true;
            match &mut session.listening {
                Some(listening) => listening(&event),
                None if session.events.len() < KEPT => session.events.push(event.clone()),
                None => session.lost += 1,
            }
        }
        if !heard {
            self.unheard.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Ok(()))
    }

    /// Opens a session.
    pub fn open(&self, enable: Enable, listening: Option<Listening>) -> SessionId {
        let mut state = self.state();
        state.last += 1;
        let id = SessionId(state.last);
        state
            .sessions
            .insert(id, Session { enable, events: Vec::new(), messages: Vec::new(), lost: 0, listening });
        id
    }

    /// Closes a session. Returns what it enabled.
    pub fn close(&self, id: SessionId) -> Option<Enable> {
        self.state().sessions.remove(&id).map(|session| session.enable)
    }

    /// The events of a session so far.
    pub fn events(&self, id: SessionId) -> Vec<Event> {
        self.state().sessions.get(&id).map(|session| session.events.clone()).unwrap_or_default()
    }

    /// Removes a session's events and returns them.
    pub fn take(&self, id: SessionId) -> Vec<Event> {
        self.state()
            .sessions
            .get_mut(&id)
            .map(|session| std::mem::take(&mut session.events))
            .unwrap_or_default()
    }

    /// The number of events that did not fit into a session.
    pub fn lost(&self, id: SessionId) -> u64 {
        self.state().sessions.get(&id).map_or(0, |session| session.lost)
    }

    /// The number of events that were written although no session enables them.
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of a session: its number, its level, and its flags in the upper half (`WmiGetLogger*`,
/// `wmistr.h`).
fn logger(id: SessionId, session: &Session) -> u64 {
    let Filter { level, any, .. } = session.enable.filter;
    u64::from(id.0 as u16) | u64::from(level) << 16 | any << 32
}

impl State {
    fn misuse(&self, handle: u64) -> Misuse {
        match self.unregistered.contains(&handle) {
            true => Misuse::Unregistered,
            false => Misuse::Unknown,
        }
    }

    /// The combined filter of all sessions for a provider: the highest level, the
    /// union of the keywords, and only the required keywords that all of them have
    /// ("EnableCallback").
    fn wanted(&self, provider: Guid) -> Option<Filter> {
        let of = self.sessions.values().filter(|session| session.enable.provider == provider);
        let each = of.map(|session| {
            let Enable { filter, zero, .. } = session.enable;
            match (filter.any, zero) {
                (0, ZeroKeyword::AsAll) => Filter { any: u64::MAX, ..filter },
                _ => filter,
            }
        });
        each.reduce(|one, other| Filter {
            // 0 means every level.
            level: if one.level == 0 || other.level == 0 { 0 } else { one.level.max(other.level) },
            any: one.any | other.any,
            all: one.all & other.all,
        })
    }
}
