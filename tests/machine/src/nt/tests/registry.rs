//! Keys, values and change notification through the exports.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::super::load::parameters_key;
use super::super::objects::Object;
use super::super::registry::RegistryValue;
use super::super::types::{
    IO_STATUS_BLOCK, LARGE_INTEGER, LIST_ENTRY, OBJECT_ATTRIBUTES, UNICODE_STRING, WORK_QUEUE_ITEM,
};
use super::super::zw::*;
use super::super::{Irql, Kernel, status};
use super::{clean, drive, machine, peek, stopped_by};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::rules;

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

fn string(units: &[u16]) -> UNICODE_STRING {
    UNICODE_STRING {
        Length: (units.len() * 2) as u16,
        MaximumLength: (units.len() * 2) as u16,
        Buffer: units.as_ptr() as usize,
    }
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// Opens a key as a driver does.
fn open(kernel: &Kernel, path: &str) -> Result<usize, Status> {
    let path = wide(path);
    let name = string(&path);
    let attributes = OBJECT_ATTRIBUTES {
        Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
        ObjectName: address(&name),
        ..OBJECT_ATTRIBUTES::zeroed()
    };
    let handle = 0usize;
    let status = clean(
        kernel,
        drive(kernel, Irql::PASSIVE, || ZwOpenKey(address(&handle), 0x2_0019, address(&attributes))),
    );
    Status(status).to_result()?;
    Ok(peek(address(&handle)))
}

/// Queries a value with a buffer of `room` bytes. Returns status, needed bytes and
/// answer.
fn query(kernel: &Kernel, key: usize, name: &str, class: i32, room: u32) -> (Status, u32, Vec<u8>) {
    let name = wide(name);
    let name = string(&name);
    let (buffer, needed) = ([0xEEu8; 128], 0u32);
    let status = clean(
        kernel,
        drive(kernel, Irql::PASSIVE, || {
            let (name, out) = (address(&name), address(&buffer));
            ZwQueryValueKey(key, name, class, out, room, address(&needed))
        }),
    );
    let answer = (0..128).map(|at| peek::<u8>(address(&buffer) + at)).collect();
    (Status(status), peek(address(&needed)), answer)
}

fn prepared() -> (std::sync::Arc<Kernel>, usize) {
    let kernel = machine();
    let path = parameters_key("sample");
    kernel.set_value(&path, "Mode", RegistryValue::dword(2));
    let key = open(&kernel, &path).unwrap();
    (kernel, key)
}

#[test]
fn a_query_returns_what_fits_in_the_buffer() {
    let (kernel, key) = prepared();
    const PARTIAL: i32 = 2;
    let (status, needed, answer) = query(&kernel, key, "mode", PARTIAL, 128);
    assert_eq!((status, needed), (Status::SUCCESS, 16));
    assert_eq!(answer[..16], [0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(answer[16], 0xEE);
    let (status, needed, answer) = query(&kernel, key, "mode", PARTIAL, 14);
    assert_eq!((status, needed), (Status::BUFFER_OVERFLOW, 16));
    assert_eq!(answer[12..15], [2, 0, 0xEE]);
    let (status, needed, answer) = query(&kernel, key, "mode", PARTIAL, 11);
    assert_eq!((status, needed), (Status::BUFFER_TOO_SMALL, 16));
    assert_eq!(answer[0], 0xEE);
    let (status, ..) = query(&kernel, key, "Missing", PARTIAL, 128);
    assert_eq!(status, Status::OBJECT_NAME_NOT_FOUND);
    assert!(
        kernel.registry().was_read("missing", |_| true) && !kernel.registry().was_read("Trace", |_| true)
    );
    let (status, ..) = query(&kernel, 0x44, "Mode", PARTIAL, 128);
    assert_eq!(status, Status::INVALID_HANDLE);
    let (status, ..) = query(&kernel, key, "Mode", 9, 128);
    assert_eq!(status, Status::INVALID_PARAMETER);
}

#[test]
fn full_information_has_name_and_data() {
    let (kernel, key) = prepared();
    let (status, needed, answer) = query(&kernel, key, "MODE", 1, 128);
    // 20 bytes before the name, 8 bytes of name, then the data.
    assert_eq!((status, needed), (Status::SUCCESS, 32));
    assert_eq!(answer[8..20], [28, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(answer[20..32], *b"M\0o\0d\0e\0\x02\0\0\0");
}

#[test]
fn a_key_reports_its_size() {
    let (kernel, key) = prepared();
    let (buffer, needed) = ([0u32; 16], 0u32);
    let outcome =
        drive(&kernel, Irql::PASSIVE, || ZwQueryKey(key, 2, address(&buffer), 64, address(&needed)));
    assert_eq!(clean(&kernel, outcome), 0);
    // Values, longest name, longest data.
    let at = |index: usize| peek::<u32>(address(&buffer) + 4 * index);
    assert_eq!([at(8), at(9), at(10)], [1, 8, 4]);
}

static RAN: AtomicU32 = AtomicU32::new(0);

extern "win64" fn on_change(parameter: u64) -> u64 {
    assert_eq!(super::super::ke::KeGetCurrentIrql(), 0);
    RAN.fetch_add(parameter as u32, Ordering::SeqCst);
    0
}

#[test]
fn a_change_queues_the_work_item() {
    let (kernel, key) = prepared();
    let item = WORK_QUEUE_ITEM {
        List: LIST_ENTRY::zeroed(),
        WorkerRoutine: on_change as *const () as usize,
        Parameter: 5,
    };
    let block = IO_STATUS_BLOCK { Pointer: 99, Information: 99 };
    let watch = |filter| {
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            let (item, block) = (address(&item), address(&block));
            ZwNotifyChangeKey(key, 0, item, 1, block, filter, 0, 0, 0, 1)
        });
        Status(clean(&kernel, outcome))
    };
    assert_eq!(watch(0), Status::INVALID_PARAMETER);
    assert_eq!(watch(4), Status::PENDING);
    let path = parameters_key("sample");
    kernel.set_value(&path, "Mode", RegistryValue::dword(1));
    assert!(kernel.work().drain(Duration::from_secs(5)));
    assert_eq!(RAN.load(Ordering::SeqCst), 5);
    assert_eq!(peek::<u64>(address(&block)), 0);
    // The watch fired once. A change since then completes the next request at once. A new
    // request also completes when the handle is closed.
    kernel.delete_value(&path, "Mode");
    assert!(kernel.work().drain(Duration::from_secs(5)));
    assert_eq!(RAN.load(Ordering::SeqCst), 5);
    assert_eq!(watch(4), Status::SUCCESS);
    assert!(kernel.work().drain(Duration::from_secs(5)));
    assert_eq!(RAN.load(Ordering::SeqCst), 10);
    assert_eq!(watch(4), Status::PENDING);
    assert_eq!(clean(&kernel, drive(&kernel, Irql::PASSIVE, || ZwClose(key))), 0);
    assert!(kernel.work().drain(Duration::from_secs(5)));
    assert_eq!(RAN.load(Ordering::SeqCst), 15);
    assert_eq!(peek::<u64>(address(&block)), status::NOTIFY_CLEANUP.0 as u64);
}

#[test]
fn a_change_sets_the_event() {
    let (kernel, key) = prepared();
    let (handle, block) = (0usize, IO_STATUS_BLOCK::zeroed());
    let now = LARGE_INTEGER { QuadPart: 0 };
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let created = ZwCreateEvent(address(&handle), 0, 0, 1, 1);
        let event = peek::<usize>(address(&handle));
        let pending = ZwNotifyChangeKey(key, event, 0, 0, address(&block), 4, 0, 0, 0, 1);
        let early = ZwWaitForSingleObject(event, 0, address(&now));
        (created, pending, early, event)
    });
    let (created, pending, early, event) = clean(&kernel, outcome);
    assert_eq!((created, pending, early), (0, Status::PENDING.0, status::TIMEOUT.0));
    kernel.set_value(&parameters_key("sample"), "Mode", RegistryValue::dword(0));
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let first = ZwWaitForSingleObject(event, 0, 0);
        (first, ZwWaitForSingleObject(event, 0, address(&now)), ZwClose(event))
    });
    assert_eq!(clean(&kernel, outcome), (0, status::TIMEOUT.0, 0));
}

