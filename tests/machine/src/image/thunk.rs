//! Import slots that switch from the driver's stack to the host's.
//!
//! Each export gets 32 bytes of code. They load the export's address and its number
//! of stack arguments, and jump to one gate. The gate leaves a frame on the kernel
//! stack, copies the stack arguments to the host's stack, and runs the body there.
//! So a body may use any amount of stack.
#![expect(unsafe_code, reason = "writes code and switches stacks")]

use std::arch::naked_asm;
use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::dispatch::{ALLOWED, BLOCKED};
use super::seh::Registers;
use super::stack::{BLOCK, Control};

/// Most arguments of a function that [`super::call`] calls or [`bind`] binds,
/// including those in registers. FwpsConstructIpHeaderForTransportPacket0 has 13.
pub const MAX_ARGUMENTS: usize = 16;

/// What an import is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Export {
    /// An `extern "win64"` function.
    Code {
        /// Its address.
        address: usize,
        /// Arguments beyond the four in registers.
        stack_arguments: u8,
    },
    /// A variable; the import slot holds its address.
    Data {
        /// Its address.
        address: usize,
    },
    /// A function that nobody provides. A call runs this `extern "win64"` function
    /// instead; its only argument is the number for [`name_of_missing`].
    Missing {
        /// Its address.
        address: usize,
    },
}

impl Export {
    /// An `extern "win64"` function with `arguments` arguments in all.
    ///
    /// # Panics
    /// If there are more than [`MAX_ARGUMENTS`].
    pub fn code(function: *const c_void, arguments: usize) -> Self {
        assert!(arguments <= MAX_ARGUMENTS, "at most {MAX_ARGUMENTS} arguments");
        Self::Code {
            address: function.expose_provenance(),
            stack_arguments: arguments.saturating_sub(4) as u8,
        }
    }

    /// A function that nobody provides; `function` reports the call.
    pub fn missing(function: extern "win64" fn(u32)) -> Self {
        Self::Missing { address: (function as *const c_void).expose_provenance() }
    }

    /// A variable.
    pub fn data(variable: *const c_void) -> Self {
        Self::Data { address: variable.expose_provenance() }
    }
}

/// The address that driver code uses for an export. Equal arguments give equal
/// addresses, so that pointers compare equal.
///
/// Used for import slots and for the result of MmGetSystemRoutineAddress. Only
/// driver code may call the address: the code there expects a kernel stack.
pub fn bind(module: &str, name: &str, export: Export) -> io::Result<u64> {
    if let Export::Data { address } = export {
        return Ok(address as u64);
    }
    let mut thunks = THUNKS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (format!("{module}!{name}"), export);
    if let Some(&thunk) = thunks.bound.get(&key) {
        return Ok(thunk);
    }
    let number = thunks.names.len() as u32;
    let (address, thunk) = match export {
        Export::Data { address } => (address, address as u64),
        Export::Code { address, stack_arguments } => {
            (address, thunks.add(address as u64, u32::from(stack_arguments), None)?)
        }
        Export::Missing { address } => {
            thunks.missing.insert(address as u64);
            (address, thunks.add(address as u64, 0, Some(number))?)
        }
    };
    thunks.names.push((thunk, address as u64, key.0.clone()));
    thunks.bound.insert(key, thunk);
    Ok(thunk)
}

/// The name of the missing function with this number, as `module!name`.
pub fn name_of_missing(number: u32) -> Option<String> {
    let thunks = THUNKS.lock().unwrap_or_else(PoisonError::into_inner);
    thunks.names.get(number as usize).map(|(_, _, name)| name.clone())
}

/// The export whose body is at `body`, as `module!name`. `first`: the first argument,
/// which tells missing functions apart.
pub(super) fn name_of_body(body: u64, first: Option<u64>) -> Option<String> {
    let thunks = THUNKS.lock().unwrap_or_else(PoisonError::into_inner);
    if thunks.missing.contains(&body) {
        return thunks.names.get(first? as u32 as usize).map(|(_, _, name)| name.clone());
    }
    thunks.names.iter().find(|&&(_, address, _)| address == body).map(|(_, _, name)| name.clone())
}

/// Whether an address is in the gate, the common code of all thunks.
pub(super) fn is_gate(address: u64) -> bool {
    // The gate's code is shorter than this. The code after it never runs on a
    // kernel stack.
    const LENGTH: u64 = 320;
    address.checked_sub(gate as *const () as u64).is_some_and(|offset| offset < LENGTH)
}

