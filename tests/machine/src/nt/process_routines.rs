//! Process structure: routines that are told of processes (`ntddk.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::cell::RefCell;
use std::mem::offset_of;

use super::cpu::{self, Irql};
use super::enter::enter;
use super::foreign;
use super::process::SYSTEM_PROCESS;
use super::types::{Address, BOOLEAN, NTSTATUS, PS_CREATE_NOTIFY_INFO, UNICODE_STRING};
use super::{Kernel, Trouble};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// "The system can register up to 64 process-creation callback routines"
/// (PsSetCreateProcessNotifyRoutine).
const MOST: usize = 64;

/// The tag of what a routine is told.
const TAG: u32 = u32::from_le_bytes(*b"Proc");

/// The image of every program: the machine has no files.
const IMAGE: &str = r"\??\C:\lab\program.exe";

/// `FileOpenNameAvailable`: `ImageFileName` is the name with which the image was opened.
const NAME_AVAILABLE: u32 = 1;

/// A routine that a driver has registered.
#[derive(Clone, Copy, Debug)]
pub struct ProcessRoutine {
    routine: Address,
    /// Calls that have not returned.
    running: usize,
    /// It is being removed: no call begins.
    leaving: bool,
}

thread_local! {
    /// The routines that this thread is in.
    static INSIDE: RefCell<Vec<Address>> = const { RefCell::new(Vec::new()) };
}

