//! Injection of packets (`fwpsk.h`).
//!
//! An injection reads the packet, and queues it for the host. The packet enters the
//! stack when the host takes it. Then the driver's completion function runs on a
//! worker thread, on another processor, at any IRQL up to DISPATCH_LEVEL.
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::cpu;
use super::super::enter::enter;
use super::super::foreign;
use super::super::packets::{Handle, State, bytes_of};
use super::super::placement::Callback;
use super::super::types::{Address, FWPS_TRANSPORT_SEND_PARAMS0, HANDLE, NET_BUFFER_LIST, NTSTATUS};
use super::super::work::Job;
use super::super::{Irql, Kernel, Trouble};
use super::REFUSED;
use super::contract::{self, may_inject};
use crate::schedule::Waited;
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::{Demand, Entry, Injection, Injections, injection_state};

/// `FWPS_INJECTION_TYPE_*` (`fwpsk.h`).
pub(super) mod kind {
    pub(in crate::nt::fwp) const STREAM: u32 = 1;
    pub(in crate::nt::fwp) const TRANSPORT: u32 = 2;
    pub(in crate::nt::fwp) const NETWORK: u32 = 4;
    pub(in crate::nt::fwp) const FORWARD: u32 = 8;
    pub(super) const ALL: u32 = 0x3F;
    /// What a handle without flags is for.
    pub(super) const DEFAULT: u32 = TRANSPORT | STREAM | FORWARD;
}

/// `ADDRESS_FAMILY` (`ws2def.h`).
pub(super) const AF_UNSPEC: u16 = 0;
pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 23;

/// `FwpsInjectionHandleCreate0`. For the network layer, the family must be given.
pub extern "win64" fn FwpsInjectionHandleCreate0(
    addressFamily: u16,
    flags: u32,
    injectionHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectionHandleCreate0);
    let kinds = if flags == 0 { kind::DEFAULT } else { flags };
    let known = [AF_UNSPEC, AF_INET, AF_INET6].contains(&addressFamily);
    if !known || flags & !kind::ALL != 0 || (kinds & kind::NETWORK != 0 && addressFamily == AF_UNSPEC) {
        return Status::INVALID_PARAMETER.0;
    }
    if kernel.pool().take_shortage() {
        return Status::INSUFFICIENT_RESOURCES.0;
    }
    let value = kernel.objects().opaque();
    let driver = kernel.caller();
    let handle = Handle { driver, kinds, family: addressFamily, ..Handle::default() };
    let created = foreign::write(injectionHandle, &value).map(|()| {
        kernel.packets().state().handles.insert(value, handle);
        Status::SUCCESS
    });
    kernel.settle(created, REFUSED).0
}

/// `FwpsInjectionHandleDestroy0` waits until all injections are completed.
pub extern "win64" fn FwpsInjectionHandleDestroy0(injectionHandle: HANDLE) -> NTSTATUS {
    let kernel = enter!(FwpsInjectionHandleDestroy0);
    kernel.settle(close(&kernel, injectionHandle), ());
    let pending = || kernel.packets().state().handles.get(&injectionHandle).map_or(0, |it| it.pending);
    let what = || format!("{} injections to be completed", pending());
    if kernel.bell.wait(&what, None, || pending() == 0) != Waited::Ready {
        kernel.leave_if_stopped();
    }
    kernel.packets().state().handles.remove(&injectionHandle);
    Status::SUCCESS.0
}

fn close(kernel: &Kernel, handle: HANDLE) -> Result<(), Violation> {
    match kernel.packets().state().handles.get_mut(&handle) {
        Some(it) if !it.closing => {
            it.closing = true;
            Ok(())
        }
        _ => Err(bad_injection_handle(handle)),
    }
}

pub(super) fn bad_injection_handle(handle: HANDLE) -> Violation {
    let text = format!("injection handle {handle:#x}");
    Violation::new(&rules::INJECTION_HANDLE, [handle as u64, 0, 0], text)
}

/// `FwpsQueryPacketInjectionState0`.
pub extern "win64" fn FwpsQueryPacketInjectionState0(
    injectionHandle: HANDLE,
    netBufferList: Address,
    injectionContext: Address,
) -> i32 {
    let kernel = enter!(FwpsQueryPacketInjectionState0);
    kernel.settle(query(&kernel, injectionHandle, netBufferList, injectionContext), 0)
}

fn query(kernel: &Kernel, handle: HANDLE, list: Address, out: Address) -> Result<i32, Trouble> {
    if !kernel.packets().state().handles.contains_key(&handle) {
        return Err(bad_injection_handle(handle).into());
    }
    let (state, own) = injection_state(&injections_of(kernel, list)?, handle as u64);
    if let Some(own) = own.filter(|_| out != 0) {
        foreign::write(out, &own.context)?;
    }
    Ok(state as i32)
}

