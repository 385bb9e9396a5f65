//! Sessions, the engine-wide transaction lock, commit and rollback.
//!
//! A transaction works on a copy of all objects. Commit replaces the objects by the
//! copy, abort drops the copy. Readers share the lock, a writer holds it alone
//! (inferred from the isolation that *Object Management* promises).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::activation::{Notices, notify};
use super::filter::StoredFilter;
use super::journal::Journal;
use super::lock::Locked;
use super::store::{Caller, Lifetime, Store};
use super::{
    AleFields, BfeState, Change, Engine, NotifyType, SESSION_FLAG_DYNAMIC, Session, SessionId, Subscription,
    SubscriptionId, TXN_READ_ONLY,
};
use crate::driver::DriverId;
use crate::status::Status;

/// `INFINITE`.
const INFINITE: u32 = u32::MAX;

/// The data under the engine's lock. No callback is called while it is held.
pub(super) struct Core {
    pub(super) bfe: BfeState,
    pub(super) sessions: BTreeMap<SessionId, Open>,
    pub(super) store: Store,
    writer: Option<Writer>,
    readers: BTreeSet<SessionId>,
    /// The filters that classify sees.
    pub(super) active: BTreeMap<u64, Arc<StoredFilter>>,
    pub(super) journal: Journal,
    pub(super) subscriptions: BTreeMap<SubscriptionId, Subscription>,
}

/// An open handle.
pub(super) struct Open {
    pub(super) session: Session,
    /// The driver that has opened it.
    pub(super) owner: DriverId,
    /// The engine has stopped: the handle can only be closed.
    aborted: bool,
    /// `FWPM_TXN_*` of the explicit transaction in progress.
    transaction: Option<u32>,
}

/// The transaction that may change objects.
struct Writer {
    serial: u64,
    session: SessionId,
    store: Store,
    /// Filters whose callout got ADD_FILTER.
    announced: Vec<Arc<StoredFilter>>,
}

impl Core {
    pub(super) fn new(bfe: BfeState, ale_fields: AleFields) -> Self {
        Self {
            bfe,
            sessions: BTreeMap::new(),
            store: Store::new(ale_fields),
            writer: None,
            readers: BTreeSet::new(),
            active: BTreeMap::new(),
            journal: Journal::default(),
            subscriptions: BTreeMap::new(),
        }
    }

    fn live(&mut self, session: SessionId) -> Result<&mut Open, Status> {
        let open = self.sessions.get_mut(&session).ok_or(Status::INVALID_HANDLE)?;
        if open.aborted { Err(Status::FWP_SESSION_ABORTED) } else { Ok(open) }
    }

    /// Aborts a session's explicit transaction; implicit ones are never aborted
    /// (*Object Management*). Returns the filters whose callouts were notified.
    fn abandon(&mut self, session: SessionId) -> Vec<Arc<StoredFilter>> {
        let open = self.sessions.get_mut(&session);
        let explicit = open.is_some_and(|open| open.transaction.take().is_some());
        self.readers.remove(&session);
        let writer = self.writer.take_if(|writer| explicit && writer.session == session);
        writer.map(|writer| writer.announced).unwrap_or_default()
    }
}

impl Engine {
    pub(super) fn transaction_begin_inner(&self, session: SessionId, flags: u32) -> Result<(), Status> {
        if flags & !TXN_READ_ONLY != 0 {
            return Err(Status::FWP_INVALID_FLAGS);
        }
        let mut core = self.acquire(session, flags)?;
        core.live(session)?.transaction = Some(flags);
        core.journal.push(Change::TransactionBegin);
        Ok(())
    }

    pub(super) fn transaction_commit_inner(&self, session: SessionId) -> Result<(), Status> {
        let mut core = self.core.locked();
        let flags = core.live(session)?.transaction.take().ok_or(Status::FWP_NO_TXN_IN_PROGRESS)?;
        core.journal.push(Change::TransactionCommit);
        let notices = if flags & TXN_READ_ONLY != 0 {
            core.readers.remove(&session);
            Notices::default()
        } else {
            self.commit(&mut core)
        };
        self.release(core, notices);
        Ok(())
    }

