//! fwpkclnt: the filter engine's exports for drivers (`fwpmk.h`, `fwpsk.h`).
//!
//! | module | content |
//! |---|---|
//! | this one | the management exports: they read the driver's structures and call the engine |
//! | `driver` | the exports for callouts, BFE state and flows |
//! | `lists`, `clones` | the exports for lists that are injected: allocated, cloned, referenced |
//! | `headers` | the exports for IP headers and security information |
//! | `inject` | the exports that inject |
//! | `pend`, `redirect`, `stream` | the exports for callouts that pend, redirect, and change streams |
//! | `advice` | what the pages advise callouts to do in a classify |
//! | `contract` | what a callout has done in the classify that is running |
//! | `read` | reads management structures into the engine's objects |
//! | `callout` | a driver's callout, as the engine calls it |
//! | `incoming` | an indication as raw structures |
//! | [`hostile`] | indications that an engine would not make |
//! | [`prepared`] | an indication laid out once, for many calls |
//! | `packet` | a packet as NET_BUFFER_LIST, NET_BUFFER and MDLs |
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

mod advice;
mod callout;
mod clones;
mod contract;
mod driver;
mod headers;
pub mod hostile;
mod incoming;
mod inject;
mod lists;
mod packet;
mod pend;
pub mod prepared;
mod read;
mod redirect;
mod stream;
mod whole;

use super::enter::enter;
use super::foreign;
use super::types::{Address, GUID, HANDLE, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::{Engine, Guid, SessionId};

pub use callout::{GuestCallout, Prototype};
pub use clones::*;
pub use driver::*;
pub use headers::*;
pub use inject::*;
pub use lists::*;
pub use pend::{
    FwpsAcquireClassifyHandle0, FwpsCompleteClassify0, FwpsCompleteOperation0, FwpsPendClassify0,
    FwpsPendOperation0, FwpsReleaseClassifyHandle0,
};
pub use redirect::*;
pub use stream::*;

pub(super) use packet::PacketRoom;
pub use packet::{MdlMapping, NblLayout};
pub(super) use pend::{Classification, Operation};

/// What an export returns after a tolerated breach.
const REFUSED: Status = Status::UNSUCCESSFUL;

/// `FwpmEngineOpen0`. Kernel callers pass no server name. The identity is ignored
/// (documentation).
pub extern "win64" fn FwpmEngineOpen0(
    serverName: Address,
    authnService: u32,
    authIdentity: Address,
    session: Address,
    engineHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpmEngineOpen0);
    let _ = authIdentity;
    /// `RPC_C_AUTHN_WINNT` and `RPC_C_AUTHN_DEFAULT` (`rpcdce.h`).
    const SERVICES: [u32; 2] = [10, u32::MAX];
    if serverName != 0 || !SERVICES.contains(&authnService) {
        return Status::INVALID_PARAMETER.0;
    }
    kernel.settle(open(&kernel, session, engineHandle), REFUSED).0
}

fn open(kernel: &Kernel, session: Address, out: Address) -> Result<Status, Trouble> {
    let session = read::session(session)?;
    // Check the handle pointer before the session opens.
    foreign::write(out, &0usize)?;
    let id = match kernel.engine().open_for(kernel.caller(), session) {
        Ok(id) => id,
        Err(status) => return Ok(status),
    };
    let handle = {
        let mut objects = kernel.objects();
        let handle = objects.opaque();
        objects.sessions.insert(handle, id);
        handle
    };
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}

/// The session of an engine handle. A closed or invalid handle is a breach: the
/// real library would dereference it.
fn session(kernel: &Kernel, handle: HANDLE) -> Result<SessionId, Trouble> {
    let id = kernel.objects().sessions.get(&handle).copied();
    id.ok_or_else(|| bad_handle("engine handle", handle))
}

fn bad_handle(kind: &str, handle: HANDLE) -> Trouble {
    let text = format!("{kind} {handle:#x}");
    Violation::new(&rules::ENGINE_HANDLE, [handle as u64, 0, 0], text).into()
}

/// Runs a management call for the session of a handle.
fn manage(
    kernel: &Kernel,
    handle: HANDLE,
    call: impl FnOnce(&Engine, SessionId) -> Result<Status, Trouble>,
) -> NTSTATUS {
    let outcome = session(kernel, handle).and_then(|id| call(kernel.engine(), id));
    kernel.settle(outcome, REFUSED).0
}

/// Reads a GUID that must not be NULL.
fn key(address: Address) -> Result<Guid, Trouble> {
    Ok(foreign::read::<GUID>(address)?.to_guid())
}

/// Writes a new object's id to `out`, if it is not NULL.
fn give_id<T: super::types::Plain>(id: Result<T, Status>, out: Address) -> Result<Status, Trouble> {
    match id {
        Ok(id) => {
            if out != 0 {
                foreign::write(out, &id)?;
            }
            Ok(Status::SUCCESS)
        }
        Err(status) => Ok(status),
    }
}

