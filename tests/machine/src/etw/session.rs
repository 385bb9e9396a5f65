//! Who is registered, and who listens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::event::{Event, Filter, Raw};
use super::{Malformed, schema};
use crate::wfp::Guid;

/// A session's number, of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u32);

impl SessionId {
    /// As the GUID that the provider is told.
    pub fn source(self) -> Guid {
        Guid::from_u128(0x5e55_1011_0000_0000_0000_0000_0000_0000 | u128::from(self.0))
    }
}

/// What becomes of a session's keyword 0 on its way to a provider. The page of
/// EnableTraceEx2 says that it stands for all; no page says who makes it so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroKeyword {
    /// The provider is told that it is all of them.
    #[default]
    AsAll,
    /// The provider is told 0.
    AsGiven,
}

/// What a session wants of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enable {
    /// The provider's GUID.
    pub provider: Guid,
    /// Which events.
    pub filter: Filter,
    /// How a keyword of 0 is passed on.
    pub zero: ZeroKeyword,
}

impl Enable {
    /// Every event of a provider.
    pub fn all(provider: Guid) -> Self {
        Self { provider, filter: Filter::ALL, zero: ZeroKeyword::default() }
    }
}

/// Hears each event as it comes; they are not kept then.
pub type Listening = Box<dyn FnMut(&Event) + Send>;

/// A registered provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its GUID.
    pub provider: Guid,
    /// Address of its callback, or 0.
    pub callback: usize,
    /// What the callback is given.
    pub context: usize,
    /// Where it was registered, 0 if that is not known.
    pub caller: u64,
    /// Its traits, once it has set them.
    pub traits: Option<Vec<u8>>,
    /// The thread that is in its callback.
    calling: Option<ThreadId>,
}

/// What a call of the enable callback tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called {
    /// `EVENT_CONTROL_CODE_*` (evntrace.h): 0 disable, 1 enable, 2 capture state.
    pub control: u32,
    /// What all sessions together want.
    pub filter: Filter,
}

/// Whether a provider's callback may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is no such provider any more, or it has no callback.
    Gone,
    /// It is being called: wait.
    Busy,
    /// It may, and [`Tracing::returned`] is to follow.
    Go(Registered, Called),
}

/// What was done with a handle that is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// It was once.
    Unregistered,
    /// It never was.
    Unknown,
}

/// Providers and sessions of one machine.
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
    /// Events that found no room.
    lost: u64,
    listening: Option<Listening>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sessions: Vec<_> = self.sessions.keys().collect();
        f.debug_struct("State").field("registered", &self.registered).field("sessions", &sessions).finish()
    }
}

/// Events that a session keeps.
const KEPT: usize = 1 << 17;

/// Handles look like addresses of the kernel's half.
const FIRST_HANDLE: u64 = 0xFFFF_9900_0000_0000;

impl Tracing {
    /// Registers a provider.
    pub fn register(&self, provider: Guid, callback: usize, context: usize, caller: u64) -> u64 {
        let mut state = self.state();
        let number = state.registered.len() + state.unregistered.len() + 1;
        let handle = FIRST_HANDLE + 0x100 * number as u64;
        let registered = Registered { provider, callback, context, caller, traits: None, calling: None };
        state.registered.insert(handle, registered);
        handle
    }

    /// Unregisters a provider; `false` while its callback is being called by
    /// another thread.
    pub fn unregister(&self, handle: u64) -> Result<bool, Misuse> {
        let mut state = self.state();
        let registered = state.registered.get(&handle).ok_or_else(|| state.misuse(handle))?;
        if registered.calling.is_some_and(|thread| thread != thread::current().id()) {
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
        // A session may have gone meanwhile, or come.
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

    /// Ends it.
    pub fn returned(&self, handle: u64) {
        if let Some(registered) = self.state().registered.get_mut(&handle) {
            registered.calling = None;
        }
    }

    /// Whether any session wants a provider.
    pub fn is_wanted(&self, provider: Guid) -> bool {
        self.state().wanted(provider).is_some()
    }

    /// Handles of a provider's registrations.
    pub fn handles(&self, provider: Guid) -> Vec<u64> {
        let state = self.state();
        let of = state.registered.iter().filter(|(_, registered)| registered.provider == provider);
        of.map(|(handle, _)| *handle).collect()
    }

    /// Every registration that there is, by its handle.
    pub fn registered(&self) -> Vec<(u64, Registered)> {
        self.state().registered.iter().map(|(handle, registered)| (*handle, registered.clone())).collect()
    }

    /// Takes in an event that a driver has written. The first error is about
    /// the handle, the second about the event; that one reaches nobody.
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

    /// Adds a session.
    pub fn open(&self, enable: Enable, listening: Option<Listening>) -> SessionId {
        let mut state = self.state();
        state.last += 1;
        let id = SessionId(state.last);
        state.sessions.insert(id, Session { enable, events: Vec::new(), lost: 0, listening });
        id
    }

    /// Ends one; what it wanted.
    pub fn close(&self, id: SessionId) -> Option<Enable> {
        self.state().sessions.remove(&id).map(|session| session.enable)
    }

    /// A session's events so far.
    pub fn events(&self, id: SessionId) -> Vec<Event> {
        self.state().sessions.get(&id).map(|session| session.events.clone()).unwrap_or_default()
    }

    /// Takes them out.
    pub fn take(&self, id: SessionId) -> Vec<Event> {
        self.state()
            .sessions
            .get_mut(&id)
            .map(|session| std::mem::take(&mut session.events))
            .unwrap_or_default()
    }

    /// Events that a session had no room for.
    pub fn lost(&self, id: SessionId) -> u64 {
        self.state().sessions.get(&id).map_or(0, |session| session.lost)
    }

    /// Events that were written though no session wanted them.
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn misuse(&self, handle: u64) -> Misuse {
        match self.unregistered.contains(&handle) {
            true => Misuse::Unregistered,
            false => Misuse::Unknown,
        }
    }

    /// What all sessions together want of a provider: the highest level, any of
    /// the keywords, and only what all of them demand ("EnableCallback": the
    /// provider hears of the sum).
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
            // 0 is every level.
            level: if one.level == 0 || other.level == 0 { 0 } else { one.level.max(other.level) },
            any: one.any | other.any,
            all: one.all & other.all,
        })
    }
}