    pub(super) fn transaction_abort_inner(&self, session: SessionId) -> Result<(), Status> {
        let mut core = self.core.locked();
        core.live(session)?.transaction.ok_or(Status::FWP_NO_TXN_IN_PROGRESS)?;
        let announced = core.abandon(session);
        core.journal.push(Change::TransactionAbort);
        self.release(core, Notices::deleted(announced));
        Ok(())
    }

    /// Closes a handle: aborts its transaction and deletes a dynamic session's
    /// objects.
    pub(super) fn close_inner(&self, session: SessionId) -> Result<(), Status> {
        let mut core = self.core.locked();
        let open = core.sessions.get(&session).ok_or(Status::INVALID_HANDLE)?;
        let dynamic = open.session.flags & SESSION_FLAG_DYNAMIC != 0;
        if open.aborted || !dynamic {
            let announced = core.abandon(session);
            core.sessions.remove(&session);
            core.journal.push(Change::EngineClose);
            self.release(core, Notices::deleted(announced));
            return Ok(());
        }
        let announced = core.abandon(session);
        self.release(core, Notices::deleted(announced));
        let mut core = match self.acquire(session, 0) {
            Ok(core) => core,
            // The engine has stopped meanwhile and has deleted the objects.
            Err(Status::FWP_SESSION_ABORTED) => return self.close_inner(session),
            Err(status) => return Err(status),
        };
        if let Some(writer) = &mut core.writer {
            writer.store.drop_lifetimes(|lifetime| lifetime == Lifetime::Dynamic(session));
        }
        let notices = self.commit(&mut core);
        core.sessions.remove(&session);
        core.journal.push(Change::EngineClose);
        self.release(core, notices);
        Ok(())
    }

    /// Stops the engine: every session and transaction is aborted, and all objects
    /// are deleted that are neither persistent nor built in.
    pub(super) fn stop(&self, core: &mut Core) -> Notices {
        let gone = core.writer.take().map(|writer| writer.announced).unwrap_or_default();
        core.readers.clear();
        for open in core.sessions.values_mut() {
            open.transaction = None;
            open.aborted = true;
        }
        core.store.drop_lifetimes(|lifetime| matches!(lifetime, Lifetime::Dynamic(_) | Lifetime::Static));
        self.activate(core, &[]).and(Notices::deleted(gone))
    }

    /// A call that changes objects, in the session's transaction or in an implicit
    /// one. If `edit` fails, it must leave the store unchanged.
    pub(super) fn edit<R>(
        &self,
        session: SessionId,
        edit: impl FnOnce(&mut Store, Caller) -> Result<(R, Change), Status>,
    ) -> Result<R, Status> {
        let (mut core, explicit) = self.writable(session)?;
        let caller = core.caller(session);
        let result = match &mut core.writer {
            Some(writer) => edit(&mut writer.store, caller),
            None => Err(Status::FWP_TXN_ABORTED),
        };
        match result {
            Ok((value, change)) => {
                core.journal.push(change);
                let notices = if explicit { Notices::default() } else { self.commit(&mut core) };
                self.release(core, notices);
                Ok(value)
            }
            Err(status) => {
                if !explicit {
                    core.writer = None;
                }
                self.release(core, Notices::default());
                Err(status)
            }
        }
    }

