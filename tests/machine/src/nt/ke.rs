//! Kernel: processors, IRQL, spin locks, events, time, bugcheck (`wdm.h`).
#![expect(unsafe_code, reason = "works on locks and events in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::cell::Cell;
use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use super::clock::units;
use super::cpu::{self, Backoff, Irql};
use super::dispatcher::header;
use super::dpc;
use super::enter::enter;
use super::foreign;
use super::guest::{Place, Stop};
use super::initialized;
use super::locks::Kind;
use super::sleepers::is_drivers_own;
use super::types::{
    Address, BOOLEAN, DISPATCHER_HEADER, KEVENT, KIRQL, LARGE_INTEGER, NTSTATUS, PROCESSOR_NUMBER,
};
use super::{Kernel, status};
use crate::schedule::Waited;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `ALL_PROCESSOR_GROUPS` (`ntdef.h`).
const ALL_PROCESSOR_GROUPS: u16 = 0xFFFF;

/// `KeGetCurrentProcessorNumberEx`.
pub extern "win64" fn KeGetCurrentProcessorNumberEx(ProcNumber: Address) -> u32 {
    let kernel = enter!(KeGetCurrentProcessorNumberEx);
    let processor = cpu::processor();
    if ProcNumber != 0 {
        let (group, number) = kernel.options().group_and_number(processor);
        let number = PROCESSOR_NUMBER { Group: group, Number: number, Reserved: 0 };
        let written = foreign::write(ProcNumber, &number);
        kernel.settle(written, ());
    }
    processor
}

/// `KeQueryMaximumProcessorCountEx`.
pub extern "win64" fn KeQueryMaximumProcessorCountEx(GroupNumber: u16) -> u32 {
    let kernel = enter!(KeQueryMaximumProcessorCountEx);
    match GroupNumber {
        ALL_PROCESSOR_GROUPS => kernel.options().possible(),
        group => kernel.options().group(group).len() as u32,
    }
}

/// `KeQueryActiveProcessorCountEx`.
pub extern "win64" fn KeQueryActiveProcessorCountEx(GroupNumber: u16) -> u32 {
    let kernel = enter!(KeQueryActiveProcessorCountEx);
    match GroupNumber {
        ALL_PROCESSOR_GROUPS => kernel.active_count(),
        group => kernel.active_in(group).count_ones(),
    }
}

/// `KeGetCurrentIrql`.
pub extern "win64" fn KeGetCurrentIrql() -> KIRQL {
    enter!(KeGetCurrentIrql);
    cpu::irql().0
}

/// `KfRaiseIrql`. Returns the old IRQL.
pub extern "win64" fn KfRaiseIrql(NewIrql: KIRQL) -> KIRQL {
    let kernel = enter!(KfRaiseIrql);
    let old = cpu::irql();
    match Irql(NewIrql) {
        new if (old..=Irql::HIGH).contains(&new) => cpu::set_irql(&kernel, new),
        new => kernel.violate(bad_level(&rules::RAISE_IRQL, old, new)),
    }
    old.0
}

/// `KeLowerIrql`.
pub extern "win64" fn KeLowerIrql(NewIrql: KIRQL) {
    let kernel = enter!(KeLowerIrql);
    let (old, new) = (cpu::irql(), Irql(NewIrql));
    if new > old {
        kernel.violate(bad_level(&rules::LOWER_IRQL, old, new))
    } else if new < Irql::DISPATCH && dpc::runs() {
        let parameters = [old.0.into(), new.0.into(), 1];
        kernel.violate(Violation::new(&rules::LOWER_IRQL, parameters, format!("in a DPC, to {new}")))
    } else {
        cpu::set_irql(&kernel, new);
    }
}

fn bad_level(rule: &'static crate::verifier::Rule, old: Irql, new: Irql) -> Violation {
    let parameters = [old.0.into(), new.0.into(), 0];
    Violation::new(rule, parameters, format!("from {old} to {new}"))
}

fn lock_word<'a>(address: Address) -> &'a AtomicUsize {
    // SAFETY: a KSPIN_LOCK is one aligned pointer-size word in driver memory.
    // Processors share it only by atomic operations. A bad pointer faults, and the
    // guest attributes the fault to the driver.
    unsafe { AtomicUsize::from_ptr(address as *mut usize) }
}

/// Value of a lock word that this processor owns. Only one thread per processor is
/// at DISPATCH_LEVEL, so the processor identifies the owner.
fn owner() -> usize {
    cpu::processor() as usize + 1
}

/// `KeInitializeSpinLock`.
pub extern "win64" fn KeInitializeSpinLock(SpinLock: Address) {
    let kernel = enter!(KeInitializeSpinLock);
    kernel.settle(kernel.resident(SpinLock), ());
    kernel.settle(kernel.locks().initializing(SpinLock), ());
    kernel.spin_locks.initialize(kernel.caller(), SpinLock);
    lock_word(SpinLock).store(0, Ordering::Release);
}

