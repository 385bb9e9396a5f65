//! Kernel: mutexes, semaphores, and waits for any dispatcher object (`wdm.h`).
#![expect(unsafe_code, reason = "works on objects in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::mem::offset_of;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cpu::{self, Irql};
use super::enter::enter;
use super::foreign;
use super::guest::Place;
use super::ke::{self, object_type, signal_state};
use super::types::{
    Address, BOOLEAN, DISPATCHER_HEADER, KMUTANT, KSEMAPHORE, LARGE_INTEGER, LIST_ENTRY, NTSTATUS,
};
use super::{Kernel, status};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// Types of dispatcher objects (`KOBJECTS`).
pub(super) mod kind {
    pub const EVENT: u8 = 0;
    pub const SYNCHRONIZATION_EVENT: u8 = 1;
    pub const MUTANT: u8 = 2;
    pub const SEMAPHORE: u8 = 5;
    pub const THREAD: u8 = 6;
    pub const TIMER: u8 = 8;
    pub const SYNCHRONIZATION_TIMER: u8 = 9;
}

/// The header of a new object of `size` bytes.
pub(super) fn header(at: Address, kind: u8, size: usize, state: i32) -> DISPATCHER_HEADER {
    let list = at + offset_of!(DISPATCHER_HEADER, WaitListHead);
    DISPATCHER_HEADER {
        Type: kind,
        // In 32-bit words, as for every dispatcher object.
        Size: (size / 4) as u8,
        SignalState: state,
        WaitListHead: LIST_ENTRY { Flink: list, Blink: list },
        ..DISPATCHER_HEADER::zeroed()
    }
}

fn owner<'a>(mutex: Address) -> &'a AtomicUsize {
    let at = mutex + offset_of!(KMUTANT, OwnerThread);
    // SAFETY: an aligned pointer-size word in driver memory, which processors share only
    // by atomic operations. A bad pointer faults, and the guest attributes the fault to
    // the driver.
    unsafe { AtomicUsize::from_ptr(at as *mut usize) }
}

/// Takes an object if it is signaled.
pub(super) fn take(object: Address) -> bool {
    let state = signal_state(object);
    let one_less = |count: i32| (count > 0).then_some(count - 1);
    match object_type(object) {
        kind::SYNCHRONIZATION_EVENT | kind::SYNCHRONIZATION_TIMER => {
            state.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        }
        kind::SEMAPHORE => state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less).is_ok(),
        kind::MUTANT => take_mutex(object),
        _ => state.load(Ordering::Acquire) > 0,
    }
}

fn take_mutex(mutex: Address) -> bool {
    let state = signal_state(mutex);
    if owner(mutex).load(Ordering::Acquire) == Kernel::current().thread_object() {
        state.fetch_sub(1, Ordering::AcqRel);
        return true;
    }
    let taken = state.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if taken {
        owner(mutex).store(Kernel::current().thread_object(), Ordering::Release);
        // "Normal kernel APCs are disabled while a thread owns a mutex."
        cpu::enter_critical_region();
    }
    taken
}

/// Undoes [`take`].
fn give_back(object: Address) {
    match object_type(object) {
        kind::SYNCHRONIZATION_EVENT | kind::SYNCHRONIZATION_TIMER => {
            signal_state(object).store(1, Ordering::Release);
        }
        kind::SEMAPHORE => drop(signal_state(object).fetch_add(1, Ordering::AcqRel)),
        kind::MUTANT => drop(release(object)),
        _ => {}
    }
}

/// Releases a mutex once. Returns its state before; `None` if another thread owns it.
fn release(mutex: Address) -> Option<i32> {
    if owner(mutex).load(Ordering::Acquire) != Kernel::current().thread_object() {
        return None;
    }
    let state = signal_state(mutex);
    let before = state.load(Ordering::Acquire);
    if before == 0 {
        owner(mutex).store(0, Ordering::Release);
        cpu::leave_critical_region();
    }
    state.store(before + 1, Ordering::Release);
    Some(before)
}

/// `KeInitializeMutex`.
pub extern "win64" fn KeInitializeMutex(Mutex: Address, Level: u32) {
    let kernel = enter!(KeInitializeMutex);
    // Reserved.
    let _ = Level;
    kernel.settle(kernel.resident(Mutex), ());
    let mutex = KMUTANT {
        Header: header(Mutex, kind::MUTANT, size_of::<KMUTANT>(), 1),
        ApcDisable: 1,
        ..KMUTANT::zeroed()
    };
    kernel.settle(foreign::write(Mutex, &mutex), ());
}