/// `PsSetCreateProcessNotifyRoutineEx`.
pub extern "win64" fn PsSetCreateProcessNotifyRoutineEx(NotifyRoutine: Address, Remove: BOOLEAN) -> NTSTATUS {
    let kernel = enter!(PsSetCreateProcessNotifyRoutineEx);
    let outcome = match Remove {
        0 => add(&kernel, NotifyRoutine),
        _ => remove(&kernel, NotifyRoutine),
    };
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn add(kernel: &Kernel, routine: Address) -> Result<Status, Trouble> {
    if !forces_integrity(kernel, routine)? {
        return Ok(Status::ACCESS_DENIED);
    }
    let mut objects = kernel.objects();
    let routines = &mut objects.process_routines;
    if routines.iter().any(|known| known.routine == routine) || routines.len() == MOST {
        return Ok(Status::INVALID_PARAMETER);
    }
    routines.push(ProcessRoutine { routine, running: 0, leaving: false });
    Ok(Status::SUCCESS)
}

/// Whether the image with the routine has `IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY`.
fn forces_integrity(kernel: &Kernel, routine: Address) -> Result<bool, Trouble> {
    const FORCE_INTEGRITY: u16 = 0x80;
    /// Where a DOS header has the offset of the signature, and the place of
    /// `DllCharacteristics` behind that ("PE Format").
    const SIGNATURE: Address = 0x3C;
    const CHARACTERISTICS: Address = 24 + 70;
    let Some(base) = kernel.image_base(routine) else { return Ok(true) };
    let signature: u32 = foreign::read(base + SIGNATURE)?;
    let flags: u16 = foreign::read(base + signature as Address + CHARACTERISTICS)?;
    Ok(flags & FORCE_INTEGRITY != 0)
}

/// Removes a routine, and "waits for all in-flight callback routines to complete". No page
/// says which status refuses one that is not registered.
fn remove(kernel: &Kernel, routine: Address) -> Result<Status, Trouble> {
    let known = {
        let mut objects = kernel.objects();
        let known =
            objects.process_routines.iter_mut().find(|known| known.routine == routine && !known.leaving);
        known.map(|known| known.leaving = true).is_some()
    };
    if !known {
        return Ok(Status::INVALID_PARAMETER);
    }
    if INSIDE.with_borrow(|inside| inside.contains(&routine)) {
        let text = format!("routine {routine:#x}");
        return Err(Violation::new(&rules::PROCESS_ROUTINE_DEADLOCK, [routine as u64, 0, 0], text).into());
    }
    let running = || {
        let objects = kernel.objects();
        objects.process_routines.iter().find(|it| it.routine == routine).map_or(0, |it| it.running)
    };
    let what = || format!("{} calls of a process routine to return", running());
    let _waited = kernel.bell.wait(&what, None, || running() == 0);
    kernel.objects().process_routines.retain(|known| known.routine != routine);
    Ok(Status::SUCCESS)
}

impl Kernel {
    /// The routines of a driver that are registered.
    pub(super) fn process_routines_of(&self, driver: DriverId) -> Vec<String> {
        let routines: Vec<_> = self.objects().process_routines.iter().map(|it| it.routine).collect();
        let own = routines.into_iter().filter(|routine| self.driver_of(*routine) == driver);
        own.map(|routine| format!("{routine:#x}")).collect()
    }

    /// A process begins with its first call. Drivers are told of it, and may refuse it.
    ///
    /// # Errors
    /// The status with which a driver refuses.
    pub(super) fn begin_process(&self, id: u32) -> Result<(), Status> {
        if id == SYSTEM_PROCESS || !self.objects().begun.insert(id) {
            return Ok(());
        }
        if self.objects().process_routines.is_empty() {
            return Ok(());
        }
        let name: Vec<u8> = IMAGE.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let head = size_of::<PS_CREATE_NOTIFY_INFO>();
        let text = head + size_of::<UNICODE_STRING>();
        let at = self.pool().allocate_for_system(text + name.len(), TAG);
        let length = name.len() as u16;
        let information = PS_CREATE_NOTIFY_INFO {
            Size: head as u64,
            Flags: NAME_AVAILABLE,
            ParentProcessId: SYSTEM_PROCESS as Address,
            ImageFileName: at + head,
            ..PS_CREATE_NOTIFY_INFO::zeroed()
        };
        let string = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: at + text };
        foreign::write(at, &information).expect("the system's own memory");
        foreign::write(at + head, &string).expect("the system's own memory");
        foreign::write_bytes(at + text, &name).expect("the system's own memory");
        // The routines run in the process that creates it.
        self.tell_of_process(id, at, SYSTEM_PROCESS);
        let status = at + offset_of!(PS_CREATE_NOTIFY_INFO, CreationStatus);
        let status = Status(foreign::read(status).unwrap_or(0));
        if let Err(violation) = self.pool().free(at, TAG, Irql::PASSIVE, Vec::new()) {
            self.condemn(violation);
        }
        if status.0 >= 0 {
            return Ok(());
        }
        self.objects().begun.remove(&id);
        Err(status)
    }

    /// A process ends. Its handles are closed already.
    pub fn end_process(&self, id: u32) {
        if self.objects().begun.remove(&id) {
            self.tell_of_process(id, 0, id);
        }
    }

    /// Calls the routines in the order of their registration, at PASSIVE_LEVEL.
    fn tell_of_process(&self, id: u32, information: Address, within: u32) {
        let routines: Vec<_> = self.objects().process_routines.iter().map(|it| it.routine).collect();
        let object = self.process_object(id);
        for routine in routines {
            let change = |by: fn(&mut usize)| {
                let mut objects = self.objects();
                let known = objects.process_routines.iter_mut().find(|it| it.routine == routine);
                known.map(|it| (it.leaving, by(&mut it.running)).0)
            };
            if change(|running| *running += 1) == Some(false) {
                let arguments = [object as u64, u64::from(id), information as u64];
                INSIDE.with_borrow_mut(|inside| inside.push(routine));
                let call = |kernel: &Self| {
                    kernel.run_as(within, || {
                        kernel.call_driver(routine, &arguments, Irql::PASSIVE, "process routine")
                    })
                };
                // What stopped the machine is in the machine.
                let _called = match std::ptr::eq(cpu::kernel(), self) {
                    true => call(self),
                    false => self.on_processor(0, Irql::PASSIVE, call),
                };
                INSIDE.with_borrow_mut(|inside| inside.retain(|it| *it != routine));
            }
            change(|running| *running = running.saturating_sub(1));
            self.bell.ring();
        }
    }
}
