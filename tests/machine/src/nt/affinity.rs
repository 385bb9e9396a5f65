//! Kernel: processor affinity and critical regions (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::types::{Address, BOOLEAN, GROUP_AFFINITY, NTSTATUS, PROCESSOR_NUMBER};
use super::{Kernel, Options, Trouble, cpu, foreign};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `KeGetProcessorNumberFromIndex`. Whether it fails for a processor that is not active
/// is a switch.
pub extern "win64" fn KeGetProcessorNumberFromIndex(ProcIndex: u32, ProcNumber: Address) -> NTSTATUS {
    let kernel = enter!(KeGetProcessorNumberFromIndex);
    let numbered = match kernel.options().inactive_have_numbers {
        true => kernel.options().possible(),
        false => kernel.active_count(),
    };
    if ProcIndex >= numbered {
        return Status::INVALID_PARAMETER.0;
    }
    let (group, number) = kernel.options().group_and_number(ProcIndex);
    let number = PROCESSOR_NUMBER { Group: group, Number: number, Reserved: 0 };
    let written = foreign::write(ProcNumber, &number).map(|()| Status::SUCCESS);
    kernel.settle(written, Status::INVALID_PARAMETER).0
}

/// `KeSetSystemGroupAffinityThread`. If the new affinity is not valid, the thread
/// keeps its affinity, and the previous affinity is written as zeros
/// (documentation).
pub extern "win64" fn KeSetSystemGroupAffinityThread(Affinity: Address, PreviousAffinity: Address) {
    let kernel = enter!(KeSetSystemGroupAffinityThread);
    let set = set(&kernel, Affinity, PreviousAffinity);
    kernel.settle(set, ());
}

fn set(kernel: &Kernel, wanted: Address, previous: Address) -> Result<(), Trouble> {
    let wanted: GROUP_AFFINITY = foreign::read(wanted)?;
    // A mask is valid if it names only processors of the group.
    let wanted = match is_valid(kernel.options(), &wanted) {
        true => wanted,
        false => GROUP_AFFINITY { Mask: 0, ..wanted },
    };
    let wanted = GROUP_AFFINITY { Mask: wanted.Mask & kernel.active_in(wanted.Group), ..wanted };
    let wanted = processors_of(kernel.options(), &wanted);
    let before = if wanted != 0 { cpu::set_affinity(kernel, wanted) } else { 0 };
    if previous != 0 {
        foreign::write(previous, &affinity_of(kernel.options(), before))?;
    }
    Ok(())
}

/// `KeRevertToUserGroupAffinityThread`: restores the affinity that the matching
/// call returned. Zeros stand for the affinity before any call.
pub extern "win64" fn KeRevertToUserGroupAffinityThread(PreviousAffinity: Address) {
    let kernel = enter!(KeRevertToUserGroupAffinityThread);
    let reverted = foreign::read::<GROUP_AFFINITY>(PreviousAffinity).map_err(Trouble::from);
    let reverted = reverted.map(|previous| {
        let previous = processors_of(kernel.options(), &previous);
        let _bound_to = cpu::set_affinity(&kernel, previous);
    });
    kernel.settle(reverted, ());
}

/// Whether an affinity names only processors that its group has, active or not.
fn is_valid(options: &Options, affinity: &GROUP_AFFINITY) -> bool {
    let count = options.group(affinity.Group).len() as u32;
    count != 0 && affinity.Mask & !(u64::MAX >> (u64::BITS - count)) == 0
}

/// The processors of an affinity, one bit each over all groups; 0 if it is not
/// valid.
fn processors_of(options: &Options, affinity: &GROUP_AFFINITY) -> u64 {
    let group = options.group(affinity.Group);
    if affinity.Reserved != [0; 3] || group.is_empty() {
        return 0;
    }
    let all = u64::MAX >> (u64::BITS - group.len() as u32);
    (affinity.Mask & all) << group.start
}

/// Processors of one group as an affinity.
fn affinity_of(options: &Options, processors: u64) -> GROUP_AFFINITY {
    if processors == 0 {
        return GROUP_AFFINITY { Mask: 0, Group: 0, Reserved: [0; 3] };
    }
    let (group, _) = options.group_and_number(processors.trailing_zeros());
    GROUP_AFFINITY { Mask: processors >> options.group(group).start, Group: group, Reserved: [0; 3] }
}

/// `KeEnterCriticalRegion`.
pub extern "win64" fn KeEnterCriticalRegion() {
    enter!(KeEnterCriticalRegion);
    cpu::enter_critical_region();
}

/// `KeLeaveCriticalRegion`.
pub extern "win64" fn KeLeaveCriticalRegion() {
    let kernel = enter!(KeLeaveCriticalRegion);
    if !cpu::leave_critical_region() {
        let text = "KeLeaveCriticalRegion outside a critical region";
        let rule = &rules::DDI_CRITICAL_REGIONS;
        kernel.violate(match kernel.verifier().checks(rule) {
            true => Violation::of_ddi(rule, text),
            false => Violation::new(&rules::CRITICAL_REGION_UNDERFLOW, [0; 3], text),
        });
    }
}

/// `KeEnterGuardedRegion`.
pub extern "win64" fn KeEnterGuardedRegion() {
    enter!(KeEnterGuardedRegion);
    cpu::enter_guarded_region();
}

/// `KeLeaveGuardedRegion`.
pub extern "win64" fn KeLeaveGuardedRegion() {
    let kernel = enter!(KeLeaveGuardedRegion);
    if !cpu::leave_guarded_region() {
        let text = "KeLeaveGuardedRegion outside a guarded region";
        kernel.violate(Violation::of_ddi(&rules::DDI_GUARDED_REGIONS, text));
    }
}

/// `KeAreApcsDisabled`: normal kernel APCs.
pub extern "win64" fn KeAreApcsDisabled() -> BOOLEAN {
    enter!(KeAreApcsDisabled);
    let state = cpu::thread_state();
    BOOLEAN::from(state.critical_regions > 0 || state.guarded_regions > 0)
}

/// `KeAreAllApcsDisabled`: a guarded region, or the IRQL, disables them.
pub extern "win64" fn KeAreAllApcsDisabled() -> BOOLEAN {
    enter!(KeAreAllApcsDisabled);
    BOOLEAN::from(cpu::thread_state().guarded_regions > 0 || cpu::irql() >= cpu::Irql::APC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_name_processors_within_their_group() {
        let options = Options { processors: 6, group_size: 4, ..Options::default() };
        let affinity = |group, mask| GROUP_AFFINITY { Mask: mask, Group: group, Reserved: [0; 3] };
        assert_eq!(processors_of(&options, &affinity(0, 0b1001)), 0b1001);
        assert_eq!(processors_of(&options, &affinity(1, 0b10)), 0b10_0000);
        assert_eq!(processors_of(&options, &affinity(1, 0b1100)), 0, "the group has two processors");
        assert_eq!(processors_of(&options, &affinity(2, 1)), 0, "there are two groups");
        for bit in 0..6 {
            let one = affinity_of(&options, 1 << bit);
            assert_eq!((one.Group, processors_of(&options, &one)), (bit / 4, 1 << bit));
        }
        assert!(is_valid(&options, &affinity(1, 0b11)) && !is_valid(&options, &affinity(1, 0b110)));
        assert!(!is_valid(&options, &affinity(2, 1)));
        let one_group = Options { processors: 64, ..Options::default() };
        assert_eq!(processors_of(&one_group, &affinity(0, u64::MAX)), u64::MAX);
    }
}
