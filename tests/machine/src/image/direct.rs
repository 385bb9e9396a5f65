//! Minimal callouts and exports, used while time is measured.
//!
//! The functions are as short as NT's own. They use only the kernel stack: they
//! find the thread's data from the stack pointer.
#![expect(unsafe_code, reason = "machine code that a driver calls")]

use std::arch::naked_asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stack::{BLOCK, Control};

/// A classifyFn that only returns: the lowest cost of any callout.
///
/// # Safety
/// Called as driver code.
#[unsafe(naked)]
pub unsafe extern "win64" fn nothing() {
    naked_asm!("ret")
}

/// A classifyFn that increments the word at its flow context: the lowest cost of
/// keeping state for a flow.
///
/// # Safety
/// Called as driver code, with the address of a word that only this call uses.
#[unsafe(naked)]
pub unsafe extern "win64" fn touch() {
    // The sixth argument follows the return address.
    naked_asm!("mov rax, [rsp + 48]", "inc qword ptr [rax]", "ret")
}

/// A classifyFn that reads a word at each address of a list: the lowest cost of
/// reading an indication. classifyContext is the list; a null address ends it.
///
/// # Safety
/// Called as driver code, with a list of valid addresses as classifyContext.
#[unsafe(naked)]
pub unsafe extern "win64" fn read_words() {
    naked_asm!(
        "2:",
        "mov rax, [r9]",
        "test rax, rax",
        "jz 3f",
        "mov rax, [rax]",
        "add r9, 8",
        "jmp 2b",
        "3:",
        "ret",
    )
}

/// `memcpy` for measured code: a plain loop.
///
/// # Safety
/// That of `memcpy`.
#[unsafe(naked)]
pub unsafe extern "win64" fn copy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rcx",
        "2:",
        "cmp r8, 8",
        "jb 3f",
        "mov r9, [rdx]",
        "mov [rcx], r9",
        "add rdx, 8",
        "add rcx, 8",
        "sub r8, 8",
        "jmp 2b",
        "3:",
        "test r8, r8",
        "jz 4f",
        "mov r9b, [rdx]",
        "mov [rcx], r9b",
        "inc rdx",
        "inc rcx",
        "dec r8",
        "jmp 3b",
        "4:",
        "ret",
    )
}

/// `FwpsQueryPacketInjectionState0` for measured code, for packets that nobody has
/// injected.
///
/// # Safety
/// None; callable anywhere.
#[unsafe(naked)]
pub unsafe extern "win64" fn not_injected() -> u32 {
    naked_asm!("xor eax, eax", "ret")
}

/// Sets what [`processor_number`] and [`current_irql`] return on this thread.
pub fn set_here(processor: u32, irql: u8) {
    let [number, level] = &Control::of_thread().here;
    number.set(processor);
    level.set(irql.into());
}

/// `KeGetCurrentProcessorNumberEx` for measured code. Reads the number from the
/// kernel stack's block; NT reads it from the processor's block.
///
/// # Safety
/// Called on a kernel stack, with a null argument.
#[unsafe(naked)]
pub unsafe extern "win64" fn processor_number(_: usize) -> u32 {
    naked_asm!(
        "mov rax, rsp",
        "and rax, {block}",
        "mov eax, [rax + {here}]",
        "ret",
        block = const -(BLOCK as isize),
        here = const offset_of!(Control, here),
    )
}

/// `KeGetCurrentIrql` for measured code. Reads the kernel stack's block; NT reads
/// CR8.
///
/// # Safety
/// Called on a kernel stack.
#[unsafe(naked)]
pub unsafe extern "win64" fn current_irql() -> u8 {
    naked_asm!(
        "mov rax, rsp",
        "and rax, {block}",
        "movzx eax, byte ptr [rax + {here} + 4]",
        "ret",
        block = const -(BLOCK as isize),
        here = const offset_of!(Control, here),
    )
}

/// Interrupt time, and the part of it that the machine slept, in units of 100 ns.
static TIME: [AtomicU64; 2] = [AtomicU64::new(1 << 40), AtomicU64::new(1 << 20)];

/// Advances the time of [`unbiased_interrupt_time`].
pub fn pass_time(milliseconds: u64) {
    TIME[0].fetch_add(milliseconds * 10_000, Ordering::Relaxed);
}

/// `KeQueryUnbiasedInterruptTime` for measured code. Reads a shared page, as NT
/// does.
///
/// # Safety
/// None; callable anywhere.
#[unsafe(naked)]
pub unsafe extern "win64" fn unbiased_interrupt_time() -> u64 {
    naked_asm!("lea rcx, [rip + {time}]", "mov rax, [rcx]", "sub rax, [rcx + 8]", "ret", time = sym TIME)
}

/// Number of calls of [`event_written`].
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Number of events written through [`event_written`].
pub fn events_written() -> u64 {
    EVENTS.load(Ordering::Relaxed)
}

/// `EtwWriteTransfer` for measured code. Counts the event and reads nothing of it.
///
/// # Safety
/// None; callable anywhere.
#[unsafe(naked)]
pub unsafe extern "win64" fn event_written() -> i32 {
    naked_asm!("lock inc qword ptr [rip + {events}]", "xor eax, eax", "ret", events = sym EVENTS)
}
