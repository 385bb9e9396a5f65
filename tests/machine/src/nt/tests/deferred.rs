//! DPCs, timers, and waits for any dispatcher object.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::dispatcher::*;
use super::super::dpc::*;
use super::super::ex::*;
use super::super::ke::*;
use super::super::ob::*;
use super::super::timer::*;
use super::super::types::{
    Address, KDPC, KEVENT, KMUTANT, KSEMAPHORE, KTIMER, LARGE_INTEGER, PROCESSOR_NUMBER,
};
use super::super::zw::*;
use super::super::{Irql, cpu, status};
use super::{clean, drive, drive_on, machine, peek, stopped_by};
use crate::status::Status;
use crate::verifier::rules;

const TAG: u32 = u32::from_le_bytes(*b"hush");

/// Pages that a test owns, for objects of the kernel.
fn object<T>() -> &'static T {
    let bytes = vec![0u128; size_of::<T>().div_ceil(16) + 8].leak();
    // SAFETY: zeroed memory of that size and alignment, which is never freed. The
    // structures have no invalid bit pattern, and tests access them by address.
    unsafe { &*bytes.as_ptr().cast::<T>() }
}

fn at<T>(value: &T) -> Address {
    std::ptr::from_ref(value) as Address
}

/// What a DPC saw: its processor, IRQL and arguments.
static SEEN: Mutex<Vec<[usize; 5]>> = Mutex::new(Vec::new());
/// Tests that use it run one at a time.
static ONE: Mutex<()> = Mutex::new(());

extern "win64" fn sees(_: Address, context: Address, first: Address, second: Address) {
    let here = [cpu::processor() as usize, usize::from(cpu::irql().0), context, first, second];
    SEEN.lock().unwrap().push(here);
}

fn seen() -> Vec<[usize; 5]> {
    std::mem::take(&mut *SEEN.lock().unwrap())
}

fn dpc() -> Address {
    let dpc = at(object::<KDPC>());
    KeInitializeDpc(dpc, sees as *const () as Address, 7);
    dpc
}

#[test]
fn a_dpc_runs_at_once_or_when_its_processor_is_free() {
    let _one = ONE.lock().unwrap_or_else(|lock| lock.into_inner());
    let kernel = machine();
    let outcome = drive_on(&kernel, 1, Irql::PASSIVE, || {
        let dpc = dpc();
        let first = KeInsertQueueDpc(dpc, 1, 2);
        let at_once = SEEN.lock().unwrap().len();
        let old = KfRaiseIrql(2);
        let queued = [KeInsertQueueDpc(dpc, 3, 4), KeInsertQueueDpc(dpc, 5, 6)];
        let raised = SEEN.lock().unwrap().len();
        KeLowerIrql(old);
        KeFlushQueuedDpcs();
        (first, at_once, queued, raised)
    });
    // Queued twice, it runs once.
    assert_eq!(clean(&kernel, outcome), (1, 1, [1, 0], 1));
    assert_eq!(seen(), [[1, 2, 7, 1, 2], [1, 2, 7, 3, 4]]);
}

#[test]
fn a_dpc_runs_on_its_target_and_can_be_removed() {
    let _one = ONE.lock().unwrap_or_else(|lock| lock.into_inner());
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let dpc = dpc();
        let number = |number| PROCESSOR_NUMBER { Group: 0, Number: number, Reserved: 0 };
        let (third, none) = (number(2), number(9));
        let statuses =
            [KeSetTargetProcessorDpcEx(dpc, at(&none)), KeSetTargetProcessorDpcEx(dpc, at(&third))];
        KeInsertQueueDpc(dpc, 1, 1);
        KeFlushQueuedDpcs();
        KeSetTargetProcessorDpc(dpc, 0);
        let old = KfRaiseIrql(2);
        KeInsertQueueDpc(dpc, 2, 2);
        let removed = [KeRemoveQueueDpc(dpc), KeRemoveQueueDpc(dpc)];
        KeLowerIrql(old);
        KeFlushQueuedDpcs();
        (statuses, removed)
    });
    assert_eq!(clean(&kernel, outcome), ([Status::INVALID_PARAMETER.0, 0], [1, 0]));
    assert_eq!(seen(), [[2, 2, 7, 1, 1]]);
}

