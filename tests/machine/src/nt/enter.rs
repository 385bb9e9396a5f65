//! Enters an export, and gives the address to which an import is bound.

use std::ffi::c_void;

use super::types::{Address, HANDLE, KLOCK_QUEUE_HANDLE};
use super::{Current, Irql, Kernel, at_import, cpu, foreign};
use crate::exports::{fact, module, name, position};
use crate::verifier::{Violation, rules};

/// A function to which the image loader binds an import.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// Address of code with the win64 convention.
    pub address: *const c_void,
    /// Number of arguments on the stack: all after the fourth.
    pub stack_args: usize,
}

/// Finds the function for an import. An import from the wrong module is missing, as
/// on Windows.
pub fn resolve(from: &str, import: &str) -> Option<Export> {
    let index = position(import).filter(|index| module(*index).eq_ignore_ascii_case(from))?;
    Some(Export {
        address: address_of(index) as *const c_void,
        stack_args: fact(index).arguments.saturating_sub(4),
    })
}

/// The address of the function in a row.
pub(super) fn address_of(index: usize) -> usize {
    ADDRESSES[index]()
}

macro_rules! addresses {
    ($($module:literal => $file:ident: $($name:ident)*;)*) => {
        /// Functions, because an address is not a constant.
        const ADDRESSES: &[fn() -> usize] = &[
            $($(|| super::$file::$name as *const () as usize),*),*
        ];
    };
}
every_export!(addresses);

/// Starts an export. `enter!(Name)` uses the table's IRQL ceiling; `enter!(Name,
/// ceiling)` is for exports whose arguments decide the ceiling.
macro_rules! enter {
    ($name:ident) => {
        $crate::nt::enter::enter_below(const { $crate::exports::index(stringify!($name)) }, None)
    };
    ($name:ident, $ceiling:expr) => {
        $crate::nt::enter::enter_below(const { $crate::exports::index(stringify!($name)) }, Some($ceiling))
    };
}
pub(crate) use enter;

/// Counts a call, leaves it if the machine has stopped, records it if the journal
/// is on, and checks the IRQL.
pub(crate) fn enter_below(index: usize, ceiling: Option<Irql>) -> Current {
    let kernel = Kernel::current();
    let caller = kernel.caller();
    kernel.count_call(index, caller);
    at_import(&kernel, name(index));
    kernel.leave_if_stopped();
    kernel.journal().record(&kernel, caller, name(index), cpu::irql());
    if let Err(violation) = super::ke::instead_of_wait(name(index)) {
        kernel.violate(violation);
    }
    let fact = fact(index);
    let (irql, max) = (cpu::irql(), ceiling.unwrap_or(fact.max));
    if irql < fact.min || irql > max {
        kernel.violate(wrong_irql(&kernel, index, irql, fact.min, max));
    }
    if irql >= Irql::DISPATCH && kernel.guest().overdue().is_some() {
        kernel.violate(kernel.out_of_time(name(index)));
    }
    if fact.object != 0 {
        kernel.settle(check_object(&kernel, index), ());
    }
    if name(index).starts_with("Zw") {
        kernel.settle(check_system_service(&kernel, index, irql), ());
    }
    kernel
}

