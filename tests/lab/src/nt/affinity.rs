//! Kernel: on which processors a thread may run (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::types::{Address, GROUP_AFFINITY, NTSTATUS, PROCESSOR_NUMBER};
use super::{Kernel, Trouble, cpu, foreign};
use crate::exports::enter;
use crate::status::Status;

/// `KeGetProcessorNumberFromIndex`; the machine has one group, and all of its
/// processors are active.
pub extern "win64" fn KeGetProcessorNumberFromIndex(ProcIndex: u32, ProcNumber: Address) -> NTSTATUS {
    let kernel = enter!(KeGetProcessorNumberFromIndex);
    if ProcIndex >= kernel.options().processors {
        return Status::INVALID_PARAMETER.0;
    }
    let number = PROCESSOR_NUMBER { Group: 0, Number: ProcIndex as u8, Reserved: 0 };
    let written = foreign::write(ProcNumber, &number).map(|()| Status::SUCCESS);
    kernel.settle(written, Status::INVALID_PARAMETER).0
}

/// `KeSetSystemGroupAffinityThread`. Where the new affinity is not valid the
/// thread stays as it is, and the previous one is written as zeros
/// (documentation).
pub extern "win64" fn KeSetSystemGroupAffinityThread(Affinity: Address, PreviousAffinity: Address) {
    let kernel = enter!(KeSetSystemGroupAffinityThread);
    let set = set(&kernel, Affinity, PreviousAffinity);
    kernel.settle(set, ());
}

fn set(kernel: &Kernel, wanted: Address, previous: Address) -> Result<(), Trouble> {
    let GROUP_AFFINITY { Mask, Group, Reserved } = foreign::read(wanted)?;
    let all = all(kernel);
    let valid = Group == 0 && Reserved == [0; 3] && Mask & all != 0;
    let before = if valid { cpu::set_affinity(kernel, Mask & all) } else { 0 };
    if previous != 0 {
        foreign::write(previous, &GROUP_AFFINITY { Mask: before, Group: 0, Reserved: [0; 3] })?;
    }
    Ok(())
}

/// `KeRevertToUserGroupAffinityThread`: back to what the matching call gave;
/// zeros stand for the affinity of before any call.
pub extern "win64" fn KeRevertToUserGroupAffinityThread(PreviousAffinity: Address) {
    let kernel = enter!(KeRevertToUserGroupAffinityThread);
    let reverted = foreign::read::<GROUP_AFFINITY>(PreviousAffinity).map_err(Trouble::from);
    let reverted = reverted.map(|previous| {
        let all = all(&kernel);
        let _bound_to = cpu::set_affinity(&kernel, previous.Mask & all);
    });
    kernel.settle(reverted, ());
}

fn all(kernel: &Kernel) -> u64 {
    u64::MAX >> (u64::BITS - kernel.options().processors)
}