/// Requests a notice of changed values. Returns the status.
fn request(kernel: &Kernel, key: usize, block: &IO_STATUS_BLOCK) -> Status {
    let ask = || ZwNotifyChangeKey(key, 0, 0, 0, address(block), 4, 0, 0, 0, 1);
    Status(clean(kernel, drive(kernel, Irql::PASSIVE, ask)))
}

/// What happens between two requests of a handle completes the second one at once
/// (STATUS_SUCCESS; STATUS_PENDING only if "the event has not yet occurred").
#[test]
fn a_change_between_two_requests_completes_the_second() {
    let (kernel, key) = prepared();
    let block = IO_STATUS_BLOCK { Pointer: 99, Information: 99 };
    let set = |number| kernel.set_value(&parameters_key("sample"), "Mode", RegistryValue::dword(number));
    assert_eq!(set(7), 0, "nobody listens");
    assert_eq!(request(&kernel, key, &block), Status::PENDING);
    assert_eq!(set(7), 0, "an equal value is no change");
    assert_eq!(set(8), 1);
    assert_eq!(set(9), 0, "the notice was for the first change");
    assert_eq!(request(&kernel, key, &block), Status::SUCCESS);
    assert_eq!(peek::<u64>(address(&block)), 0);
    assert_eq!(request(&kernel, key, &block), Status::PENDING);
}