/// `KeReleaseMutex`. Returns 0 if the mutex is free now. `Wait` TRUE requires APC_LEVEL
/// or lower.
pub extern "win64" fn KeReleaseMutex(Mutex: Address, Wait: BOOLEAN) -> i32 {
    let ceiling = if Wait == 0 { Irql::DISPATCH } else { Irql::APC };
    let kernel = enter!(KeReleaseMutex, ceiling);
    match release(Mutex) {
        Some(before) => {
            kernel.bell.ring();
            before
        }
        None => {
            // STATUS_MUTANT_NOT_OWNED.
            kernel.raise_or_stop(Status(0xC000_0046_u32 as i32), &[]);
            0
        }
    }
}

/// `KeInitializeSemaphore`.
pub extern "win64" fn KeInitializeSemaphore(Semaphore: Address, Count: i32, Limit: i32) {
    let kernel = enter!(KeInitializeSemaphore);
    kernel.settle(kernel.resident(Semaphore), ());
    let semaphore =
        KSEMAPHORE { Header: header(Semaphore, kind::SEMAPHORE, size_of::<KSEMAPHORE>(), Count), Limit };
    kernel.settle(foreign::write(Semaphore, &semaphore), ());
}

/// `KeReleaseSemaphore`. Returns the count before. Raises
/// STATUS_SEMAPHORE_LIMIT_EXCEEDED beyond the limit.
pub extern "win64" fn KeReleaseSemaphore(
    Semaphore: Address,
    Increment: i32,
    Adjustment: i32,
    Wait: BOOLEAN,
) -> i32 {
    let ceiling = if Wait == 0 { Irql::DISPATCH } else { Irql::APC };
    let kernel = enter!(KeReleaseSemaphore, ceiling);
    // The lab does not model priority boosts.
    let _ = Increment;
    let limit = foreign::read::<i32>(Semaphore + offset_of!(KSEMAPHORE, Limit));
    let limit = kernel.settle(limit, i32::MAX);
    let more = |count: i32| count.checked_add(Adjustment).filter(|sum| *sum <= limit && Adjustment > 0);
    match signal_state(Semaphore).fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
        Ok(before) => {
            kernel.bell.ring();
            before
        }
        Err(count) => {
            // STATUS_SEMAPHORE_LIMIT_EXCEEDED.
            kernel.raise_or_stop(Status(0xC000_0047_u32 as i32), &[]);
            count
        }
    }
}

/// `KeReadStateSemaphore`.
pub extern "win64" fn KeReadStateSemaphore(Semaphore: Address) -> i32 {
    enter!(KeReadStateSemaphore);
    signal_state(Semaphore).load(Ordering::Acquire)
}

/// `KeReadStateMutex`.
pub extern "win64" fn KeReadStateMutex(Mutex: Address) -> i32 {
    enter!(KeReadStateMutex);
    signal_state(Mutex).load(Ordering::Acquire)
}

/// `KeWaitForSingleObject`. A zero timeout only tests the object, which is permitted at
/// DISPATCH_LEVEL.
pub extern "win64" fn KeWaitForSingleObject(
    Object: Address,
    WaitReason: i32,
    WaitMode: i8,
    Alertable: BOOLEAN,
    Timeout: Address,
) -> NTSTATUS {
    // The ceiling depends on the timeout, so `may_wait` checks it.
    let kernel = enter!(KeWaitForSingleObject, Irql::HIGH);
    // No thread is ever alerted.
    let _ = (WaitReason, Alertable);
    let timeout = kernel.settle(foreign::read_optional::<LARGE_INTEGER>(Timeout), None);
    kernel.settle(may_wait("KeWaitForSingleObject", Object, Timeout, timeout), ());
    kernel.settle(outside_stack(&kernel, Object, WaitMode), ());
    if matches!(object_type(Object), kind::EVENT | kind::SYNCHRONIZATION_EVENT) {
        kernel.settle(ke::initialized(Object), ());
    }
    let what = || describe(Object);
    ke::wait_for_object(&kernel, &what, timeout.map(|t| t.QuadPart), || take(Object)).0
}

/// Refuses to wait in user mode for an object on the stack, which can be paged out then.
fn outside_stack(kernel: &Kernel, object: Address, mode: i8) -> Result<(), Violation> {
    /// `UserMode` (`wdm.h`).
    const USER_MODE: i8 = 1;
    match mode == USER_MODE && kernel.guest().place(object as u64) == Some(Place::Stack) {
        true => Err(Violation::new(&rules::WAIT_ON_STACK, [object as u64, 0, 0], format!("{object:#x}"))),
        false => Ok(()),
    }
}

