//! Turns CPU exceptions of driver code into [`Stop::Fault`](super::Stop::Fault).
//!
//! The signal handler only records registers and resumes the thread in `on_fault`,
//! on the host's stack. That function is ordinary code, and makes the report.
#![expect(unsafe_code, reason = "handles signals")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Once, OnceLock};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::call::escape;
use super::dispatch::{self, ALLOWED, BLOCKED, SystemCall};
use super::report::{Access, FaultKind, FaultReport, Stop};
use super::seh::Registers;
use super::stack::Control;
use super::thunk::Preserved;
use super::{emulate, places, seh, step, stepping, thunk, watchdog};

const SIGNALS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, watchdog::SIGNAL];
const ALTERNATE_STACK: usize = 64 << 10;

/// `#DB` (Intel SDM volume 3, chapter 6).
const DEBUG_EXCEPTION: i64 = 1;

/// Direction, trap and alignment-check flags. Host code expects them clear.
const FLAGS: i64 = 0x400 | 0x100 | 0x4_0000;

static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Installs the handler for the process, once.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        dispatch::prepare_notes();
        // Recorded before the handler can run.
        assert!(PREVIOUS.set(SIGNALS.map(action)).is_ok(), "installed once");
        for signal in SIGNALS {
            dispatch::handle(signal, handler as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        }
    });
}

/// The action of a signal.
fn action(signal: c_int) -> libc::sigaction {
    // SAFETY: all bit patterns of `sigaction` are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: changes no action, and writes one to the local.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    assert!(result == 0, "sigaction({signal})");
    action
}

/// Registers at the moment of a fault.
#[derive(Clone, Copy)]
pub(super) struct RawFault {
    signal: c_int,
    address: u64,
    registers: [i64; 23],
    vector: [u128; 16],
    mxcsr: u32,
    /// The system call that the driver made, for SIGSYS.
    call: Option<SystemCall>,
    /// The driver's registers, if an export body faulted. What continues the thread
    /// overwrites them on the host's stack.
    pub(super) preserved: Option<Preserved>,
}

/// The selector of Linux' code segment for 64-bit programs (`__USER_CS`, `asm/segment.h`).
const CODE_64_BIT: i64 = 0x33;

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The handler's own system calls must not be caught. If it returns to driver
    // code, they are caught again.
    let control = Control::existing();
    let selector = control.map(|control| control.shared.selector.swap(ALLOWED, Ordering::Relaxed));
    let goes_back = handle(signal, info, context, selector == Some(BLOCKED));
    if let (Some(control), Some(selector), true) = (control, selector, goes_back) {
        control.shared.selector.store(selector, Ordering::Relaxed);
    }
}

