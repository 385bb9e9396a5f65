//! A driver that keeps something for each flow and each connection. It is correct, or
//! trusts that flows begin while it is loaded (`trusts_contexts`), or that a connection is
//! authorized once (`forgets_reauthorization`).
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses the bug")]

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

// What the compiler calls.
#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn memcpy(to: Ptr, from: Ptr, size: usize) -> Ptr;
    fn memset(to: Ptr, byte: i32, size: usize) -> Ptr;
    fn memcmp(one: Ptr, other: Ptr, size: usize) -> i32;
}

const TAG: u32 = u32::from_le_bytes(*b"Flow");
const NON_PAGED: u64 = 0x40;
/// STATUS_DEVICE_BUSY.
const BUSY: i32 = 0x8000_0011_u32 as i32;

/// ALE_FLOW_ESTABLISHED_V4, STREAM_V4, ALE_AUTH_RECV_ACCEPT_V4 and ALE_ENDPOINT_CLOSURE_V4
/// (`fwpmk.h`, `fwpsk.h`).
const LAYERS: [(u128, u16); 4] = [
    (0xaf80470a_5596_4c13_9992_539e6fe57967, ESTABLISHED),
    (0x3b89653c_c170_49e4_b1cd_e0eeeee19a3e, STREAM),
    (0xe1cd9fe7_f4b5_4273_96c0_592e487b8650, ACCEPT),
    (0xb4766427_e2a2_467a_bd7e_dbcd1bd85a09, CLOSURE),
];
const ESTABLISHED: u16 = 52;
const STREAM: u16 = 20;
const ACCEPT: u16 = 44;
const CLOSURE: u16 = 64;

static DEVICE: AtomicUsize = AtomicUsize::new(0);
static ENGINE: AtomicUsize = AtomicUsize::new(0);
static IDS: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];
/// The flows that have a context.
static FLOWS: [AtomicU64; 128] = [const { AtomicU64::new(0) }; 128];
/// Endpoints of accepted connections, and what is kept for them.
static ENDPOINTS: [AtomicU64; 128] = [const { AtomicU64::new(0) }; 128];
static KEPT: [AtomicUsize; 128] = [const { AtomicUsize::new(0) }; 128];

