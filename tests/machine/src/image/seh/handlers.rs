//! `__C_specific_handler`: the handler of functions with `__try`.

#![forbid(unsafe_code)]

use super::super::places;
use super::super::report::Stop;
use super::super::stack::Control;
use super::tables::{Scope, scopes};
use super::{CONTINUE_EXECUTION, SCOPE_INDEX, TARGET_UNWIND, Target, UNWINDING, call, pass_on};

/// `EXCEPTION_DISPOSITION`: the frames above are searched.
const CONTINUE_SEARCH: u32 = 1;

/// What a handler reads of its arguments.
struct Call {
    code: u32,
    flags: u32,
    establisher: u64,
    record: u64,
    context: u64,
    dispatcher: u64,
    base: u64,
    /// Relative to the image.
    pc: u32,
    target: u32,
    scopes: Vec<Scope>,
    first: usize,
}

impl Call {
    fn read(control: &Control, arguments: [u64; 4]) -> Option<Self> {
        let [record, establisher, context, dispatcher] = arguments;
        let head = control.word(record)?;
        let word = |offset: u64| control.word(dispatcher + offset);
        let (pc, base, target, data) = (word(0)?, word(8)?, word(32)?, word(56)?);
        let found = places::find(data)?;
        Some(Self {
            code: head as u32,
            flags: (head >> 32) as u32,
            establisher,
            record,
            context,
            dispatcher,
            base,
            pc: pc.wrapping_sub(base) as u32,
            target: target.wrapping_sub(base) as u32,
            scopes: scopes(&found.file, found.rva)?,
            first: word(SCOPE_INDEX)? as u32 as usize,
        })
    }
}

/// `__C_specific_handler` with its four arguments. Returns its disposition; `None` if
/// the arguments are not those of a handler. It does not return if a block of the
/// driver takes the exception.
pub fn c_specific_handler(arguments: [u64; 4]) -> Result<Option<u32>, Stop> {
    let Some(control) = Control::existing() else { return Ok(None) };
    let Some(it) = Call::read(control, arguments) else { return Ok(None) };
    let outcome = match it.flags & UNWINDING {
        0 => search(control, &it),
        _ => unwind(control, &it),
    };
    // The call may be left below.
    drop(it);
    match outcome? {
        Outcome::Returns(disposition) => Ok(Some(disposition)),
        Outcome::Unwinds(target) => pass_on(control, target),
    }
}

enum Outcome {
    Returns(u32),
    Unwinds(Target),
}

/// Asks the filters of the scopes around the instruction.
fn search(control: &Control, it: &Call) -> Result<Outcome, Stop> {
    for scope in it.scopes.iter().skip(it.first).filter(|scope| scope.target != 0) {
        if !(scope.begin..scope.end).contains(&it.pc) {
            continue;
        }
        if scope.handler != Scope::ALWAYS {
            let answer = ask(control, it, it.base + u64::from(scope.handler))?;
            if let Some(target) = control.handling.target.take() {
                return Ok(Outcome::Unwinds(target));
            }
            match answer {
                ..0 => return Ok(Outcome::Returns(CONTINUE_EXECUTION)),
                0 => continue,
                1.. => {}
            }
        }
        let ip = it.base + u64::from(scope.target);
        return Ok(Outcome::Unwinds(Target { frame: it.establisher, ip, value: it.code.into() }));
    }
    Ok(Outcome::Returns(CONTINUE_SEARCH))
}

/// Calls a filter with `EXCEPTION_POINTERS`. Returns its answer (`EXCEPTION_*`, `excpt.h`).
fn ask(control: &Control, it: &Call, filter: u64) -> Result<i32, Stop> {
    let floor = control.floor.get();
    let pointers = control.next_frame() - 16;
    if control.has_room(pointers) {
        control.set_word(pointers, it.record);
        control.set_word(pointers + 8, it.context);
        control.floor.set(pointers);
    }
    // Without room, the call reports that the stack is exhausted.
    let answer = call(control, filter, &[pointers, it.establisher]);
    control.floor.set(floor);
    answer.map(|answer| answer as u32 as i32)
}

/// Runs the `__finally` blocks of the scopes that are left.
fn unwind(control: &Control, it: &Call) -> Result<Outcome, Stop> {
    let is_target = it.flags & TARGET_UNWIND != 0;
    let holds_target = |scope: &Scope| (scope.begin..scope.end).contains(&it.target);
    for (index, scope) in it.scopes.iter().enumerate().skip(it.first) {
        if !(scope.begin..scope.end).contains(&it.pc) {
            continue;
        }
        // The target is in another part of the same scope, so it is not left.
        let same = |other: &Scope| other.handler == scope.handler && other.target == scope.target;
        if is_target && it.scopes.iter().any(|other| same(other) && holds_target(other)) {
            break;
        }
        if scope.target != 0 {
            if is_target && it.target == scope.target {
                break;
            }
            continue;
        }
        // Another unwind out of the block continues after this scope.
        control.set_word(it.dispatcher + SCOPE_INDEX, index as u64 + 1);
        call(control, it.base + u64::from(scope.handler), &[1, it.establisher])?;
        if let Some(target) = control.handling.target.take() {
            return Ok(Outcome::Unwinds(target));
        }
    }
    Ok(Outcome::Returns(CONTINUE_SEARCH))
}
