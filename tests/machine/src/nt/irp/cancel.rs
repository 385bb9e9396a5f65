//! Cancellation of requests (`wdm.h`).
#![expect(unsafe_code, reason = "exchanges a word that the driver exchanges, too")]

use std::mem::offset_of;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::cpu::{self, Irql};
use super::super::enter::enter;
use super::super::guest::Stop;
use super::super::locks::Kind;
use super::super::types::{Address, BOOLEAN, IRP, KIRQL};
use super::super::{Kernel, foreign, ke, wdf};
use super::made;

/// `IoAcquireCancelSpinLock`.
pub extern "win64" fn IoAcquireCancelSpinLock(OldIrql: Address) {
    let kernel = enter!(IoAcquireCancelSpinLock);
    let old = raise_and_acquire(&kernel);
    kernel.settle(foreign::write(OldIrql, &old.0), ());
}

/// `IoReleaseCancelSpinLock`.
pub extern "win64" fn IoReleaseCancelSpinLock(NewIrql: KIRQL) {
    let kernel = enter!(IoReleaseCancelSpinLock);
    ke::release(&kernel, kernel.cancel_lock(), Kind::Spin);
    cpu::set_irql(&kernel, Irql(NewIrql).min(Irql::DISPATCH));
}

/// `IoCancelIrp`. TRUE if the request had a cancel routine, which was called.
pub extern "win64" fn IoCancelIrp(Irp: Address) -> BOOLEAN {
    let kernel = enter!(IoCancelIrp);
    if !kernel.irps().contains_key(&Irp) && !made::is_made(&kernel, Irp) {
        kernel.violate(super::not_a_request(Irp));
        return 0;
    }
    let called = cancel(&kernel, Irp);
    kernel.leave_if_stopped();
    BOOLEAN::from(called.unwrap_or(false))
}

fn raise_and_acquire(kernel: &Kernel) -> Irql {
    let old = cpu::irql();
    cpu::set_irql(kernel, old.max(Irql::DISPATCH));
    ke::acquire(kernel, kernel.cancel_lock(), Kind::Spin);
    old
}

/// `IRP.CancelRoutine`, which `IoSetCancelRoutine` (`wdm.h`, inline) exchanges.
fn cancel_routine<'a>(irp: Address) -> &'a AtomicUsize {
    let at = irp + offset_of!(IRP, CancelRoutine);
    // SAFETY: an aligned word of a request that is in the table. Drivers share it only
    // by atomic operations.
    unsafe { AtomicUsize::from_ptr(at as *mut usize) }
}

/// Cancels a request as the I/O manager does. Returns whether it had a cancel
/// routine. The calling thread is in the machine.
pub(super) fn cancel(kernel: &Kernel, irp: Address) -> Result<bool, Stop> {
    let old = raise_and_acquire(kernel);
    let known = kernel.irps().get(&irp).map(|known| (known.device, known.framework));
    let Some((device, framework)) = known else {
        // It was completed meanwhile. If a driver has made it, that driver has it.
        if made::is_made(kernel, irp) {
            kernel.settle(foreign::write(irp + offset_of!(IRP, Cancel), &1u8), ());
        }
        release_and_lower(kernel, old);
        return Ok(false);
    };
    let _for_it = kernel.act_for(kernel.device_driver(device));
    let mut header: IRP = foreign::read(irp).expect("a request in the table");
    header.Cancel = 1;
    foreign::write(irp + offset_of!(IRP, Cancel), &header.Cancel).expect("as above");
    let routine = cancel_routine(irp).swap(0, Ordering::AcqRel);
    if framework != 0 {
        release_and_lower(kernel, old);
        return wdf::cancel(kernel, framework);
    }
    if routine == 0 {
        release_and_lower(kernel, old);
        return Ok(false);
    }
    foreign::write(irp + offset_of!(IRP, CancelIrql), &old.0).expect("as above");
    let arguments = [device as u64, irp as u64];
    // The routine releases the lock, and so returns at the old level.
    let outcome = kernel.call_driver_to(routine, &arguments, Irql::DISPATCH, old, "cancel routine");
    if outcome.is_ok() && ke::is_owned(kernel.cancel_lock()) {
        let text = "a cancel routine returned with the cancel spin lock held".to_owned();
        kernel.condemn(kernel.lock_held("cancel routine", Kind::Spin, 1, text));
    }
    cpu::set_irql(kernel, old);
    outcome.map(|_| true)
}

fn release_and_lower(kernel: &Kernel, old: Irql) {
    ke::release(kernel, kernel.cancel_lock(), Kind::Spin);
    cpu::set_irql(kernel, old);
}