/// The export whose thunk holds `address`, as `module!name`.
pub(super) fn name_of_thunk(address: u64) -> Option<String> {
    let thunks = THUNKS.lock().unwrap_or_else(PoisonError::into_inner);
    let holds = |start: u64| (start..start + THUNK as u64).contains(&address);
    thunks.names.iter().find(|&&(start, _, _)| holds(start)).map(|(_, _, name)| name.clone())
}

/// The frame that the gate keeps on the kernel stack while a body runs.
pub(super) struct ImportFrame {
    /// The next outer frame; 0 for none.
    pub outer: u64,
    /// The export's body.
    pub body: u64,
    /// The driver's registers after the export returns.
    pub return_address: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rbx: u64,
}

impl ImportFrame {
    /// Reads the frame at `address`. The gate pushed, in this order: return
    /// address, rbp, rbx, body, outer frame.
    pub fn at(control: &Control, address: u64) -> Option<Self> {
        Some(Self {
            outer: control.word(address)?,
            body: control.word(address + 8)?,
            rbx: control.word(address + 16)?,
            rbp: control.word(address + 24)?,
            return_address: control.word(address + 32)?,
            rsp: address + 40,
        })
    }

    /// The export whose body runs, as `module!name`.
    pub fn name(&self, control: &Control) -> Option<String> {
        // The gate has stored the register arguments in the home space.
        name_of_body(self.body, control.word(self.rsp))
    }
}

/// The driver's registers that an export preserves, besides rbx and rbp. The gate
/// stores them at the top of the host's stack, because a body that does not return
/// restores nothing.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Preserved {
    /// xmm6 to xmm15.
    vector: [u128; 10],
    /// rdi, rsi, r12 to r15.
    general: [u64; 6],
}

const PRESERVED: usize = size_of::<Preserved>();

impl Preserved {
    /// Puts them to the other registers.
    pub fn restore(&self, registers: &mut Registers) {
        registers.vector[6..].copy_from_slice(&self.vector);
        // By their numbers in unwind codes.
        for (number, value) in [7, 6, 12, 13, 14, 15].into_iter().zip(self.general) {
            registers.general[number] = value;
        }
    }
}

/// What the gate stored for the export body that runs. `None` if none runs.
pub(super) fn preserved(control: &Control) -> Option<Preserved> {
    let top = control.host_rsp.get();
    if top == 0 || control.kernel_rsp.get() == 0 {
        return None;
    }
    let place = std::ptr::with_exposed_provenance::<Preserved>(top as usize - PRESERVED);
    // SAFETY: while a body runs, the gate's words are at the top of the host's stack,
    // which is aligned to 16 bytes. Otherwise they are other words of that stack, whose
    // values are not used.
    Some(unsafe { place.read() })
}

const THUNK: usize = 32;
const ARENA: usize = 1 << 20;

static THUNKS: LazyLock<Mutex<Thunks>> = LazyLock::new(|| Mutex::new(Thunks::default()));

/// Thunks are written through one mapping and executed through another, so that no
/// page is both writable and executable. They live until the process ends.
#[derive(Default)]
struct Thunks {
    arena: Option<(usize, usize)>,
    used: usize,
    bound: HashMap<(String, Export), u64>,
    names: Vec<(u64, u64, String)>,
    /// The functions that report calls of missing ones.
    missing: BTreeSet<u64>,
}

impl Thunks {
    /// Writes a thunk. `first` replaces the first argument.
    fn add(&mut self, target: u64, stack_arguments: u32, first: Option<u32>) -> io::Result<u64> {
        let (write, execute) = match self.arena {
            Some(arena) => arena,
            None => *self.arena.insert(map_arena()?),
        };
        if self.used + THUNK > ARENA {
            return Err(io::Error::other("no room for another import thunk"));
        }
        let mut code = [0xCC; THUNK];
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            code[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        put(&[0x49, 0xBB]); // mov r11, target
        put(&target.to_le_bytes());
        match first {
            None => {
                put(&[0x41, 0xBA]); // mov r10d, stack arguments
                put(&stack_arguments.to_le_bytes());
            }
            Some(first) => {
                put(&[0x45, 0x31, 0xD2]); // xor r10d, r10d
                put(&[0xB9]); // mov ecx, first
                put(&first.to_le_bytes());
            }
        }
        put(&[0x48, 0xB8]); // mov rax, gate
        put(&(gate as *const () as u64).to_le_bytes());
        put(&[0xFF, 0xE0]); // jmp rax
        let place = std::ptr::with_exposed_provenance_mut::<[u8; THUNK]>(write + self.used);
        // SAFETY: 32 unused bytes of the writable mapping, under the lock.
        unsafe { place.write(code) };
        let thunk = (execute + self.used) as u64;
        self.used += THUNK;
        Ok(thunk)
    }
}

/// Maps the pages of all thunks now rather than with the first one.
pub(super) fn prepare() -> io::Result<()> {
    let mut thunks = THUNKS.lock().unwrap_or_else(PoisonError::into_inner);
    if thunks.arena.is_none() {
        thunks.arena = Some(map_arena()?);
    }
    Ok(())
}

fn map_arena() -> io::Result<(usize, usize)> {
    let file: OwnedFd =
        nix::sys::memfd::memfd_create(c"import thunks", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&file, ARENA as i64)?;
    let map = |protection| {
        // SAFETY: a new mapping of our own file at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), ARENA, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(start.expose_provenance()),
        }
    };
    Ok((map(libc::PROT_READ | libc::PROT_WRITE)?, map(libc::PROT_READ | libc::PROT_EXEC)?))
}