/// Handles a signal; `in_driver` says whether driver code was running. Returns whether
/// the interrupted code continues.
fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, in_driver: bool) -> bool {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let information = unsafe { &*info };
    let code = information.si_code;
    // SAFETY: with SA_SIGINFO the third argument is the thread's ucontext.
    let machine = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    let registers = &mut machine.gregs;
    // A trap after a system call of an export body has another signal code.
    let stepped = signal == libc::SIGTRAP && registers[libc::REG_TRAPNO as usize] == DEBUG_EXCEPTION;
    if stepped && (step::record(registers) || stepping::step(registers)) {
        return true;
    }
    let call = (signal == libc::SIGSYS && code > 0).then(|| {
        // SAFETY: the information of a SIGSYS that the system raised.
        unsafe { SystemCall::of(info) }
    });
    // The system goes on behind `sysenter` in a code segment of 32 bits, where nothing is.
    // It makes the call, which is refused, only if it finds the last argument at EBP.
    let code_segment = registers[libc::REG_CSGSFS as usize] & 0xffff;
    let after_sysenter = signal == libc::SIGSEGV && code > 0 && code_segment != CODE_64_BIT;
    let control = Control::existing();
    let on_kernel_stack =
        control.is_some_and(|control| control.stack().contains(&(registers[libc::REG_RSP as usize] as u64)));
    if let Some(call) = call.filter(|_| code == dispatch::BY_FILTER && !in_driver && !on_kernel_stack) {
        // The host's own code: the call fails.
        dispatch::note_refused(call);
        registers[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
        return true;
    }
    if signal == libc::SIGSEGV && code > 0 {
        // SAFETY: a SIGSEGV that the system raised carries an address.
        let address = unsafe { information.si_addr() }.addr() as u64;
        if emulate::bring_in(address) {
            return true;
        }
    }
    if signal == libc::SIGSEGV && in_driver && emulate::play(registers) {
        return true;
    }
    let out_of_time = signal == watchdog::SIGNAL && code == libc::SI_TKILL;
    if out_of_time {
        // Elsewhere than in the driver's own code, the frames may own something.
        let overdue = control.is_some_and(|control| control.shared.watched.overdue().is_some());
        let rip = registers[libc::REG_RIP as usize] as u64;
        if !(overdue && in_driver && on_kernel_stack && places::find(rip).is_some()) {
            return true;
        }
    }
    // The limit of processor time of a process has the same signal.
    let is_exception = out_of_time || code > 0 && signal != watchdog::SIGNAL;
    match control {
        // Positive codes are exceptions; processes send the others.
        Some(control) if is_exception && control.host_rsp.get() != 0 && !control.reporting.get() => {
            // SAFETY: the signals handled carry an address when they are exceptions.
            let address = unsafe { information.si_addr() }.addr() as u64;
            if call.is_some() {
                // The pointer is behind the instruction, which has two bytes.
                registers[libc::REG_RIP as usize] -= 2;
            }
            let call = call.or(after_sysenter.then_some(SystemCall { number: None, is_32_bit: true }));
            control.reporting.set(true);
            // SAFETY: a signal handler for the thread has its floating-point state.
            let float = unsafe { &*machine.fpregs };
            let vector = float._xmm.map(|register| {
                let halves = register.element.map(u128::from);
                halves[0] | halves[1] << 32 | halves[2] << 64 | halves[3] << 96
            });
            let preserved = if on_kernel_stack { None } else { thunk::preserved(control) };
            let mxcsr = float.mxcsr;
            let raw = RawFault { signal, address, registers: *registers, vector, mxcsr, call, preserved };
            control.fault.set(Some(raw));
            // Continue as if `enter` had called `on_fault`. The frames below are
            // abandoned.
            registers[libc::REG_RSP as usize] = control.host_rsp.get() as i64 - 8;
            registers[libc::REG_RIP as usize] = on_fault as *const () as i64;
            registers[libc::REG_RDI as usize] = std::ptr::from_ref(control).addr() as i64;
            registers[libc::REG_EFL as usize] &= !FLAGS;
            registers[libc::REG_CSGSFS as usize] += CODE_64_BIT - code_segment;
            false
        }
        _ => {
            chain(signal, code, info, context);
            true
        }
    }
}

/// Looks for a handler of the driver. Without one, makes the report and abandons the
/// call.
extern "sysv64" fn on_fault(control: &'static Control) -> ! {
    let raw = control.fault.take().expect("the handler recorded the fault");
    control.reporting.set(false);
    if let Some(raised) = seh::raised_by(control, &raw)
        && let Err(stop) = seh::dispatch_fault(control, &raw, &raised)
    {
        escape(stop)
    }
    control.reporting.set(true);
    let report = Box::new(FaultReport::new(control, &raw));
    control.reporting.set(false);
    escape(Stop::Fault(report))
}

/// Passes a signal that the driver did not cause to the previous handler.
fn chain(signal: c_int, code: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let index = SIGNALS.iter().position(|&known| known == signal);
    let previous = index.and_then(|index| PREVIOUS.get()?.get(index));
    match previous {
        Some(action) if action.sa_sigaction == libc::SIG_IGN && code <= 0 => {}
        Some(action) if !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) => {
            let function = std::ptr::with_exposed_provenance::<c_void>(action.sa_sigaction);
            // SAFETY: a handler's address. A C function on x86-64 may be called
            // with more arguments than it takes.
            let function = unsafe {
                std::mem::transmute::<*const c_void, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(
                    function,
                )
            };
            function(signal, info, context);
        }
        _ => {
            // SAFETY: any thread may restore the default action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if code <= 0 {
                // SAFETY: signals this thread, which is in a handler for it.
                unsafe { libc::raise(signal) };
            }
            // The processor raises the exception again when it retries the
            // instruction.
        }
    }
}

impl RawFault {
    pub fn rip(&self) -> u64 {
        self.registers[libc::REG_RIP as usize] as u64
    }

    pub fn rsp(&self) -> u64 {
        self.registers[libc::REG_RSP as usize] as u64
    }

    pub fn rbp(&self) -> u64 {
        self.registers[libc::REG_RBP as usize] as u64
    }

    /// All registers.
    pub fn registers(&self) -> Registers {
        Registers::of_signal(&self.registers, &self.vector, self.mxcsr)
    }

    /// The kind of fault, the address accessed, and the driver's instruction.
    ///
    /// Vectors and error codes: Intel SDM volume 3, chapter 6.
    pub fn classify(&self, control: &Control) -> (FaultKind, Option<u64>, Option<String>) {
        let instruction = decode(self.rip());
        let name = instruction.map(|instruction| format!("{:?}", instruction.code()));
        let error = self.registers[libc::REG_ERR as usize];
        if let Some(call) = self.call {
            return (FaultKind::SystemCall(call), None, name);
        }
        if self.signal == watchdog::SIGNAL {
            return (FaultKind::OutOfTime, None, name);
        }
        let (kind, address) = match self.registers[libc::REG_TRAPNO as usize] {
            0 if self.signal == libc::SIGFPE => (FaultKind::DivideError, None),
            3 => (FaultKind::Breakpoint, None),
            // Some processors have it in 32-bit programs only.
            6 if instruction.is_some_and(|instruction| instruction.code() == Code::Sysenter) => {
                (FaultKind::PrivilegedInstruction, None)
            }
            6 => (FaultKind::IllegalInstruction, None),
            13 => self.general_protection(instruction.as_ref()),
            14 if control.is_below_stack(self.address) && error & 0x10 == 0 => {
                (FaultKind::StackOverflow, Some(self.address))
            }
            14 => {
                let access = match (error & 0x10 != 0, error & 2 != 0) {
                    (true, _) => Access::Execute,
                    (false, true) => Access::Write,
                    (false, false) => Access::Read,
                };
                (FaultKind::AccessViolation(access), Some(self.address))
            }
            vector => (FaultKind::Exception(vector as u8), None),
        };
        (kind, address, name)
    }

