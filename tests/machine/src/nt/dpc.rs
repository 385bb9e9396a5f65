//! Kernel: deferred procedure calls (`wdm.h`).
//!
//! A DPC runs at DISPATCH_LEVEL on its processor. If that is the caller's, and the caller
//! is below DISPATCH_LEVEL, it runs at once, as the software interrupt does on Windows;
//! otherwise when the processor is free.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::cell::Cell;
use std::mem::offset_of;
use std::ops::Range;

use super::cpu::{self, Irql};
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, BOOLEAN, KDPC, NTSTATUS, PROCESSOR_NUMBER};
use super::{Kernel, Trouble, ke};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `DpcObject` (`KOBJECTS`).
const DPC_OBJECT: u8 = 19;
/// `MediumImportance` (`wdm.h`).
const MEDIUM: u8 = 1;
/// Added to the number of a processor in `KDPC.Number`; less is none.
const TARGETED: u16 = 0x800;

thread_local! {
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a DPC routine.
pub(super) fn runs() -> bool {
    RUNS.get()
}

/// A queued DPC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    /// Tells this queueing from others of the same object.
    number: u64,
    routine: Address,
    arguments: [Address; 2],
    processor: u32,
}

/// The DPCs and timers of a machine.
#[derive(Debug, Default)]
pub struct Deferred {
    last: u64,
    /// By the address of the `KDPC`.
    pub(super) queued: std::collections::BTreeMap<Address, Queued>,
    /// Routines that run.
    running: Vec<Address>,
    pub(super) timers: super::timer::Timers,
}

/// `KeInitializeDpc`.
pub extern "win64" fn KeInitializeDpc(Dpc: Address, DeferredRoutine: Address, DeferredContext: Address) {
    let kernel = enter!(KeInitializeDpc);
    kernel.settle(kernel.resident(Dpc), ());
    let dpc =
        KDPC { Type: DPC_OBJECT, Importance: MEDIUM, DeferredRoutine, DeferredContext, ..KDPC::zeroed() };
    kernel.settle(foreign::write(Dpc, &dpc), ());
}

/// `KeSetImportanceDpc`. The importance changes nothing in the lab.
pub extern "win64" fn KeSetImportanceDpc(Dpc: Address, Importance: i32) {
    let kernel = enter!(KeSetImportanceDpc);
    let written = foreign::write(Dpc + offset_of!(KDPC, Importance), &(Importance as u8));
    kernel.settle(written, ());
}

/// `KeSetTargetProcessorDpc`.
pub extern "win64" fn KeSetTargetProcessorDpc(Dpc: Address, Number: i8) {
    let kernel = enter!(KeSetTargetProcessorDpc);
    kernel.settle(set_target(Dpc, u16::from(Number as u8)), ());
}

/// `KeSetTargetProcessorDpcEx`.
pub extern "win64" fn KeSetTargetProcessorDpcEx(Dpc: Address, ProcNumber: Address) -> NTSTATUS {
    let kernel = enter!(KeSetTargetProcessorDpcEx);
    let set = || {
        let number: PROCESSOR_NUMBER = foreign::read(ProcNumber)?;
        let group = kernel.options().group(number.Group);
        let processor = group.clone().nth(number.Number.into());
        match processor.filter(|processor| *processor < kernel.active_count() && number.Reserved == 0) {
            Some(processor) => set_target(Dpc, processor as u16).map(|()| Status::SUCCESS),
            None => Ok(Status::INVALID_PARAMETER),
        }
    };
    kernel.settle(set(), Status::UNSUCCESSFUL).0
}

fn set_target(dpc: Address, processor: u16) -> Result<(), BadPointer> {
    foreign::write(dpc + offset_of!(KDPC, Number), &(TARGETED + processor))
}

/// `KeInsertQueueDpc`. FALSE if the DPC is queued already.
pub extern "win64" fn KeInsertQueueDpc(
    Dpc: Address,
    SystemArgument1: Address,
    SystemArgument2: Address,
) -> BOOLEAN {
    let kernel = enter!(KeInsertQueueDpc);
    let queued = kernel.queue_dpc(Dpc, [SystemArgument1, SystemArgument2]);
    kernel.leave_if_stopped();
    BOOLEAN::from(kernel.settle(queued, false))
}

/// `KeRemoveQueueDpc`. TRUE if the DPC was queued. It may still run.
pub extern "win64" fn KeRemoveQueueDpc(Dpc: Address) -> BOOLEAN {
    let kernel = enter!(KeRemoveQueueDpc);
    let removed = kernel.deferred().queued.remove(&Dpc).is_some();
    kernel.bell.ring();
    BOOLEAN::from(removed)
}

