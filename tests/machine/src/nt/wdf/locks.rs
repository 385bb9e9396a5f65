//! Locks of the framework (`wdfsync.h`).

use std::sync::atomic::{AtomicU8, Ordering};

use super::super::cpu::{self, Irql};
use super::super::enter::enter;
use super::super::locks::Kind as LockKind;
use super::super::memory::{Guarded, PAGE};
use super::super::types::{Address, NTSTATUS};
use super::super::{Kernel, Trouble, foreign, ke};
use super::object::{self, Parent};
use super::{Data as ObjectData, Kind, finish, finish_void, not_null};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// A lock: the pages of a spin lock's word, and the level before it was taken; or
/// whether a wait lock is taken.
#[derive(Debug)]
pub(super) enum Data {
    Spin { word: Guarded, level: AtomicU8 },
    Wait { taken: bool },
}

fn create(kernel: &Kernel, kind: Kind, attributes: Address, out: Address) -> Result<Status, Trouble> {
    not_null("Lock", out)?;
    let data = match kind {
        Kind::SpinLock => Data::Spin { word: Guarded::new(PAGE), level: AtomicU8::new(0) },
        _ => Data::Wait { taken: false },
    };
    let parent = Parent::Default(kernel.wdf_driver());
    object::give(object::create(kernel, kind, attributes, parent, ObjectData::Lock(data))?, out)
}

/// `WdfSpinLockCreate`.
pub extern "win64" fn WdfSpinLockCreate(
    DriverGlobals: Address,
    SpinLockAttributes: Address,
    SpinLock: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfSpinLockCreate);
    let _ = DriverGlobals;
    finish(&kernel, create(&kernel, Kind::SpinLock, SpinLockAttributes, SpinLock))
}

/// The address of a spin lock's word, and what `f` says of the level before.
fn spin<R>(
    kernel: &Kernel,
    handle: Address,
    f: impl FnOnce(&AtomicU8) -> R,
) -> Result<(Address, R), Trouble> {
    match &kernel.framework().object_of(handle, Kind::SpinLock)?.data {
        ObjectData::Lock(Data::Spin { word, level }) => Ok((word.start(), f(level))),
        other => unreachable!("a WDFSPINLOCK with {other:?}"),
    }
}

/// `WdfSpinLockAcquire`: raises to DISPATCH_LEVEL.
pub extern "win64" fn WdfSpinLockAcquire(DriverGlobals: Address, SpinLock: Address) {
    let kernel = enter!(WdfSpinLockAcquire);
    let _ = DriverGlobals;
    let acquire = || {
        let (word, ()) = spin(&kernel, SpinLock, |_| ())?;
        if kernel.locks().is_held_here(word) {
            let text = format!("the WDFSPINLOCK {SpinLock:#x}");
            return Err(Violation::new(&rules::WDF_LOCK_HELD, [0; 3], text).into());
        }
        let old = cpu::irql();
        cpu::set_irql(&kernel, old.max(Irql::DISPATCH));
        ke::acquire(&kernel, word, LockKind::Spin);
        spin(&kernel, SpinLock, |level| level.store(old.0, Ordering::Relaxed)).map(|_| ())
    };
    finish_void(&kernel, acquire());
}

/// `WdfSpinLockRelease`: restores the level before.
pub extern "win64" fn WdfSpinLockRelease(DriverGlobals: Address, SpinLock: Address) {
    let kernel = enter!(WdfSpinLockRelease);
    let _ = DriverGlobals;
    let release = || {
        let (word, old) = spin(&kernel, SpinLock, |level| Irql(level.load(Ordering::Relaxed)))?;
        if !kernel.locks().is_held_here(word) && kernel.locks().held_in(&(word..word + 1)).is_some() {
            let text = format!("the WDFSPINLOCK {SpinLock:#x}");
            return Err(Violation::new(&rules::WDF_LOCK_MISUSED, [SpinLock as u64, 1, 0], text).into());
        }
        ke::release(&kernel, word, LockKind::Spin);
        cpu::set_irql(&kernel, old.min(Irql::DISPATCH));
        Ok(())
    };
    finish_void(&kernel, release());
}

/// `WdfWaitLockCreate`.
pub extern "win64" fn WdfWaitLockCreate(
    DriverGlobals: Address,
    LockAttributes: Address,
    Lock: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfWaitLockCreate);
    let _ = DriverGlobals;
    finish(&kernel, create(&kernel, Kind::WaitLock, LockAttributes, Lock))
}

/// Sets whether a wait lock is taken. Returns whether it was.
fn set_taken(kernel: &Kernel, handle: Address, now: bool) -> Result<bool, Trouble> {
    match &mut kernel.framework().object_of(handle, Kind::WaitLock)?.data {
        ObjectData::Lock(Data::Wait { taken }) => Ok(std::mem::replace(taken, now)),
        other => unreachable!("a WDFWAITLOCK with {other:?}"),
    }
}

/// `WdfWaitLockAcquire`. STATUS_TIMEOUT if the timeout expires. With a timeout of 0, it
/// may be called at DISPATCH_LEVEL. The thread is in a critical region until the release.
pub extern "win64" fn WdfWaitLockAcquire(
    DriverGlobals: Address,
    Lock: Address,
    Timeout: Address,
) -> NTSTATUS {
    let only_tests = Timeout != 0 && foreign::read::<i64>(Timeout) == Ok(0);
    let ceiling = if only_tests { Irql::DISPATCH } else { Irql::PASSIVE };
    let kernel = enter!(WdfWaitLockAcquire, ceiling);
    let _ = DriverGlobals;
    let acquire = || {
        let timeout = foreign::read_optional::<i64>(Timeout)?;
        kernel.framework().object_of(Lock, Kind::WaitLock)?;
        kernel.locks().acquiring(Lock, LockKind::FastMutex)?;
        let what = || format!("the WDFWAITLOCK {Lock:#x}");
        let status =
            ke::wait(&kernel, &what, timeout, || set_taken(&kernel, Lock, true).is_ok_and(|was| !was));
        if status == Status::SUCCESS {
            cpu::enter_critical_region();
            kernel.locks().acquired(Lock, LockKind::FastMutex, kernel.thread_object());
        }
        Ok(status)
    };
    finish(&kernel, acquire())
}

/// `WdfWaitLockRelease`.
pub extern "win64" fn WdfWaitLockRelease(DriverGlobals: Address, Lock: Address) {
    let kernel = enter!(WdfWaitLockRelease);
    let _ = DriverGlobals;
    let release = || {
        set_taken(&kernel, Lock, false)?;
        kernel.locks().releasing(Lock, LockKind::FastMutex, kernel.thread_object())?;
        cpu::leave_critical_region();
        kernel.bell.ring();
        Ok(())
    };
    finish_void(&kernel, release());
}
