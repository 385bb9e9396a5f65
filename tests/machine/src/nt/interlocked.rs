//! Executive: doubly linked lists under a spin lock (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::mem::offset_of;

use super::cpu::{self, Irql};
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::ke;
use super::locks::Kind;
use super::types::{Address, LIST_ENTRY};
use super::{Current, Kernel};

/// `ExInterlockedInsertTailList`. Returns the last entry before; NULL if there was none.
pub extern "win64" fn ExInterlockedInsertTailList(
    ListHead: Address,
    ListEntry: Address,
    Lock: Address,
) -> Address {
    let kernel = enter!(ExInterlockedInsertTailList);
    let insert = || {
        let last = foreign::read::<LIST_ENTRY>(ListHead)?.Blink;
        link(last, ListEntry, ListHead)?;
        Ok(if last == ListHead { 0 } else { last })
    };
    locked(&kernel, Lock, insert)
}

/// `ExInterlockedInsertHeadList`. Returns the first entry before; NULL if there was none.
pub extern "win64" fn ExInterlockedInsertHeadList(
    ListHead: Address,
    ListEntry: Address,
    Lock: Address,
) -> Address {
    let kernel = enter!(ExInterlockedInsertHeadList);
    let insert = || {
        let first = foreign::read::<LIST_ENTRY>(ListHead)?.Flink;
        link(ListHead, ListEntry, first)?;
        Ok(if first == ListHead { 0 } else { first })
    };
    locked(&kernel, Lock, insert)
}

/// `ExInterlockedRemoveHeadList`. NULL if the list is empty.
pub extern "win64" fn ExInterlockedRemoveHeadList(ListHead: Address, Lock: Address) -> Address {
    let kernel = enter!(ExInterlockedRemoveHeadList);
    let remove = || {
        let first = foreign::read::<LIST_ENTRY>(ListHead)?.Flink;
        if first == ListHead {
            return Ok(0);
        }
        let next = foreign::read::<LIST_ENTRY>(first)?.Flink;
        foreign::write(ListHead + offset_of!(LIST_ENTRY, Flink), &next)?;
        foreign::write(next + offset_of!(LIST_ENTRY, Blink), &ListHead)?;
        Ok(first)
    };
    locked(&kernel, Lock, remove)
}

/// Puts an entry between two others.
fn link(before: Address, entry: Address, after: Address) -> Result<(), BadPointer> {
    foreign::write(entry, &LIST_ENTRY { Flink: after, Blink: before })?;
    foreign::write(before + offset_of!(LIST_ENTRY, Flink), &entry)?;
    foreign::write(after + offset_of!(LIST_ENTRY, Blink), &entry)
}

/// Runs `f` at DISPATCH_LEVEL or above with the lock held.
fn locked(kernel: &Current, lock: Address, f: impl FnOnce() -> Result<Address, BadPointer>) -> Address {
    let kernel: &Kernel = kernel;
    let old = cpu::irql();
    cpu::set_irql(kernel, old.max(Irql::DISPATCH));
    ke::acquire_own(kernel, lock, Kind::Spin);
    let outcome = f();
    ke::release(kernel, lock, Kind::Spin);
    cpu::set_irql(kernel, old);
    kernel.settle(outcome, 0)
}
