//! The registers of driver code, as signals, import gates and `CONTEXT` have them.
#![forbid(unsafe_code)]

use super::super::stack::Control;

/// The numbers of registers in unwind codes and in `CONTEXT`.
pub(super) const RAX: usize = 0;
pub(super) const RBX: usize = 3;
pub(super) const RSP: usize = 4;
pub(super) const RBP: usize = 5;

/// Registers by their numbers in unwind codes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registers {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub general: [u64; 16],
    pub rip: u64,
    pub flags: u64,
    pub vector: [u128; 16],
    pub mxcsr: u32,
}

/// Interrupts are enabled, and bit 1 is always set.
const FLAGS: u64 = 0x202;
/// The value of mxcsr that the x64 convention defines.
const MXCSR: u32 = 0x1F80;

impl Registers {
    pub const fn zeroed() -> Self {
        Self { general: [0; 16], rip: 0, flags: FLAGS, vector: [0; 16], mxcsr: MXCSR }
    }

    /// The registers that a signal saved.
    pub fn of_signal(saved: &[i64; 23], vector: &[u128; 16], mxcsr: u32) -> Self {
        let order = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        Self {
            general: order.map(|index| saved[index as usize] as u64),
            rip: saved[libc::REG_RIP as usize] as u64,
            flags: saved[libc::REG_EFL as usize] as u64,
            vector: *vector,
            mxcsr,
        }
    }
}

/// `CONTEXT` (`wdm.h`, x64) in words on the kernel stack.
pub(super) const CONTEXT_SIZE: u64 = 0x4D0;
/// CONTEXT_AMD64 with control registers, integers and floating point.
const CONTEXT_FULL: u64 = 0x0010_000B;
const FLAGS_OFFSET: u64 = 0x30;
/// The segments, and `EFlags` in the upper half of their second word.
const SEGMENTS: u64 = 0x38;
const EFLAGS: u64 = 0x40;
const GENERAL: u64 = 0x78;
const RIP: u64 = 0xF8;
const FLOAT_MXCSR: u64 = 0x118;
const VECTOR: u64 = 0x1A0;

impl Registers {
    /// Writes them as a `CONTEXT`.
    pub fn write_context(&self, control: &Control, at: u64) {
        for word in (at..at + CONTEXT_SIZE).step_by(8) {
            control.set_word(word, 0);
        }
        control.set_word(at + FLAGS_OFFSET, CONTEXT_FULL | u64::from(self.mxcsr) << 32);
        // The kernel's code segment on x64 is 0x10, its stack segment 0x18.
        control.set_word(at + SEGMENTS, 0x002B_002B_0010);
        control.set_word(at + EFLAGS, 0x18 << 16 | self.flags << 32);
        for (word, value) in (at + GENERAL..).step_by(8).zip(self.general) {
            control.set_word(word, value);
        }
        control.set_word(at + RIP, self.rip);
        control.set_word(at + FLOAT_MXCSR, self.mxcsr.into());
        for (word, value) in (at + VECTOR..).step_by(16).zip(self.vector) {
            control.set_word(word, value as u64);
            control.set_word(word + 8, (value >> 64) as u64);
        }
    }

    /// Reads a `CONTEXT` that a filter may have changed.
    pub fn read_context(control: &Control, at: u64) -> Option<Self> {
        let word = |offset: u64| control.word(at + offset);
        let mut it = Self::zeroed();
        it.mxcsr = (word(FLAGS_OFFSET)? >> 32) as u32;
        it.flags = word(EFLAGS)? >> 32;
        for (offset, value) in (GENERAL..).step_by(8).zip(&mut it.general) {
            *value = word(offset)?;
        }
        it.rip = word(RIP)?;
        for (offset, value) in (VECTOR..).step_by(16).zip(&mut it.vector) {
            *value = u128::from(word(offset)?) | u128::from(word(offset + 8)?) << 64;
        }
        Some(it)
    }
}