/// How the packet of a list was injected.
pub(super) fn injections_of(kernel: &Kernel, list: Address) -> Result<Injections, Violation> {
    if let Some(injections) = contract::indicated(list).or_else(|| kernel.packets().kept(list)) {
        return Ok(injections);
    }
    let state = kernel.packets().state();
    match state.lists.get(&list) {
        Some(known) => Ok(known.injections.clone()),
        None => {
            drop(state);
            Err(kernel.packets().unknown(list))
        }
    }
}

/// An injection that a driver asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) handle: HANDLE,
    pub(super) context: HANDLE,
    /// The `FWPS_INJECTION_TYPE_*` that the handle needs.
    pub(super) kind: u32,
    /// The address family, if the function gives it.
    pub(super) family: u16,
    pub(super) list: Address,
    pub(super) function: Address,
    pub(super) completion_context: Address,
}

/// Begins an injection. If it succeeds, the completion function is called later.
pub(super) fn inject(
    kernel: &Kernel,
    asked: Asked,
    entry: impl FnOnce(Option<(u8, IpAddr)>) -> Entry,
) -> Result<Status, Trouble> {
    may_inject()?;
    let Asked { handle, list, .. } = asked;
    if asked.function == 0 || list == 0 {
        return Ok(Status::FWP_NULL_POINTER);
    }
    let known = kernel.packets().state().handles.get(&handle).copied();
    match known {
        None => return Err(bad_injection_handle(handle).into()),
        Some(it) if it.closing => return Ok(Status::FWP_INJECT_HANDLE_CLOSING),
        Some(it) if it.kinds & asked.kind == 0 => return Ok(Status::FWP_INJECT_HANDLE_STALE),
        Some(it) if ![AF_UNSPEC, asked.family].contains(&it.family) && asked.family != AF_UNSPEC => {
            return Ok(Status::FWP_INVALID_PARAMETER);
        }
        Some(_) => {}
    }
    if !kernel.packets().state().lists.contains_key(&list) {
        return Err(kernel.packets().unknown(list).into());
    }
    let packets = bytes_of(list)?;
    let Some((injections, origin)) = begin(kernel, asked)? else {
        return Ok(Status::FWP_INJECT_HANDLE_CLOSING);
    };
    let demand = Demand::Inject { entry: entry(origin), packets, injections };
    let (machine, driver) = (kernel.weak(), kernel.caller());
    kernel.engine().demands.demand(demand, move |status| {
        if let Some(kernel) = machine.upgrade() {
            let Asked { handle, list, function, completion_context: context, .. } = asked;
            kernel.work().push(Job::Injected { handle, list, function, context, status }, driver);
        }
    });
    Ok(Status::SUCCESS)
}

/// The injections of a packet, and what is known of its origin.
type Begun = (Injections, Option<(u8, IpAddr)>);

/// Marks a list as injected. `None` if its handle is being destroyed.
fn begin(kernel: &Kernel, asked: Asked) -> Result<Option<Begun>, Violation> {
    let mut state = kernel.packets().state();
    let State { handles, lists, .. } = &mut *state;
    let Some(handle) = handles.get_mut(&asked.handle).filter(|it| !it.closing) else {
        return Ok(None);
    };
    let Some(list) = lists.get_mut(&asked.list) else { return Ok(None) };
    if list.injected {
        let text = format!("NET_BUFFER_LIST {:#x}", asked.list);
        return Err(Violation::new(&rules::LIST_INJECTED_TWICE, [asked.list as u64, 0, 0], text));
    }
    handle.pending += 1;
    list.injected = true;
    let injection = Injection { handle: asked.handle as u64, context: asked.context as u64 };
    let earlier = list.injections.as_deref().unwrap_or_default();
    let injections: Arc<[Injection]> = earlier.iter().copied().chain([injection]).collect();
    Ok(Some((Some(injections), list.origin)))
}

impl Kernel {
    /// Completes an injection, on a worker thread.
    pub(in crate::nt) fn complete_injection(
        &self,
        (handle, list): (HANDLE, Address),
        (function, context): (Address, Address),
        status: Status,
    ) {
        if let Some(list) = self.packets().state().lists.get_mut(&list) {
            list.injected = false;
        }
        // The list exists: a driver that frees it while it is injected is stopped.
        let _written = foreign::write(list + offset_of!(NET_BUFFER_LIST, Status), &status.0);
        let level = self.level_of(Callback::Completion).max(cpu::irql());
        let arguments = [context as u64, list as u64, u64::from(level == Irql::DISPATCH)];
        // If the call failed, it has already stopped the machine.
        let _ = self.call_driver(function, &arguments, level, "completion function");
        if let Some(handle) = self.packets().state().handles.get_mut(&handle) {
            handle.pending = handle.pending.saturating_sub(1);
        }
        self.bell.ring();
    }
}

