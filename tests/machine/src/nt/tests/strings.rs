//! Conversions of strings, and routines that are told of processes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use super::super::conversions::*;
use super::super::irp::{Access, OpenError};
use super::super::process_routines::PsSetCreateProcessNotifyRoutineEx;
use super::super::types::{Address, PS_CREATE_NOTIFY_INFO, UNICODE_STRING};
use super::super::{Irql, foreign};
use super::{clean, drive, machine, stopped_by};
use crate::status::Status;
use crate::verifier::rules;

fn string(bytes: &[u8], maximum: usize) -> UNICODE_STRING {
    let buffer = bytes.as_ptr().expose_provenance();
    UNICODE_STRING { Length: bytes.len() as u16, MaximumLength: maximum as u16, Buffer: buffer }
}

fn at<T>(value: &T) -> Address {
    std::ptr::from_ref(value).expose_provenance()
}

fn mutable<T>(value: &mut T) -> Address {
    std::ptr::from_mut(value).expose_provenance()
}

#[test]
fn an_ansi_string_is_translated_into_a_buffer_or_into_a_new_one() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let from = string(b"\x80 caf\xE9", 6);
        let (mut room, mut to) = ([0xEEu8; 16], UNICODE_STRING::zeroed());
        (to.MaximumLength, to.Buffer) = (13, mutable(&mut room));
        // There is no room for the terminator.
        let short = RtlAnsiStringToUnicodeString(mutable(&mut to), at(&from), 0);
        to.MaximumLength = 14;
        let fits = RtlAnsiStringToUnicodeString(mutable(&mut to), at(&from), 0);
        let mut new = UNICODE_STRING::zeroed();
        let allocated = RtlAnsiStringToUnicodeString(mutable(&mut new), at(&from), 1);
        let mut upper = UNICODE_STRING::zeroed();
        let cased = RtlUpcaseUnicodeString(mutable(&mut upper), at(&new), 1);
        let prefix = [
            RtlPrefixUnicodeString(at(&new), at(&upper), 0),
            RtlPrefixUnicodeString(at(&new), at(&upper), 1),
        ];
        let mut back = UNICODE_STRING::zeroed();
        let narrow = RtlUnicodeStringToAnsiString(mutable(&mut back), at(&upper), 1);
        let text = foreign::read_bytes(back.Buffer, back.MaximumLength.into()).unwrap_or_default();
        let same = text == b"\x80 CAF\xC9\0";
        drop(text);
        let lengths = [to.Length, new.Length, new.MaximumLength, upper.MaximumLength, back.Length];
        RtlFreeUnicodeString(mutable(&mut new));
        RtlFreeUnicodeString(mutable(&mut upper));
        RtlFreeAnsiString(mutable(&mut back));
        // It is empty now.
        RtlFreeAnsiString(mutable(&mut back));
        ([short, fits, allocated, cased, narrow], prefix, same, lengths, room, back.Buffer)
    });
    let (statuses, prefix, same, lengths, room, freed) = clean(&kernel, outcome);
    assert_eq!(statuses, [Status::BUFFER_OVERFLOW.0, 0, 0, 0, 0]);
    assert_eq!((prefix, same, freed), ([0, 1], true, 0));
    assert_eq!(lengths, [12, 12, 14, 12, 6]);
    assert_eq!(room, *b"\xAC\x20\x20\0c\0a\0f\0\xE9\0\0\0\xEE\xEE");
    assert_eq!(kernel.pool().bytes().0, 0);
}

