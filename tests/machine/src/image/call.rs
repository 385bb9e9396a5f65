//! Calls into the driver, and returns from it normally or by [`escape`].
#![expect(unsafe_code, reason = "switches stacks")]

use std::arch::naked_asm;
use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use super::dispatch::{ALLOWED, BLOCKED};
use super::fault;
use super::registers::{restore_registers, save_registers};
use super::report::{Backtrace, FaultReport, Stop};
use super::stack::{BLOCK, Control};
use super::thunk::{ImportFrame, MAX_ARGUMENTS};
use super::unwind;

/// Calls driver code on the thread's kernel stack, with the x64 calling convention.
///
/// A call from an export body continues below the frames of the outer call.
///
/// # Errors
/// What stopped the driver. The driver instance cannot be used any more then,
/// because it keeps the locks and memory that it held.
///
/// # Safety
/// `entry` must be driver code, or a function with the same calling convention,
/// that takes `args`. Errors of the driver are caught if the processor detects
/// them. Writes into live memory of the host are not detected.
///
/// # Panics
/// If there are more than [`MAX_ARGUMENTS`] arguments.
pub unsafe fn call(entry: *const c_void, args: &[u64]) -> Result<u64, Stop> {
    assert!(args.len() <= MAX_ARGUMENTS, "at most {MAX_ARGUMENTS} arguments");
    fault::install();
    let control = Control::of_thread();
    let on_stack = args.get(4..).unwrap_or_default();
    let first = (control.next_frame() - 8 * on_stack.len() as u64) & !15;
    // The callee's home space of four words lies below the stack arguments.
    let rsp = first - 32;
    if !control.has_room(rsp) {
        return Err(Stop::Fault(Box::new(FaultReport::exhausted(control, entry.addr() as u64))));
    }
    for (address, &argument) in (first..).step_by(8).zip(on_stack) {
        control.set_word(address, argument);
    }
    let mut registers = [0; 4];
    for (register, &argument) in registers.iter_mut().zip(args) {
        *register = argument;
    }
    let (floor, handling) = (control.floor.get(), control.handling.depth());
    // Only this thread writes them.
    let (calls, depth) = (&control.shared.calls, &control.shared.depth);
    calls.store(calls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    depth.store(depth.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    // SAFETY: `rsp` is aligned and has room below; the caller vouches for `entry`.
    let value = unsafe { enter(control, entry, &registers, rsp) };
    depth.store(depth.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    // An escape leaves handlers in progress.
    control.floor.set(floor);
    control.handling.set_depth(handling);
    match control.stop.take() {
        Some(stop) => Err(stop),
        None => Ok(value),
    }
}

/// Abandons the innermost [`call`] of this thread, which then returns `Err(stop)`.
///
/// For export bodies such as KeBugCheckEx. No destructor runs for the frames
/// between the call and this function. Drop guards before you call it; those frames
/// must not own a lock or memory that is still needed.
///
/// # Panics
/// Outside any call.
pub fn escape(stop: Stop) -> ! {
    let control = Control::of_thread();
    assert!(in_call(), "escape outside a driver call: {stop}");
    control.stop.set(Some(stop));
    // SAFETY: `host_rsp` is not 0, so `enter` is on this stack and its frame,
    // which `leave` restores, is intact.
    unsafe { leave(control, 0) }
}

/// Whether this thread is inside driver code or an export body that it called.
pub fn in_call() -> bool {
    Control::existing().is_some_and(|control| control.host_rsp.get() != 0)
}

/// The driver frames on this thread's kernel stack, innermost first. Called from an
/// export body.
pub fn backtrace() -> Backtrace {
    match Control::existing() {
        Some(control) => unwind::walk(control, None),
        None => Backtrace(Vec::new()),
    }
}

/// Where driver code called the running export body: an address in the call
/// instruction. Costs a few loads, so it can be recorded with every allocation.
/// [`describe`] gives its name later.
///
/// [`describe`]: super::describe
pub fn call_site() -> Option<u64> {
    let control = Control::existing()?;
    let frame = ImportFrame::at(control, control.kernel_rsp.get())?;
    // The return address may belong to the next source line, so go one byte back.
    frame.return_address.checked_sub(1)
}

/// The first `count` arguments that the driver passed to the running export, as
/// whole registers or words. `None` if other host code called the running body.
pub fn arguments(export: &str, count: usize) -> Option<Vec<u64>> {
    let control = Control::existing()?;
    let frame = ImportFrame::at(control, control.kernel_rsp.get())?;
    let name = frame.name(control)?;
    if name.rsplit_once('!')?.1 != export {
        return None;
    }
    (frame.rsp..).step_by(8).take(count).map(|address| control.word(address)).collect()
}

/// Bytes that the driver may still use of this thread's kernel stack, as
/// IoGetRemainingStackSize counts them.
pub fn stack_remaining() -> usize {
    let control = Control::of_thread();
    (control.next_frame() - control.stack().start) as usize
}

/// Leaves so many bytes of this thread's kernel stack for the calls that follow; `None`
/// leaves all. Not to be called inside a call.
pub fn leave_stack(bytes: Option<usize>) {
    Control::of_thread().leave(bytes);
}

/// Most bytes of kernel stack in use on this thread since [`stack_used_reset`].
/// Only written words count: an untouched part of the deepest frame is not seen.
pub fn stack_used() -> usize {
    Control::existing().map_or(0, Control::used)
}

/// Starts a new measurement for [`stack_used`]. Costs a few nanoseconds for each
/// word that was used.
pub fn stack_used_reset() {
    Control::of_thread().paint();
}

/// Saves the host's registers and stack pointer, and calls `entry` with the stack
/// pointer `rsp`, where home space and stack arguments lie.
///
/// # Safety
/// `rsp` is a 16-byte aligned address on the kernel stack of `control`, which
/// belongs to the calling thread. The stack below it is free.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(
    control: &Control,
    entry: *const c_void,
    registers: &[u64; 4],
    rsp: u64,
) -> u64 {
    naked_asm!(
        save_registers!(),
        "push qword ptr [rdi + {kernel_rsp}]",
        "push qword ptr [rdi + {host_rsp}]",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "mov [rdi + {host_rsp}], rsp",
        "mov rsp, rcx",
        "mov rax, rsi",
        // Stops walkers of frame pointers here.
        "xor ebp, ebp",
        "mov rcx, [rdx]",
        "mov r8, [rdx + 16]",
        "mov r9, [rdx + 24]",
        "mov rdx, [rdx + 8]",
        "inc qword ptr [rdi + {crossings}]",
        "mov byte ptr [rdi + {selector}], {blocked}",
        "cmp qword ptr [rdi + {stepped}], 0",
        "je 2f",
        // The trap follows the call, at the driver's first instruction.
        "pushfq",
        "or dword ptr [rsp], 0x100",
        "popfq",
        "2:",
        "call rax",
        "mov rdi, rsp",
        "and rdi, {block}",
        "mov rsi, rax",
        "jmp {leave}",
        host_rsp = const offset_of!(Control, host_rsp),
        kernel_rsp = const offset_of!(Control, kernel_rsp),
        stepped = const offset_of!(Control, stepped),
        crossings = const offset_of!(Control, shared.crossings),
        selector = const offset_of!(Control, shared.selector),
        blocked = const BLOCKED,
        block = const -(BLOCK as isize),
        leave = sym leave,
    )
}

/// Returns `value` from the innermost `enter`.
///
/// # Safety
/// The thread is inside an `enter` with this `control`.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn leave(control: &Control, value: u64) -> ! {
    naked_asm!(
        "mov byte ptr [rdi + {selector}], {allowed}",
        "mov rax, rsi",
        "mov rsp, [rdi + {host_rsp}]",
        "ldmxcsr [rsp]",
        "add rsp, 8",
        "pop qword ptr [rdi + {host_rsp}]",
        "pop qword ptr [rdi + {kernel_rsp}]",
        restore_registers!(),
        "cld",
        "ret",
        selector = const offset_of!(Control, shared.selector),
        allowed = const ALLOWED,
        host_rsp = const offset_of!(Control, host_rsp),
        kernel_rsp = const offset_of!(Control, kernel_rsp),
    )
}