fn wrong_irql(kernel: &Kernel, index: usize, irql: Irql, min: Irql, max: Irql) -> Violation {
    let text = match min {
        Irql::PASSIVE => format!("{} at {irql}, allowed up to {max}", name(index)),
        _ => format!("{} at {irql}, allowed from {min} to {max}", name(index)),
    };
    let fact = fact(index);
    if let Some(rule) = fact.compliance.filter(|rule| kernel.verifier().checks(rule)) {
        return Violation::of_ddi(rule, text);
    }
    let arguments = kernel.guest().arguments(name(index), fact.arguments).unwrap_or_default();
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    let for_user = argument(1) as u8 == USER_MODE;
    let rule = match *fact.rule {
        _ if *fact.rule == rules::MAP_MDL_IRQL && for_user => &rules::MAP_MDL_USER_IRQL,
        _ if *fact.rule == rules::UNMAP_MDL_IRQL && max == Irql::APC => &rules::UNMAP_MDL_USER_IRQL,
        _ => fact.rule,
    };
    let level = irql.0.into();
    let (apcs, special_apcs) = cpu::apc_disable_count();
    let parameters = match rule.parameter {
        // The caller's address comes before the IRQL.
        _ if *rule == rules::ZW_IRQL => [kernel.call_site(), level, special_apcs.into()],
        // Lock, event or request.
        _ if *rule == rules::IRP_COMPLETION_IRQL => [level, argument(0), 0],
        Some(0x32 | 0x33 | 0x40..=0x42 | 0x80 | 0x78) => [level, argument(0), 0],
        Some(0x34 | 0x39 | 0x3A) => [level, apcs.into(), argument(0)],
        Some(0x35) => {
            // The handle has the lock and the level before.
            let handle = foreign::read::<KLOCK_QUEUE_HANDLE>(argument(0) as Address);
            handle.map_or([level, 0, 0], |it| [level, it.LockQueue[1] as u64, it.OldIrql.into()])
        }
        // MDL and mode, or address and MDL.
        Some(0x70 | 0x76 | 0x77) => [level, argument(0), argument(1) & 0xFF],
        Some(0x79 | 0x7A) => [level, argument(0), argument(1)],
        Some(0x7E) => [level, Irql::DISPATCH.0.into(), 0],
        _ => [level, 0, 0],
    };
    Violation::new(rule, parameters, text)
}

/// `UserMode` (`wdm.h`).
const USER_MODE: u8 = 1;

/// Refuses an object of the kernel in a program's memory.
fn check_object(kernel: &Kernel, index: usize) -> Result<(), Violation> {
    if kernel.irps().is_empty() {
        return Ok(());
    }
    let arguments = kernel.guest().arguments(name(index), 1).unwrap_or_default();
    match arguments.first() {
        Some(&object) if kernel.is_program_buffer(object as Address) => {
            let text = format!("{} with {object:#x}", name(index));
            let parameters = [object, fact(index).object, 0];
            Err(Violation::new(&rules::KERNEL_USER_ADDRESS, parameters, text))
        }
        _ => Ok(()),
    }
}

/// What Driver Verifier checks at a system service besides the level: special kernel APCs
/// are enabled, and no pointer is a program's.
fn check_system_service(kernel: &Kernel, index: usize, irql: Irql) -> Result<(), Violation> {
    let (_, special_apcs) = cpu::apc_disable_count();
    if special_apcs != 0 {
        let text = format!("{} in a guarded region", name(index));
        let parameters = [kernel.call_site(), irql.0.into(), special_apcs.into()];
        return Err(Violation::new(&rules::ZW_IRQL, parameters, text));
    }
    let arguments = kernel.guest().arguments(name(index), fact(index).arguments).unwrap_or_default();
    let closes = name(index) == "ZwClose";
    let handles = fact(index).handles.iter().filter_map(|at| arguments.get(*at)).filter(|_| !closes);
    if let Some(handle) = handles.into_iter().find(|handle| kernel.is_closed_handle(**handle as HANDLE)) {
        let text = format!("{} with {handle:#x}", name(index));
        // The second parameter is the handle table, which the lab does not have.
        return Err(Violation::new(&rules::HANDLE_NOT_OPEN, [*handle, 0, 0], text));
    }
    if let Some(address) = arguments.iter().find(|argument| kernel.is_program_buffer(**argument as Address)) {
        let text = format!("{} with {address:#x}, a program's memory", name(index));
        return Err(Violation::new(&rules::ZW_USER_ADDRESS, [kernel.call_site(), *address, 0], text));
    }
    Ok(())
}

impl Kernel {
    /// Whether a value is a handle of the kernel that is not open.
    pub(super) fn is_closed_handle(&self, handle: HANDLE) -> bool {
        self.objects().is_closed_kernel_handle(handle)
    }

    /// The driver's address that called the running export; 0 if unknown.
    pub(super) fn call_site(&self) -> u64 {
        self.guest().frames().first().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_found_by_module_and_name() {
        let export = resolve("NTOSKRNL.EXE", "IoCreateDevice").unwrap();
        assert_eq!(export.stack_args, 3);
        assert!(resolve("fwpkclnt.sys", "IoCreateDevice").is_none());
        assert!(resolve("ntoskrnl.exe", "IoCreateNothing").is_none());
        assert_eq!(resolve("ntoskrnl.exe", "KeGetCurrentIrql").unwrap().stack_args, 0);
    }
}
