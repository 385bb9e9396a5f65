//! Reports what stopped a driver.
#![forbid(unsafe_code)]

use std::fmt;

use super::dispatch::SystemCall;
use super::stack::Control;
use super::{fault, places, thunk, unwind};

/// Why a call into the driver did not return.
#[derive(Clone, Debug)]
pub enum Stop {
    /// A bugcheck by the driver or by a rule of the kernel.
    BugCheck {
        /// The bugcheck code.
        code: u32,
        /// Its four parameters.
        parameters: [u64; 4],
        /// What happened.
        text: String,
        /// The driver frames when it happened.
        backtrace: Backtrace,
    },
    /// The processor raised an exception.
    Fault(Box<FaultReport>),
}

impl Stop {
    /// A bugcheck raised by the running export body, with its backtrace.
    pub fn bug_check(code: u32, parameters: [u64; 4], text: impl Into<String>) -> Self {
        let backtrace = super::backtrace();
        Self::BugCheck { code, parameters, text: text.into(), backtrace }
    }
}

/// The kind of access that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Execute.
    Execute,
}

/// The exception that the processor raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The memory is not mapped or does not permit this access.
    AccessViolation(Access),
    /// The kernel stack is exhausted.
    StackOverflow,
    /// The call has been at DISPATCH_LEVEL or above for too long.
    OutOfTime,
    /// An instruction for ring 0, such as `hlt`, that the machine does not model. The
    /// driver runs in ring 3.
    PrivilegedInstruction,
    /// `int` with this vector, which has no documented meaning in a driver.
    Interrupt(u8),
    /// A system call of the host, which was not made.
    SystemCall(SystemCall),
    /// An invalid instruction, or `ud2`.
    IllegalInstruction,
    /// `#GP` of another instruction, such as a misaligned SSE operand.
    GeneralProtection,
    /// `int 29h`, with its code from ecx (`FAST_FAIL_*`).
    FastFail(u32),
    /// `int 3`.
    Breakpoint,
    /// Division by zero, or a quotient that does not fit.
    DivideError,
    /// Any other exception, by its vector.
    Exception(u8),
}

/// An exception in driver code, or in an export body that the driver called.
#[derive(Clone, Debug)]
pub struct FaultReport {
    /// The exception.
    pub kind: FaultKind,
    /// The address accessed, for faults that have one.
    pub address: Option<u64>,
    /// What lies at that address.
    pub at: Option<String>,
    /// The instruction pointer.
    pub rip: u64,
    /// The decoder's name of the instruction, if it is the driver's.
    pub instruction: Option<String>,
    /// The export whose body faulted, as `module!name`. `None` if driver code
    /// faulted.
    pub export: Option<String>,
    /// The driver frames, innermost first.
    pub backtrace: Backtrace,
}

impl FaultReport {
    /// The inline chain of the innermost driver frame, innermost first.
    pub fn inline_chain(&self) -> &[SourceFrame] {
        let named = self.backtrace.0.iter().find(|frame| !frame.symbols.is_empty());
        named.map_or(&[], |frame| &frame.symbols)
    }

    /// Where in the source the fault happened: the innermost place outside Rust's
    /// library, inlined or not.
    pub fn place(&self) -> Option<&SourceFrame> {
        let chain = self.inline_chain();
        let library = |frame: &&SourceFrame| {
            ["core::", "alloc::", "compiler_builtins::"]
                .iter()
                .any(|library| frame.function.starts_with(library))
        };
        chain.iter().find(|frame| !library(frame)).or(chain.first())
    }

    /// The function at [`Self::place`].
    pub fn function(&self) -> Option<&str> {
        Some(&self.place()?.function)
    }

    /// The source file of [`Self::place`].
    pub fn file(&self) -> Option<&str> {
        self.place()?.file.as_deref()
    }

    /// The line of [`Self::place`].
    pub fn line(&self) -> Option<u32> {
        self.place()?.line
    }

    /// The instruction that a driver must not execute, and where.
    fn executed(&self) -> Option<String> {
        let mnemonic = || {
            let code = self.instruction.as_deref().unwrap_or("instruction");
            code.split('_').next().unwrap_or_default().to_lowercase()
        };
        let what = match self.kind {
            FaultKind::SystemCall(call) if !call.is_32_bit => format!("`syscall` ({call})"),
            FaultKind::SystemCall(call) if self.instruction.as_deref() == Some("Int_imm8") => {
                format!("`int 80h` ({call})")
            }
            // The system has lost its address.
            FaultKind::SystemCall(call) => format!("`sysenter` ({call})"),
            FaultKind::Interrupt(vector) => format!("`int {vector:02X}h`, which is not modelled,"),
            FaultKind::PrivilegedInstruction => format!("`{}`, which is not modelled,", mnemonic()),
            _ => return None,
        };
        let by = match &self.export {
            Some(export) => format!(" in {export}, called by the driver"),
            None => String::new(),
        };
        Some(format!("the driver executed {what} at {}{by}", places::symbolic(self.rip)))
    }

