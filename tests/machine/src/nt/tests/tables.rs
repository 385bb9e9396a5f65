//! Generic tables, lookaside lists, interlocked lists, callback objects, and access
//! control lists.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::Irql;
use super::super::avl::*;
use super::super::callbacks::*;
use super::super::ex::*;
use super::super::lookaside::*;
use super::super::ob::ObfDereferenceObject;
use super::super::security::*;
use super::super::slist::*;
use super::super::types::{Address, OBJECT_ATTRIBUTES, RTL_AVL_TABLE, UNICODE_STRING};
use super::{clean, drive, machine, peek, poke, stopped_by};
use crate::status::Status;
use crate::verifier::{Rule, rules};

fn at<T>(value: &T) -> Address {
    std::ptr::from_ref(value) as Address
}

#[track_caller]
fn breaks<R>(rule: &'static Rule, f: impl FnOnce() -> R) {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, f);
    stopped_by(&kernel, outcome, rule);
}

const TAG: u32 = u32::from_le_bytes(*b"tabl");

/// Compares the first words.
extern "win64" fn compare(_: Address, first: Address, second: Address) -> u32 {
    match peek::<u32>(first).cmp(&peek(second)) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Greater => 1,
        std::cmp::Ordering::Equal => 2,
    }
}

extern "win64" fn allocate(_: Address, size: u32) -> Address {
    ExAllocatePool2(0x40, size as usize, TAG)
}

extern "win64" fn free(_: Address, block: Address) {
    ExFreePoolWithTag(block, TAG);
}

#[test]
fn a_table_keeps_its_elements_in_order() {
    let kernel = machine();
    let table = RTL_AVL_TABLE::zeroed();
    let table = at(&table);
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let routines = [compare as *const (), allocate as *const (), free as *const ()];
        let [compare, allocate, free] = routines.map(|routine| routine as Address);
        RtlInitializeGenericTableAvl(table, compare, allocate, free, 0);
        let is_new = 0u8;
        let mut new = 0;
        for key in [5u32, 1, 9, 3, 5, 7] {
            RtlInsertElementGenericTableAvl(table, at(&[key, key * 10]), 8, at(&is_new));
            new += u32::from(peek::<u8>(at(&is_new)));
        }
        let count = RtlNumberGenericTableElementsAvl(table);
        let deleted = [
            RtlDeleteElementGenericTableAvl(table, at(&1u32)),
            RtlDeleteElementGenericTableAvl(table, at(&2u32)),
        ];
        let found = RtlLookupElementGenericTableAvl(table, at(&9u32));
        let value = peek::<u32>(found + 4);
        let missing = RtlLookupElementGenericTableAvl(table, at(&4u32));
        let mut keys = [0u32; 5];
        let mut element = RtlEnumerateGenericTableAvl(table, 1);
        for key in &mut keys {
            if element == 0 {
                break;
            }
            *key = peek(element);
            element = RtlEnumerateGenericTableAvl(table, 0);
        }
        let second = peek::<u32>(RtlGetElementGenericTableAvl(table, 1));
        loop {
            let first = RtlGetElementGenericTableAvl(table, 0);
            if first == 0 {
                break;
            }
            let key = peek::<u32>(first);
            RtlDeleteElementGenericTableAvl(table, at(&key));
        }
        (new, count, deleted, value, missing, keys, second, RtlIsGenericTableEmptyAvl(table))
    });
    let expected = (5, 5, [1, 0], 90, 0, [3, 5, 7, 9, 0], 5, 1);
    assert_eq!(clean(&kernel, outcome), expected);
    assert!(kernel.pool().leaks().is_empty());
}

#[test]
fn a_lookaside_list_allocates_with_its_routines() {
    let kernel = machine();
    let list = [[0u128; 8]; 2];
    let list = at(&list).next_multiple_of(64);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        // NonPagedPoolNx.
        let status = ExInitializeLookasideListEx(list, 0, 0, 512, 0, 48, TAG, 0);
        let block = ExAllocateFromLookasideListEx(list);
        poke(block + 47, 1u8);
        ExFreeToLookasideListEx(list, block);
        ExDeleteLookasideListEx(list);
        // The inline functions of the older structure.
        ExInitializeNPagedLookasideList(list, 0, 0, 512, 48, TAG, 0);
        let empty = ExpInterlockedPopEntrySList(list);
        let depth = (ExQueryDepthSList(list), peek::<u16>(list + 16));
        ExDeleteNPagedLookasideList(list);
        (status, block != 0, empty, depth)
    });
    assert_eq!(clean(&kernel, outcome), (0, true, 0, (0, 0)));
    assert!(kernel.pool().leaks().is_empty());
    let initialize = |at, size| ExInitializeLookasideListEx(at, 0, 0, 512, 0, size, TAG, 0);
    breaks(&rules::LOOKASIDE_AGAIN, || [initialize(list, 16), initialize(list, 16)]);
    breaks(&rules::LOOKASIDE_UNKNOWN, || ExDeleteLookasideListEx(list));
    breaks(&rules::LOOKASIDE_BLOCK, || initialize(list, 4));
    breaks(&rules::LOOKASIDE_FREED, || {
        let block = ExAllocatePool2(0x40, 128, TAG);
        initialize(block, 16);
        ExFreePoolWithTag(block, TAG);
    });
}

