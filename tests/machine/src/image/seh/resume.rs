//! Leaves the host's stack for driver code that continues after an exception.
#![expect(unsafe_code, reason = "calls and continues driver code")]

use std::arch::naked_asm;
use std::ffi::c_void;
use std::mem::offset_of;

use super::super::call::{call as call_driver, leave as leave_call};
use super::super::dispatch::BLOCKED;
use super::super::report::Stop;
use super::super::stack::Control;
use super::registers::{RSP, Registers};

/// The trap flag of rflags.
const TRAP: u64 = 0x100;

/// Calls code of the driver: a language handler, a filter or a `__finally` block.
pub(super) fn call(entry: u64, arguments: &[u64]) -> Result<u64, Stop> {
    let entry = std::ptr::with_exposed_provenance::<c_void>(entry as usize);
    // SAFETY: the image's unwind tables name it as a function of this kind. A wrong
    // table leads to a fault, which is caught.
    unsafe { call_driver(entry, arguments) }
}

/// Leaves the innermost call of the driver, which then returns 0.
pub(super) fn leave(control: &Control) -> ! {
    // SAFETY: only called from export bodies, which run inside a call.
    unsafe { leave_call(control, 0) }
}

/// Continues driver code with these registers. `kernel_rsp`: the import frame that the
/// code was called under. Returns if the stack pointer is not on the kernel stack.
pub(super) fn resume(control: &Control, registers: &Registers, kernel_rsp: u64) {
    let rsp = registers.general[RSP];
    let Some(top) = rsp.checked_sub(16).filter(|top| control.word(*top).is_some()) else { return };
    let trap = if control.stepped.get() != 0 { TRAP } else { 0 };
    // Memory below the stack pointer is free on Windows.
    control.set_word(top, registers.flags & !TRAP | trap);
    control.set_word(top + 8, registers.rip);
    let mut registers = *registers;
    registers.general[RSP] = top;
    // SAFETY: the words at `top` are flags and address, as written above. The thread is
    // inside a call, whose frame on the host's stack is intact.
    unsafe { enter_again(control, &registers, kernel_rsp) }
}

/// Loads all registers. rsp leads to the flags and the address.
///
/// # Safety
/// The thread is inside a call with this control. The words at rsp are flags and an
/// address of driver code.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter_again(control: &Control, registers: &Registers, kernel_rsp: u64) -> ! {
    naked_asm!(
        "mov [rdi + {kernel_rsp}], rdx",
        "inc qword ptr [rdi + {crossings}]",
        "mov byte ptr [rdi + {selector}], {blocked}",
        "ldmxcsr [rsi + {mxcsr}]",
        "movups xmm0, [rsi + {vector}]",
        "movups xmm1, [rsi + {vector} + 16]",
        "movups xmm2, [rsi + {vector} + 32]",
        "movups xmm3, [rsi + {vector} + 48]",
        "movups xmm4, [rsi + {vector} + 64]",
        "movups xmm5, [rsi + {vector} + 80]",
        "movups xmm6, [rsi + {vector} + 96]",
        "movups xmm7, [rsi + {vector} + 112]",
        "movups xmm8, [rsi + {vector} + 128]",
        "movups xmm9, [rsi + {vector} + 144]",
        "movups xmm10, [rsi + {vector} + 160]",
        "movups xmm11, [rsi + {vector} + 176]",
        "movups xmm12, [rsi + {vector} + 192]",
        "movups xmm13, [rsi + {vector} + 208]",
        "movups xmm14, [rsi + {vector} + 224]",
        "movups xmm15, [rsi + {vector} + 240]",
        // General registers by their numbers: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi.
        "mov rax, [rsi]",
        "mov rcx, [rsi + 8]",
        "mov rdx, [rsi + 16]",
        "mov rbx, [rsi + 24]",
        "mov rbp, [rsi + 40]",
        "mov rdi, [rsi + 56]",
        "mov r8, [rsi + 64]",
        "mov r9, [rsi + 72]",
        "mov r10, [rsi + 80]",
        "mov r11, [rsi + 88]",
        "mov r12, [rsi + 96]",
        "mov r13, [rsi + 104]",
        "mov r14, [rsi + 112]",
        "mov r15, [rsi + 120]",
        "mov rsp, [rsi + 32]",
        "mov rsi, [rsi + 48]",
        "popfq",
        "ret",
        kernel_rsp = const offset_of!(Control, kernel_rsp),
        crossings = const offset_of!(Control, shared.crossings),
        selector = const offset_of!(Control, shared.selector),
        blocked = const BLOCKED,
        vector = const offset_of!(Registers, vector),
        mxcsr = const offset_of!(Registers, mxcsr),
    )
}
