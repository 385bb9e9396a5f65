//! The engine's management interface: session, transaction, objects.

use core::ptr;

use super::guid;
use crate::ffi;
use crate::kernel::irql::Passive;
use crate::kernel::status::{Result, to_result};
use crate::kernel::utf16::Utf16;
use crate::kernel::waiting::waiting;
use crate::logic::layers::Guid;
use crate::logic::waiting::Awaited;

/// An open session. It is dynamic: the engine deletes its objects when it is closed.
pub struct Engine {
    pub(crate) handle: ffi::HANDLE,
    /// A transaction failed, and so did its abort. Nobody knows what is in force, and
    /// the session may still hold the engine's lock.
    lost: bool,
}

// SAFETY: a session may be used by any thread, one at a time.
unsafe impl Send for Engine {}

/// A name and a description for administrators.
pub struct Display {
    name: Utf16<64>,
    description: Utf16<128>,
}

/// The provider of all our objects (FWPM_PROVIDER0).
pub struct Provider {
    /// The provider's key.
    pub key: Guid,
    /// What administrators read.
    pub display: Display,
}

/// The sublayer of our filters (FWPM_SUBLAYER0).
pub struct Sublayer {
    /// The sublayer's key.
    pub key: Guid,
    /// What administrators read.
    pub display: Display,
    /// The weight. Heavier sublayers are evaluated first.
    pub weight: u16,
}

/// A callout as the engine's management side knows it (FWPM_CALLOUT0).
pub struct CalloutObject<'a> {
    /// The key under which it is registered.
    pub key: Guid,
    /// The layer's key.
    pub layer: Guid,
    /// What administrators read.
    pub display: &'a Display,
}

/// A filter without conditions that calls a callout (FWPM_FILTER0).
pub struct Filter<'a> {
    /// The filter's key.
    pub key: Guid,
    /// The layer's key.
    pub layer: Guid,
    /// The callout's key.
    pub callout: Guid,
    /// What the callout may do.
    pub action: FilterAction,
    /// What administrators read.
    pub display: &'a Display,
}

/// What a filter allows its callout to do.
#[derive(Clone, Copy)]
pub enum FilterAction {
    /// Inspect only. The filter is skipped if the callout is not registered.
    Inspect,
    /// Block, permit or continue. The filter permits if the callout is not
    /// registered.
    Decide,
}

impl Display {
    /// Concatenates the parts of the name.
    pub fn new(name: &[&str], description: &str) -> Self {
        Self { name: Utf16::concat(name), description: Utf16::concat(&[description]) }
    }

    pub(crate) fn data(&self) -> ffi::FWPM_DISPLAY_DATA0 {
        ffi::FWPM_DISPLAY_DATA0 { name: self.name.as_ptr(), description: self.description.as_ptr() }
    }
}

impl Engine {
    /// Opens a dynamic session. Fails if BFE does not run. Its transactions wait for
    /// the engine's lock for at most this many milliseconds; 0 is the engine's
    /// default, 15 s.
    pub fn open(display: &Display, lock_wait_ms: u32, _: &Passive) -> Result<Self> {
        let session = ffi::FWPM_SESSION0 {
            displayData: display.data(),
            flags: ffi::FWPM_SESSION_FLAG_DYNAMIC,
            txnWaitTimeoutInMSec: lock_wait_ms,
            ..Default::default()
        };
        let mut handle = ptr::null_mut();
        // SAFETY: kernel callers pass no server and no identity; session and
        // handle are locals, and the call is made at PASSIVE_LEVEL.
        let open = || unsafe {
            ffi::FwpmEngineOpen0(ptr::null(), ffi::RPC_C_AUTHN_WINNT, ptr::null_mut(), &session, &mut handle)
        };
        to_result(waiting(Awaited::EngineOpen, open))?;
        Ok(Self { handle, lost: false })
    }

    /// Whether the session must be closed, because a transaction could neither be
    /// committed nor aborted.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Begins a transaction. No change is visible before the commit.
    pub fn transaction<'a>(&'a mut self, irql: &'a Passive) -> Result<Transaction<'a>> {
        // SAFETY: the session is open and, borrowed alone, in no transaction;
        // the call is made at PASSIVE_LEVEL.
        let begin = || unsafe { ffi::FwpmTransactionBegin0(self.handle, 0) };
        let begun = to_result(waiting(Awaited::TransactionBegin, begin));
        // If the call failed, only its reply may be lost. So abort in this case, too.
        let transaction = Transaction { engine: self, _irql: irql, begun: begun.is_ok(), open: true };
        begun.map(|()| transaction)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: the session is open and closed once, here; sessions are only
        // held at PASSIVE_LEVEL. If BFE has closed it, the call fails harmlessly.
        let close = || unsafe { ffi::FwpmEngineClose0(self.handle) };
        let _closed_or_gone = waiting(Awaited::EngineClose, close);
    }
}

/// A transaction. Unless it was committed, dropping it aborts it.
#[must_use]
pub struct Transaction<'a> {
    pub(crate) engine: &'a mut Engine,
    _irql: &'a Passive,
    /// The engine has confirmed the beginning.
    begun: bool,
    /// The engine has not confirmed the commit.
    open: bool,
}