#[test]
fn a_notice_needs_the_right_to_it() {
    let (kernel, _) = prepared();
    let block = IO_STATUS_BLOCK::zeroed();
    for (access, expected) in
        [(1, Status::ACCESS_DENIED), (0x10, Status::PENDING), (0x2_0019, Status::PENDING)]
    {
        let generation = kernel.registry().generation(&parameters_key("sample")).unwrap();
        let object = Object::Key(parameters_key("sample"), generation, access);
        let key = kernel.objects().open(DriverId::SYSTEM, object);
        assert_eq!(request(&kernel, key, &block), expected, "{access:#x}");
    }
}

/// `LastWriteTime` moves with the system's tick, and only if something changes.
#[test]
fn a_key_has_the_time_of_its_last_change() {
    let (kernel, key) = prepared();
    let time = || {
        let (buffer, needed) = ([0u64; 8], 0u32);
        let ask = || ZwQueryKey(key, 0, address(&buffer), 64, address(&needed));
        assert_eq!(clean(&kernel, drive(&kernel, Irql::PASSIVE, ask)), 0);
        // LastWriteTime, TitleIndex, NameLength, Name: "Parameters".
        assert_eq!(
            (peek::<u32>(address(&buffer) + 12), peek::<u16>(address(&buffer) + 16)),
            (20, b'P'.into())
        );
        peek::<u64>(address(&buffer))
    };
    let first = time();
    kernel.clock().advance(Duration::from_secs(1));
    kernel.set_value(&parameters_key("sample"), "Mode", RegistryValue::dword(2));
    assert_eq!(time(), first, "the value is as before");
    kernel.set_value(&parameters_key("sample"), "Mode", RegistryValue::dword(3));
    let second = time();
    assert!(second >= first + 9_000_000 && second % 156_250 == 0, "{first} {second}");
    kernel.clock().advance(Duration::from_secs(1));
    kernel.delete_value(&parameters_key("sample"), "Mode");
    assert!(time() > second);
}

#[test]
fn a_synchronous_request_waits_for_the_change() {
    let (kernel, key) = prepared();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let block = IO_STATUS_BLOCK::zeroed();
            drive(&kernel, Irql::PASSIVE, || ZwNotifyChangeKey(key, 0, 0, 0, address(&block), 4, 0, 0, 0, 0))
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        kernel.set_value(&parameters_key("sample"), "Mode", RegistryValue::dword(0));
        assert_eq!(clean(&kernel, waiter.join().unwrap()), 0);
    });
}

#[test]
fn handles_and_strings_are_checked() {
    let kernel = machine();
    assert_eq!(open(&kernel, r"\Registry\Nowhere"), Err(Status::OBJECT_NAME_NOT_FOUND));
    let outcome = drive(&kernel, Irql::PASSIVE, || ZwClose(0xFFFF_FFFF_8000_0044));
    stopped_by(&kernel, outcome, &rules::BAD_HANDLE);
    let kernel = machine();
    let of_a_program = drive(&kernel, Irql::PASSIVE, || ZwClose(0x44));
    assert_eq!(Status(clean(&kernel, of_a_program)), Status::INVALID_HANDLE);
    let (kernel, key) = prepared();
    let odd = UNICODE_STRING { Length: 3, MaximumLength: 4, Buffer: address(&kernel) };
    let outcome = drive(&kernel, Irql::PASSIVE, || ZwQueryValueKey(key, address(&odd), 2, 0, 0, 0));
    stopped_by(&kernel, outcome, &rules::MALFORMED_STRING);
}
