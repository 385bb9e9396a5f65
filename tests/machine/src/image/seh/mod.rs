//! Structured exception handling: exceptions that a driver handles itself.
//!
//! Source: "x64 exception handling", Microsoft Learn; `EXCEPTION_RECORD`, `CONTEXT` and
//! `DISPATCHER_CONTEXT` in `wdm.h`.
//!
//! An exception is a fault of the processor or a call such as ExRaiseStatus. The frames
//! of driver code are searched from the innermost, as RtlDispatchException does. A frame
//! with a handler gets it called, on the kernel stack below all frames. If a handler
//! takes the exception, the frames up to its own are unwound, which runs the `__finally`
//! blocks, and the thread continues there. Nothing of the host's own stack above the
//! call of the driver is used after that.
//!
//! The search ends at the call by the kernel: an exception does not pass through an
//! export to the driver code that called it.

mod frames;
mod handlers;
mod registers;
mod resume;
mod tables;

use std::cell::Cell;

use super::fault::RawFault;
use super::report::{FaultKind, Stop};
use super::stack::Control;
use super::thunk::{self, ImportFrame};
use frames::Step;
use registers::{CONTEXT_SIZE, RAX, RBP, RBX, RSP};
use resume::resume;

pub use handlers::c_specific_handler;
pub(super) use registers::Registers;

/// More frames do not fit in the kernel stack.
const MOST_FRAMES: usize = super::KERNEL_STACK_SIZE / 16;

/// Flags of an exception (`wdm.h`).
const NONCONTINUABLE: u32 = 1;
const UNWINDING: u32 = 2;
const EXIT_UNWIND: u32 = 4;
const TARGET_UNWIND: u32 = 0x20;

/// `EXCEPTION_DISPOSITION`: the interrupted code continues.
const CONTINUE_EXECUTION: u32 = 0;

/// `STATUS_UNWIND`: the code of an unwind without an exception.
const STATUS_UNWIND: u32 = 0xC000_0027;

/// Most parameters of an exception (`EXCEPTION_MAXIMUM_PARAMETERS`).
const MOST_PARAMETERS: usize = 15;

/// An exception as Windows describes it to handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// `STATUS_*`.
    pub code: u32,
    /// Whether the thread may continue where it was.
    pub continuable: bool,
    parameters: [u64; MOST_PARAMETERS],
    count: usize,
}

impl Raised {
    /// An exception with at most 15 parameters; others are left out.
    pub fn new(code: u32, continuable: bool, parameters: &[u64]) -> Self {
        let count = parameters.len().min(MOST_PARAMETERS);
        let mut all = [0; MOST_PARAMETERS];
        all[..count].copy_from_slice(&parameters[..count]);
        Self { code, continuable, parameters: all, count }
    }
}

/// A fault, for the decision whether Windows raises an exception.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The exception of the processor.
    pub kind: FaultKind,
    /// The address accessed.
    pub address: Option<u64>,
}

/// Gives the exception that Windows raises for a fault; `None` if the fault stops it.
pub type Raises = fn(Fault) -> Option<Raised>;

static RAISES: std::sync::OnceLock<Raises> = std::sync::OnceLock::new();

/// Sets what decides about faults. The first call counts.
pub fn register_raises(raises: Raises) {
    let _ = RAISES.set(raises);
}

/// Where an unwind ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The frame; 0 for all frames.
    pub frame: u64,
    /// Where the thread continues.
    pub ip: u64,
    /// What is in rax then.
    pub value: u64,
}

/// Handlers in progress on a thread.
#[derive(Debug, Default)]
pub(super) struct Handling {
    /// The number of calls of the driver, when the innermost handler was called.
    depth: Cell<u32>,
    /// Set by an unwind that passes through a handler to the frames above it.
    target: Cell<Option<Target>>,
}

impl Handling {
    pub fn depth(&self) -> u32 {
        self.depth.get()
    }

    pub fn set_depth(&self, depth: u32) {
        self.depth.set(depth);
    }
}

/// The exception of a fault in driver code or in an export that it called.
pub(super) fn raised_by(control: &Control, raw: &RawFault) -> Option<Raised> {
    let (kind, address, _) = raw.classify(control);
    RAISES.get()?(Fault { kind, address })
}

/// Searches a handler for a fault. Returns if there is none.
pub(super) fn dispatch_fault(control: &'static Control, raw: &RawFault, raised: &Raised) -> Result<(), Stop> {
    match Raiser::of_fault(control, raw) {
        Some(raiser) => raiser.dispatch(raised, raw.rip()),
        None => Ok(()),
    }
}

/// Raises an exception in the running export body. Returns if no handler of the driver
/// takes it. The frames of the body are abandoned otherwise; they must own nothing.
pub fn raise(raised: &Raised) -> Result<(), Stop> {
    let Some(control) = Control::existing().filter(|_| super::in_call()) else { return Ok(()) };
    match Raiser::of_export(control) {
        Some(raiser) => {
            let address = raiser.registers.rip;
            raiser.dispatch(raised, address)
        }
        None => Ok(()),
    }
}