#[test]
fn interlocked_lists_are_stacks() {
    let kernel = machine();
    let memory = [0u128; 4];
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let [list, first, second] = [0, 1, 2].map(|index| at(&memory[index]));
        InitializeSListHead(list);
        let pushed = [ExpInterlockedPushEntrySList(list, first), ExpInterlockedPushEntrySList(list, second)];
        let depth = ExQueryDepthSList(list);
        let popped = ExpInterlockedPopEntrySList(list);
        let all = ExpInterlockedFlushSList(list);
        [
            pushed[0],
            pushed[1] - first,
            depth.into(),
            popped - second,
            all - first,
            ExQueryDepthSList(list).into(),
        ]
    });
    assert_eq!(clean(&kernel, outcome), [0, 0, 2, 0, 0, 0]);
}

static NOTIFIED: AtomicUsize = AtomicUsize::new(0);

extern "win64" fn notified(context: Address, first: Address, second: Address) {
    NOTIFIED.fetch_add(context + first + second, Ordering::SeqCst);
}

#[test]
fn a_callback_object_calls_what_is_registered() {
    let kernel = machine();
    let text: Vec<u16> = r"\Callback\Sample".encode_utf16().collect();
    let length = 2 * text.len() as u16;
    let name = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: text.as_ptr() as Address };
    let attributes = OBJECT_ATTRIBUTES { ObjectName: at(&name), ..OBJECT_ATTRIBUTES::zeroed() };
    let object = 0usize;
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let missing = ExCreateCallback(at(&object), at(&attributes), 0, 0);
        let made = ExCreateCallback(at(&object), at(&attributes), 1, 0);
        let object: Address = peek(at(&object));
        let routine = notified as *const () as Address;
        let handle = ExRegisterCallback(object, routine, 100);
        let second = ExRegisterCallback(object, routine, 1);
        ExNotifyCallback(object, 20, 3);
        ExUnregisterCallback(handle);
        ExNotifyCallback(object, 20, 3);
        ObfDereferenceObject(object);
        (missing, made, handle != 0, second)
    });
    assert_eq!(clean(&kernel, outcome), (Status::OBJECT_NAME_NOT_FOUND.0, 0, true, 0));
    assert_eq!(NOTIFIED.load(Ordering::SeqCst), 123);
}

#[test]
fn an_access_control_list_is_written_as_the_headers_say() {
    let kernel = machine();
    // S-1-5-18 (LocalSystem).
    let sid: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let (acl, descriptor) = ([0u32; 7], [0u64; 5]);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let valid = [RtlValidSid(at(&sid)), RtlValidSid(at(&[9u64, 9]))];
        let statuses = [
            RtlCreateAcl(at(&acl), 28, 2),
            RtlAddAccessAllowedAce(at(&acl), 2, 0x1F01FF, at(&sid)),
            RtlAddAccessAllowedAce(at(&acl), 2, 0x1F01FF, at(&sid)),
            RtlCreateSecurityDescriptor(at(&descriptor), 1),
            RtlSetDaclSecurityDescriptor(at(&descriptor), 1, at(&acl), 0),
        ];
        (valid, RtlLengthSid(at(&sid)), statuses)
    });
    let full = 0xC000_0099_u32 as i32;
    assert_eq!(clean(&kernel, outcome), ([1, 0], 12, [0, 0, full, 0, 0]));
    let words: [u32; 7] = peek(at(&acl));
    assert_eq!(words, [2 | 28 << 16, 1, 20 << 16, 0x1F01FF, 0x101, 0x0500_0000, 18]);
    assert_eq!(
        (peek::<u32>(at(&descriptor)), peek::<Address>(at(&descriptor) + 32)),
        (1 | 4 << 16, at(&acl))
    );
}
