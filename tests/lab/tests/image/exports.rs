//! Exports for the test drivers.
#![expect(unsafe_code, reason = "reads what the driver points to")]

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;

use machine::image::{Export, Stop, call, escape};

static LAB_NUMBER: u32 = 4711;

extern "win64" fn bug_check(code: u32, a: u64, b: u64, c: u64, d: u64) -> ! {
    let file = std::ptr::with_exposed_provenance::<u8>(a as usize);
    // SAFETY: the driver's panic handler passes a string's address and length.
    let file = unsafe { std::slice::from_raw_parts(file, b as usize) };
    let text = format!("panic at {}:{c}", String::from_utf8_lossy(file));
    escape(Stop::bug_check(code, [a, b, c, d], text))
}

extern "win64" fn ten(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: u64, i: u64, j: u64) -> u64 {
    let digits = [a, b, c, d, e, f, g, h, i];
    digits.iter().fold(0, |sum, digit| sum * 10 + digit) * 100 + j
}

thread_local! {
    /// The address from which the driver last called `LabCallback`.
    pub static SITE: Cell<Option<u64>> = const { Cell::new(None) };
}

extern "win64" fn callback(routine: *const c_void, argument: u64) -> u64 {
    SITE.set(machine::image::call_site());
    // SAFETY: the driver passes a routine of one argument.
    match unsafe { call(routine, &[argument]) } {
        Ok(value) => value,
        Err(stop) => escape(stop),
    }
}

extern "win64" fn read(pointer: *const u64) -> u64 {
    // SAFETY: none; the tests pass bad pointers on purpose.
    unsafe { pointer.read_volatile() }
}

/// Uses a megabyte of stack and every register that host code may clobber.
extern "win64" fn clobber() {
    black_box(&mut [1u8; 1 << 20]);
    // SAFETY: overwrites registers that are declared as clobbered.
    unsafe {
        std::arch::asm!(
            "pcmpeqb xmm6, xmm6", "pcmpeqb xmm7, xmm7", "pcmpeqb xmm8, xmm8",
            "pcmpeqb xmm9, xmm9", "pcmpeqb xmm10, xmm10", "pcmpeqb xmm11, xmm11",
            "pcmpeqb xmm12, xmm12", "pcmpeqb xmm13, xmm13", "pcmpeqb xmm14, xmm14",
            "pcmpeqb xmm15, xmm15", "xor edi, edi", "xor esi, esi",
            out("rdi") _, out("rsi") _, clobber_abi("sysv64"),
        );
    }
}

extern "win64" fn zero() -> i32 {
    0
}

/// The drivers' imports, by module and name.
pub fn resolve(module: &str, name: &str) -> Option<Export> {
    let code = |function: *const (), arguments| Some(Export::code(function.cast(), arguments));
    match (module, name) {
        ("ntoskrnl.exe", "KeBugCheckEx") => code(bug_check as *const (), 5),
        ("ntoskrnl.exe", "LabNumber") => Some(Export::data((&raw const LAB_NUMBER).cast())),
        ("fwpkclnt.sys", "LabTen") => code(ten as *const (), 10),
        ("fwpkclnt.sys", "LabCallback") => code(callback as *const (), 2),
        ("fwpkclnt.sys", "LabRead") => code(read as *const (), 1),
        ("fwpkclnt.sys", "LabClobber") => code(clobber as *const (), 0),
        ("ntoskrnl.exe", "LabKernel") | ("ndis.sys", "LabNdis") => code(zero as *const (), 0),
        _ => None,
    }
}