    /// [`Self::edit`] for a filter. Its callout is notified during the call and may
    /// refuse (`FWPS_CALLOUT_NOTIFY_FN0`).
    pub(super) fn edit_with_notice(
        &self,
        session: SessionId,
        edit: impl FnOnce(&mut Store, Caller) -> Result<(Arc<StoredFilter>, Change), Status>,
    ) -> Result<u64, Status> {
        let (mut core, explicit) = self.writable(session)?;
        let caller = core.caller(session);
        let Some(writer) = &mut core.writer else {
            return Err(Status::FWP_TXN_ABORTED);
        };
        let serial = writer.serial;
        let edited = edit(&mut writer.store, caller);
        let (stored, change) = match edited {
            Ok(edited) => edited,
            Err(status) => {
                if !explicit {
                    core.writer = None;
                }
                self.release(core, Notices::default());
                return Err(status);
            }
        };
        let id = stored.id();
        writer.announced.push(Arc::clone(&stored));
        drop(core);
        let accepted = notify(NotifyType::AddFilter, &stored);

        let mut core = self.core.locked();
        // The session may have been closed meanwhile.
        let Some(writer) = core.writer.as_mut().filter(|writer| writer.serial == serial) else {
            return Err(Status::FWP_TXN_ABORTED);
        };
        if !accepted.is_success() {
            writer.store.filters.remove(&id);
            writer.announced.retain(|announced| announced.id() != id);
            if !explicit {
                core.writer = None;
            }
            self.release(core, Notices::default());
            return Err(Status::FWP_CALLOUT_NOTIFICATION_FAILED);
        }
        core.journal.push(change);
        let notices = if explicit { Notices::default() } else { self.commit(&mut core) };
        self.release(core, notices);
        Ok(id)
    }

    /// The session's own write transaction, or a new implicit one; and whether it
    /// is explicit.
    fn writable(&self, session: SessionId) -> Result<(MutexGuard<'_, Core>, bool), Status> {
        let mut core = self.core.locked();
        match core.live(session)?.transaction {
            Some(flags) if flags & TXN_READ_ONLY != 0 => Err(Status::FWP_INCOMPATIBLE_TXN),
            Some(_) => Ok((core, true)),
            None => {
                drop(core);
                Ok((self.acquire(session, 0)?, false))
            }
        }
    }

    /// Acquires the transaction lock; waits as long as the session allows.
    fn acquire(&self, session: SessionId, flags: u32) -> Result<MutexGuard<'_, Core>, Status> {
        let timeout = match self.core.locked().live(session)?.session.txn_wait_timeout_ms {
            INFINITE => None,
            0 => Some(self.options.txn_wait),
            wait => Some(Duration::from_millis(wait.into())),
        };
        let read_only = flags & TXN_READ_ONLY != 0;
        let mut acquired = Err(Status::FWP_TIMEOUT);
        let what = || "the engine's transaction lock".to_owned();
        let _in_acquired = self.transaction_free.wait(&what, timeout, || {
            let mut core = self.core.locked();
            acquired = match core.live(session).map(|open| open.transaction.is_some()) {
                Err(status) => Err(status),
                Ok(true) => Err(Status::FWP_TXN_IN_PROGRESS),
                Ok(false) if core.writer.is_none() && (read_only || core.readers.is_empty()) => Ok(core),
                Ok(false) => return false,
            };
            true
        });
        let mut core = acquired?;
        if read_only {
            core.readers.insert(session);
        } else {
            let store = core.store.clone();
            let announced = Vec::new();
            core.writer = Some(Writer { serial: self.next_id(), session, store, announced });
        }
        Ok(core)
    }

    /// Replaces the objects by those of the writer.
    fn commit(&self, core: &mut Core) -> Notices {
        let Some(writer) = core.writer.take() else {
            return Notices::default();
        };
        core.store = writer.store;
        self.activate(core, &writer.announced)
    }
}

impl Core {
    fn caller(&self, session: SessionId) -> Caller {
        let open = self.sessions.get(&session);
        let dynamic = open.is_some_and(|open| open.session.flags & SESSION_FLAG_DYNAMIC != 0);
        Caller { owner: open.map_or(DriverId::SYSTEM, |open| open.owner), session, dynamic }
    }

    /// A description of the session and of its transaction.
    pub(super) fn describe(&self, session: SessionId, open: &Open) -> String {
        let name = open.session.display.name.as_deref().unwrap_or("unnamed");
        let mut text = format!("session {} \"{name}\" {{{}}}", session.0, open.session.key);
        if open.session.flags & SESSION_FLAG_DYNAMIC != 0 {
            text.push_str(", dynamic");
        }
        if open.aborted {
            text.push_str(", aborted");
        }
        if open.transaction.is_some() {
            text.push_str(", transaction in progress");
        }
        text
    }
}

impl Open {
    pub(super) fn new(session: Session, owner: DriverId) -> Self {
        Self { session, owner, aborted: false, transaction: None }
    }
}
