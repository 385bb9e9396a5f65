//! Calls a classifyFn in a tight loop, or traces it instruction by instruction.
//!
//! [`Walk`] holds the arguments of each call. A loop in machine code makes the
//! calls, so that a measurement contains only the driver and a few moves. The loop
//! can also set the processor's trap flag before each call. Then each instruction
//! of the driver is recorded with its registers, and [`Trace`] decodes it: locks,
//! reads, writes, calls. The counts are exact, and they are those of the shipping
//! image.
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
    /// `classifyOut`, reset before each call.
    pub out: u64,
    /// Address of an array of flow contexts. Rounds use them in turn. Their number
    /// is a power of two.
    pub flows: u64,
    /// Number of flow contexts minus one.
    pub flow_mask: u64,
}

/// A list of calls, made repeatedly.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    /// The first call.
    pub calls: *const Call,
    /// Number of calls.
    pub count: u64,
    /// Number of rounds.
    pub rounds: u64,
    /// Number of the first round, which selects the flow.
    pub first_round: u64,
    /// Not 0: set the trap flag for each call.
    pub stepped: u64,
}

/// Offsets of action and rights in `FWPS_CLASSIFY_OUT0` (`fwpstypes.h`).
const ACTION: usize = 0;
const RIGHTS: usize = 24;
/// The action before the first callout: no filter matched.
const NOTHING: u32 = 8;
const MAY_WRITE: u32 = 1;

/// Makes the calls of `walk`, with the x64 calling convention.
///
/// # Safety
/// Called as driver code on a kernel stack. All pointers in `walk` are valid.
#[unsafe(naked)]
pub unsafe extern "win64" fn spin(walk: *const Walk) {
    naked_asm!(
        "push rbx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r12",
        // Space for seven arguments; keeps the stack aligned.
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
        // The trap follows the first instruction that starts with the flag set.
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

/// Most instructions in one trace.
const MOST_STEPS: usize = 1 << 16;

type Registers = [i64; 23];

/// Filled by the signal handler. Its memory is allocated before the trace starts.
struct Recorder {
    image: Range<u64>,
    steps: Vec<Registers>,
    overflowed: bool,
}

thread_local! {
    /// Set during a trace. Without a destructor, because the signal handler reads
    /// it.
    static RECORDER: Cell<*mut Recorder> = const { Cell::new(std::ptr::null_mut()) };
}

/// Records a step of this thread's trace. Returns whether a trace is running. Runs
/// in the signal handler, so it does only what a signal handler may.
pub(super) fn record(registers: &Registers) -> bool {
    // SAFETY: `trace` sets it to its own local until the trace ends. The
    // interrupted thread owns that local and is inside `trace`.
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

/// Memory that an instruction read or wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The address of the instruction.
    pub from: u64,
    /// The first byte's address.
    pub address: u64,
    /// Number of bytes.
    pub size: u64,
    /// Whether it was a write.
    pub write: bool,
}

/// What the driver executed in a call.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Addresses of the driver's instructions, in order. A repeated string
    /// instruction is listed once per repetition.
    pub instructions: Vec<u64>,
    /// Addresses of instructions with a locked access: a `lock` prefix, or `xchg`
    /// with memory.
    pub locked: Vec<u64>,
    /// Memory accesses, without those to the kernel stack.
    pub accesses: Vec<Access>,
    /// Slots of the import table that were called through.
    pub imports: Vec<u64>,
}

/// Runs `f`, which calls into the image by a stepped [`Walk`]. Returns `f`'s result
/// and the trace of the image's instructions.
///
/// # Panics
/// If the trace has more instructions than can be recorded.
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
