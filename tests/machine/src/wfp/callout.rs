//! Callouts as drivers register them; filters find them at run time by key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, RwLock};

use super::lock::{read, write};
use super::windows::WindowsCallout;
use super::{CalloutDriver, Guid, Options, RunningCalls, SilentDrop, facts};
use crate::driver::DriverId;
use crate::schedule::{Bell, Waited};
use crate::status::Status;

/// `FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW`.
pub const CALLOUT_FLAG_CONDITIONAL_ON_FLOW: u32 = 1;
/// `FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY`.
pub const CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY: u32 = 4;

/// The first run-time id. Windows uses the lower ones for its own callouts.
const FIRST_ID: u32 = 0x101;

thread_local! {
    /// The callouts whose functions this thread is executing.
    static INSIDE: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// All callout keys seen so far. A key keeps its run-time id.
pub(super) struct Callouts {
    by_key: RwLock<HashMap<Guid, Arc<Slot>>>,
    /// The number of Windows' own.
    built_in: usize,
}

impl Callouts {
    /// Windows' own callouts.
    pub(super) fn new(silent_drop: SilentDrop) -> Self {
        let slots: HashMap<_, _> = (1..)
            .zip(facts::windows_callouts())
            .map(|(id, callout)| {
                let slot = Slot::new(callout.key, id);
                if let Some(flags) = callout.registered {
                    let driver = Arc::new(WindowsCallout::named(callout.name, silent_drop));
                    // It is the first registration of this slot.
                    let _registered = slot.put(flags, driver, 0);
                }
                (callout.key, Arc::new(slot))
            })
            .collect();
        Self { built_in: slots.len(), by_key: RwLock::new(slots) }
    }

    /// The slot of a key; created if the key is new.
    pub(super) fn slot(&self, key: Guid) -> Arc<Slot> {
        if let Some(slot) = read(&self.by_key).get(&key) {
            return Arc::clone(slot);
        }
        let mut slots = write(&self.by_key);
        let id = FIRST_ID + u32::try_from(slots.len() - self.built_in).unwrap_or(u32::MAX - FIRST_ID);
        Arc::clone(slots.entry(key).or_insert_with(|| Arc::new(Slot::new(key, id))))
    }

    pub(super) fn find(&self, key: Guid) -> Option<Arc<Slot>> {
        read(&self.by_key).get(&key).cloned()
    }

    pub(super) fn find_id(&self, id: u32) -> Option<Arc<Slot>> {
        read(&self.by_key).values().find(|slot| slot.id == id).cloned()
    }

    /// The keys that drivers have registered, in the order of registration.
    pub(super) fn in_order(&self) -> Vec<Guid> {
        let slots = read(&self.by_key);
        let drivers = slots.values().filter(|slot| slot.id >= FIRST_ID);
        let present = drivers.filter_map(|slot| Some((read(&slot.state).as_ref()?.sequence, slot.key)));
        let mut list: Vec<_> = present.collect();
        list.sort_unstable();
        list.into_iter().map(|(_, key)| key).collect()
    }

    /// The callouts that drivers have left registered: key, id and driver.
    pub(super) fn registered(&self) -> Vec<(Guid, u32, DriverId)> {
        let slots = read(&self.by_key);
        let drivers = slots.values().filter(|slot| slot.id >= FIRST_ID);
        let present = drivers.filter(|slot| read(&slot.state).is_some());
        let mut list: Vec<_> = present.map(|slot| (slot.key, slot.id, slot.owner())).collect();
        list.sort_by_key(|(_, id, _)| *id);
        list
    }
}

/// The slot of a callout key, registered or not.
pub(super) struct Slot {
    pub(super) key: Guid,
    pub(super) id: u32,
    state: RwLock<Option<Registration>>,
    left: Bell,
}

#[derive(Clone)]
struct Registration {
    driver: Arc<dyn CalloutDriver>,
    flags: u32,
    /// It is being unregistered: no new call to it begins.
    leaving: bool,
    /// Position in the order of registration.
    sequence: u64,
    running: Arc<AtomicUsize>,
}

/// The right to call the functions of a callout. Unregistering waits until it is
/// dropped.
pub(super) struct Entered<'a> {
    slot: &'a Slot,
    pub(super) driver: Arc<dyn CalloutDriver>,
    pub(super) flags: u32,
    running: Arc<AtomicUsize>,
}

impl Slot {
    fn new(key: Guid, id: u32) -> Self {
        Self { key, id, state: RwLock::new(None), left: Bell::default() }
    }

    /// The driver that has registered it.
    pub(super) fn owner(&self) -> DriverId {
        let state = read(&self.state);
        state.as_ref().map_or(DriverId::SYSTEM, |registration| registration.driver.owner())
    }