/// `KeAcquireSpinLockRaiseToDpc`. Returns the old IRQL.
pub extern "win64" fn KeAcquireSpinLockRaiseToDpc(SpinLock: Address) -> KIRQL {
    let kernel = enter!(KeAcquireSpinLockRaiseToDpc);
    let old = cpu::irql();
    cpu::set_irql(&kernel, old.max(Irql::DISPATCH));
    acquire_own(&kernel, SpinLock, Kind::Spin);
    initialized::raised(SpinLock, old);
    old.0
}

/// `KeAcquireSpinLockAtDpcLevel`.
pub extern "win64" fn KeAcquireSpinLockAtDpcLevel(SpinLock: Address) {
    let kernel = enter!(KeAcquireSpinLockAtDpcLevel);
    acquire_own(&kernel, SpinLock, Kind::Spin);
}

/// Takes a lock of the driver's own, which it must have initialized.
pub(super) fn acquire_own(kernel: &Kernel, address: Address, kind: Kind) {
    kernel.settle(kernel.resident(address), ());
    let valid = has_valid_word(kernel, address);
    kernel.settle(valid.and_then(|()| kernel.spin_locks.check(kernel.caller(), address)), ());
    acquire(kernel, address, kind);
}

/// Takes a lock of the driver's or of the system's.
pub(super) fn acquire(kernel: &Kernel, address: Address, kind: Kind) {
    let word = lock_word(address);
    if kernel.guest().place(address as u64) == Some(Place::Stack) {
        // Another call's lock may have been there.
        kernel.locks().forget(address..address + 1);
    }
    if let Err(violation) = kernel.locks().acquiring(address, kind) {
        // The lock is not taken, even if the breach is tolerated.
        kernel.violate(compliant(kernel, violation, kind));
        return;
    }
    let mut backoff = Backoff::default();
    while word.compare_exchange_weak(0, owner(), Ordering::Acquire, Ordering::Relaxed).is_err() {
        backoff.wait(&|| format!("the spin lock at {address:#x}"));
        kernel.leave_if_stopped();
    }
    kernel.locks().acquired(address, kind, kernel.thread_object());
}

/// A word that is neither free nor a processor's was never initialized. Zeros are not
/// told from a free lock: on x64, `wdm.h` initializes a lock inline.
fn has_valid_word(kernel: &Kernel, address: Address) -> Result<(), Violation> {
    match lock_word(address).load(Ordering::Relaxed) {
        word if word <= kernel.options().possible() as usize => Ok(()),
        word => {
            let text = format!("lock {address:#x} holds {word:#x}");
            Err(Violation::new(&rules::LOCK_NOT_INITIALIZED, [address as u64, 0, 0], text))
        }
    }
}

/// The breach as DDI compliance checking reports it, if that option is on. Deadlock
/// detection finds a second acquisition first.
fn compliant(kernel: &Kernel, violation: Violation, kind: Kind) -> Violation {
    let rule = match (violation.rule, kind) {
        (rule, Kind::Spin) if *rule == rules::LOCK_NOT_ACQUIRED => &rules::DDI_SPIN_LOCK_RELEASE,
        (rule, Kind::Queued) if *rule == rules::LOCK_NOT_ACQUIRED => &rules::DDI_QUEUED_SPIN_LOCK_RELEASE,
        _ => return violation,
    };
    match kernel.verifier().checks(rule) {
        true => Violation::of_ddi(rule, violation.detail),
        false => violation,
    }
}

/// `KeReleaseSpinLock`. Restores the IRQL that the acquisition returned.
pub extern "win64" fn KeReleaseSpinLock(SpinLock: Address, NewIrql: KIRQL) {
    let kernel = enter!(KeReleaseSpinLock);
    release(&kernel, SpinLock, Kind::Spin);
    let (old, new) = (cpu::irql(), Irql(NewIrql));
    kernel.settle(initialized::released(SpinLock, new), ());
    match new <= Irql::DISPATCH {
        true => cpu::set_irql(&kernel, new),
        false => kernel.violate(bad_level(&rules::LOWER_IRQL, old, new)),
    }
}

/// `KeReleaseSpinLockFromDpcLevel`.
pub extern "win64" fn KeReleaseSpinLockFromDpcLevel(SpinLock: Address) {
    let kernel = enter!(KeReleaseSpinLockFromDpcLevel);
    release(&kernel, SpinLock, Kind::Spin);
}

pub(super) fn release(kernel: &Kernel, address: Address, kind: Kind) {
    let released = kernel.locks().releasing(address, kind, kernel.thread_object());
    kernel.settle(released.map_err(|violation| compliant(kernel, violation, kind)), ());
    lock_word(address).store(0, Ordering::Release);
}