impl Transaction<'_> {
    /// Adds the provider.
    pub fn add_provider(&mut self, provider: &Provider) -> Result {
        let object = ffi::FWPM_PROVIDER0 {
            providerKey: guid(provider.key),
            displayData: provider.display.data(),
            ..Default::default()
        };
        // SAFETY: the session is open in a transaction at PASSIVE_LEVEL, and
        // the object is a local whose pointers outlive the call.
        let add = || unsafe { ffi::FwpmProviderAdd0(self.engine.handle, &object, ptr::null_mut()) };
        to_result(waiting(Awaited::ProviderAdd, add))
    }

    /// Adds the sublayer.
    pub fn add_sublayer(&mut self, sublayer: &Sublayer, provider: &Provider) -> Result {
        let mut provider = guid(provider.key);
        let object = ffi::FWPM_SUBLAYER0 {
            subLayerKey: guid(sublayer.key),
            displayData: sublayer.display.data(),
            providerKey: &mut provider,
            weight: sublayer.weight,
            ..Default::default()
        };
        // SAFETY: as for the provider.
        let add = || unsafe { ffi::FwpmSubLayerAdd0(self.engine.handle, &object, ptr::null_mut()) };
        to_result(waiting(Awaited::SublayerAdd, add))
    }

    /// Adds a callout.
    pub fn add_callout(&mut self, callout: &CalloutObject<'_>, provider: &Provider) -> Result {
        let mut provider = guid(provider.key);
        let object = ffi::FWPM_CALLOUT0 {
            calloutKey: guid(callout.key),
            displayData: callout.display.data(),
            providerKey: &mut provider,
            applicableLayer: guid(callout.layer),
            ..Default::default()
        };
        // SAFETY: as for the provider; the id is not asked for.
        let add =
            || unsafe { ffi::FwpmCalloutAdd0(self.engine.handle, &object, ptr::null_mut(), ptr::null_mut()) };
        to_result(waiting(Awaited::CalloutAdd, add))
    }

    /// Adds a filter.
    pub fn add_filter(&mut self, filter: &Filter<'_>, sublayer: &Sublayer, provider: &Provider) -> Result {
        let mut provider = guid(provider.key);
        let (action, flags) = match filter.action {
            FilterAction::Inspect => (ffi::FWP_ACTION_CALLOUT_INSPECTION, 0),
            FilterAction::Decide => {
                (ffi::FWP_ACTION_CALLOUT_UNKNOWN, ffi::FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED)
            }
        };
        let object = ffi::FWPM_FILTER0 {
            filterKey: guid(filter.key),
            displayData: filter.display.data(),
            flags,
            providerKey: &mut provider,
            layerKey: guid(filter.layer),
            subLayerKey: guid(sublayer.key),
            // FWP_EMPTY: the engine chooses a weight. This is the sublayer's only
            // filter at the layer.
            weight: ffi::FWP_VALUE0 { type_: ffi::FWP_DATA_TYPE_::FWP_EMPTY, ..Default::default() },
            action: ffi::FWPM_ACTION0 {
                type_: action,
                __bindgen_anon_1: ffi::FWPM_ACTION0___bindgen_ty_1 { calloutKey: guid(filter.callout) },
            },
            ..Default::default()
        };
        // SAFETY: as for the provider; the id is not asked for.
        let add =
            || unsafe { ffi::FwpmFilterAdd0(self.engine.handle, &object, ptr::null_mut(), ptr::null_mut()) };
        to_result(waiting(Awaited::FilterAdd, add))
    }

    /// Deletes a filter that this session has added. Returns whether it existed. The
    /// engine refuses to delete other sessions' objects in a dynamic session.
    pub fn delete_filter(&mut self, key: Guid) -> Result<bool> {
        // SAFETY: the session is open in a transaction at PASSIVE_LEVEL, and
        // the key is a local.
        let delete = || unsafe { ffi::FwpmFilterDeleteByKey0(self.engine.handle, &guid(key)) };
        let status = waiting(Awaited::FilterDelete, delete);
        match to_result(status) {
            Ok(()) => Ok(true),
            Err(_) if status == ffi::STATUS_FWP_FILTER_NOT_FOUND || status == ffi::STATUS_FWP_NOT_FOUND => {
                Ok(false)
            }
            Err(status) => Err(status),
        }
    }

    /// Makes all changes visible at once. If that fails, the transaction is aborted:
    /// no document says that it is over.
    pub fn commit(mut self) -> Result {
        // SAFETY: the session is open in a transaction, at PASSIVE_LEVEL.
        let commit = || unsafe { ffi::FwpmTransactionCommit0(self.engine.handle) };
        let committed = to_result(waiting(Awaited::TransactionCommit, commit));
        self.open = committed.is_err();
        committed
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // SAFETY: the session is open, at PASSIVE_LEVEL. Without a transaction the
            // call fails.
            let abort = || unsafe { ffi::FwpmTransactionAbort0(self.engine.handle) };
            let aborted = waiting(Awaited::TransactionAbort, abort);
            let never_begun = !self.begun && aborted == ffi::STATUS_FWP_NO_TXN_IN_PROGRESS;
            self.engine.lost |= to_result(aborted).is_err() && !never_begun;
        }
    }
}
