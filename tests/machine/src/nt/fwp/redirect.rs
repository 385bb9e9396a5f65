//! Writable layer data, and redirection (`fwpsk.h`; *Using Bind or Connect
//! Redirection*).
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};

use super::super::enter::enter;
use super::super::foreign::{self, BadPointer};
use super::super::packets::{Wanted, poke};
use super::super::types::{
    Address, FWPS_BIND_REQUEST0, FWPS_CLASSIFY_OUT0, FWPS_CONNECT_REQUEST0, HANDLE, NTSTATUS,
    SOCKADDR_STORAGE,
};
use super::super::{Kernel, Trouble};
use super::contract::{calls, violation};
use super::inject::{AF_INET, AF_INET6};
use super::pend::with_classify;
use super::{REFUSED, bad_handle, key};
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::{ActionType, RIGHT_ACTION_WRITE, Redirect};

/// `FWPS_CLASSIFY_FLAG_REAUTHORIZE_IF_MODIFIED_BY_OTHERS` (`fwpsk.h`).
const REAUTHORIZE: u32 = 1;

/// `FwpsAcquireWritableLayerDataPointer0`. A callout that redirects in its classifyFn
/// must not ask to be called again if others change the request, too.
pub extern "win64" fn FwpsAcquireWritableLayerDataPointer0(
    classifyHandle: u64,
    filterId: u64,
    flags: u32,
    writableLayerData: Address,
    classifyOut: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsAcquireWritableLayerDataPointer0);
    let acquired = inline(&kernel, classifyHandle, flags)
        .and_then(|()| acquire(&kernel, classifyHandle, filterId, writableLayerData, classifyOut));
    kernel.settle(acquired, REFUSED).0
}

/// "If you do call this API for inline classify, set flags to zero"
/// (`FwpsApplyModifiedLayerData0`).
fn inline(kernel: &Kernel, handle: u64, flags: u32) -> Result<(), Trouble> {
    let pended = with_classify(kernel, handle, |classify| classify.pended)?;
    match calls() {
        Some(calls)
            if flags & REAUTHORIZE != 0 && !pended && calls.layer.name.contains("_CONNECT_REDIRECT_") =>
        {
            Err(violation(&rules::REDIRECT_REAUTHORIZED, &calls).into())
        }
        _ => Ok(()),
    }
}

fn acquire(
    kernel: &Kernel,
    handle: u64,
    filter: u64,
    out: Address,
    classify_out: Address,
) -> Result<Status, Trouble> {
    let (layer, endpoint, held) = with_classify(kernel, handle, |it| (it.layer, it.endpoint, it.data != 0))?;
    let connect = layer.contains("_CONNECT_REDIRECT_");
    if held || !(connect || layer.contains("_BIND_REDIRECT_")) {
        return Ok(Status::INVALID_PARAMETER);
    }
    // Outside of the classify, the request is as the pended classify has left it.
    let inside = calls().and_then(|calls| Some((calls.local()?, calls.remote())));
    let earlier = endpoint.and_then(|endpoint| kernel.engine().demands.redirect(endpoint));
    let Some((local, remote)) = earlier.map(|it| (it.local, it.remote)).or(inside) else {
        return Ok(Status::INVALID_PARAMETER);
    };
    let size = size_of::<FWPS_CONNECT_REQUEST0>();
    let wanted = Wanted { data: 2 * size, ..Wanted::default() };
    let Some(room) = kernel.packets().allocate(kernel, 0, wanted) else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    let previous = if earlier.is_some() { room.data + size } else { 0 };
    let modifier = earlier.map_or(0, |it| it.filter);
    let request = |previous, modifier| FWPS_CONNECT_REQUEST0 {
        localAddressAndPort: storage(local),
        remoteAddressAndPort: remote.map_or(SOCKADDR_STORAGE::zeroed(), storage),
        previousVersion: previous,
        modifierFilterId: modifier,
        ..FWPS_CONNECT_REQUEST0::zeroed()
    };
    let bind = |previous, modifier| FWPS_BIND_REQUEST0 {
        localAddressAndPort: storage(local),
        portReservationToken: 0,
        previousVersion: previous,
        modifierFilterId: modifier,
    };
    if connect {
        poke(room.data, &request(previous, filter));
        poke(room.data + size, &request(0, modifier));
    } else {
        poke(room.data, &bind(previous, filter));
        poke(room.data + size, &bind(0, modifier));
    }
    with_classify(kernel, handle, |classify| classify.data = room.list)?;
    kernel.packets().state().layer_data.insert(room.list, room.data);
    foreign::write(out, &room.data)?;
    if classify_out != 0 {
        let raw: FWPS_CLASSIFY_OUT0 = foreign::read(classify_out)?;
        let rights = raw.rights & !RIGHT_ACTION_WRITE;
        let actionType = ActionType::BLOCK.0;
        foreign::write(classify_out, &FWPS_CLASSIFY_OUT0 { actionType, rights, ..raw })?;
    }
    Ok(Status::SUCCESS)
}

/// `FwpsApplyModifiedLayerData0`.
pub extern "win64" fn FwpsApplyModifiedLayerData0(
    classifyHandle: u64,
    modifiedLayerData: Address,
    flags: u32,
) {
    let kernel = enter!(FwpsApplyModifiedLayerData0);
    let applied = inline(&kernel, classifyHandle, flags)
        .and_then(|()| apply(&kernel, classifyHandle, modifiedLayerData));
    kernel.settle(applied, ());
}

