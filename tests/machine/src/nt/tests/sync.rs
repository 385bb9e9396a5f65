//! IRQL, processors, locks, events.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::super::dispatcher::*;
use super::super::ex::*;
use super::super::ke::*;
use super::super::types::{EX_RUNDOWN_REF, FAST_MUTEX, KEVENT, LARGE_INTEGER};
use super::super::{Irql, cpu, status};
use super::{clean, drive, drive_on, machine, peek, stopped_by};
use crate::verifier::{Rule, rules};

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

#[track_caller]
fn breaks<R>(rule: &'static Rule, irql: Irql, f: impl FnOnce() -> R) {
    let kernel = machine();
    let outcome = drive(&kernel, irql, f);
    stopped_by(&kernel, outcome, rule);
}

#[test]
fn a_thread_reads_its_processor_and_irql() {
    let kernel = machine();
    let number = [0u8; 4];
    let outcome = drive_on(&kernel, 3, Irql::DISPATCH, || {
        (
            KeGetCurrentProcessorNumberEx(address(&number)),
            KeGetCurrentIrql(),
            KeQueryMaximumProcessorCountEx(0xFFFF),
            KeQueryActiveProcessorCountEx(1),
        )
    });
    assert_eq!(clean(&kernel, outcome), (3, 2, 4, 0));
    assert_eq!(peek::<u32>(address(&number)), 3 << 16);
    assert_eq!(cpu::irql(), Irql::PASSIVE);
}

#[test]
fn levels_go_up_and_down_in_order() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let old = KfRaiseIrql(2);
        let older = KfRaiseIrql(2);
        KeLowerIrql(older);
        KeLowerIrql(old);
        (old, older, KeGetCurrentIrql())
    });
    assert_eq!(clean(&kernel, outcome), (0, 2, 0));
    breaks(&rules::RAISE_IRQL, Irql::DISPATCH, || KfRaiseIrql(0));
    breaks(&rules::LOWER_IRQL, Irql::PASSIVE, || KeLowerIrql(2));
    breaks(&rules::IRQL_CHANGED, Irql::PASSIVE, || KfRaiseIrql(2));
    breaks(&rules::IRQL_CHANGED, Irql::DISPATCH, || KeLowerIrql(0));
}

#[test]
fn irql_ceilings_apply_to_every_kind_of_function() {
    let event = KEVENT::zeroed();
    let event = address(&event);
    let level = Irql::DISPATCH;
    breaks(&rules::DDI_IRQL_ZW_PASSIVE, level, || super::super::zw::ZwClose(4));
    breaks(&rules::CALL_IRQL, level, || super::super::fwp::FwpmEngineClose0(4));
    breaks(&rules::DDI_IRQL_KE_SET_EVENT, Irql::HIGH, || KeSetEvent(event, 0, 0));
    breaks(&rules::DDI_IRQL_KE_SET_EVENT, level, || KeSetEvent(event, 0, 1));
    let later = LARGE_INTEGER { QuadPart: -1 };
    let later = address(&later);
    breaks(&rules::WAIT_FOREVER_AT_DISPATCH, level, || KeWaitForSingleObject(event, 0, 0, 0, 0));
    breaks(&rules::WAIT_AT_DISPATCH, level, || KeWaitForSingleObject(event, 0, 0, 0, later));
    breaks(&rules::WAIT_ABOVE_DISPATCH, Irql::HIGH, || KeWaitForSingleObject(event, 0, 0, 0, 0));
    breaks(&rules::DDI_IRQL_KE_RELEASE_SPIN_LOCK, Irql::PASSIVE, || KeReleaseSpinLock(event, 0));
    breaks(&rules::DDI_IRQL_KE_DISPATCH_LTE, Irql::HIGH, || KeAcquireSpinLockRaiseToDpc(event));
    breaks(&rules::DDI_IRQL_DISPATCH, Irql::PASSIVE, || KeAcquireSpinLockAtDpcLevel(event));
    breaks(&rules::DDI_IRQL_DISPATCH, Irql::APC, || KeReleaseSpinLockFromDpcLevel(event));
    breaks(&rules::DDI_IRQL_EX_APC_LTE_1, level, || ExAcquireFastMutex(event));
    breaks(&rules::RELEASE_FAST_MUTEX_IRQL, Irql::PASSIVE, || ExReleaseFastMutex(event));
}

