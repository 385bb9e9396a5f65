//! Steps from a frame of driver code to its caller, as RtlVirtualUnwind does.
//!
//! An exception in an epilogue is not followed: its instructions, `pop` and `ret`, fault
//! only if the stack is destroyed.
#![forbid(unsafe_code)]

use super::super::places;
use super::super::stack::Control;
use super::registers::{RSP, Registers};
use super::tables::{Code, Function, Handler, Info};

/// A frame of driver code, and its caller.
pub(super) struct Step {
    /// The image's address.
    pub base: u64,
    /// `RUNTIME_FUNCTION`, relative to the image; 0 for a leaf.
    pub entry: u32,
    /// What identifies the frame to its handlers: the value of rsp after the prologue, or
    /// of the frame register without its offset.
    pub establisher: u64,
    /// The handler that is called for exceptions at this instruction.
    pub handler: Option<Handler>,
    /// The caller's registers.
    pub caller: Registers,
}

/// The frame in which `registers` are. `None` if it is not driver code, or if the stack
/// is destroyed.
pub(super) fn step(control: &Control, registers: &Registers) -> Option<Step> {
    let found = places::find(registers.rip)?;
    let (file, rva) = (&*found.file, found.rva);
    let base = registers.rip - u64::from(rva);
    let Some(function) = Function::find(file, rva) else {
        let mut caller = *registers;
        pop_return(control, &mut caller)?;
        let establisher = registers.general[RSP];
        return Some(Step { base, entry: 0, establisher, handler: None, caller });
    };
    let chain = Info::chain(file, function)?;
    // Of a part of a function that is chained, the prologue has run.
    let offset = rva - function.begin;
    let first = chain.first()?;
    let establisher = match first.frame {
        Some((register, distance))
            if first.chained.is_some()
                || offset >= first.prologue_size
                || first.codes.iter().any(|(end, code)| *code == Code::SetFrame && offset >= *end) =>
        {
            registers.general[usize::from(register)].wrapping_sub(distance)
        }
        _ => registers.general[RSP],
    };
    let mut caller = *registers;
    let mut returned = false;
    for (depth, info) in chain.iter().enumerate() {
        for (_, code) in info.codes.iter().filter(|(end, _)| depth > 0 || offset >= *end) {
            returned |= undo(control, &mut caller, *code, info, establisher)?;
        }
    }
    if !returned {
        pop_return(control, &mut caller)?;
    }
    let primary = chain.last()?;
    let is_in_body = chain.len() > 1 || offset >= primary.prologue_size;
    let handler = primary.handler.filter(|_| is_in_body);
    // Callers are at higher addresses. Otherwise the stack is destroyed.
    let is_above = caller.general[RSP] > registers.general[RSP];
    is_above.then_some(Step { base, entry: function.entry, establisher, handler, caller })
}

/// Undoes one instruction of a prologue. Returns whether it gave the return address.
fn undo(
    control: &Control,
    registers: &mut Registers,
    code: Code,
    info: &Info,
    establisher: u64,
) -> Option<bool> {
    match code {
        Code::Push(register) => {
            registers.general[usize::from(register)] = pop(control, registers)?;
        }
        Code::Allocate(size) => {
            registers.general[RSP] = registers.general[RSP].wrapping_add(size.into());
        }
        Code::SetFrame => {
            let (register, distance) = info.frame?;
            registers.general[RSP] = registers.general[usize::from(register)].wrapping_sub(distance);
        }
        Code::Save(register, offset) => {
            let at = establisher.wrapping_add(offset.into());
            registers.general[usize::from(register)] = control.word(at)?;
        }
        Code::SaveVector(register, offset) => {
            let at = establisher.wrapping_add(offset.into());
            let halves = [control.word(at)?, control.word(at.wrapping_add(8))?];
            registers.vector[usize::from(register)] = u128::from(halves[0]) | u128::from(halves[1]) << 64;
        }
        Code::MachineFrame(has_error) => {
            let at = registers.general[RSP].wrapping_add(if has_error { 8 } else { 0 });
            registers.rip = control.word(at)?;
            registers.general[RSP] = control.word(at.wrapping_add(24))?;
            return Some(true);
        }
    }
    Some(false)
}

fn pop(control: &Control, registers: &mut Registers) -> Option<u64> {
    let value = control.word(registers.general[RSP])?;
    registers.general[RSP] = registers.general[RSP].wrapping_add(8);
    Some(value)
}

fn pop_return(control: &Control, registers: &mut Registers) -> Option<()> {
    registers.rip = pop(control, registers)?;
    Some(())
}
