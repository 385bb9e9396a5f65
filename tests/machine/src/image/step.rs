//! A classifyFn called in a tight loop, and one call of it instruction by
//! instruction.
//!
//! [`Walk`] holds what a loop in machine code passes to each call, so that what
//! is measured is the driver and a few moves. The same loop can set the
//! processor's trap flag before the call: then every instruction of the driver
//! is recorded with the registers before it, and [`Trace`] says from the
//! decoded instruction what it locked, read and wrote. Nothing is estimated:
//! the image that is counted is the one that ships.
#![expect(unsafe_code, reason = "single-steps driver code")]

use std::arch::naked_asm;
use std::cell::Cell;
use std::mem::offset_of;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess};

use super::fault;
use super::places;
use super::stack::Control;

/// One call of a classifyFn, with all its arguments.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Call {
    /// `classifyFn`.
    pub entry: u64,
    /// `inFixedValues`.
    pub values: u64,
    /// `inMetaValues`.
    pub metadata: u64,
    /// `layerData`.
    pub data: u64,
    /// `classifyContext`.
    pub context: u64,
    /// `filter`.
    pub filter: u64,
    /// `classifyOut`, made fresh before each call.
    pub out: u64,
    /// Address of flow contexts, one after another for each round; a power of two
    /// of them.
    pub flows: u64,
    /// Their number less one.
    pub flow_mask: u64,
}

/// Calls made one after another, again and again.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    /// The first of them.
    pub calls: *const Call,
    /// Their number.
    pub count: u64,
    /// How often.
    pub rounds: u64,
    /// The first round's number, which chooses the flow.
    pub first_round: u64,
    /// Not 0: with the trap flag set.
    pub stepped: u64,
}

/// `FWPS_CLASSIFY_OUT0`: where the action and the rights are (`fwpstypes.h`).
const ACTION: usize = 0;
const RIGHTS: usize = 24;
/// As the engine leaves the action before the first callout: nothing matched.
const NOTHING: u32 = 8;
const MAY_WRITE: u32 = 1;

/// Makes the calls of a [`Walk`], its only argument, with the x64 convention.
///
/// # Safety
/// Called on a kernel stack, as driver code; what the walk leads to is there.
#[unsafe(naked)]
pub unsafe extern "win64" fn spin(walk: *const Walk) {
    naked_asm!(
        "push rbx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r12",
        // Seven arguments, and the stack aligned.
        "sub rsp, 64",
        "mov rbp, rcx",
        "mov rsi, [rbp + {rounds}]",
        "mov rdi, [rbp + {first_round}]",
        "2:",
        "mov rbx, [rbp + {calls}]",
        "mov r12, [rbp + {count}]",
        "3:",
        "mov rax, rdi",
        "and rax, [rbx + {flow_mask}]",
        "mov rcx, [rbx + {flows}]",
        "mov rax, [rcx + rax * 8]",
        "mov [rsp + 40], rax",
        "mov rdx, [rbx + {out}]",
        "mov dword ptr [rdx + {action}], {nothing}",
        "mov dword ptr [rdx + {rights}], {may_write}",
        "mov [rsp + 48], rdx",
        "mov rcx, [rbx + {filter}]",
        "mov [rsp + 32], rcx",
        "mov rcx, [rbx + {values}]",
        "mov rdx, [rbx + {metadata}]",
        "mov r8, [rbx + {data}]",
        "mov r9, [rbx + {context}]",
        "cmp qword ptr [rbp + {stepped}], 0",
        "jne 5f",
        "call [rbx + {entry}]",
        "4:",
        "add rbx, {call}",
        "dec r12",
        "jnz 3b",
        "inc rdi",
        "dec rsi",
        "jnz 2b",
        "add rsp, 64",
        "pop r12",
        "pop rbp",
        "pop rdi",
        "pop rsi",
        "pop rbx",
        "ret",
        // The trap comes behind the first instruction that begins with the flag.
        "5:",
        "pushfq",
        "or dword ptr [rsp], 0x100",
        "popfq",
        "call [rbx + {entry}]",
        "pushfq",
        "and dword ptr [rsp], 0xfffffeff",
        "popfq",
        "jmp 4b",
        calls = const offset_of!(Walk, calls),
        count = const offset_of!(Walk, count),
        rounds = const offset_of!(Walk, rounds),
        first_round = const offset_of!(Walk, first_round),
        stepped = const offset_of!(Walk, stepped),
        entry = const offset_of!(Call, entry),
        values = const offset_of!(Call, values),
        metadata = const offset_of!(Call, metadata),
        data = const offset_of!(Call, data),
        context = const offset_of!(Call, context),
        filter = const offset_of!(Call, filter),
        out = const offset_of!(Call, out),
        flows = const offset_of!(Call, flows),
        flow_mask = const offset_of!(Call, flow_mask),
        call = const size_of::<Call>(),
        action = const ACTION,
        rights = const RIGHTS,
        nothing = const NOTHING,
        may_write = const MAY_WRITE,
    )
}