    /// The report of a call that did not start because the stack is exhausted.
    pub(super) fn exhausted(control: &Control, entry: u64) -> Self {
        Self {
            kind: FaultKind::StackOverflow,
            address: None,
            at: None,
            rip: entry,
            instruction: None,
            export: None,
            backtrace: unwind::walk(control, None),
        }
    }

    /// The report of a fault that the handler recorded.
    pub(super) fn new(control: &Control, raw: &fault::RawFault) -> Self {
        let (kind, address, instruction) = raw.classify(control);
        // If the stack pointer is on the host's stack, an export body was running.
        let in_export = !control.stack().contains(&raw.rsp())
            && !control.is_below_stack(raw.rsp())
            && control.kernel_rsp.get() != 0;
        let body = thunk::ImportFrame::at(control, control.kernel_rsp.get());
        let body = body.filter(|_| in_export);
        Self {
            kind,
            address,
            at: address.map(places::describe),
            rip: raw.rip(),
            instruction,
            export: body.and_then(|frame| frame.name(control)),
            backtrace: unwind::walk(control, (!in_export).then_some(raw)),
        }
    }
}

/// A function at a place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFrame {
    /// Its full name.
    pub function: String,
    /// The source file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
}

/// One frame on the kernel stack.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The instruction, or the return address of a caller.
    pub address: u64,
    /// `sample.sys+0x1234`, or `ntoskrnl.exe!ExAllocatePool2` for an export.
    pub place: String,
    /// The inline chain at the address, innermost first. The last function owns the
    /// code.
    pub symbols: Vec<SourceFrame>,
}

/// Driver frames and the exports between them, innermost first.
#[derive(Clone, Debug, Default)]
pub struct Backtrace(pub Vec<Frame>);

impl fmt::Display for SourceFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " at {file}:{line}"),
            (Some(file), None) => write!(f, " at {file}"),
            (None, _) => Ok(()),
        }
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, frame) in self.0.iter().enumerate() {
            match frame.symbols.split_last() {
                None => writeln!(f, "{index:4}: {}", frame.place)?,
                Some((function, inlined)) => {
                    for inline in inlined {
                        writeln!(f, "{index:4}: {inline} (inlined)")?;
                    }
                    writeln!(f, "{index:4}: {function} [{}]", frame.place)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccessViolation(Access::Read) => f.write_str("access violation reading"),
            Self::AccessViolation(Access::Write) => f.write_str("access violation writing"),
            Self::AccessViolation(Access::Execute) => f.write_str("access violation executing"),
            Self::StackOverflow => f.write_str("kernel stack overflow"),
            Self::OutOfTime => f.write_str("too long at DISPATCH_LEVEL or above"),
            Self::PrivilegedInstruction => f.write_str("privileged instruction"),
            Self::Interrupt(vector) => write!(f, "interrupt {vector:02X}h"),
            Self::SystemCall(call) => write!(f, "system call {call}"),
            Self::IllegalInstruction => f.write_str("illegal instruction"),
            Self::GeneralProtection => f.write_str("general protection fault"),
            Self::FastFail(code) => write!(f, "fast fail {code}"),
            Self::Breakpoint => f.write_str("breakpoint"),
            Self::DivideError => f.write_str("divide error"),
            Self::Exception(vector) => write!(f, "processor exception {vector}"),
        }
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(executed) = self.executed() {
            writeln!(f, "{executed}")?;
            return self.backtrace.fmt(f);
        }
        self.kind.fmt(f)?;
        if let Some(address) = self.address {
            write!(f, " {address:#x}")?;
        }
        if let Some(at) = &self.at {
            write!(f, " ({at})")?;
        }
        if let Some(instruction) = &self.instruction {
            write!(f, " by {instruction}")?;
        }
        match &self.export {
            Some(export) => writeln!(f, " in {export}, called by the driver")?,
            None => writeln!(f, " at {:#x}", self.rip)?,
        }
        self.backtrace.fmt(f)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(report) => report.fmt(f),
            Self::BugCheck { code, parameters: [a, b, c, d], text, backtrace } => {
                writeln!(f, "bugcheck {code:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x}): {text}")?;
                backtrace.fmt(f)
            }
        }
    }
}

impl std::error::Error for Stop {}