/// Whether this processor owns a spin lock.
pub(super) fn is_owned(address: Address) -> bool {
    lock_word(address).load(Ordering::Relaxed) == owner()
}

pub(super) fn signal_state<'a>(event: Address) -> &'a AtomicI32 {
    let at = event + offset_of!(DISPATCHER_HEADER, SignalState);
    // SAFETY: `SignalState` is an aligned 32-bit word in driver memory. Processors
    // share it only by atomic operations. A bad pointer faults, as above.
    unsafe { AtomicI32::from_ptr(at as *mut i32) }
}

/// The type of a dispatcher object (`KOBJECTS`).
pub(super) fn object_type(object: Address) -> u8 {
    // SAFETY: the first byte of a dispatcher header. A bad pointer faults, as
    // above.
    unsafe { (object as *const u8).read_volatile() }
}

/// Whether `KeInitializeEvent` has made the event: the list of its waiters, which the lab
/// leaves empty, leads to itself.
pub(super) fn initialized(event: Address) -> Result<(), Violation> {
    let list = event + offset_of!(DISPATCHER_HEADER, WaitListHead);
    // SAFETY: an aligned word of a dispatcher header in driver memory. A bad pointer
    // faults, as above.
    match unsafe { (list as *const usize).read_volatile() } == list {
        true => Ok(()),
        false => Err(Violation::new(
            &rules::EVENT_UNINITIALIZED,
            [event as u64, 0, 0],
            format!("event {event:#x}"),
        )),
    }
}

