//! A driver with one routine for each test.
//!
//! DriverEntry writes their addresses into the table that it gets, in the order of
//! `Routine` in `harness.rs`.
#![no_std]
#![allow(non_snake_case, non_upper_case_globals, reason = "names of the NT API")]

use core::arch::asm;
use core::hint::black_box;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn KeBugCheckEx(code: u32, a: u64, b: u64, c: u64, d: u64) -> !;
    static LabNumber: u32;
}

#[link(name = "fwpkclnt.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn LabTen(
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        e: u64,
        f: u64,
        g: u64,
        h: u64,
        i: u64,
        j: u64,
    ) -> u64;
    fn LabCallback(routine: extern "system" fn(u64) -> u64, argument: u64) -> u64;
    fn LabRead(pointer: u64) -> u64;
    fn LabClobber();
}

pub static COUNTERS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static ROUTINES: [extern "system" fn(u64) -> u64; 16] = [
    read,
    write,
    recurse,
    cr8,
    fail,
    nested,
    ten,
    registers,
    read_by_export,
    instruction,
    jump,
    spend,
    count,
    number,
    depth,
    brink,
];

#[unsafe(no_mangle)]
pub unsafe extern "system" fn DriverEntry(table: *mut u64, magic: u64) -> i32 {
    for (index, routine) in ROUTINES.iter().enumerate() {
        unsafe { table.add(index).write(*routine as usize as u64) };
    }
    if magic == 0x1122_3344_5566_7788 {
        0
    } else {
        -1
    }
}

#[inline(always)]
fn load(address: u64) -> u64 {
    unsafe { (address as *const u64).read_volatile() }
}

extern "system" fn read(address: u64) -> u64 {
    load(address)
}

extern "system" fn write(address: u64) -> u64 {
    unsafe { (address as *mut u64).write_volatile(1) };
    0
}

#[inline(never)]
extern "system" fn recurse(depth: u64) -> u64 {
    let mut frame = [depth; 32];
    black_box(&mut frame);
    if depth == 0 {
        frame[0]
    } else {
        recurse(depth - 1) + frame[31]
    }
}

extern "system" fn cr8(_: u64) -> u64 {
    let level;
    unsafe { asm!("mov {}, cr8", out(reg) level) };
    level
}

extern "system" fn fail(index: u64) -> u64 {
    // The test looks for this line.
    [1, 2, 3][black_box(index) as usize]
}

#[inline(never)]
extern "system" fn nested(argument: u64) -> u64 {
    1 + unsafe { LabCallback(called_back, argument) }
}

extern "system" fn called_back(argument: u64) -> u64 {
    match argument {
        0..0x100 => argument * 2,
        0x100 => 1 + nested(0x1000),
        address => load(address),
    }
}

extern "system" fn ten(_: u64) -> u64 {
    unsafe { LabTen(1, 2, 3, 4, 5, 6, 7, 8, 9, 10) }
}