    /// Finds the cause of a `#GP` from the instruction.
    fn general_protection(&self, instruction: Option<&Instruction>) -> (FaultKind, Option<u64>) {
        let Some(instruction) = instruction else {
            // The thread jumped to a non-canonical address, or an export body
            // faulted.
            return match is_canonical(self.rip()) {
                true => (FaultKind::GeneralProtection, None),
                false => (FaultKind::AccessViolation(Access::Execute), Some(self.rip())),
            };
        };
        if instruction.code() == Code::Int_imm8 && instruction.immediate8() == 0x29 {
            let code = self.registers[libc::REG_RCX as usize] as u32;
            return (FaultKind::FastFail(code), None);
        }
        if instruction.code() == Code::Int_imm8 {
            return (FaultKind::Interrupt(instruction.immediate8()), None);
        }
        if instruction.is_privileged() {
            return (FaultKind::PrivilegedInstruction, None);
        }
        let operands = 0..instruction.op_count();
        let memory = operands.clone().find(|&index| instruction.op_kind(index) == OpKind::Memory);
        let address = memory.and_then(|index| {
            instruction.virtual_address(index, 0, |name, _, _| register(&self.registers, name))
        });
        match address {
            // The processor does not report whether it read or wrote. The first
            // operand is the destination.
            Some(address) if !is_canonical(address) => {
                let writes = memory == Some(0) && operands.len() > 1;
                let access = if writes { Access::Write } else { Access::Read };
                (FaultKind::AccessViolation(access), Some(address))
            }
            address => (FaultKind::GeneralProtection, address),
        }
    }
}

/// The instruction of a driver at this address.
pub(super) fn decode(rip: u64) -> Option<Instruction> {
    let found = places::find(rip)?;
    let code = found.file.image.get(found.rva as usize..)?;
    let code = &code[..code.len().min(16)];
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE).iter().next()
}

/// The value of a general-purpose register among the registers a signal saved.
pub(super) fn register(registers: &[i64; 23], register: Register) -> Option<u64> {
    // Flat segments start at 0.
    Some(index(register).map_or(0, |index| registers[index] as u64))
}

/// The place of a general-purpose register among the registers a signal saved.
pub(super) fn index(register: Register) -> Option<usize> {
    let index = match register.full_register() {
        Register::RAX => libc::REG_RAX,
        Register::RBX => libc::REG_RBX,
        Register::RCX => libc::REG_RCX,
        Register::RDX => libc::REG_RDX,
        Register::RSI => libc::REG_RSI,
        Register::RDI => libc::REG_RDI,
        Register::RBP => libc::REG_RBP,
        Register::RSP => libc::REG_RSP,
        Register::R8 => libc::REG_R8,
        Register::R9 => libc::REG_R9,
        Register::R10 => libc::REG_R10,
        Register::R11 => libc::REG_R11,
        Register::R12 => libc::REG_R12,
        Register::R13 => libc::REG_R13,
        Register::R14 => libc::REG_R14,
        Register::R15 => libc::REG_R15,
        _ => return None,
    };
    Some(index as usize)
}

/// Whether bits 47 to 63 are all equal.
fn is_canonical(address: u64) -> bool {
    let high = (address as i64) >> 47;
    high == 0 || high == -1
}

/// The stack on which this thread handles signals. The kernel stack may be full.
pub(super) struct AlternateStack(NonNull<c_void>);

impl AlternateStack {
    pub fn install() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), ALTERNATE_STACK, protection, flags, -1, 0) };
        assert!(start != libc::MAP_FAILED, "no memory for a signal stack");
        let stack = libc::stack_t { ss_sp: start, ss_flags: 0, ss_size: ALTERNATE_STACK };
        // SAFETY: memory of that size which lives until `drop`.
        let result = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
        assert!(result == 0, "sigaltstack");
        Self(NonNull::new(start).expect("mmap does not map at zero"))
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // Rust's runtime has already freed the stack that it set up, so it is not
        // restored.
        // SAFETY: disables the stack of a thread that is ending and handles no signal.
        unsafe { libc::sigaltstack(&off, std::ptr::null_mut()) };
        // SAFETY: the mapping `install` made, no longer the thread's signal stack.
        unsafe { libc::munmap(self.0.as_ptr(), ALTERNATE_STACK) };
    }
}
