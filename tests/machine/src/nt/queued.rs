//! Kernel: in-stack queued spin locks (`wdm.h`).
#![expect(unsafe_code, reason = "writes lock handles in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu::{self, Irql};
use super::enter::enter;
use super::locks::Kind;
use super::types::{Address, KLOCK_QUEUE_HANDLE};
use super::{Kernel, ke};

/// `KeAcquireInStackQueuedSpinLock`.
pub extern "win64" fn KeAcquireInStackQueuedSpinLock(SpinLock: Address, LockHandle: Address) {
    let kernel = enter!(KeAcquireInStackQueuedSpinLock);
    let old = cpu::irql();
    cpu::set_irql(&kernel, old.max(Irql::DISPATCH));
    acquire(&kernel, SpinLock, LockHandle, old);
}

/// `KeAcquireInStackQueuedSpinLockAtDpcLevel`.
pub extern "win64" fn KeAcquireInStackQueuedSpinLockAtDpcLevel(SpinLock: Address, LockHandle: Address) {
    let kernel = enter!(KeAcquireInStackQueuedSpinLockAtDpcLevel);
    acquire(&kernel, SpinLock, LockHandle, cpu::irql());
}

fn acquire(kernel: &Kernel, lock: Address, handle: Address, old: Irql) {
    ke::acquire_own(kernel, lock, Kind::Queued);
    let value = KLOCK_QUEUE_HANDLE { LockQueue: [0, lock], OldIrql: old.0 };
    // SAFETY: a structure of the driver's, which only this thread uses while it holds
    // the lock. A bad pointer faults, and the guest attributes the fault to the driver.
    unsafe { (handle as *mut KLOCK_QUEUE_HANDLE).write(value) };
}

/// `KeReleaseInStackQueuedSpinLock`. Restores the IRQL before the acquisition.
pub extern "win64" fn KeReleaseInStackQueuedSpinLock(LockHandle: Address) {
    let kernel = enter!(KeReleaseInStackQueuedSpinLock);
    let old = release(&kernel, LockHandle);
    cpu::set_irql(&kernel, old.min(Irql::DISPATCH));
}

/// `KeReleaseInStackQueuedSpinLockFromDpcLevel`.
pub extern "win64" fn KeReleaseInStackQueuedSpinLockFromDpcLevel(LockHandle: Address) {
    let kernel = enter!(KeReleaseInStackQueuedSpinLockFromDpcLevel);
    release(&kernel, LockHandle);
}

/// Returns the IRQL before the acquisition.
fn release(kernel: &Kernel, handle: Address) -> Irql {
    // SAFETY: as in `acquire`.
    let value = unsafe { (handle as *const KLOCK_QUEUE_HANDLE).read() };
    ke::release(kernel, value.LockQueue[1], Kind::Queued);
    Irql(value.OldIrql)
}
