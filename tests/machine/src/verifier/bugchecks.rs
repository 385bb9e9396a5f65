//! Names of bugcheck codes ("Bug Check Code Reference", Microsoft Learn).

use super::rules;

/// The codes that a rule, or a fault of a driver, can have. Names are those of
/// `bugcodes.h`.
const NAMES: [(u32, &str); 32] = [
    (0x01, "APC_INDEX_MISMATCH"),
    (0x0A, "IRQL_NOT_LESS_OR_EQUAL"),
    (0x0C, "MAXIMUM_WAIT_OBJECTS_EXCEEDED"),
    (0x1E, "KMODE_EXCEPTION_NOT_HANDLED"),
    (0x35, "NO_MORE_IRP_STACK_LOCATIONS"),
    (0x44, "MULTIPLE_IRP_COMPLETE_REQUESTS"),
    (0x50, "PAGE_FAULT_IN_NONPAGED_AREA"),
    (0x7E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED"),
    (0x7F, "UNEXPECTED_KERNEL_MODE_TRAP"),
    (0x93, "INVALID_KERNEL_HANDLE"),
    (0xBE, "ATTEMPTED_WRITE_TO_READONLY_MEMORY"),
    (0xC1, "SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION"),
    (0xC2, "BAD_POOL_CALLER"),
    (0xC4, "DRIVER_VERIFIER_DETECTED_VIOLATION"),
    (0xC7, "TIMER_OR_DPC_INVALID"),
    (0xC9, "DRIVER_VERIFIER_IOMANAGER_VIOLATION"),
    (0xCB, "DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS"),
    (0xCC, "PAGE_FAULT_IN_FREED_SPECIAL_POOL"),
    (0xCD, "PAGE_FAULT_BEYOND_END_OF_ALLOCATION"),
    (0xCE, "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS"),
    (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
    (0xD3, "DRIVER_PORTION_MUST_BE_NONPAGED"),
    (0xD5, "DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL"),
    (0xD6, "DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION"),
    (0xE1, "WORKER_THREAD_RETURNED_AT_BAD_IRQL"),
    (0xE3, "RESOURCE_NOT_OWNED"),
    (0xE4, "WORKER_INVALID"),
    (0xFC, "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY"),
    (0x10D, "WDF_VIOLATION"),
    (0x133, "DPC_WATCHDOG_VIOLATION"),
    (0x139, "KERNEL_SECURITY_CHECK_FAILURE"),
    (rules::LAB, "no bugcheck of Windows"),
];

/// The name of a bugcheck code; `None` for a code that no rule has.
pub fn bugcheck_name(code: u32) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_each_rule_has_a_name() {
        let unnamed: Vec<_> = rules::ALL.iter().filter(|rule| bugcheck_name(rule.code).is_none()).collect();
        assert!(unnamed.is_empty(), "{unnamed:?}");
        assert_eq!(bugcheck_name(0xDEAD), None);
    }
}
