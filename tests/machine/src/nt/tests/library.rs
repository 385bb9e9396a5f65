//! Functions of the run-time library and the executive that many drivers of others import.

use super::super::Irql;
use super::super::addresses::{RtlIpv4AddressToStringW, RtlIpv6AddressToStringW};
use super::super::conversions::{RtlDowncaseUnicodeString, RtlUpcaseUnicodeChar};
use super::super::fwp::FwpmFreeMemory0;
use super::super::interlocked::*;
use super::super::rtl::{ExSystemTimeToLocalTime, RtlRandomEx, RtlTimeToTimeFields};
use super::super::types::{Address, LIST_ENTRY, UNICODE_STRING};
use super::{clean, drive, machine, peek};

fn at<T>(value: &T) -> Address {
    &raw const *value as Address
}

fn string(units: &[u16]) -> UNICODE_STRING {
    let length = 2 * units.len() as u16;
    UNICODE_STRING { Length: length, MaximumLength: length, Buffer: units.as_ptr() as Address }
}

#[test]
fn strings_and_characters_change_their_case() {
    let kernel = machine();
    let (from, room) = ("ÄB c".encode_utf16().collect::<Vec<u16>>(), [0u16; 4]);
    let (source, target) = (string(&from), string(&room));
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        assert_eq!(RtlDowncaseUnicodeString(at(&target), at(&source), 0), 0);
        RtlUpcaseUnicodeChar('ä' as u16)
    });
    assert_eq!(clean(&kernel, outcome), 'Ä' as u16);
    let units: [u16; 4] = peek(at(&room));
    assert_eq!(String::from_utf16(&units).unwrap(), "äb c");
}

#[test]
fn a_time_has_fields() {
    let kernel = machine();
    // 2000-02-29 12:34:56.789, a Tuesday, in 100 ns since 1601.
    let (time, fields, local) = (125_963_012_967_890_000_i64, [0i16; 8], 0i64);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        RtlTimeToTimeFields(at(&time), at(&fields));
        ExSystemTimeToLocalTime(at(&time), at(&local));
    });
    clean(&kernel, outcome);
    assert_eq!(peek::<[i16; 8]>(at(&fields)), [2000, 2, 29, 12, 34, 56, 789, 2]);
    assert_eq!(peek::<i64>(at(&local)), time, "the machine's zone is UTC");
}

#[test]
fn addresses_become_text_and_the_end_is_returned() {
    let kernel = machine();
    let (v4, v6) = ([10u8, 77, 0, 1], [0xFDu8, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let room = [0xFFFFu16; 46];
    for (expected, call) in [
        ("10.77.0.1", Box::new(|| RtlIpv4AddressToStringW(at(&v4), at(&room))) as Box<dyn Fn() -> Address>),
        ("fd77::1", Box::new(|| RtlIpv6AddressToStringW(at(&v6), at(&room)))),
    ] {
        let outcome = drive(&kernel, Irql::PASSIVE, &call);
        let end = clean(&kernel, outcome);
        assert_eq!(end, at(&room) + 2 * expected.len());
        let units: [u16; 46] = peek(at(&room));
        assert_eq!(String::from_utf16(&units[..expected.len()]).unwrap(), expected);
        assert_eq!(units[expected.len()], 0);
    }
}

#[test]
fn lists_are_changed_under_their_lock() {
    let kernel = machine();
    let (lock, head) = (0usize, LIST_ENTRY::zeroed());
    let entries = [LIST_ENTRY::zeroed(); 3];
    let [one, two, three] = [at(&entries[0]), at(&entries[1]), at(&entries[2])];
    super::poke(at(&head), LIST_ENTRY { Flink: at(&head), Blink: at(&head) });
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let lock = at(&lock);
        assert_eq!(ExInterlockedRemoveHeadList(at(&head), lock), 0);
        assert_eq!(ExInterlockedInsertTailList(at(&head), two, lock), 0);
        assert_eq!(ExInterlockedInsertTailList(at(&head), three, lock), two);
        assert_eq!(ExInterlockedInsertHeadList(at(&head), one, lock), two);
        for entry in [one, two, three, 0] {
            assert_eq!(ExInterlockedRemoveHeadList(at(&head), lock), entry);
        }
    });
    clean(&kernel, outcome);
    assert_eq!(peek::<usize>(at(&lock)), 0, "the lock is free");
}

#[test]
fn random_numbers_differ_and_repeat_with_their_seed() {
    let kernel = machine();
    let seed = 7u32;
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let first = RtlRandomEx(at(&seed));
        let second = RtlRandomEx(at(&seed));
        super::poke(at(&seed), 7u32);
        (first, second, RtlRandomEx(at(&seed)))
    });
    let (first, second, again) = clean(&kernel, outcome);
    assert!(first != second && first == again && first < 0x7FFF_FFFF);
    let pointer: Address = 0;
    let outcome = drive(&kernel, Irql::PASSIVE, || FwpmFreeMemory0(at(&pointer)));
    clean(&kernel, outcome);
}
