//! Executive: spin locks that are held shared or exclusively (`wdm.h`).
#![expect(unsafe_code, reason = "works on locks in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::sync::atomic::{AtomicU32, Ordering};

use super::Kernel;
use super::cpu::{self, Backoff, Irql};
use super::enter::enter;
use super::locks::Kind;
use super::types::{Address, KIRQL};

/// Set in an `EX_SPIN_LOCK` that is held exclusively. The other bits count those that
/// share it.
const EXCLUSIVE: u32 = 1 << 31;

fn word<'a>(address: Address) -> &'a AtomicU32 {
    // SAFETY: an EX_SPIN_LOCK is an aligned 32-bit word in driver memory, which processors
    // share only by atomic operations. A bad pointer faults, and the guest attributes the
    // fault to the driver.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }
}

fn acquire(kernel: &Kernel, address: Address, shared: bool) {
    if let Err(violation) = kernel.locks().acquiring(address, kind(shared)) {
        // The lock is not taken, even if the breach is tolerated.
        kernel.violate(violation);
        return;
    }
    let more = |held: u32| match shared {
        true => (held & EXCLUSIVE == 0).then_some(held + 1),
        false => (held == 0).then_some(EXCLUSIVE),
    };
    let mut backoff = Backoff::default();
    while word(address).fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_err() {
        backoff.wait(&|| format!("the spin lock at {address:#x}"));
        kernel.leave_if_stopped();
    }
    kernel.locks().acquired(address, kind(shared), kernel.thread_object());
}

fn release(kernel: &Kernel, address: Address, shared: bool) {
    kernel.settle(kernel.locks().releasing(address, kind(shared), kernel.thread_object()), ());
    match shared {
        true => drop(word(address).fetch_sub(1, Ordering::Release)),
        false => word(address).store(0, Ordering::Release),
    }
}

fn kind(shared: bool) -> Kind {
    if shared { Kind::SharedSpin } else { Kind::ExclusiveSpin }
}

fn raise_and_acquire(kernel: &Kernel, address: Address, shared: bool) -> KIRQL {
    let old = cpu::irql();
    cpu::set_irql(kernel, old.max(Irql::DISPATCH));
    acquire(kernel, address, shared);
    old.0
}

fn release_and_lower(kernel: &Kernel, address: Address, shared: bool, old: KIRQL) {
    release(kernel, address, shared);
    cpu::set_irql(kernel, Irql(old).min(Irql::DISPATCH));
}

/// `ExAcquireSpinLockShared`. Returns the old IRQL.
pub extern "win64" fn ExAcquireSpinLockShared(SpinLock: Address) -> KIRQL {
    let kernel = enter!(ExAcquireSpinLockShared);
    raise_and_acquire(&kernel, SpinLock, true)
}

/// `ExAcquireSpinLockExclusive`. Returns the old IRQL.
pub extern "win64" fn ExAcquireSpinLockExclusive(SpinLock: Address) -> KIRQL {
    let kernel = enter!(ExAcquireSpinLockExclusive);
    raise_and_acquire(&kernel, SpinLock, false)
}

/// `ExReleaseSpinLockShared`. Restores the IRQL that the acquisition returned.
pub extern "win64" fn ExReleaseSpinLockShared(SpinLock: Address, OldIrql: KIRQL) {
    let kernel = enter!(ExReleaseSpinLockShared);
    release_and_lower(&kernel, SpinLock, true, OldIrql);
}

/// `ExReleaseSpinLockExclusive`. Restores the IRQL that the acquisition returned.
pub extern "win64" fn ExReleaseSpinLockExclusive(SpinLock: Address, OldIrql: KIRQL) {
    let kernel = enter!(ExReleaseSpinLockExclusive);
    release_and_lower(&kernel, SpinLock, false, OldIrql);
}

/// `ExAcquireSpinLockSharedAtDpcLevel`.
pub extern "win64" fn ExAcquireSpinLockSharedAtDpcLevel(SpinLock: Address) {
    let kernel = enter!(ExAcquireSpinLockSharedAtDpcLevel);
    acquire(&kernel, SpinLock, true);
}

/// `ExAcquireSpinLockExclusiveAtDpcLevel`.
pub extern "win64" fn ExAcquireSpinLockExclusiveAtDpcLevel(SpinLock: Address) {
    let kernel = enter!(ExAcquireSpinLockExclusiveAtDpcLevel);
    acquire(&kernel, SpinLock, false);
}

/// `ExReleaseSpinLockSharedFromDpcLevel`.
pub extern "win64" fn ExReleaseSpinLockSharedFromDpcLevel(SpinLock: Address) {
    let kernel = enter!(ExReleaseSpinLockSharedFromDpcLevel);
    release(&kernel, SpinLock, true);
}

/// `ExReleaseSpinLockExclusiveFromDpcLevel`.
pub extern "win64" fn ExReleaseSpinLockExclusiveFromDpcLevel(SpinLock: Address) {
    let kernel = enter!(ExReleaseSpinLockExclusiveFromDpcLevel);
    release(&kernel, SpinLock, false);
}

/// `ExTryConvertSharedSpinLockExclusive`. Fails if others share the lock.
pub extern "win64" fn ExTryConvertSharedSpinLockExclusive(SpinLock: Address) -> u32 {
    let kernel = enter!(ExTryConvertSharedSpinLockExclusive);
    let order = Ordering::Acquire;
    let converted = word(SpinLock).compare_exchange(1, EXCLUSIVE, order, Ordering::Relaxed).is_ok();
    if converted {
        let thread = kernel.thread_object();
        kernel.settle(kernel.locks().releasing(SpinLock, Kind::SharedSpin, thread), ());
        kernel.locks().acquired(SpinLock, Kind::ExclusiveSpin, thread);
    }
    u32::from(converted)
}