/// `KeFlushQueuedDpcs`. Returns when the DPCs that were queued on any processor have run.
pub extern "win64" fn KeFlushQueuedDpcs() {
    let kernel = enter!(KeFlushQueuedDpcs);
    let none = || {
        let deferred = kernel.deferred();
        deferred.queued.is_empty() && deferred.running.is_empty()
    };
    let _none = ke::wait(&kernel, &|| "the queued DPCs to run".to_owned(), None, none);
}

impl Kernel {
    /// Queues a DPC. `false` if it is queued already.
    pub(super) fn queue_dpc(&self, address: Address, arguments: [Address; 2]) -> Result<bool, Trouble> {
        let dpc: KDPC = foreign::read(address)?;
        if dpc.Type != DPC_OBJECT {
            let text = format!("{address:#x} is no initialized KDPC");
            return Err(Violation::new(&rules::BAD_OBJECT, [address as u64, 0, 0], text).into());
        }
        let processor = match dpc.Number.checked_sub(TARGETED) {
            None => cpu::processor(),
            Some(processor) if u32::from(processor) < self.active_count() => processor.into(),
            Some(processor) => {
                let parameters = [address as u64, processor.into(), self.active_count().into()];
                let text = format!("the DPC at {address:#x}: processor {processor}");
                return Err(Violation::new(&rules::DPC_PROCESSOR, parameters, text).into());
            }
        };
        let number = {
            let mut deferred = self.deferred();
            deferred.last += 1;
            let number = deferred.last;
            if deferred.queued.contains_key(&address) {
                return Ok(false);
            }
            let entry = Queued { number, routine: dpc.DeferredRoutine, arguments, processor };
            deferred.queued.insert(address, entry);
            number
        };
        if processor == cpu::processor() && cpu::irql() < Irql::DISPATCH {
            self.run_dpc(address, number);
        } else {
            self.start_system_thread(move |kernel| kernel.run_dpc(address, number));
        }
        Ok(true)
    }

    /// Runs a DPC if it is still queued.
    fn run_dpc(&self, address: Address, number: u64) {
        let queued = |kernel: &Self| {
            let deferred = kernel.deferred();
            deferred.queued.get(&address).filter(|queued| queued.number == number).copied()
        };
        let Some(Queued { processor, .. }) = queued(self) else { return };
        self.on_processor(processor, Irql::DISPATCH, |kernel| {
            // It may have been removed while the processor was busy.
            let Some(entry) = queued(kernel) else { return };
            {
                let mut deferred = kernel.deferred();
                deferred.queued.remove(&address);
                deferred.running.push(entry.routine);
            }
            let dpc = foreign::read::<KDPC>(address);
            let context = match dpc {
                Ok(dpc) => dpc.DeferredContext,
                Err(bad) => {
                    kernel.condemn(kernel.bad_pointer(bad));
                    0
                }
            };
            let [first, second] = entry.arguments;
            let arguments = [address, context, first, second].map(|argument| argument as u64);
            let outer = RUNS.replace(true);
            // If the call failed, it has already stopped the machine.
            let _ = kernel.call_driver(entry.routine, &arguments, Irql::DISPATCH, "DPC routine");
            RUNS.set(outer);
            let mut deferred = kernel.deferred();
            if let Some(at) = deferred.running.iter().position(|routine| *routine == entry.routine) {
                deferred.running.swap_remove(at);
            }
        });
        self.bell.ring();
    }

    /// Checks that memory which is freed or unloaded holds no queued DPC and no active
    /// timer.
    pub(super) fn check_deferred(&self, memory: Range<Address>) -> Result<(), Violation> {
        let deferred = self.deferred();
        let range = [memory.start as u64, memory.end as u64];
        let of = |object: Address| [object as u64, range[0], range[1]];
        if let Some((timer, _)) = deferred.timers.active().find(|(timer, _)| memory.contains(timer)) {
            let text = format!("the timer at {timer:#x} is set");
            return Err(Violation::new(&rules::TIMER_ACTIVE, of(timer), text));
        }
        let mut queued = deferred.queued.iter();
        if let Some((dpc, _)) = queued.clone().find(|(dpc, _)| memory.contains(dpc)) {
            let text = format!("the DPC at {dpc:#x} is queued");
            return Err(Violation::new(&rules::DPC_QUEUED, of(*dpc), text));
        }
        let routine = queued.find(|(_, entry)| memory.contains(&entry.routine));
        let timed = deferred.timers.active().map(|(_, routine)| routine).find(|it| memory.contains(it));
        match routine.map(|(_, entry)| entry.routine).or(timed) {
            Some(routine) => {
                let text = format!("the DPC routine at {routine:#x} can still be called");
                Err(Violation::new(&rules::DPC_ROUTINE_ACTIVE, of(routine), text))
            }
            None => Ok(()),
        }
    }
}
