//! Instructions for ring 0 that the machine models: `mov` from and to cr8.
//!
//! cr8 holds the IRQL (Intel SDM volume 3, 10.8.6). KeGetCurrentIrql, KeRaiseIrql and
//! KeLowerIrql of older WDKs are these instructions (wdm.h).
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use iced_x86::{Code, Instruction, Register};

use super::fault::{register, register_index};

/// What a driver does with cr8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cr8 {
    /// Reads it.
    Read,
    /// Writes a level.
    Write(u64),
}

/// Does what the instruction does. Returns the IRQL afterwards, or `None` if it
/// refuses.
pub type Model = fn(Cr8) -> Option<u8>;

static MODEL: OnceLock<Model> = OnceLock::new();

/// Sets the model of cr8, once. It is called in a signal handler, on a thread that is
/// in driver code, so it may wait for a lock.
pub fn model_cr8(model: Model) {
    let _known = MODEL.get_or_init(|| model);
}

/// Runs the instruction, if it accesses cr8 and the model does not refuse.
pub(super) fn run(registers: &mut [i64; 23], instruction: &Instruction) -> bool {
    let Some(model) = MODEL.get() else { return false };
    let done = match instruction.code() {
        Code::Mov_r64_cr if instruction.op1_register() == Register::CR8 => {
            let to = register_index(instruction.op0_register());
            model(Cr8::Read).zip(to).map(|(level, to)| registers[to] = level.into())
        }
        Code::Mov_cr_r64 if instruction.op0_register() == Register::CR8 => {
            let level = register(registers, instruction.op1_register());
            level.and_then(|level| model(Cr8::Write(level))).map(drop)
        }
        _ => None,
    };
    if done.is_some() {
        registers[libc::REG_RIP as usize] += instruction.len() as i64;
    }
    done.is_some()
}
