//! The management interface (`Fwpm*`), as far as a callout driver uses it.

use super::lock::Locked;
use super::transaction::Open;
use super::{
    BfeState, Callout, Change, Engine, Filter, Guid, Provider, SESSION_FLAG_DYNAMIC, Session, SessionId,
    Sublayer,
};
use crate::driver::DriverId;
use crate::status::Status;

/// The run-time ids of filters are greater than this; no id is used twice.
const FIRST_FILTER_ID: u64 = 0x1_0000;

/// The built-in layers and sublayers exist from the start.
impl Engine {
    /// `FwpmEngineOpen0`. Fails unless the Base Filtering Engine runs. The page
    /// says only "RPC error code", so the status is inferred.
    pub fn open(&self, session: Session) -> Result<SessionId, Status> {
        self.open_for(DriverId::SYSTEM, session)
    }

    /// As [`Self::open`], for a driver. What is added in the session is the driver's.
    pub fn open_for(&self, owner: DriverId, mut session: Session) -> Result<SessionId, Status> {
        if session.flags & !SESSION_FLAG_DYNAMIC != 0 {
            return Err(Status::FWP_INVALID_FLAGS);
        }
        self.fill(&mut session.key);
        let id = SessionId(self.next_id());
        let mut core = self.core.locked();
        if core.bfe != BfeState::Running {
            return Err(Status::SERVER_UNAVAILABLE);
        }
        if core.sessions.values().any(|open| open.session.key == session.key) {
            return Err(Status::FWP_ALREADY_EXISTS);
        }
        core.sessions.insert(id, Open::new(session, owner));
        core.journal.push(Change::EngineOpen);
        Ok(id)
    }

    /// `FwpmEngineClose0`. Aborts the transaction in progress and deletes a dynamic
    /// session's objects.
    pub fn close(&self, session: SessionId) -> Status {
        status(self.close_inner(session))
    }

    /// `FwpmTransactionBegin0`. Waits for the engine's lock.
    pub fn transaction_begin(&self, session: SessionId, flags: u32) -> Status {
        status(self.transaction_begin_inner(session, flags))
    }

    /// `FwpmTransactionCommit0`.
    pub fn transaction_commit(&self, session: SessionId) -> Status {
        status(self.transaction_commit_inner(session))
    }

    /// `FwpmTransactionAbort0`.
    pub fn transaction_abort(&self, session: SessionId) -> Status {
        status(self.transaction_abort_inner(session))
    }

    /// `FwpmProviderAdd0`.
    pub fn provider_add(&self, session: SessionId, mut provider: Provider) -> Status {
        self.fill(&mut provider.key);
        let key = provider.key;
        status(self.edit(session, |store, caller| {
            store.add_provider(caller, provider)?;
            Ok(((), Change::ProviderAdd { key }))
        }))
    }

    /// `FwpmProviderDeleteByKey0`.
    pub fn provider_delete(&self, session: SessionId, key: Guid) -> Status {
        status(self.edit(session, |store, caller| {
            store.delete_provider(caller, key)?;
            Ok(((), Change::ProviderDelete { key }))
        }))
    }

    /// `FwpmSubLayerAdd0`. If its weight is taken, it gets a free one nearby.
    pub fn sublayer_add(&self, session: SessionId, mut sublayer: Sublayer) -> Status {
        self.fill(&mut sublayer.key);
        let key = sublayer.key;
        status(self.edit(session, |store, caller| {
            store.add_sublayer(caller, sublayer, self.options.taken_weight)?;
            Ok(((), Change::SublayerAdd { key }))
        }))
    }

    /// `FwpmSubLayerDeleteByKey0`.
    pub fn sublayer_delete(&self, session: SessionId, key: Guid) -> Status {
        status(self.edit(session, |store, caller| {
            store.delete_sublayer(caller, key)?;
            Ok(((), Change::SublayerDelete { key }))
        }))
    }

    /// `FwpmCalloutAdd0`. Returns the run-time id.
    pub fn callout_add(&self, session: SessionId, mut callout: Callout) -> Result<u32, Status> {
        self.fill(&mut callout.key);
        self.edit(session, |store, caller| {
            let (key, layer, provider) = (callout.key, callout.applicable_layer, callout.provider);
            store.add_callout(caller, callout)?;
            Ok((self.callouts.slot(key).id, Change::CalloutAdd { key, layer, provider }))
        })
    }

    /// `FwpmCalloutDeleteByKey0`.
    pub fn callout_delete(&self, session: SessionId, key: Guid) -> Status {
        status(self.edit(session, |store, caller| {
            store.delete_callout(caller, key)?;
            Ok(((), Change::CalloutDelete { key }))
        }))
    }

    /// `FwpmFilterAdd0`. Returns the run-time id. If the callout is registered, it
    /// is notified before this returns and may refuse.
    pub fn filter_add(&self, session: SessionId, mut filter: Filter) -> Result<u64, Status> {
        self.fill(&mut filter.key);
        let id = FIRST_FILTER_ID + self.next_id();
        self.edit_with_notice(session, |store, caller| {
            let stored = store.add_filter(caller, filter, id, &self.callouts)?;
            let Filter { key, layer, callout, provider, .. } = stored.filter;
            Ok((stored, Change::FilterAdd { key, layer, callout, provider }))
        })
    }

    /// `FwpmFilterDeleteById0`.
    pub fn filter_delete_by_id(&self, session: SessionId, id: u64) -> Status {
        status(self.edit(session, |store, caller| {
            let key = store.delete_filter(caller, id)?;
            Ok(((), Change::FilterDelete { key }))
        }))
    }

    /// `FwpmFilterDeleteByKey0`.
    pub fn filter_delete_by_key(&self, session: SessionId, key: Guid) -> Status {
        status(self.edit(session, |store, caller| {
            let found = store.filters.values().find(|stored| stored.filter.key == key);
            let id = found.ok_or(Status::FWP_FILTER_NOT_FOUND)?.id();
            store.delete_filter(caller, id)?;
            Ok(((), Change::FilterDelete { key }))
        }))
    }

    /// Creates a key for an object that has none.
    fn fill(&self, key: &mut Guid) {
        const GENERATED: u128 = 0x6c61_6200_0000_4000_8000_0000_0000_0000;
        if key.is_nil() {
            *key = Guid::from_u128(GENERATED | u128::from(self.next_id()));
        }
    }
}

/// The status of a call that returns nothing else.
fn status(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::SUCCESS)
}