/// The most instructions of one trace.
const MOST_STEPS: usize = 1 << 16;

type Registers = [i64; 23];

/// What the signal handler fills. Its memory is there before it starts.
struct Recorder {
    image: Range<u64>,
    steps: Vec<Registers>,
    overflowed: bool,
}

thread_local! {
    /// Set while a trace is taken; read by the signal handler, so without a
    /// destructor.
    static RECORDER: Cell<*mut Recorder> = const { Cell::new(std::ptr::null_mut()) };
}

/// Records a step of a trace of this thread; whether there is one. Called by
/// the signal handler, and keeps to what that may do.
pub(super) fn record(registers: &Registers) -> bool {
    // SAFETY: set by `trace` to its own local for as long as the trace lasts;
    // the thread that owns it is the one that was interrupted, inside the call.
    let Some(recorder) = (unsafe { RECORDER.get().as_mut() }) else { return false };
    if recorder.image.contains(&(registers[libc::REG_RIP as usize] as u64)) {
        if recorder.steps.len() < recorder.steps.capacity() {
            recorder.steps.push(*registers);
        } else {
            recorder.overflowed = true;
        }
    }
    true
}

/// Bytes that an instruction read or wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The address of the instruction.
    pub from: u64,
    /// The first byte.
    pub address: u64,
    /// How many.
    pub size: u64,
    /// Whether it wrote.
    pub write: bool,
}

/// What the driver executed in one call.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Addresses of the instructions of the driver's own code, in order; a
    /// repeated string instruction comes as often as it repeats.
    pub instructions: Vec<u64>,
    /// Addresses of those that locked the bus or a line: a `lock` prefix, or
    /// `xchg` with memory.
    pub locked: Vec<u64>,
    /// Memory that was accessed, the kernel stack left out.
    pub accesses: Vec<Access>,
    /// Slots of the import table through which it called.
    pub imports: Vec<u64>,
}

/// Runs `f`, which calls into the image by a stepped [`Walk`], and says what
/// instructions of the image that executed.
///
/// # Panics
/// If they are more than can be recorded.
pub fn trace<R>(image: Range<u64>, f: impl FnOnce() -> R) -> (R, Trace) {
    fault::install();
    let mut recorder = Recorder { image, steps: Vec::with_capacity(MOST_STEPS), overflowed: false };
    RECORDER.set(&raw mut recorder);
    let result = f();
    RECORDER.set(std::ptr::null_mut());
    assert!(!recorder.overflowed, "a call of more than {MOST_STEPS} instructions");
    (result, Trace::of(&recorder.steps, &Control::of_thread().stack()))
}

impl Trace {
    fn of(steps: &[Registers], stack: &Range<u64>) -> Self {
        let (mut trace, mut information) = (Self::default(), InstructionInfoFactory::new());
        for registers in steps {
            let rip = registers[libc::REG_RIP as usize] as u64;
            let Some(instruction) = decode(rip) else { continue };
            trace.instructions.push(rip);
            let mut memory = false;
            for used in information.info(&instruction).used_memory() {
                let value = |register, _, _| fault::register(registers, register);
                let Some(address) = used.virtual_address(0, value) else { continue };
                if stack.contains(&address) || used.access() == OpAccess::NoMemAccess {
                    continue;
                }
                memory = true;
                let size = used.memory_size().size() as u64;
                use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite, Write};
                if matches!(used.access(), Read | CondRead | ReadWrite | ReadCondWrite) {
                    trace.accesses.push(Access { from: rip, address, size, write: false });
                }
                if matches!(used.access(), Write | CondWrite | ReadWrite | ReadCondWrite) {
                    trace.accesses.push(Access { from: rip, address, size, write: true });
                }
            }
            if instruction.has_lock_prefix() || (memory && instruction.mnemonic() == Mnemonic::Xchg) {
                trace.locked.push(rip);
            }
            if (instruction.is_call_near_indirect() || instruction.is_jmp_near_indirect())
                && instruction.is_ip_rel_memory_operand()
            {
                trace.imports.push(instruction.ip_rel_memory_address());
            }
        }
        trace
    }
}

fn decode(rip: u64) -> Option<Instruction> {
    let found = places::find(rip)?;
    let code = found.file.image.get(found.rva as usize..)?;
    let code = &code[..code.len().min(16)];
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE).iter().next()
}