/// Runs an export's body on the host's stack.
///
/// On entry, `r11` holds the body and `r10` the number of stack arguments. All
/// other registers and the stack are as the x64 convention defines them at a
/// function's first instruction. The body is compiled as `extern "win64"`, so it
/// preserves rdi, rsi and xmm6 to xmm15, which host code would clobber.
///
/// # Safety
/// Only a thunk jumps here, on a thread's kernel stack inside a call.
#[unsafe(naked)]
unsafe extern "win64" fn gate() {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        // The home space belongs to the callee. Store the register arguments there,
        // so that all arguments are contiguous for `arguments`.
        "mov [rbp + 0x10], rcx",
        "mov [rbp + 0x18], rdx",
        "mov [rbp + 0x20], r8",
        "mov [rbp + 0x28], r9",
        "push rbx",
        "push r11",
        "mov rbx, rsp",
        "and rbx, {block}",
        "mov byte ptr [rbx + {selector}], {allowed}",
        "inc qword ptr [rbx + {crossings}]",
        "push qword ptr [rbx + {kernel_rsp}]",
        "mov [rbx + {kernel_rsp}], rsp",
        "mov rsp, [rbx + {host_rsp}]",
        "sub rsp, {preserved}",
        "movaps [rsp], xmm6",
        "movaps [rsp + 16], xmm7",
        "movaps [rsp + 32], xmm8",
        "movaps [rsp + 48], xmm9",
        "movaps [rsp + 64], xmm10",
        "movaps [rsp + 80], xmm11",
        "movaps [rsp + 96], xmm12",
        "movaps [rsp + 112], xmm13",
        "movaps [rsp + 128], xmm14",
        "movaps [rsp + 144], xmm15",
        "mov [rsp + 160], rdi",
        "mov [rsp + 168], rsi",
        "mov [rsp + 176], r12",
        "mov [rsp + 184], r13",
        "mov [rsp + 192], r14",
        "mov [rsp + 200], r15",
        // An even number of words keeps the stack aligned.
        "lea rax, [r10 * 8 + 8]",
        "and rax, -16",
        "sub rsp, rax",
        "2:",
        "test r10, r10",
        "jz 3f",
        // Saved rbp, return address and home space lie below the arguments.
        "mov rax, [rbp + r10 * 8 + 0x28]",
        "mov [rsp + r10 * 8 - 8], rax",
        "dec r10",
        "jmp 2b",
        "3:",
        "sub rsp, 32",
        "call r11",
        "mov rsp, [rbx + {kernel_rsp}]",
        "pop qword ptr [rbx + {kernel_rsp}]",
        "mov byte ptr [rbx + {selector}], {blocked}",
        "add rsp, 8",
        "cmp qword ptr [rbx + {stepped}], 0",
        "pop rbx",
        "pop rbp",
        "je 4f",
        // The trap follows the return, in the driver.
        "pushfq",
        "or dword ptr [rsp], 0x100",
        "popfq",
        "4:",
        "ret",
        host_rsp = const offset_of!(Control, host_rsp),
        kernel_rsp = const offset_of!(Control, kernel_rsp),
        stepped = const offset_of!(Control, stepped),
        crossings = const offset_of!(Control, shared.crossings),
        selector = const offset_of!(Control, shared.selector),
        allowed = const ALLOWED,
        blocked = const BLOCKED,
        block = const -(BLOCK as isize),
        preserved = const PRESERVED,
    )
}
