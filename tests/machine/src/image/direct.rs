//! What stands in for the driver and for the kernel while time is measured.
//!
//! The functions are as short as NT's own, and keep to the kernel stack: the
//! thread's place is found from the stack pointer alone.
#![expect(unsafe_code, reason = "machine code that a driver calls")]

use std::arch::naked_asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stack::{BLOCK, Control};

/// A classifyFn that returns at once: what every callout costs at the least.
///
/// # Safety
/// Called as driver code.
#[unsafe(naked)]
pub unsafe extern "win64" fn nothing() {
    naked_asm!("ret")
}

/// A classifyFn that adds one to the word that its flow context leads to, and
/// returns: what remembering anything of a flow costs at the least.
///
/// # Safety
/// Called as driver code, with the address of a word that is its own.
#[unsafe(naked)]
pub unsafe extern "win64" fn touch() {
    // The sixth argument, behind the return address.
    naked_asm!("mov rax, [rsp + 48]", "inc qword ptr [rax]", "ret")
}

/// A classifyFn that reads a word at each of the addresses that its context leads
/// to, up to one that is 0: what looking at an indication costs at the least.
///
/// # Safety
/// Called as driver code, with a list of addresses of words as classifyContext.
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

/// `memcpy` for code that is measured: no more than the loop.
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

/// Says where this thread is to [`processor_number`] and [`current_irql`].
pub fn set_here(processor: u32, irql: u8) {
    let [number, level] = &Control::of_thread().here;
    number.set(processor);
    level.set(irql.into());
}

/// `KeGetCurrentProcessorNumberEx` for code that is measured: from the block of
/// the kernel stack, where NT has it in the processor's own.
///
/// # Safety
/// Called on a kernel stack, without a structure to fill.
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

/// `KeGetCurrentIrql` for the same, where NT has it in CR8.
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

/// Units of 100 ns, and how many of them the machine slept.
static TIME: [AtomicU64; 2] = [AtomicU64::new(1 << 40), AtomicU64::new(1 << 20)];

/// Lets time pass for [`unbiased_interrupt_time`].
pub fn pass_time(milliseconds: u64) {
    TIME[0].fetch_add(milliseconds * 10_000, Ordering::Relaxed);
}

/// `KeQueryUnbiasedInterruptTime` for code that is measured: from a page that
/// all share, as NT has it.
///
/// # Safety
/// None; callable anywhere.
#[unsafe(naked)]
pub unsafe extern "win64" fn unbiased_interrupt_time() -> u64 {
    naked_asm!("lea rcx, [rip + {time}]", "mov rax, [rcx]", "sub rax, [rcx + 8]", "ret", time = sym TIME)
}

/// Events that were handed to [`event_written`].
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// How many events were written so far through [`event_written`].
pub fn events_written() -> u64 {
    EVENTS.load(Ordering::Relaxed)
}

/// `EtwWriteTransfer` for code that is measured: counts the event, and takes
/// nothing of it.
///
/// # Safety
/// None; callable anywhere.
#[unsafe(naked)]
pub unsafe extern "win64" fn event_written() -> i32 {
    naked_asm!("lock inc qword ptr [rip + {events}]", "xor eax, eax", "ret", events = sym EVENTS)
}
