//! Catches system calls that driver code makes (Linux, "Syscall User Dispatch").
//!
//! Each thread that calls a driver has a selector byte in its control page. It is
//! [`BLOCKED`] while driver code runs and [`ALLOWED`] while an export body or the
//! host's own code runs. While it is blocked, the system raises SIGSYS in place of the
//! call, wherever the instruction lies: a driver that jumps to a system call in
//! another library is caught, too.
//!
//! A driver can find the byte and write to it. So this reports; it holds nothing back.
#![expect(unsafe_code, reason = "prctl, sigaction, and the return from a signal handler")]

use std::arch::naked_asm;
use std::ffi::{c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Values of a selector (`linux/prctl.h`).
pub(super) const ALLOWED: u8 = 0;
pub(super) const BLOCKED: u8 = 1;

/// `PR_SET_SYSCALL_USER_DISPATCH` and its operations.
const SET_DISPATCH: c_int = 59;
const OFF: libc::c_ulong = 0;
const ON: libc::c_ulong = 1;

/// `SA_RESTORER` (`asm/signal.h`).
const RESTORER: u64 = 0x0400_0000;
/// The code of [`restore`], with the instruction pointer that the system sees.
const RESTORE_LENGTH: libc::c_ulong = 16;

/// Returns from a signal handler. The system lets this code call it whatever the
/// selector says: a handler that interrupted driver code returns to it.
///
/// # Safety
/// Only a signal handler returns here.
#[unsafe(naked)]
unsafe extern "C" fn restore() {
    naked_asm!("mov eax, {number}", "syscall", ".skip 16, 0xCC", number = const libc::SYS_rt_sigreturn)
}

/// Whether nothing is caught.
static PASS: AtomicBool = AtomicBool::new(false);

/// Lets system calls of driver code pass on threads that call a driver for the first
/// time after this, as an old system does. For tests of what else holds them back.
pub fn let_system_calls_pass() {
    PASS.store(true, Ordering::Relaxed);
}

/// Whether system calls of driver code on a thread are caught: not before Linux 5.11.
pub(super) fn begin(selector: *const u8) -> bool {
    if PASS.load(Ordering::Relaxed) {
        return false;
    }
    let start = restore as *const () as libc::c_ulong;
    // SAFETY: the selector is in the thread's control page, and `end` is called before
    // that page is unmapped.
    unsafe { libc::prctl(SET_DISPATCH, ON, start, RESTORE_LENGTH, selector) == 0 }
}

/// Ends it for the calling thread.
pub(super) fn end() {
    // SAFETY: has no memory as an argument.
    unsafe { libc::prctl(SET_DISPATCH, OFF, 0, 0, 0) };
}

/// The system's own `sigaction`, which has the restorer.
#[repr(C)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Installs a handler that returns by [`restore`]. `flags` as in `sigaction`.
pub(super) fn handle(signal: c_int, handler: usize, flags: c_int) {
    let action =
        Action { handler, flags: flags as u64 | RESTORER, restorer: restore as *const () as usize, mask: 0 };
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY: a complete action. Its handler does only what a signal handler may.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, none, size_of::<u64>()) };
    assert!(result == 0, "sigaction({signal})");
}

/// The beginning of `siginfo_t` for SIGSYS (`asm-generic/siginfo.h`).
#[repr(C)]
struct Information {
    head: [u32; 4],
    address: u64,
    number: c_int,
    architecture: u32,
}

/// `AUDIT_ARCH_X86_64` (`linux/audit.h`).
const X86_64: u32 = 0xC000_003E;
/// `si_code` of a call that a seccomp filter refused (`asm-generic/siginfo.h`).
pub(super) const BY_FILTER: c_int = 1;

/// A system call that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemCall {
    /// Its number, if the system still has it.
    pub number: Option<u32>,
    /// Whether it is one of 32-bit programs (`int 80h`, `sysenter`).
    pub is_32_bit: bool,
}

impl SystemCall {
    /// The call that a SIGSYS is about.
    ///
    /// # Safety
    /// `information` is that of a SIGSYS with a positive code.
    pub(super) unsafe fn of(information: *const libc::siginfo_t) -> Self {
        // SAFETY: a siginfo_t is larger, and aligned as this.
        let information = unsafe { &*information.cast::<Information>() };
        Self { number: Some(information.number as u32), is_32_bit: information.architecture != X86_64 }
    }
}

impl std::fmt::Display for SystemCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.is_32_bit { "32-bit " } else { "" };
        let Some(number) = self.number else { return write!(f, "{bits}system call") };
        match syscalls::Sysno::new(number as usize) {
            Some(known) if !self.is_32_bit => f.write_str(known.name()),
            _ => write!(f, "{bits}system call {number}"),
        }
    }
}

/// Calls of the host's own code that a seccomp filter refused, once each.
static REFUSED: Mutex<Vec<SystemCall>> = Mutex::new(Vec::new());

/// Notes a refused call. For a signal handler: it does not wait for the lock.
pub(super) fn note_refused(call: SystemCall) {
    // Within the capacity, because the memory for more may need a call that is refused.
    if let Ok(mut refused) = REFUSED.try_lock()
        && refused.len() < refused.capacity().min(MOST_REFUSED)
        && !refused.contains(&call)
    {
        refused.push(call);
    }
}

/// The most system calls that are noted.
const MOST_REFUSED: usize = 64;

/// Limits the arenas of the allocator. Without a limit, it reads the number of processors
/// from a file when a ninth thread allocates, which a filter refuses.
pub(super) fn limit_allocator() {
    // SAFETY: sets a number of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 8) };
}

/// Gets the memory for what [`note_refused`] notes.
pub(super) fn prepare_notes() {
    REFUSED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).reserve(MOST_REFUSED);
}

/// The system calls, made outside of driver code as far as this process knows, that a
/// seccomp filter refused.
pub fn refused_calls() -> Vec<SystemCall> {
    REFUSED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

/// Whether this system can catch the system calls of driver code.
pub fn catches_system_calls() -> bool {
    // In a thread of its own, because it is on until the thread ends.
    let probe = std::thread::spawn(|| {
        static NONE: u8 = ALLOWED;
        let caught = begin(&raw const NONE);
        end();
        caught
    });
    probe.join().unwrap_or(false)
}