/// Fills every nonvolatile register, calls an export, and returns a bit for each register
/// that changed.
extern "system" fn registers(_: u64) -> u64 {
    let changed: u64;
    macro_rules! with_xmm {
        ($($register:literal)*) => {
            unsafe {
                asm!(
                    "push rbx",
                    "push rbp",
                    "sub rsp, 32",
                    "mov rbx, 0x1001", "mov rbp, 0x1002", "mov rsi, 0x1003", "mov rdi, 0x1004",
                    "mov r12, 0x1005", "mov r13, 0x1006", "mov r14, 0x1007", "mov r15, 0x1008",
                    $(concat!("mov eax, 0x20", $register),
                      concat!("movq xmm", $register, ", rax"),
                      concat!("punpcklqdq xmm", $register, ", xmm", $register),)*
                    "call {export}",
                    "xor eax, eax",
                    $(concat!("mov r8d, 0x20", $register),
                      concat!("movq r9, xmm", $register),
                      "xor r9, r8",
                      concat!("punpckhqdq xmm", $register, ", xmm", $register),
                      concat!("movq r10, xmm", $register),
                      "xor r10, r8",
                      "or r9, r10",
                      "neg r9",
                      "adc rax, rax",)*
                    "xor rbx, 0x1001", "neg rbx", "adc rax, rax",
                    "xor rbp, 0x1002", "neg rbp", "adc rax, rax",
                    "xor rsi, 0x1003", "neg rsi", "adc rax, rax",
                    "xor rdi, 0x1004", "neg rdi", "adc rax, rax",
                    "xor r12, 0x1005", "neg r12", "adc rax, rax",
                    "xor r13, 0x1006", "neg r13", "adc rax, rax",
                    "xor r14, 0x1007", "neg r14", "adc rax, rax",
                    "xor r15, 0x1008", "neg r15", "adc rax, rax",
                    "add rsp, 32",
                    "pop rbp",
                    "pop rbx",
                    export = sym call_clobber,
                    out("rax") changed,
                    out("rsi") _, out("rdi") _, out("r12") _, out("r13") _, out("r14") _,
                    out("r15") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                    out("xmm14") _, out("xmm15") _,
                    clobber_abi("win64"),
                );
            }
        };
    }
    with_xmm!("6" "7" "8" "9" "10" "11" "12" "13" "14" "15");
    changed
}

extern "system" fn call_clobber() {
    unsafe { LabClobber() }
}

extern "system" fn read_by_export(address: u64) -> u64 {
    1 + unsafe { LabRead(address) }
}

extern "system" fn instruction(which: u64) -> u64 {
    match which {
        0 => unsafe { asm!("ud2") },
        1 => unsafe { asm!("int3") },
        2 => unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) },
        3 => unsafe { asm!("int 0x29", in("ecx") 7) },
        _ => unsafe { asm!("movaps xmm0, [{}]", in(reg) &raw const COUNTERS as u64 + 8) },
    }
    which
}

extern "system" fn jump(address: u64) -> u64 {
    let routine: extern "system" fn() -> u64 = unsafe { core::mem::transmute(address) };
    1 + routine()
}

extern "system" fn spend(_: u64) -> u64 {
    let mut frame = [0u8; 3000];
    black_box(&mut frame);
    u64::from(frame[0])
}

extern "system" fn count(by: u64) -> u64 {
    COUNTERS[2].fetch_add(by, Ordering::Relaxed)
}

extern "system" fn number(_: u64) -> u64 {
    u64::from(unsafe { LabNumber })
}

/// Calls itself through an export, as often as the argument says.
extern "system" fn depth(left: u64) -> u64 {
    if left == 0 {
        0
    } else {
        1 + unsafe { LabCallback(depth, left - 1) }
    }
}

/// Calls an export after it has used `bytes` of the stack.
extern "system" fn brink(bytes: u64) -> u64 {
    unsafe {
        asm!(
            "mov r12, rsp",
            "sub rsp, {bytes}",
            "call {export}",
            "mov rsp, r12",
            bytes = in(reg) bytes,
            export = sym call_clobber,
            out("r12") _,
            clobber_abi("win64"),
        );
    }
    0
}

/// A symbol that object files with floating point need.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

/// A symbol that the unwind tables of `core` need. Nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn __CxxFrameHandler3() {}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let (file, line) = match info.location() {
        Some(location) => (location.file(), location.line()),
        None => ("", 0),
    };
    let name = file.as_ptr() as u64;
    unsafe { KeBugCheckEx(0xDEAD, name, file.len() as u64, u64::from(line), 0) }
}

/// Functions that the compiler calls and that a prebuilt `core` lacks.
mod memory {
    use core::arch::asm;
    use core::ffi::c_void;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
        unsafe {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _);
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut c_void, byte: i32, count: usize) -> *mut c_void {
        unsafe {
            asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8);
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        for index in 0..count {
            let (a, b) = unsafe { (one.add(index).read_volatile(), other.add(index).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }
}
