//! A WDM driver that calls what a program asks it to call. Two builds of it, with
//! different names, can run in one machine.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses the name")]
#![allow(clashing_extern_declarations, hidden_glob_reexports, reason = "it calls imports by number")]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

macro_rules! imports {
    ($($module:literal: $($name:ident)*;)*) => {
        $(
            #[link(name = $module, kind = "raw-dylib", modifiers = "+verbatim")]
            unsafe extern "system" {
                $(fn $name();)*
            }
        )*
        /// The functions in the order in which the program numbers them.
        fn function(number: u64) -> Ptr {
            let all = [$($($name as unsafe extern "system" fn()),*),*];
            all.get(number as usize).map_or(0, |function| *function as Ptr)
        }
    };
}

imports! {
    "ntoskrnl.exe":
        ExAllocatePool2 ExFreePoolWithTag IoCreateDevice IoDeleteDevice IoCreateSymbolicLink
        IoDeleteSymbolicLink IoAllocateWorkItem IoQueueWorkItem IoFreeWorkItem ZwCreateEvent
        ZwSetEvent ZwClose ZwNotifyChangeKey IoOpenDriverRegistryKey EtwRegister EtwUnregister
        KeRegisterProcessorChangeCallback IoGetCurrentProcess ObfReferenceObject
        ObfDereferenceObject IoAllocateMdl IoFreeMdl KeBugCheckEx PsCreateSystemThread
        KeDelayExecutionThread IofCompleteRequest KeStallExecutionProcessor ZwQueryValueKey
        ObReferenceObjectByHandle PsSetCreateProcessNotifyRoutineEx;
    "fwpkclnt.sys":
        FwpmEngineOpen0 FwpmEngineClose0 FwpmSubLayerAdd0 FwpmSubLayerDeleteByKey0
        FwpmCalloutAdd0 FwpmCalloutDeleteByKey0 FwpmFilterAdd0 FwpmFilterDeleteById0
        FwpsCalloutRegister3 FwpsCalloutUnregisterById0 FwpsFlowAssociateContext0
        FwpsFlowRemoveContext0 FwpmBfeStateSubscribeChanges0 FwpmBfeStateUnsubscribeChanges0
        FwpsInjectionHandleCreate0 FwpsInjectionHandleDestroy0 FwpsRedirectHandleCreate0
        FwpsRedirectHandleDestroy0 FwpsAllocateNetBufferAndNetBufferList0
        FwpsFreeNetBufferList0;
    "ndis.sys": NdisAllocateNetBufferListPool NdisFreeNetBufferListPool;
}

type Call = extern "system" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;

fn call_at(address: Ptr, arguments: [u64; 11]) -> u64 {
    let function: Call = unsafe { core::mem::transmute(address) };
    let [a, b, c, d, e, f, g, h, i, j, k] = arguments;
    function(a, b, c, d, e, f, g, h, i, j, k)
}

/// A function with at most four arguments.
fn call(function: unsafe extern "system" fn(), arguments: [u64; 4]) -> u64 {
    let [a, b, c, d] = arguments;
    call_at(function as Ptr, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0])
}

#[cfg(not(two))]
static NAME: Wide<16> = wide(b"\\Device\\Puppet-1");
#[cfg(not(two))]
static LINK: Wide<12> = wide(b"\\??\\Puppet-1");
#[cfg(two)]
static NAME: Wide<16> = wide(b"\\Device\\Puppet-2");
#[cfg(two)]
static LINK: Wide<12> = wide(b"\\??\\Puppet-2");
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static DRIVER: AtomicUsize = AtomicUsize::new(0);