/// A GUID as it is in memory.
fn raw(guid: u128) -> [u8; 16] {
    let mut bytes = guid.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn key(number: usize) -> [u8; 16] {
    raw(0x666c_6f77_7300_4000_8000_0000_0000_0000 | number as u128)
}

/// A structure of words, with a value at an offset.
fn set<const N: usize>(to: &mut [u64; N], offset: usize, bytes: &[u8]) {
    let to = unsafe { core::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u8>(), 8 * N) };
    to[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn name() -> Ptr {
    static NAME: [u16; 6] = [b'f' as u16, b'l' as u16, b'o' as u16, b'w' as u16, b's' as u16, 0];
    NAME.as_ptr() as Ptr
}

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let (mut device, mut engine): (Ptr, Ptr) = (0, 0);
    unsafe {
        let status = IoCreateDevice(driver, 0, 0, 0x12, 0x100, 0, &raw mut device as Ptr);
        if status < 0 {
            return status;
        }
        DEVICE.store(device, SeqCst);
        ((driver + 104) as *mut Ptr).write(unload as *const () as Ptr);
        for (number, id) in IDS.iter().enumerate() {
            // FWPS_CALLOUT3. Only the callout of the streams has contexts.
            let mut callout = [0u64; 6];
            set(&mut callout, 0, &key(number));
            callout[3] = classify as *const () as u64;
            callout[4] = notify as *const () as u64;
            callout[5] = flow_delete as *const () as u64;
            let mut given = 0u32;
            check(FwpsCalloutRegister3(device, callout.as_ptr() as Ptr, &raw mut given as Ptr));
            id.store(given, SeqCst);
        }
        // FWPM_SESSION0: FWPM_SESSION_FLAG_DYNAMIC.
        let mut session = [0u64; 9];
        set(&mut session, 32, &1u32.to_le_bytes());
        check(FwpmEngineOpen0(0, 10, 0, session.as_ptr() as Ptr, &raw mut engine as Ptr));
        ENGINE.store(engine, SeqCst);
        for (number, (layer, _)) in LAYERS.into_iter().enumerate() {
            add(engine, number, &raw(layer));
        }
    }
    0
}

unsafe fn add(engine: Ptr, number: usize, layer: &[u8; 16]) {
    const CALLOUT_INSPECTION: u32 = 0x6004;
    // FWPM_CALLOUT0.
    let mut callout = [0u64; 11];
    set(&mut callout, 0, &key(number));
    set(&mut callout, 16, &name().to_le_bytes());
    set(&mut callout, 64, layer);
    // FWPM_FILTER0.
    let mut filter = [0u64; 25];
    set(&mut filter, 16, &name().to_le_bytes());
    set(&mut filter, 64, layer);
    set(&mut filter, 128, &CALLOUT_INSPECTION.to_le_bytes());
    set(&mut filter, 132, &key(number));
    unsafe {
        check(FwpmCalloutAdd0(engine, callout.as_ptr() as Ptr, 0, 0));
        check(FwpmFilterAdd0(engine, filter.as_ptr() as Ptr, 0, 0));
    }
}

extern "system" fn unload(_: Ptr) {
    unsafe {
        check(FwpmEngineClose0(ENGINE.load(SeqCst)));
        // No flow gets a context any more.
        unregister(0);
        for flow in &FLOWS {
            let flow = flow.load(SeqCst);
            if flow != 0 {
                FwpsFlowRemoveContext0(flow, STREAM, IDS[1].load(SeqCst));
            }
        }
        (1..4).for_each(|number| unregister(number));
        for (endpoint, kept) in ENDPOINTS.iter().zip(&KEPT) {
            if endpoint.swap(0, SeqCst) != 0 {
                ExFreePoolWithTag(kept.load(SeqCst), TAG);
            }
        }
        IoDeleteDevice(DEVICE.load(SeqCst));
    }
}

unsafe fn unregister(number: usize) {
    // 1 ms, in 100 ns units.
    let interval = -10_000i64;
    while unsafe { FwpsCalloutUnregisterById0(IDS[number].load(SeqCst)) } == BUSY {
        unsafe { KeDelayExecutionThread(0, 0, &raw const interval as Ptr) };
    }
}

/// A field of a layer, as a number.
unsafe fn value(values: Ptr, at: usize) -> u32 {
    // FWPS_INCOMING_VALUES0.incomingValue, FWP_VALUE0.
    unsafe { (((values + 8) as *const Ptr).read() as *const u32).add(4 * at + 2).read() }
}

extern "system" fn classify(values: Ptr, meta: Ptr, _: u64, _: u64, _: Ptr, context: u64, out: Ptr) {
    const CONTINUE: u32 = 0x2006;
    unsafe {
        // FWPS_CLASSIFY_OUT0: rights, and actionType.
        if ((out + 24) as *const u32).read() & 1 != 0 {
            (out as *mut u32).write(CONTINUE);
        }
        // FWPS_INCOMING_VALUES0.layerId; transportEndpointHandle and flowHandle in
        // FWPS_INCOMING_METADATA_VALUES0.
        let endpoint = ((meta + 112) as *const u64).read();
        match (values as *const u16).read() {
            ESTABLISHED => associate(((meta + 32) as *const u64).read()),
            STREAM if context != 0 || cfg!(trusts_contexts) => {
                let _ = (context as *const u64).read_volatile();
            }
            // FWP_CONDITION_FLAG_IS_REAUTHORIZE, and TCP.
            ACCEPT if value(values, 5) & 0xFF == 6 => {
                if value(values, 11) & 4 == 0 || cfg!(forgets_reauthorization) {
                    keep(endpoint);
                }
            }
            CLOSURE => forget(endpoint),
            _ => {}
        }
    }
}

/// Gives a flow a context, which begins with the flow's handle.
unsafe fn associate(flow: u64) {
    let Some(place) = FLOWS.iter().find(|place| place.compare_exchange(0, flow, SeqCst, SeqCst).is_ok())
    else {
        return;
    };
    unsafe {
        let block = ExAllocatePool2(NON_PAGED, 64, TAG);
        if block == 0 {
            return place.store(0, SeqCst);
        }
        (block as *mut u64).write(flow);
        // STATUS_OBJECT_NAME_EXISTS is a success.
        if FwpsFlowAssociateContext0(flow, STREAM, IDS[1].load(SeqCst), block as u64) != 0 {
            place.store(0, SeqCst);
            ExFreePoolWithTag(block, TAG);
        }
    }
}

extern "system" fn flow_delete(_: u16, _: u32, context: u64) {
    unsafe {
        let flow = (context as *const u64).read();
        for place in &FLOWS {
            let _ = place.compare_exchange(flow, 0, SeqCst, SeqCst);
        }
        ExFreePoolWithTag(context as Ptr, TAG);
    }
}

/// Keeps a block for a connection.
unsafe fn keep(endpoint: u64) {
    let known = ENDPOINTS.iter().position(|known| known.load(SeqCst) == endpoint);
    let free = || ENDPOINTS.iter().position(|it| it.compare_exchange(0, endpoint, SeqCst, SeqCst).is_ok());
    if let Some(place) = known.or_else(free) {
        KEPT[place].store(unsafe { ExAllocatePool2(NON_PAGED, 32, TAG) }, SeqCst);
    }
}

unsafe fn forget(endpoint: u64) {
    for (known, kept) in ENDPOINTS.iter().zip(&KEPT) {
        if known.load(SeqCst) == endpoint {
            let block = kept.load(SeqCst);
            known.store(0, SeqCst);
            unsafe { ExFreePoolWithTag(block, TAG) };
        }
    }
}

extern "system" fn notify(_: i32, _: Ptr, _: Ptr) -> i32 {
    0
}

fn check(status: i32) {
    if status < 0 {
        panic!();
    }
}

include!(env!("DRIVER_RUNTIME"));