#[test]
fn utf8_is_translated_there_and_back() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let units: [u16; 5] = [0x61, 0x20AC, 0xD83D, 0xDE00, 0xD83D];
        let (mut utf8, mut count) = ([0u8; 16], 0u32);
        let whole = RtlUnicodeToUTF8N(mutable(&mut utf8), 16, mutable(&mut count), at(&units), 8);
        let length = count;
        let broken = RtlUnicodeToUTF8N(mutable(&mut utf8), 16, mutable(&mut count), at(&units), 10);
        let mut back = [0u16; 8];
        let wide = RtlUTF8ToUnicodeN(mutable(&mut back), 16, mutable(&mut count), at(&utf8), length);
        let size = count;
        let asked = RtlUTF8ToUnicodeN(0, 0, mutable(&mut count), at(&utf8), length);
        let short = RtlUTF8ToUnicodeN(mutable(&mut back), 7, mutable(&mut count), at(&utf8), length);
        let nothing = RtlUTF8ToUnicodeN(0, 0, 0, at(&utf8), length);
        let no_source = RtlUnicodeToUTF8N(mutable(&mut utf8), 16, mutable(&mut count), 0, 2);
        ([whole, broken, wide, asked, short, nothing, no_source], length, size, count, back)
    });
    let (statuses, length, size, _, back) = clean(&kernel, outcome);
    let expected = [
        Status::SUCCESS,
        Status::SOME_NOT_MAPPED,
        Status::SUCCESS,
        Status::SUCCESS,
        Status::BUFFER_TOO_SMALL,
        Status::INVALID_PARAMETER,
        Status::INVALID_PARAMETER_4,
    ];
    assert_eq!(statuses, expected.map(|status| status.0));
    assert_eq!((length, size), (8, 8));
    assert_eq!(back, [0x61, 0x20AC, 0xD83D, 0xDE00, 0, 0, 0, 0]);
}

#[test]
fn a_buffer_that_the_library_has_not_allocated_is_not_freed() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let block = super::super::ex::ExAllocatePool2(0x40, 16, u32::from_le_bytes(*b"hush"));
        let mut string = UNICODE_STRING { Length: 0, MaximumLength: 16, Buffer: block };
        RtlFreeUnicodeString(mutable(&mut string));
    });
    stopped_by(&kernel, outcome, &rules::POOL_WRONG_TAG);
}

/// What the routine was told: the process, and whether it begins.
static TOLD: Mutex<Vec<(usize, bool)>> = Mutex::new(Vec::new());
static ANSWER: AtomicI32 = AtomicI32::new(0);

extern "win64" fn told(_: Address, process: usize, information: Address) {
    TOLD.lock().unwrap().push((process, information != 0));
    if information != 0 {
        let at = information + std::mem::offset_of!(PS_CREATE_NOTIFY_INFO, CreationStatus);
        super::poke(at, ANSWER.load(Ordering::SeqCst));
    }
}

extern "win64" fn removes_itself(_: Address, _: usize, _: Address) {
    PsSetCreateProcessNotifyRoutineEx(removes_itself as *const () as Address, 1);
}

#[test]
fn a_driver_is_told_of_processes_and_may_refuse_them() {
    let kernel = machine();
    let routine = told as *const () as Address;
    let set = |remove| {
        let outcome = drive(&kernel, Irql::PASSIVE, || PsSetCreateProcessNotifyRoutineEx(routine, remove));
        clean(&kernel, outcome)
    };
    assert_eq!([set(0), set(0)], [0, Status::INVALID_PARAMETER.0]);
    let open = |process| match kernel.open(r"\\.\nothing", process, Access::FULL) {
        Err(OpenError::Refused(status)) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(open(100), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(open(100), Status::OBJECT_NAME_NOT_FOUND);
    ANSWER.store(Status::ACCESS_DENIED.0, Ordering::SeqCst);
    assert_eq!(open(104), Status::ACCESS_DENIED);
    kernel.end_process(104);
    kernel.end_process(100);
    assert_eq!(*TOLD.lock().unwrap(), [(100, true), (104, true), (100, false)]);
    assert_eq!([set(1), set(1)], [0, Status::INVALID_PARAMETER.0]);
    kernel.end_process(100);
    assert_eq!(open(108), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(TOLD.lock().unwrap().len(), 3);
}

#[test]
fn a_routine_that_removes_itself_waits_for_itself() {
    let kernel = machine();
    let routine = removes_itself as *const () as Address;
    let outcome = drive(&kernel, Irql::PASSIVE, || PsSetCreateProcessNotifyRoutineEx(routine, 0));
    assert_eq!(clean(&kernel, outcome), 0);
    let _refused = kernel.open(r"\\.\nothing", 112, Access::FULL);
    let stop = kernel.stopped().cloned().map_or(Ok(()), Err);
    stopped_by(&kernel, stop, &rules::PROCESS_ROUTINE_DEADLOCK);
}