#[test]
fn a_timer_signals_and_queues_its_dpc() {
    let _one = ONE.lock().unwrap_or_else(|lock| lock.into_inner());
    let kernel = machine();
    let soon = LARGE_INTEGER { QuadPart: -20_000 };
    let later = LARGE_INTEGER { QuadPart: -1_000_000_000 };
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let (timer, dpc) = (at(object::<KTIMER>()), dpc());
        KeInitializeTimer(timer);
        let first = KeSetTimer(timer, later, dpc);
        let before = KeReadStateTimer(timer);
        let again = KeSetTimer(timer, soon, dpc);
        let waited = KeWaitForSingleObject(timer, 0, 0, 0, 0);
        KeFlushQueuedDpcs();
        // A notification timer stays signaled; it is not set any more.
        ([first, before, again, KeReadStateTimer(timer), KeCancelTimer(timer)], waited)
    });
    assert_eq!(clean(&kernel, outcome), ([0, 0, 1, 1, 0], 0));
    assert_eq!(seen().iter().map(|it| [it[1], it[2]]).collect::<Vec<_>>(), [[2, 7]]);
}

#[test]
fn a_period_fires_until_the_timer_is_cancelled() {
    let kernel = machine();
    let now = LARGE_INTEGER { QuadPart: -1 };
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let timer = at(object::<KTIMER>());
        KeInitializeTimerEx(timer, 1);
        KeSetTimerEx(timer, now, 2, 0);
        // A synchronization timer is reset by each wait.
        let waits = [0; 3].map(|_: i32| KeWaitForSingleObject(timer, 0, 0, 0, 0));
        (waits, KeCancelTimer(timer), KeCancelTimer(timer))
    });
    assert_eq!(clean(&kernel, outcome), ([0; 3], 1, 0));
}

#[test]
fn memory_with_an_active_timer_or_a_queued_dpc_is_not_freed() {
    let later = LARGE_INTEGER { QuadPart: -1_000_000_000 };
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let timer = ExAllocatePool2(0x40, size_of::<KTIMER>(), TAG);
        KeInitializeTimer(timer);
        KeSetTimer(timer, later, 0);
        ExFreePool(timer);
    });
    stopped_by(&kernel, outcome, &rules::TIMER_ACTIVE);
    let kernel = machine();
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let dpc = ExAllocatePool2(0x40, size_of::<KDPC>(), TAG);
        KeInitializeDpc(dpc, sees as *const () as Address, 0);
        KeInsertQueueDpc(dpc, 0, 0);
        ExFreePool(dpc);
    });
    stopped_by(&kernel, outcome, &rules::DPC_QUEUED);
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let timer = ExAllocatePool2(0x40, size_of::<KTIMER>(), TAG);
        KeInitializeTimer(timer);
        KeSetTimer(timer, later, 0);
        KeCancelTimer(timer);
        ExFreePool(timer);
    });
    clean(&kernel, outcome);
}

#[test]
fn semaphores_count_and_mutexes_belong_to_a_thread() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let (semaphore, mutex) = (at(object::<KSEMAPHORE>()), at(object::<KMUTANT>()));
        let zero = LARGE_INTEGER { QuadPart: 0 };
        let test = |object| KeWaitForSingleObject(object, 0, 0, 0, at(&zero));
        KeInitializeSemaphore(semaphore, 1, 2);
        let counted = [test(semaphore), test(semaphore), KeReleaseSemaphore(semaphore, 0, 2, 0)];
        KeInitializeMutex(mutex, 0);
        let taken = [test(mutex), test(mutex)];
        let inside = cpu::thread_state().critical_regions;
        let released = [KeReleaseMutex(mutex, 0), KeReleaseMutex(mutex, 0)];
        (counted, taken, inside, released, cpu::thread_state().critical_regions)
    });
    let expected = ([0, status::TIMEOUT.0, 0], [0, 0], 1, [-1, 0], 0);
    assert_eq!(clean(&kernel, outcome), expected);
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let semaphore = at(object::<KSEMAPHORE>());
        KeInitializeSemaphore(semaphore, 1, 1);
        KeReleaseSemaphore(semaphore, 0, 1, 0)
    });
    stopped_by(&kernel, outcome, &rules::UNHANDLED_EXCEPTION);
}