thread_local! {
    /// Whether this thread has called KeSetEvent with `Wait` TRUE and not waited since.
    static MUST_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// To be called when a driver calls an export or returns. A wait must follow KeSetEvent
/// with `Wait` TRUE immediately.
pub(super) fn instead_of_wait(export: &str) -> Result<(), Violation> {
    const WAITS: [&str; 3] = ["KeWaitForSingleObject", "KeWaitForMultipleObjects", "KeWaitForMutexObject"];
    match MUST_WAIT.take() && !WAITS.contains(&export) {
        false => Ok(()),
        true => Err(Violation::new(&rules::EVENT_WITHOUT_WAIT, [0; 3], format!("{export} follows"))),
    }
}

/// `KeInitializeEvent`.
pub extern "win64" fn KeInitializeEvent(Event: Address, Type: i32, State: BOOLEAN) {
    let kernel = enter!(KeInitializeEvent);
    kernel.settle(kernel.resident(Event), ());
    let event = KEVENT { Header: header(Event, Type as u8, size_of::<KEVENT>(), (State != 0).into()) };
    let written = foreign::write(Event, &event);
    kernel.settle(written, ());
}

/// `KeSetEvent`. Returns the previous state. `Wait` TRUE requires APC_LEVEL or
/// lower.
pub extern "win64" fn KeSetEvent(Event: Address, Increment: i32, Wait: BOOLEAN) -> i32 {
    let ceiling = if Wait == 0 { Irql::DISPATCH } else { Irql::APC };
    let kernel = enter!(KeSetEvent, ceiling);
    // The lab does not model priority boosts.
    let _ = Increment;
    kernel.settle(initialized(Event), ());
    MUST_WAIT.set(Wait != 0);
    let previous = signal_state(Event).swap(1, Ordering::AcqRel);
    kernel.bell.ring();
    previous
}

/// `KeClearEvent`.
pub extern "win64" fn KeClearEvent(Event: Address) {
    let kernel = enter!(KeClearEvent);
    kernel.settle(initialized(Event), ());
    signal_state(Event).store(0, Ordering::Release);
}

/// `KeResetEvent`. Returns the previous state.
pub extern "win64" fn KeResetEvent(Event: Address) -> i32 {
    let kernel = enter!(KeResetEvent);
    kernel.settle(initialized(Event), ());
    signal_state(Event).swap(0, Ordering::AcqRel)
}

/// `KeReadStateEvent`.
pub extern "win64" fn KeReadStateEvent(Event: Address) -> i32 {
    let kernel = enter!(KeReadStateEvent);
    kernel.settle(initialized(Event), ());
    signal_state(Event).load(Ordering::Acquire)
}

/// Waits as [`wait`] for an object. A thread of the driver that waits so has done its
/// work, while a delay is a part of it.
pub(super) fn wait_for_object(
    kernel: &Kernel,
    what: &dyn Fn() -> String,
    timeout: Option<i64>,
    mut take: impl FnMut() -> bool,
) -> Status {
    if kernel.options().own_time || !is_drivers_own() {
        return wait(kernel, what, timeout, take);
    }
    let number = kernel.sleepers.begin(None, false);
    let waited = wait(kernel, what, timeout, || {
        let rung = kernel.bell.rung();
        let taken = take();
        if !taken {
            kernel.sleepers.looked(number, rung);
        }
        taken
    });
    kernel.sleepers.end(number);
    waited
}

/// Waits until `take` succeeds. Holds no lock while it calls `take`.
pub(super) fn wait(
    kernel: &Kernel,
    what: &dyn Fn() -> String,
    timeout: Option<i64>,
    mut take: impl FnMut() -> bool,
) -> Status {
    if kernel.options().own_time {
        return kernel.wait_in_own_time(what, timeout, take);
    }
    // A positive timeout is a system time, which goes on during sleep.
    let ends_asleep = kernel.options().sleep_ends_waits || timeout.is_some_and(|timeout| timeout >= 0);
    let passed = || {
        let clock = kernel.clock();
        clock.passed() + if ends_asleep { clock.slept() } else { Duration::ZERO }
    };
    let timeout = timeout.map(|timeout| kernel.clock().until(timeout));
    let (before, mut over) = (passed(), false);
    let mut ready = || {
        take() || {
            over = timeout.is_some_and(|timeout| passed() - before >= timeout);
            over
        }
    };
    match kernel.bell.wait(what, timeout, &mut ready) {
        Waited::Ready if over => status::TIMEOUT,
        Waited::Ready => Status::SUCCESS,
        Waited::TimedOut => status::TIMEOUT,
        Waited::GaveUp => {
            kernel.leave_if_stopped();
            status::TIMEOUT
        }
    }
}

/// `KeDelayExecutionThread`.
pub extern "win64" fn KeDelayExecutionThread(
    WaitMode: i8,
    Alertable: BOOLEAN,
    Interval: Address,
) -> NTSTATUS {
    let kernel = enter!(KeDelayExecutionThread);
    let _ = (WaitMode, Alertable);
    let interval = foreign::read::<LARGE_INTEGER>(Interval);
    let interval = kernel.settle(interval, LARGE_INTEGER { QuadPart: 0 });
    let what = || "its delay to end".to_owned();
    let _over = wait(&kernel, &what, Some(interval.QuadPart), || false);
    Status::SUCCESS.0
}

/// `KeBugCheckEx`.
pub extern "win64" fn KeBugCheckEx(
    BugCheckCode: u32,
    BugCheckParameter1: u64,
    BugCheckParameter2: u64,
    BugCheckParameter3: u64,
    BugCheckParameter4: u64,
) -> ! {
    let kernel = enter!(KeBugCheckEx);
    kernel.stop(Stop::BugCheck {
        code: BugCheckCode,
        parameters: [BugCheckParameter1, BugCheckParameter2, BugCheckParameter3, BugCheckParameter4],
        text: match kernel.distinguishing_name(kernel.caller()) {
            Some(driver) => format!("driver {driver}: KeBugCheckEx"),
            None => "KeBugCheckEx".into(),
        },
    })
}

/// `KeQueryPerformanceCounter`. The frequency is 10 MHz, as on most Windows
/// machines.
pub extern "win64" fn KeQueryPerformanceCounter(PerformanceFrequency: Address) -> LARGE_INTEGER {
    let kernel = enter!(KeQueryPerformanceCounter);
    if PerformanceFrequency != 0 {
        let frequency = LARGE_INTEGER { QuadPart: 10_000_000 };
        let written = foreign::write(PerformanceFrequency, &frequency);
        kernel.settle(written, ());
    }
    LARGE_INTEGER { QuadPart: kernel.clock().interrupt_time() as i64 }
}

/// `KeQueryInterruptTimePrecise`, in 100 ns units. The performance counter has the
/// same value.
pub extern "win64" fn KeQueryInterruptTimePrecise(QpcTimeStamp: Address) -> u64 {
    let kernel = enter!(KeQueryInterruptTimePrecise);
    let time = kernel.clock().interrupt_time();
    let written = foreign::write(QpcTimeStamp, &time);
    kernel.settle(written, ());
    time
}

/// `KeQueryUnbiasedInterruptTime`. The time moves in ticks (`Options::clock_tick`), and not
/// while the machine sleeps.
pub extern "win64" fn KeQueryUnbiasedInterruptTime() -> u64 {
    let kernel = enter!(KeQueryUnbiasedInterruptTime);
    let (time, tick) = (kernel.clock().unbiased_time(), units(kernel.options().clock_tick));
    time - time.checked_rem(tick).unwrap_or(0)
}

/// `KeQuerySystemTimePrecise`, in 100 ns units since 1601.
pub extern "win64" fn KeQuerySystemTimePrecise(CurrentTime: Address) {
    let kernel = enter!(KeQuerySystemTimePrecise);
    let time = kernel.clock().system_time();
    let written = foreign::write(CurrentTime, &time);
    kernel.settle(written, ());
}
