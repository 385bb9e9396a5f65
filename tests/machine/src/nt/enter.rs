//! Enters an export, and gives the address to which an import is bound.

use std::ffi::c_void;

use super::{Current, Irql, Kernel, at_import, cpu};
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
        kernel.violate(wrong_irql(index, irql, fact.min, max));
    }
    kernel
}

fn wrong_irql(index: usize, irql: Irql, min: Irql, max: Irql) -> Violation {
    let text = match min {
        Irql::PASSIVE => format!("{} at {irql}, allowed up to {max}", name(index)),
        _ => format!("{} at {irql}, allowed from {min} to {max}", name(index)),
    };
    let rule = fact(index).rule;
    let level = irql.0.into();
    let parameters = match *rule == rules::ZW_IRQL {
        // The caller's address comes before the IRQL.
        true => [Kernel::current().guest().frames().first().copied().unwrap_or(0), level, 0],
        false => [level, 0, 0],
    };
    Violation::new(rule, parameters, text)
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