/// Unwinds from the running export body to a frame of the driver, and continues there
/// with `value` in rax. `record`: the driver's `EXCEPTION_RECORD`, or 0. Returns if the
/// frame is not on the stack.
pub fn unwind_to(frame: u64, ip: u64, value: u64) -> Result<(), Stop> {
    let Some(control) = Control::existing().filter(|_| super::in_call()) else { return Ok(()) };
    let target = Target { frame, ip, value };
    match Raiser::of_export(control) {
        Some(raiser) => {
            let flags = if frame == 0 { EXIT_UNWIND } else { 0 };
            let record = Raised::new(STATUS_UNWIND, false, &[]);
            raiser.write_record(&record, raiser.registers.rip);
            raiser.unwind(target, flags)
        }
        None => Ok(()),
    }
}

/// Words on the kernel stack that handlers get.
#[derive(Clone, Copy)]
struct Area {
    record: u64,
    /// The registers at the exception.
    context: u64,
    /// The registers of the frame whose handler is called.
    frame_context: u64,
    dispatcher: u64,
}

/// `EXCEPTION_RECORD`.
const RECORD_SIZE: u64 = 0x98;
const RECORD_SPACE: u64 = RECORD_SIZE.next_multiple_of(16);
/// `DISPATCHER_CONTEXT`.
const DISPATCHER_SIZE: u64 = 0x50;
/// The offset of `ScopeIndex` in it.
const SCOPE_INDEX: u64 = 72;
const AREA_SIZE: u64 = RECORD_SPACE + 2 * CONTEXT_SIZE + DISPATCHER_SIZE;

/// A thread that raises an exception or unwinds.
struct Raiser {
    control: &'static Control,
    /// The driver's registers.
    registers: Registers,
    /// [`Control::kernel_rsp`] and [`Control::floor`] when the driver continues.
    kernel_rsp: u64,
    floor: u64,
    /// [`Control::kernel_rsp`] if the search finds nothing.
    before: u64,
    area: Area,
}

impl Raiser {
    fn of_fault(control: &'static Control, raw: &RawFault) -> Option<Self> {
        if let Some(preserved) = &raw.preserved {
            return Self::with_frame(control, preserved);
        }
        let registers = raw.registers();
        // The frame of an import gate, as if the instruction had called an export. So a
        // backtrace from a handler shows what raised the exception.
        let before = control.kernel_rsp.get();
        let top = registers.general[RSP].checked_sub(40)?;
        let frame = [before, 0, registers.general[RBX], registers.general[RBP], registers.rip + 1];
        for (at, value) in (top..).step_by(8).zip(frame) {
            control.word(at)?;
            control.set_word(at, value);
        }
        Self::new(control, registers, (before, before), top)
    }

    fn of_export(control: &'static Control) -> Option<Self> {
        Self::with_frame(control, &thunk::preserved(control)?)
    }

    /// The driver as it is when the running export returns.
    fn with_frame(control: &'static Control, preserved: &thunk::Preserved) -> Option<Self> {
        let top = control.kernel_rsp.get();
        let frame = ImportFrame::at(control, top)?;
        let mut registers = Registers::zeroed();
        preserved.restore(&mut registers);
        registers.general[RBX] = frame.rbx;
        registers.general[RBP] = frame.rbp;
        // The return address is no longer on the stack then.
        registers.general[RSP] = frame.rsp;
        registers.rip = frame.return_address;
        Self::new(control, registers, (frame.outer, top), top)
    }

    fn new(
        control: &'static Control,
        registers: Registers,
        (kernel_rsp, before): (u64, u64),
        top: u64,
    ) -> Option<Self> {
        let floor = control.floor.get();
        let lowest = if floor == 0 { top } else { top.min(floor) };
        let start = lowest.checked_sub(AREA_SIZE)? & !15;
        if !control.has_room(start) {
            return None;
        }
        control.kernel_rsp.set(top);
        control.floor.set(start);
        let context = start + RECORD_SPACE;
        let frame_context = context + CONTEXT_SIZE;
        let area = Area { record: start, context, frame_context, dispatcher: frame_context + CONTEXT_SIZE };
        registers.write_context(control, context);
        Some(Self { control, registers, kernel_rsp, floor, before, area })
    }

    /// Ends the search without a handler.
    fn give_up(&self) {
        self.control.kernel_rsp.set(self.before);
        self.control.floor.set(self.floor);
    }