    /// The `FWP_CALLOUT_FLAG_*` of the registration; `None` if there is none.
    pub(super) fn flags(&self) -> Option<u32> {
        read(&self.state).as_ref().map(|registration| registration.flags)
    }

    /// `FwpsCalloutRegister`.
    pub(super) fn register(
        &self,
        flags: u32,
        driver: Arc<dyn CalloutDriver>,
        sequence: u64,
        options: &Options,
    ) -> Status {
        if flags & !options.callout_flags.known() != 0 {
            return options.flags_refusal;
        }
        self.put(flags, driver, sequence)
    }

    /// Registers with any flags: those of Windows' own callouts have no names in the
    /// headers.
    fn put(&self, flags: u32, driver: Arc<dyn CalloutDriver>, sequence: u64) -> Status {
        let mut state = write(&self.state);
        match &*state {
            Some(registration) if registration.leaving => Status::FWP_IN_USE,
            Some(_) => Status::FWP_ALREADY_EXISTS,
            None => {
                let running = Arc::default();
                *state = Some(Registration { driver, flags, leaving: false, sequence, running });
                Status::SUCCESS
            }
        }
    }

    /// `FwpsCalloutUnregister`. `has_contexts` tells whether flow contexts are
    /// left.
    ///
    /// By default it waits until calls to the callout have returned, because the driver
    /// may free what they use afterwards (inferred: the pages do not say so).
    pub(super) fn unregister(
        &self,
        has_contexts: impl Fn() -> bool,
        running_calls: RunningCalls,
    ) -> Result<(), Unregister> {
        let running = {
            let mut state = write(&self.state);
            let registration = match &mut *state {
                None => return Err(Status::FWP_CALLOUT_NOT_FOUND.into()),
                Some(registration) if registration.leaving => return Err(Status::FWP_IN_USE.into()),
                Some(registration) => registration,
            };
            if has_contexts() {
                return Err(Status::DEVICE_BUSY.into());
            }
            if INSIDE.with_borrow(|inside| inside.contains(&self.id)) {
                return Err(Unregister::FromInside);
            }
            match running_calls {
                RunningCalls::Awaited => {}
                RunningCalls::Refused if registration.running.load(SeqCst) != 0 => {
                    return Err(Status::DEVICE_BUSY.into());
                }
                RunningCalls::Refused | RunningCalls::Ignored => {
                    *state = None;
                    return Ok(());
                }
            }
            registration.leaving = true;
            Arc::clone(&registration.running)
        };
        loop {
            let what = || format!("calls into callout {} to return", self.id);
            if self.left.wait(&what, None, || running.load(SeqCst) == 0) != Waited::Ready {
                // The machine has stopped, so the caller goes no further.
                return Err(Status::FWP_IN_USE.into());
            }
            // The last calls may have associated contexts, or the end of a flow may
            // have started another call.
            let mut state = write(&self.state);
            if running.load(SeqCst) != 0 {
                continue;
            }
            if has_contexts() {
                if let Some(registration) = &mut *state {
                    registration.leaving = false;
                }
                return Err(Status::DEVICE_BUSY.into());
            }
            *state = None;
            return Ok(());
        }
    }

    /// Begins a call, unless the callout is not registered or is being
    /// unregistered.
    pub(super) fn enter(&self) -> Option<Entered<'_>> {
        self.enter_if(|registration| !registration.leaving)
    }

    /// Begins a call even while the callout is being unregistered, to delete a
    /// context that still exists.
    pub(super) fn enter_leaving(&self) -> Option<Entered<'_>> {
        self.enter_if(|_| true)
    }

    fn enter_if(&self, may: impl Fn(&Registration) -> bool) -> Option<Entered<'_>> {
        let state = read(&self.state);
        let registration = state.as_ref().filter(|registration| may(registration))?;
        registration.running.fetch_add(1, SeqCst);
        INSIDE.with_borrow_mut(|inside| inside.push(self.id));
        Some(Entered {
            slot: self,
            driver: Arc::clone(&registration.driver),
            flags: registration.flags,
            running: Arc::clone(&registration.running),
        })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(|inside| {
            if let Some(at) = inside.iter().rposition(|id| *id == self.slot.id) {
                inside.remove(at);
            }
        });
        if self.running.fetch_sub(1, SeqCst) == 1 {
            self.slot.left.ring();
        }
    }
}

/// Why a callout was not unregistered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unregister {
    Refused(Status),
    /// The caller is inside a function of this callout and would wait for itself.
    FromInside,
}

impl From<Status> for Unregister {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}