#[test]
fn a_wait_for_several_objects_takes_all_or_one() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let events = [at(object::<KEVENT>()), at(object::<KEVENT>())];
        events.iter().for_each(|event| KeInitializeEvent(*event, 1, 0));
        let zero = LARGE_INTEGER { QuadPart: 0 };
        let wait = |kind| KeWaitForMultipleObjects(2, at(&events), kind, 0, 0, 0, at(&zero), 0);
        let none = [wait(0), wait(1)];
        KeSetEvent(events[1], 0, 0);
        let all = wait(0);
        // The wait for all has given back what it took.
        let kept = KeReadStateEvent(events[1]);
        let any = wait(1);
        (none, all, kept, any, KeReadStateEvent(events[1]))
    });
    let timeout = status::TIMEOUT.0;
    assert_eq!(clean(&kernel, outcome), ([timeout; 2], timeout, 1, 1, 0));
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || KeWaitForMultipleObjects(4, 0, 0, 0, 0, 0, 0, 0));
    stopped_by(&kernel, outcome, &rules::WAIT_OBJECTS);
}

static STARTED: AtomicU32 = AtomicU32::new(0);
static GATE: AtomicUsize = AtomicUsize::new(0);

extern "win64" fn thread(_: Address) {
    STARTED.store(1, Ordering::SeqCst);
    KeWaitForSingleObject(GATE.load(Ordering::SeqCst), 0, 0, 0, 0);
}

#[test]
fn events_and_threads_have_objects_behind_their_handles() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let (mut event, mut object, mut handle, mut ended) = (0usize, 0usize, 0usize, 0usize);
        ZwCreateEvent(at(&event), 0, 0, 0, 0);
        event = peek(at(&event));
        ObReferenceObjectByHandle(event, 0, 0, 0, at(&object), 0);
        object = peek(at(&object));
        GATE.store(object, Ordering::SeqCst);
        let start = thread as *const () as Address;
        super::super::ps::PsCreateSystemThread(at(&handle), 0, 0, 0, 0, start, 0);
        handle = peek(at(&handle));
        ObReferenceObjectByHandle(handle, 0, 0, 0, at(&ended), 0);
        ended = peek(at(&ended));
        ZwClose(handle);
        let zero = LARGE_INTEGER { QuadPart: 0 };
        let before = KeWaitForSingleObject(ended, 0, 0, 0, at(&zero));
        // The handle and the object are one event.
        KeSetEvent(object, 0, 0);
        let by_handle = ZwWaitForSingleObject(event, 0, 0);
        let after = KeWaitForSingleObject(ended, 0, 0, 0, 0);
        ObfDereferenceObject(ended);
        ObfDereferenceObject(object);
        ZwClose(event);
        (before, by_handle, after)
    });
    assert_eq!(clean(&kernel, outcome), (status::TIMEOUT.0, 0, 0));
    assert!(kernel.wait_until("the thread", || kernel.objects().threads.is_empty()));
    assert_eq!(STARTED.load(Ordering::SeqCst), 1);
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || ObReferenceObjectByHandle(0x44, 0, 0, 0, at(&[0u64]), 0));
    stopped_by(&kernel, outcome, &rules::REFERENCE_BAD_HANDLE);
    std::thread::sleep(Duration::from_millis(1));
}