/// `FwpmFreeMemory0`. No function of the lab returns memory of the engine's, so there is none to
/// free; the pointer becomes NULL.
pub extern "win64" fn FwpmFreeMemory0(p: Address) {
    let kernel = enter!(FwpmFreeMemory0);
    kernel.settle(foreign::write(p, &0usize), ());
}

/// `FwpmEngineClose0`.
pub extern "win64" fn FwpmEngineClose0(engineHandle: HANDLE) -> NTSTATUS {
    let kernel = enter!(FwpmEngineClose0);
    let removed = |kernel: &Kernel| {
        let id = kernel.objects().sessions.remove(&engineHandle);
        let id = id.ok_or_else(|| bad_handle("engine handle", engineHandle))?;
        Ok::<_, Trouble>(kernel.engine().close(id))
    };
    kernel.settle(removed(&kernel), REFUSED).0
}

/// `FwpmTransactionBegin0`.
pub extern "win64" fn FwpmTransactionBegin0(engineHandle: HANDLE, flags: u32) -> NTSTATUS {
    let kernel = enter!(FwpmTransactionBegin0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.transaction_begin(id, flags)))
}

/// `FwpmTransactionCommit0`.
pub extern "win64" fn FwpmTransactionCommit0(engineHandle: HANDLE) -> NTSTATUS {
    let kernel = enter!(FwpmTransactionCommit0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.transaction_commit(id)))
}

/// `FwpmTransactionAbort0`.
pub extern "win64" fn FwpmTransactionAbort0(engineHandle: HANDLE) -> NTSTATUS {
    let kernel = enter!(FwpmTransactionAbort0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.transaction_abort(id)))
}

/// `FwpmProviderAdd0`. Security descriptors are not modelled.
pub extern "win64" fn FwpmProviderAdd0(engineHandle: HANDLE, provider: Address, sd: Address) -> NTSTATUS {
    let kernel = enter!(FwpmProviderAdd0);
    let _ = sd;
    manage(&kernel, engineHandle, |engine, id| Ok(engine.provider_add(id, read::provider(provider)?)))
}

/// `FwpmProviderDeleteByKey0`.
pub extern "win64" fn FwpmProviderDeleteByKey0(engineHandle: HANDLE, key: Address) -> NTSTATUS {
    let kernel = enter!(FwpmProviderDeleteByKey0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.provider_delete(id, self::key(key)?)))
}

/// `FwpmSubLayerAdd0`.
pub extern "win64" fn FwpmSubLayerAdd0(engineHandle: HANDLE, subLayer: Address, sd: Address) -> NTSTATUS {
    let kernel = enter!(FwpmSubLayerAdd0);
    let _ = sd;
    manage(&kernel, engineHandle, |engine, id| Ok(engine.sublayer_add(id, read::sublayer(subLayer)?)))
}

/// `FwpmSubLayerDeleteByKey0`.
pub extern "win64" fn FwpmSubLayerDeleteByKey0(engineHandle: HANDLE, key: Address) -> NTSTATUS {
    let kernel = enter!(FwpmSubLayerDeleteByKey0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.sublayer_delete(id, self::key(key)?)))
}

/// `FwpmCalloutAdd0`.
pub extern "win64" fn FwpmCalloutAdd0(
    engineHandle: HANDLE,
    callout: Address,
    sd: Address,
    id: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpmCalloutAdd0);
    let _ = sd;
    manage(&kernel, engineHandle, |engine, session| {
        give_id(engine.callout_add(session, read::callout(callout)?), id)
    })
}

/// `FwpmCalloutDeleteByKey0`.
pub extern "win64" fn FwpmCalloutDeleteByKey0(engineHandle: HANDLE, key: Address) -> NTSTATUS {
    let kernel = enter!(FwpmCalloutDeleteByKey0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.callout_delete(id, self::key(key)?)))
}

/// `FwpmFilterAdd0`.
pub extern "win64" fn FwpmFilterAdd0(
    engineHandle: HANDLE,
    filter: Address,
    sd: Address,
    id: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpmFilterAdd0);
    let _ = sd;
    manage(&kernel, engineHandle, |engine, session| {
        let filter = match read::filter(filter)? {
            Ok(filter) => filter,
            Err(status) => return Ok(status),
        };
        give_id(engine.filter_add(session, filter), id)
    })
}

/// `FwpmFilterDeleteById0`.
pub extern "win64" fn FwpmFilterDeleteById0(engineHandle: HANDLE, id: u64) -> NTSTATUS {
    let kernel = enter!(FwpmFilterDeleteById0);
    manage(&kernel, engineHandle, |engine, session| Ok(engine.filter_delete_by_id(session, id)))
}

/// `FwpmFilterDeleteByKey0`.
pub extern "win64" fn FwpmFilterDeleteByKey0(engineHandle: HANDLE, key: Address) -> NTSTATUS {
    let kernel = enter!(FwpmFilterDeleteByKey0);
    manage(&kernel, engineHandle, |engine, id| Ok(engine.filter_delete_by_key(id, self::key(key)?)))
}