/// `FwpsInjectNetworkSendAsync0`.
pub extern "win64" fn FwpsInjectNetworkSendAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    flags: u32,
    compartmentId: i32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectNetworkSendAsync0);
    let _ = (flags, compartmentId);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::NETWORK,
        family: AF_UNSPEC,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    kernel.settle(inject(&kernel, asked, |_| Entry::NetworkSend), REFUSED).0
}

/// `FwpsInjectNetworkReceiveAsync0`.
pub extern "win64" fn FwpsInjectNetworkReceiveAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    flags: u32,
    compartmentId: i32,
    interfaceIndex: u32,
    subInterfaceIndex: u32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectNetworkReceiveAsync0);
    let _ = (flags, compartmentId);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::NETWORK,
        family: AF_UNSPEC,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    let (interface, sub_interface) = (interfaceIndex, subInterfaceIndex);
    let entry = Entry::Receive { interface, sub_interface, at_transport: false };
    kernel.settle(inject(&kernel, asked, |_| entry), REFUSED).0
}

/// `FwpsInjectForwardAsync0`.
pub extern "win64" fn FwpsInjectForwardAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    flags: u32,
    addressFamily: u16,
    compartmentId: i32,
    interfaceIndex: u32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectForwardAsync0);
    let _ = (flags, compartmentId);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::FORWARD,
        family: addressFamily,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    let entry = Entry::Forward { interface: interfaceIndex };
    kernel.settle(inject(&kernel, asked, |_| entry), REFUSED).0
}

/// `FwpsInjectTransportReceiveAsync0`. The packet enters at the bottom of the receive
/// path, as one of `FwpsInjectNetworkReceiveAsync0` does (*Packet Injection
/// Functions*).
pub extern "win64" fn FwpsInjectTransportReceiveAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    reserved: Address,
    flags: u32,
    addressFamily: u16,
    compartmentId: i32,
    interfaceIndex: u32,
    subInterfaceIndex: u32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectTransportReceiveAsync0);
    let _ = (reserved, flags, compartmentId);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::TRANSPORT,
        family: addressFamily,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    let (interface, sub_interface) = (interfaceIndex, subInterfaceIndex);
    let entry = Entry::Receive { interface, sub_interface, at_transport: true };
    kernel.settle(inject(&kernel, asked, |_| entry), REFUSED).0
}

/// `FwpsInjectTransportSendAsync0`, with `FWPS_TRANSPORT_SEND_PARAMS0`.
pub extern "win64" fn FwpsInjectTransportSendAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    endpointHandle: u64,
    flags: u32,
    sendArgs: Address,
    addressFamily: u16,
    compartmentId: i32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectTransportSendAsync0);
    let _ = (flags, compartmentId);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::TRANSPORT,
        family: addressFamily,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    kernel.settle(send(&kernel, asked, endpointHandle, sendArgs), REFUSED).0
}

/// `FwpsInjectTransportSendAsync1`, with `FWPS_TRANSPORT_SEND_PARAMS1`. What it adds,
/// the header of a raw send, is for packets that the lab's host does not send.
pub extern "win64" fn FwpsInjectTransportSendAsync1(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    endpointHandle: u64,
    flags: u32,
    sendArgs: Address,
    addressFamily: u16,
    compartmentId: i32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectTransportSendAsync1);
    let _ = (flags, compartmentId);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::TRANSPORT,
        family: addressFamily,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    kernel.settle(send(&kernel, asked, endpointHandle, sendArgs), REFUSED).0
}

/// A transport packet begins with its transport header, unless `arguments` is NULL.
fn send(kernel: &Kernel, asked: Asked, endpoint: u64, arguments: Address) -> Result<Status, Trouble> {
    // NULL: the packet has an IP header.
    let remote = match foreign::read_optional::<FWPS_TRANSPORT_SEND_PARAMS0>(arguments)? {
        None => None,
        Some(arguments) => match asked.family {
            AF_INET => Some(IpAddr::from(foreign::read::<[u8; 4]>(arguments.remoteAddress)?)),
            AF_INET6 => Some(IpAddr::from(foreign::read::<[u8; 16]>(arguments.remoteAddress)?)),
            _ => return Ok(Status::FWP_INVALID_PARAMETER),
        },
    };
    inject(kernel, asked, |origin| Entry::TransportSend { endpoint, remote, origin })
}