fn describe(object: Address) -> String {
    let name = match object_type(object) {
        kind::MUTANT => "mutex",
        kind::SEMAPHORE => "semaphore",
        kind::TIMER | kind::SYNCHRONIZATION_TIMER => "timer",
        kind::THREAD => "end of the thread",
        _ => "event",
    };
    format!("the {name} at {object:#x}")
}

/// Most objects of a wait without wait blocks (`THREAD_WAIT_OBJECTS`), and with them
/// (`MAXIMUM_WAIT_OBJECTS`).
const FEW_OBJECTS: u32 = 3;
const MOST_OBJECTS: u32 = 64;

/// `KeWaitForMultipleObjects`. Returns the index of the object that ended the wait, if
/// one is enough.
pub extern "win64" fn KeWaitForMultipleObjects(
    Count: u32,
    Object: Address,
    WaitType: i32,
    WaitReason: i32,
    WaitMode: i8,
    Alertable: BOOLEAN,
    Timeout: Address,
    WaitBlockArray: Address,
) -> NTSTATUS {
    /// `WaitAll` (`wdm.h`).
    const WAIT_ALL: i32 = 0;
    let kernel = enter!(KeWaitForMultipleObjects, Irql::HIGH);
    let _ = (WaitReason, Alertable);
    let most = if WaitBlockArray == 0 { FEW_OBJECTS } else { MOST_OBJECTS };
    if Count == 0 || Count > most {
        // Windows stops with MAXIMUM_WAIT_OBJECTS_EXCEEDED.
        let text = format!("{Count} objects, at most {most}");
        kernel.violate(Violation::new(&rules::WAIT_OBJECTS, [0; 3], text));
        return Status::INVALID_PARAMETER.0;
    }
    let timeout = kernel.settle(foreign::read_optional::<LARGE_INTEGER>(Timeout), None);
    kernel.settle(may_wait("KeWaitForMultipleObjects", Object, Timeout, timeout), ());
    let mut objects = [0; MOST_OBJECTS as usize];
    for (place, index) in objects.iter_mut().zip(0..Count as usize) {
        *place = kernel.settle(foreign::read::<Address>(Object + 8 * index), 0);
        kernel.settle(outside_stack(&kernel, *place, WaitMode), ());
    }
    let mut index = 0;
    let take_them = || {
        let objects = &objects[..Count as usize];
        if WaitType == WAIT_ALL {
            return take_all(objects);
        }
        objects.iter().position(|object| take(*object)).inspect(|at| index = *at).is_some()
    };
    let what = || format!("{Count} objects");
    let ended = ke::wait_for_object(&kernel, &what, timeout.map(|t| t.QuadPart), take_them);
    if ended == status::TIMEOUT { ended.0 } else { index as i32 }
}

/// Takes all objects or none.
fn take_all(objects: &[Address]) -> bool {
    match objects.iter().position(|object| !take(*object)) {
        None => true,
        Some(missing) => {
            objects[..missing].iter().for_each(|object| give_back(*object));
            false
        }
    }
}

/// Whether a thread may wait at its IRQL. At DISPATCH_LEVEL it may only test the
/// object.
fn may_wait(
    call: &str,
    object: Address,
    timeout: Address,
    value: Option<LARGE_INTEGER>,
) -> Result<(), Violation> {
    let irql = cpu::irql();
    let rule = match value {
        _ if irql > Irql::DISPATCH => &rules::WAIT_ABOVE_DISPATCH,
        None if irql == Irql::DISPATCH => &rules::WAIT_FOREVER_AT_DISPATCH,
        Some(value) if irql == Irql::DISPATCH && value.QuadPart != 0 => &rules::WAIT_AT_DISPATCH,
        _ => return Ok(()),
    };
    // The level has an address.
    static LEVELS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let level = std::ptr::from_ref(&LEVELS[usize::from(irql.0).min(15)]).expose_provenance();
    let parameters = [level as u64, object as u64, timeout as u64];
    Err(Violation::new(rule, parameters, format!("{call} at {irql}")))
}

impl Kernel {
    /// Signals an object that threads wait for.
    pub(super) fn signal(&self, object: Address) {
        signal_state(object).store(1, Ordering::Release);
        self.bell.ring();
    }
}