#[test]
fn dispatch_level_excludes_only_threads_of_its_processor() {
    let kernel = machine();
    let inside = AtomicU32::new(0);
    let together = AtomicBool::new(false);
    let visit = |processor| {
        let outcome = drive_on(&kernel, processor, Irql::DISPATCH, || {
            inside.fetch_add(1, Ordering::SeqCst);
            let until = Instant::now() + Duration::from_millis(30);
            while Instant::now() < until {
                if inside.load(Ordering::SeqCst) > 1 {
                    together.store(true, Ordering::SeqCst);
                }
                std::thread::yield_now();
            }
            inside.fetch_sub(1, Ordering::SeqCst);
        });
        clean(&kernel, outcome);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| visit(1));
        visit(1);
    });
    assert!(!together.load(Ordering::SeqCst), "two threads ran at DISPATCH_LEVEL on one processor");
    std::thread::scope(|scope| {
        scope.spawn(|| visit(1));
        visit(2);
    });
    assert!(together.load(Ordering::SeqCst), "two processors did not run together");
}

#[test]
fn spin_locks_exclude_and_record_their_owner() {
    let kernel = machine();
    let (lock, mut count) = (0usize, 0u64);
    let (lock, counter) = (address(&lock), (&raw mut count) as usize);
    let work = |processor| {
        let outcome = drive_on(&kernel, processor, Irql::PASSIVE, || {
            for _ in 0..2000 {
                let old = KeAcquireSpinLockRaiseToDpc(lock);
                let value = peek::<u64>(counter);
                std::hint::black_box(value);
                super::poke(counter, value + 1);
                KeReleaseSpinLock(lock, old);
            }
        });
        clean(&kernel, outcome);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        work(2);
    });
    assert_eq!(peek::<u64>(counter), 4000);
    super::poke(lock, 0usize);
    breaks(&rules::SELF_DEADLOCK, Irql::DISPATCH, || {
        KeAcquireSpinLockAtDpcLevel(lock);
        KeAcquireSpinLockAtDpcLevel(lock);
    });
    super::poke(lock, 0usize);
    breaks(&rules::LOCK_NOT_ACQUIRED, Irql::DISPATCH, || KeReleaseSpinLockFromDpcLevel(lock));
    breaks(&rules::SPIN_LOCK_HELD, Irql::DISPATCH, || KeAcquireSpinLockAtDpcLevel(lock));
}

#[test]
fn a_stopped_machine_ends_spinning_threads() {
    let kernel = machine();
    let lock = 0usize;
    let lock = address(&lock);
    let taken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            while !taken.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drive_on(&kernel, 1, Irql::PASSIVE, || KeAcquireSpinLockRaiseToDpc(lock))
        });
        let bugcheck = drive(&kernel, Irql::DISPATCH, || {
            KeAcquireSpinLockAtDpcLevel(lock);
            taken.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            KeBugCheckEx(0xE2, 1, 2, 3, 4)
        });
        assert!(bugcheck.is_err());
        assert!(waiter.join().unwrap().is_err());
    });
    assert!(drive(&kernel, Irql::PASSIVE, || ()).is_err(), "a stopped machine ran driver code");
}

#[test]
fn events_of_both_kinds() {
    let kernel = machine();
    let event = KEVENT::zeroed();
    let event = address(&event);
    let now = LARGE_INTEGER { QuadPart: 0 };
    let look = || KeWaitForSingleObject(event, 0, 0, 0, address(&now));
    for (kind, second) in [(0, 0), (1, status::TIMEOUT.0)] {
        let outcome = drive(&kernel, Irql::DISPATCH, || {
            KeInitializeEvent(event, kind, 0);
            let before = look();
            let old = KeSetEvent(event, 0, 0);
            let state = KeReadStateEvent(event);
            (before, old, state, look(), look(), KeResetEvent(event))
        });
        let left = i32::from(kind == 0);
        let expected = (status::TIMEOUT.0, 0, 1, 0, second, left);
        assert_eq!(clean(&kernel, outcome), expected, "kind {kind}");
    }
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        KeInitializeEvent(event, 0, 1);
        KeClearEvent(event);
        KeReadStateEvent(event)
    });
    assert_eq!(clean(&kernel, outcome), 0);
}