/// The action of the callout, or 0; the calls of classifyFn, notifyFn, flowDeleteFn and
/// of the work routine; whether the work routine goes on; closes of files.
static WORDS: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];
const ACTION: usize = 0;
const CLASSIFIED: usize = 1;
const NOTIFIED: usize = 2;
const DELETED: usize = 3;
const WORKED: usize = 4;
const WORKS: usize = 5;
const CLOSED: usize = 6;

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let (name, link) = (NAME.string(), LINK.string());
    let mut device: Ptr = 0;
    let out = &raw mut device as u64;
    let arguments = [driver as u64, 0, &raw const name as u64, 0x22, 0, 0, out, 0, 0, 0, 0];
    let status = call_at(IoCreateDevice as Ptr, arguments) as u32 as i32;
    if status < 0 {
        return status;
    }
    DRIVER.store(driver, SeqCst);
    DEVICE.store(device, SeqCst);
    call(IoCreateSymbolicLink, [&raw const link as u64, &raw const name as u64, 0, 0]);
    // IRP_MJ_CREATE, CLOSE, DEVICE_CONTROL, CLEANUP.
    serve(driver, unload, dispatch, &[0, 2, 14, 18]);
    0
}

extern "system" fn unload(_: Ptr) {
    let link = LINK.string();
    call(IoDeleteSymbolicLink, [&raw const link as u64, 0, 0, 0]);
    call(IoDeleteDevice, [DEVICE.load(SeqCst) as u64, 0, 0, 0]);
}

extern "system" fn dispatch(_: Ptr, irp: Ptr) -> i32 {
    let location = location_of(irp);
    let information = match get::<u8>(location) {
        // IRP.AssociatedIrp.SystemBuffer.
        14 => control(function_of(location), get(irp + 24)),
        2 => {
            count(&WORDS[CLOSED]);
            0
        }
        _ => 0,
    };
    complete(irp, 0, information)
}

fn control(number: u32, buffer: Ptr) -> u64 {
    let first: u64 = get(buffer);
    let mut arguments = [0u64; 11];
    for (at, argument) in arguments.iter_mut().enumerate() {
        *argument = get(buffer + 8 + 8 * at);
    }
    match number {
        // Calls an import.
        0x800 => put(buffer, call_at(function(first), arguments)),
        // Calls an address.
        0x801 => put(buffer, call_at(first as Ptr, arguments)),
        // Reads a byte.
        0x802 => put(buffer, u64::from(get::<u8>(first as Ptr))),
        // The driver's own addresses.
        _ => {
            let own = [
                DRIVER.load(SeqCst) as u64,
                DEVICE.load(SeqCst) as u64,
                WORDS.as_ptr() as u64,
                classify as *const () as u64,
                notify as *const () as u64,
                flow_delete as *const () as u64,
                work as *const () as u64,
                told as *const () as u64,
            ];
            for (at, word) in own.into_iter().enumerate() {
                put(buffer + 8 * at, word);
            }
            return 64;
        }
    }
    8
}

fn count(word: &AtomicU64) {
    word.fetch_add(1, SeqCst);
}

extern "system" fn classify(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, out: Ptr) {
    count(&WORDS[CLASSIFIED]);
    let action = WORDS[ACTION].load(SeqCst);
    // FWPS_CLASSIFY_OUT0.rights.
    if action != 0 && get::<u32>(out + 24) & 1 != 0 {
        put(out, action as u32);
    }
}

extern "system" fn notify(_: u64, _: u64, _: u64) -> i32 {
    count(&WORDS[NOTIFIED]);
    0
}

extern "system" fn flow_delete(_: u64, _: u64, _: u64) {
    count(&WORDS[DELETED]);
}

/// Any other callback, and a system thread.
extern "system" fn told(_: u64, _: u64, _: u64) -> u64 {
    0
}

/// Works until it is told to end.
extern "system" fn work(_: u64, _: u64) {
    count(&WORDS[WORKED]);
    let millisecond = -10_000i64;
    while WORDS[WORKS].load(SeqCst) != 0 {
        call(KeDelayExecutionThread, [0, 0, &raw const millisecond as u64, 0]);
    }
}

include!(env!("DRIVER_RUNTIME"));
