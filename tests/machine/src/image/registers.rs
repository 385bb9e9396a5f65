//! The registers that a function of the host's convention keeps.
//!
//! Whoever goes into driver code by a way that it may be fetched back from, with
//! frames left behind, saves all of them before and takes them back after
//! (System V ABI, AMD64 supplement, "Registers": rbx, rbp, r12 to r15).

/// Assembly that puts them on the stack.
macro_rules! save_registers {
    () => {
        "push rbp\npush rbx\npush r12\npush r13\npush r14\npush r15"
    };
}
pub(crate) use save_registers;

/// Assembly that takes them from it.
macro_rules! restore_registers {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop rbx\npop rbp"
    };
}
pub(crate) use restore_registers;