#[test]
fn a_wait_ends_when_another_thread_sets_the_event() {
    let kernel = machine();
    let event = KEVENT::zeroed();
    let event = address(&event);
    clean(&kernel, drive(&kernel, Irql::PASSIVE, || KeInitializeEvent(event, 1, 0)));
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| drive_on(&kernel, 1, Irql::PASSIVE, || KeWaitForSingleObject(event, 0, 0, 0, 0)));
        std::thread::sleep(Duration::from_millis(20));
        clean(&kernel, drive(&kernel, Irql::PASSIVE, || KeSetEvent(event, 0, 0)));
        assert_eq!(clean(&kernel, waiter.join().unwrap()), 0);
    });
    let short = LARGE_INTEGER { QuadPart: -200_000 };
    let begun = Instant::now();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let waited = KeWaitForSingleObject(event, 0, 0, 0, address(&short));
        KeDelayExecutionThread(0, 0, address(&short));
        waited
    });
    assert_eq!(clean(&kernel, outcome), status::TIMEOUT.0);
    assert!(begun.elapsed() >= Duration::from_millis(40));
}

#[test]
fn rundown_waits_for_the_last_reference() {
    let kernel = machine();
    let reference = EX_RUNDOWN_REF::zeroed();
    let reference = address(&reference);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        ExInitializeRundownProtection(reference);
        ExAcquireRundownProtection(reference)
    });
    assert_eq!(clean(&kernel, outcome), 1);
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let outcome = drive_on(&kernel, 1, Irql::PASSIVE, || {
                ExWaitForRundownProtectionRelease(reference);
            });
            clean(&kernel, outcome);
            assert!(released.load(Ordering::SeqCst), "the wait ended before the release");
        });
        std::thread::sleep(Duration::from_millis(20));
        let outcome = drive(&kernel, Irql::DISPATCH, || {
            let refused = ExAcquireRundownProtection(reference);
            released.store(true, Ordering::SeqCst);
            ExReleaseRundownProtection(reference);
            refused
        });
        assert_eq!(clean(&kernel, outcome), 0, "a reference was acquired after rundown began");
        waiter.join().unwrap();
    });
    breaks(&rules::RUNDOWN_UNDERFLOW, Irql::PASSIVE, || ExReleaseRundownProtection(reference));
}

#[test]
fn fast_mutexes_raise_to_apc_level_and_record_their_owner() {
    let kernel = machine();
    let mutex = FAST_MUTEX { Count: 1, ..FAST_MUTEX::zeroed() };
    let mutex = address(&mutex);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        // ExInitializeFastMutex (`wdm.h`, inline).
        KeInitializeEvent(mutex + std::mem::offset_of!(FAST_MUTEX, Event), 1, 0);
        ExAcquireFastMutex(mutex);
        let inside = KeGetCurrentIrql();
        ExReleaseFastMutex(mutex);
        (inside, KeGetCurrentIrql())
    });
    assert_eq!(clean(&kernel, outcome), (1, 0));
    breaks(&rules::LOCK_NOT_ACQUIRED, Irql::APC, || ExReleaseFastMutex(mutex));
    breaks(&rules::SELF_DEADLOCK, Irql::PASSIVE, || {
        ExAcquireFastMutex(mutex);
        ExAcquireFastMutex(mutex);
    });
}

#[test]
fn bad_pointers_break_the_rule_for_their_address() {
    let block = |size| ExAllocatePool2(0x40, size, u32::from_le_bytes(*b"test"));
    let nowhere = 0xFFFF_F800_0000_0000;
    breaks(&rules::ACCESS_VIOLATION, Irql::PASSIVE, || KeQuerySystemTimePrecise(64));
    breaks(&rules::BAD_POINTER, Irql::PASSIVE, || KeQuerySystemTimePrecise(nowhere));
    breaks(&rules::PAGEABLE_TOUCHED, Irql::DISPATCH, || KeQuerySystemTimePrecise(64));
    breaks(&rules::FREED_POOL_TOUCHED, Irql::PASSIVE, || {
        let gone = block(8);
        ExFreePool(gone);
        KeQuerySystemTimePrecise(gone);
    });
    breaks(&rules::BEYOND_POOL_TOUCHED, Irql::PASSIVE, || KeQuerySystemTimePrecise(block(16) + 16));
}

#[test]
fn bugchecks_have_their_parameters() {
    let kernel = machine();
    let outcome: Result<(), _> = drive(&kernel, Irql::DISPATCH, || KeBugCheckEx(0xDEAD, 1, 2, 3, 4));
    let Err(super::super::Stop::BugCheck { code, parameters, .. }) = outcome else {
        panic!("a bugcheck must stop the driver");
    };
    assert_eq!((code, parameters), (0xDEAD, [1, 2, 3, 4]));
    assert!(kernel.verifier().findings().is_empty(), "a bugcheck is not a finding");
    assert_eq!(cpu::irql(), Irql::PASSIVE);
}