    fn write_record(&self, raised: &Raised, address: u64) {
        let (control, at) = (self.control, self.area.record);
        let flags = if raised.continuable { 0 } else { NONCONTINUABLE };
        let head = [u64::from(raised.code) | u64::from(flags) << 32, 0, address, raised.count as u64];
        let words = head.into_iter().chain(raised.parameters).chain([0]);
        for (word, value) in (at..at + RECORD_SIZE).step_by(8).zip(words) {
            control.set_word(word, value);
        }
    }

    /// Searches a handler. Returns if there is none.
    fn dispatch(self, raised: &Raised, address: u64) -> Result<(), Stop> {
        self.write_record(raised, address);
        let mut registers = self.registers;
        for _ in 0..MOST_FRAMES {
            let Some(step) = frames::step(self.control, &registers) else { break };
            let handler = step.handler.filter(|handler| handler.flags & tables::FLAG_SEARCH != 0);
            if handler.is_some() {
                let disposition = self.call_handler(&step, &registers, &step.caller, None, 0)?;
                if let Some(target) = self.control.handling.target.take() {
                    return self.unwind(target, 0);
                }
                if disposition == CONTINUE_EXECUTION && raised.continuable {
                    if let Some(changed) = Registers::read_context(self.control, self.area.context) {
                        self.resume(&changed);
                    }
                    break;
                }
            }
            registers = step.caller;
        }
        self.give_up();
        Ok(())
    }

    /// Unwinds to a frame. Returns if it is not on the stack.
    fn unwind(self, target: Target, flags: u32) -> Result<(), Stop> {
        let mut target = target;
        let mut registers = self.registers;
        let mut scope = 0;
        for _ in 0..MOST_FRAMES {
            let Some(step) = frames::step(self.control, &registers) else { break };
            let is_target = step.establisher == target.frame;
            let handler = step.handler.filter(|handler| handler.flags & tables::FLAG_UNWIND != 0);
            if handler.is_some() {
                let at_target = if is_target { TARGET_UNWIND } else { 0 };
                self.add_flags(UNWINDING | flags, at_target);
                self.call_handler(&step, &registers, &registers, Some(target), scope)?;
                if let Some(other) = self.control.handling.target.take() {
                    // A handler has unwound to another frame. It continues after the
                    // scope whose block did so.
                    target = other;
                    scope = self.control.word(self.area.dispatcher + SCOPE_INDEX).unwrap_or(0) as u32;
                    continue;
                }
            }
            if is_target {
                registers.rip = target.ip;
                registers.general[RAX] = target.value;
                self.resume(&registers);
            }
            scope = 0;
            registers = step.caller;
        }
        // The frame may be above the handler that runs.
        let handling = &self.control.handling;
        if handling.depth.get() == self.control.depth() && handling.depth.get() != 0 {
            self.give_up();
            pass_on(self.control, target);
        }
        self.give_up();
        Ok(())
    }

    fn add_flags(&self, set: u32, at_target: u32) {
        let word = self.control.word(self.area.record).unwrap_or_default();
        let flags = (word >> 32) as u32 & !TARGET_UNWIND | set | at_target;
        self.control.set_word(self.area.record, word & 0xFFFF_FFFF | u64::from(flags) << 32);
    }

    /// Calls the handler of a frame. Returns its disposition.
    fn call_handler(
        &self,
        step: &Step,
        registers: &Registers,
        frame_context: &Registers,
        target: Option<Target>,
        scope: u32,
    ) -> Result<u32, Stop> {
        let (control, area) = (self.control, self.area);
        let Some(handler) = step.handler else { return Ok(CONTINUE_EXECUTION) };
        frame_context.write_context(control, area.frame_context);
        let words = [
            registers.rip,
            step.base,
            step.base + u64::from(step.entry),
            step.establisher,
            target.map_or(0, |target| target.ip),
            area.frame_context,
            step.base + u64::from(handler.routine),
            step.base + u64::from(handler.data),
            0,
            scope.into(),
        ];
        for (word, value) in (area.dispatcher..).step_by(8).zip(words) {
            control.set_word(word, value);
        }
        let arguments = [area.record, step.establisher, area.context, area.dispatcher];
        call(control, step.base + u64::from(handler.routine), &arguments).map(|value| value as u32)
    }

    /// Continues in driver code.
    fn resume(&self, registers: &Registers) {
        self.control.floor.set(self.floor);
        resume(self.control, registers, self.kernel_rsp);
        // The stack pointer is invalid.
        self.control.kernel_rsp.set(self.before);
    }
}

/// Calls code of the driver for an exception.
fn call(control: &Control, entry: u64, arguments: &[u64]) -> Result<u64, Stop> {
    let before = control.handling.depth.replace(control.depth() + 1);
    let value = resume::call(entry, arguments);
    control.handling.depth.set(before);
    value
}

/// Leaves the call of a handler, whose caller unwinds.
fn pass_on(control: &Control, target: Target) -> ! {
    control.handling.target.set(Some(target));
    resume::leave(control)
}
