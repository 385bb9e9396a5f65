//! Saves and restores the registers that the host's convention preserves.
//!
//! Driver code can be abandoned with frames left behind. Code that calls it
//! therefore saves all callee-saved registers before and restores them after
//! (System V ABI, AMD64 supplement, "Registers": rbx, rbp, r12 to r15).

/// Assembly that pushes them.
macro_rules! save_registers {
    () => {
        "push rbp\npush rbx\npush r12\npush r13\npush r14\npush r15"
    };
}
pub(crate) use save_registers;

/// Assembly that pops them.
macro_rules! restore_registers {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop rbx\npop rbp"
    };
}
pub(crate) use restore_registers;
