//! Plays what ring 3 lacks for driver code: the IRQL in cr8, the processor's block
//! behind gs, and the page that the kernel shares with programs.
//!
//! It runs in the fault handler, for an instruction of a driver. Only instructions that
//! read these places are played, in the forms that compilers use for them.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::fault::{decode, register};

/// Where the kernel's half has the shared page (`KUSER_SHARED_DATA`, `ntddk.h`).
const SHARED: u64 = 0xFFFF_F780_0000_0000;
const PAGE: u64 = 0x1000;

/// What the kernel gives for the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// The IRQL. `None` if the thread is in no machine.
    pub irql: fn() -> Option<u8>,
    /// Sets the IRQL. `false` if there is no such level.
    pub set_irql: fn(u8) -> bool,
    /// A field of the processor's block: its offset and its size in bytes.
    pub processor: fn(u64, usize) -> Option<u64>,
    /// A field of the shared page.
    pub shared: fn(u64, usize) -> Option<u64>,
    /// Brings a page in that was taken out of memory. `false` if there is none at the
    /// address, or the thread's IRQL forbids it.
    pub bring_in: fn(u64) -> bool,
}

static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// Sets what the kernel gives. The first call counts.
pub fn register_environment(environment: Environment) {
    let _ = ENVIRONMENT.set(environment);
}

/// Brings the page at an address in, if it was taken out of memory.
pub(super) fn bring_in(address: u64) -> bool {
    ENVIRONMENT.get().is_some_and(|environment| (environment.bring_in)(address))
}

/// Plays the instruction that faulted, if it is one of these. Changes the registers.
pub(super) fn play(registers: &mut [i64; 23]) -> bool {
    let rip = registers[libc::REG_RIP as usize] as u64;
    let (Some(environment), Some(instruction)) = (ENVIRONMENT.get(), decode(rip)) else {
        return false;
    };
    let played = match instruction.code() {
        Code::Mov_r64_cr if instruction.op1_register() == Register::CR8 => {
            (environment.irql)().and_then(|irql| set(registers, instruction.op0_register(), irql.into()))
        }
        Code::Mov_cr_r64 if instruction.op0_register() == Register::CR8 => {
            let value = register(registers, instruction.op1_register());
            let level = value.and_then(|value| u8::try_from(value).ok());
            level.filter(|level| (environment.set_irql)(*level)).map(|_| ())
        }
        _ => load(environment, registers, &instruction),
    };
    if played.is_some() {
        registers[libc::REG_RIP as usize] = instruction.next_ip() as i64;
    }
    played.is_some()
}

/// Plays an instruction that reads one of the places.
fn load(environment: &Environment, registers: &mut [i64; 23], instruction: &Instruction) -> Option<()> {
    let memory = (0..instruction.op_count()).find(|&at| instruction.op_kind(at) == OpKind::Memory)?;
    let address = instruction.virtual_address(memory, 0, |name, _, _| register(registers, name))?;
    let size = instruction.memory_size().size();
    let value = match instruction.memory_segment() {
        Register::GS => (environment.processor)(address, size),
        _ if (SHARED..SHARED + PAGE).contains(&address) => (environment.shared)(address - SHARED, size),
        _ => None,
    }?;
    let target = instruction.op0_register();
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx if memory == 1 => set(registers, target, value),
        Mnemonic::Movsx | Mnemonic::Movsxd if memory == 1 => set(registers, target, extended(value, size)),
        Mnemonic::Cmp | Mnemonic::Test => {
            let other = other_operand(registers, instruction, 1 - memory)?;
            let [left, right] = if memory == 0 { [value, other] } else { [other, value] };
            let flags = match instruction.mnemonic() {
                Mnemonic::Cmp => compare(left, right, size),
                _ => flags_of(left & right, size),
            };
            let kept = registers[libc::REG_EFL as usize] & !ARITHMETIC;
            registers[libc::REG_EFL as usize] = kept | flags;
            Some(())
        }
        _ => None,
    }
}

/// The operand that is not in memory: a register or a number.
fn other_operand(registers: &[i64; 23], instruction: &Instruction, at: u32) -> Option<u64> {
    match instruction.op_kind(at) {
        OpKind::Register => {
            let name = instruction.op_register(at);
            (!is_high_byte(name)).then(|| register(registers, name))?
        }
        _ => instruction.try_immediate(at).ok(),
    }
}

/// AH, BH, CH and DH, which no compiler uses here.
fn is_high_byte(name: Register) -> bool {
    matches!(name, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// Writes a register: 32 bits clear the upper half, fewer keep it.
fn set(registers: &mut [i64; 23], name: Register, value: u64) -> Option<()> {
    if is_high_byte(name) {
        return None;
    }
    let old = register(registers, name)?;
    let new = match name.size() {
        8 => value,
        4 => value & 0xFFFF_FFFF,
        2 => old & !0xFFFF | value & 0xFFFF,
        1 => old & !0xFF | value & 0xFF,
        _ => return None,
    };
    registers[super::fault::index(name)?] = new as i64;
    Some(())
}

/// A signed number of `size` bytes in 64 bits.
fn extended(value: u64, size: usize) -> u64 {
    let unused = 64 - 8 * size as u32;
    ((value << unused) as i64 >> unused) as u64
}

/// Carry, parity, adjust, zero, sign and overflow flags.
const ARITHMETIC: i64 = 0x8D5;

/// The flags of a subtraction.
fn compare(left: u64, right: u64, size: usize) -> i64 {
    let mask = u64::MAX >> (64 - 8 * size);
    let (left, right) = (left & mask, right & mask);
    let difference = left.wrapping_sub(right) & mask;
    let sign = 1 << (8 * size - 1);
    let overflow = (left ^ right) & (left ^ difference) & sign != 0;
    let adjust = (left ^ right ^ difference) & 0x10 != 0;
    flags_of(difference, size)
        | if left < right { 1 } else { 0 }
        | if adjust { 0x10 } else { 0 }
        | if overflow { 0x800 } else { 0 }
}

/// The flags of a result without carry and overflow.
fn flags_of(result: u64, size: usize) -> i64 {
    let mask = u64::MAX >> (64 - 8 * size);
    let parity = (result as u8).count_ones().is_multiple_of(2);
    let sign = result >> (8 * size - 1) & 1 != 0;
    (if parity { 4 } else { 0 }) | (if result & mask == 0 { 0x40 } else { 0 }) | (if sign { 0x80 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_processor() {
        // Intel SDM volume 1, 3.4.3.1: carry 1, parity 4, adjust 0x10, zero 0x40, sign
        // 0x80, overflow 0x800.
        assert_eq!(compare(5, 5, 4), 0x40 | 4);
        assert_eq!(compare(0, 1, 1), 1 | 4 | 0x10 | 0x80);
        assert_eq!(compare(0x80, 1, 1), 0x800 | 0x10);
        assert_eq!(compare(0x7F, 0xFF, 1), 1 | 0x80 | 0x800);
        assert_eq!(flags_of(0x8000_0000, 4), 0x80 | 4);
    }

    #[test]
    fn registers_are_written_as_their_size_says() {
        let mut registers = [-1; 23];
        set(&mut registers, Register::EAX, 0x12).unwrap();
        assert_eq!(registers[libc::REG_RAX as usize], 0x12);
        set(&mut registers, Register::CL, 0x34).unwrap();
        assert_eq!(registers[libc::REG_RCX as usize], !0xFF | 0x34);
        assert_eq!(set(&mut registers, Register::AH, 0), None);
        assert_eq!(extended(0xFFFE, 2), u64::MAX - 1);
    }
}