fn apply(kernel: &Kernel, handle: u64, data: Address) -> Result<(), Trouble> {
    let (layer, endpoint, block) = with_classify(kernel, handle, |it| (it.layer, it.endpoint, it.data))?;
    let known = kernel.packets().state().layer_data.get(&block).copied();
    if known != Some(data) {
        let text = format!("layer data {data:#x} of classify handle {handle:#x}");
        return Err(Violation::new(&rules::BAD_OBJECT, [data as u64, 0, 0], text).into());
    }
    // Both structures begin with it.
    let local_at = data;
    let redirect = if layer.contains("_CONNECT_REDIRECT_") {
        let request: FWPS_CONNECT_REQUEST0 = foreign::read(data)?;
        let local_handle = request.localRedirectHandle;
        if local_handle != 0 && !kernel.objects().redirects.contains_key(&local_handle) {
            return Err(bad_handle("redirect handle", local_handle));
        }
        let remote = address(data + offset_of!(FWPS_CONNECT_REQUEST0, remoteAddressAndPort))?;
        address(local_at)?.map(|local| Redirect {
            local,
            remote,
            filter: request.modifierFilterId,
            target: request.localRedirectTargetPID,
        })
    } else {
        let filter = foreign::read::<FWPS_BIND_REQUEST0>(data)?.modifierFilterId;
        address(local_at)?.map(|local| Redirect { local, remote: None, filter, target: 0 })
    };
    with_classify(kernel, handle, |classify| classify.data = 0)?;
    kernel.packets().state().layer_data.remove(&block);
    kernel.packets().free(kernel, block)?;
    if let (Some(endpoint), Some(redirect)) = (endpoint, redirect) {
        kernel.engine().demands.set_redirect(endpoint, redirect);
    }
    Ok(())
}

/// A `SOCKADDR_STORAGE`.
pub(super) fn storage(address: SocketAddr) -> SOCKADDR_STORAGE {
    let mut bytes = [0; size_of::<SOCKADDR_STORAGE>()];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes[..2].copy_from_slice(&AF_INET.to_le_bytes());
            bytes[4..8].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[..2].copy_from_slice(&AF_INET6.to_le_bytes());
            bytes[8..24].copy_from_slice(&ip.octets());
        }
    }
    foreign::value_of(&bytes)
}

/// The address in the `SOCKADDR_STORAGE` at `at`; `None` for another family.
fn address(at: Address) -> Result<Option<SocketAddr>, BadPointer> {
    let bytes: [u8; 24] = match foreign::read_bytes(at, 24)?.try_into() {
        Ok(bytes) => bytes,
        Err(_) => return Ok(None),
    };
    let [low, high, p, q, a, b, c, d, v6 @ ..] = bytes;
    let port = u16::from_be_bytes([p, q]);
    Ok(match u16::from_le_bytes([low, high]) {
        AF_INET => Some(SocketAddr::new([a, b, c, d].into(), port)),
        AF_INET6 => Some(SocketAddr::new(v6.into(), port)),
        _ => None,
    })
}

/// `FwpsRedirectHandleCreate0`. A driver keeps one handle for each provider.
pub extern "win64" fn FwpsRedirectHandleCreate0(
    providerGuid: Address,
    flags: u32,
    redirectHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsRedirectHandleCreate0);
    if flags != 0 {
        return Status::INVALID_PARAMETER.0;
    }
    let created = key(providerGuid).and_then(|provider| {
        let driver = kernel.caller();
        let mut objects = kernel.objects();
        if objects.redirects.values().any(|known| *known == (provider, driver)) {
            let text = format!("provider {provider}");
            return Err(Violation::new(&rules::REDIRECT_HANDLE_AGAIN, [0; 3], text).into());
        }
        let handle = objects.opaque();
        objects.redirects.insert(handle, (provider, driver));
        drop(objects);
        foreign::write(redirectHandle, &handle)?;
        Ok(Status::SUCCESS)
    });
    kernel.settle(created, REFUSED).0
}

/// `FwpsRedirectHandleDestroy0`.
pub extern "win64" fn FwpsRedirectHandleDestroy0(redirectHandle: HANDLE) {
    let kernel = enter!(FwpsRedirectHandleDestroy0);
    let known = kernel.objects().redirects.remove(&redirectHandle);
    let outcome = known.map(drop).ok_or_else(|| bad_handle("redirect handle", redirectHandle));
    kernel.settle(outcome, ());
}

/// `FWPS_CONNECTION_NOT_REDIRECTED` (`fwpsk.h`).
const NOT_REDIRECTED: i32 = 0;

/// `FwpsQueryConnectionRedirectState0`. Redirect records are on connections that a proxy
/// makes for others. The lab's host has no such program, so it indicates none.
pub extern "win64" fn FwpsQueryConnectionRedirectState0(
    redirectRecords: HANDLE,
    redirectHandle: HANDLE,
    redirectContext: Address,
) -> i32 {
    let kernel = enter!(FwpsQueryConnectionRedirectState0);
    let _ = redirectContext;
    let known = kernel.objects().redirects.contains_key(&redirectHandle);
    let state = match (known, redirectRecords) {
        (false, _) => Err(bad_handle("redirect handle", redirectHandle)),
        (true, 0) => Ok(NOT_REDIRECTED),
        (true, records) => Err(bad_handle("redirect records", records)),
    };
    kernel.settle(state, NOT_REDIRECTED)
}
