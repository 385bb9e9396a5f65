//! System threads through the exports.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::objects::Object;
use super::super::ps::{PsCreateSystemThread, PsTerminateSystemThread};
use super::super::types::{LARGE_INTEGER, OBJECT_ATTRIBUTES, UNICODE_STRING};
use super::super::zw::*;
use super::super::{Irql, status};
use super::{clean, drive, drive_on, machine, peek};
use crate::driver::DriverId;
use crate::status::Status;

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

static AFTER_THE_END: AtomicU32 = AtomicU32::new(0);

/// Ends its thread, and must not come back.
extern "win64" fn ends(_: usize) -> u64 {
    PsTerminateSystemThread(0);
    AFTER_THE_END.fetch_add(1, Ordering::SeqCst);
    0
}

#[test]
fn a_thread_ends_itself_and_no_other() {
    let kernel = machine();
    let (thread, ids) = (0usize, [0u64; 2]);
    let routine = ends as *const () as usize;
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let other = PsTerminateSystemThread(0);
        let started = PsCreateSystemThread(address(&thread), 0, 0, 0, address(&ids), routine, 0);
        let handle = peek::<usize>(address(&thread));
        (other, started, ZwWaitForSingleObject(handle, 0, 0), ZwClose(handle))
    });
    assert_eq!(clean(&kernel, outcome), (Status::INVALID_PARAMETER.0, 0, 0, 0));
    assert_eq!(AFTER_THE_END.load(Ordering::SeqCst), 0);
    assert_eq!(peek::<u64>(address(&ids)), 4, "the system process");
    assert!(kernel.stopped().is_none());
}

/// A wait references its object, so it lasts until the object is signaled.
#[test]
fn closing_a_handle_ends_no_wait() {
    let kernel = machine();
    let event = 0usize;
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        assert_eq!(ZwCreateEvent(address(&event), 0, 0, 0, 0), 0);
        peek::<usize>(address(&event))
    });
    let event = clean(&kernel, outcome);
    let object = kernel.objects().handle(event).cloned();
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| drive_on(&kernel, 1, Irql::PASSIVE, || ZwWaitForSingleObject(event, 0, 0)));
        while kernel.waits() == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(clean(&kernel, drive(&kernel, Irql::PASSIVE, || ZwClose(event))), 0);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiter.is_finished());
        if let Some(Object::Event(event)) = object {
            event.set(true);
        }
        kernel.bell.ring();
        assert_eq!(clean(&kernel, waiter.join().unwrap()), 0);
    });
    assert!(kernel.objects().awaited.is_empty());
}

/// The statuses of `ZwCreateEvent` and `PsCreateSystemThread`.
#[test]
fn attributes_and_types_are_checked() {
    let kernel = machine();
    let (out, name) = (0usize, ['x' as u16]);
    let string = UNICODE_STRING { Length: 2, MaximumLength: 2, Buffer: address(&name) };
    let attributes = |length, name, flags| OBJECT_ATTRIBUTES {
        Length: length,
        ObjectName: name,
        Attributes: flags,
        ..OBJECT_ATTRIBUTES::zeroed()
    };
    for (attributes, kind, expected) in [
        (attributes(48, 0, 0), 2, Status::INVALID_PARAMETER_4),
        (attributes(40, 0, 0), 0, Status::INVALID_PARAMETER),
        (attributes(48, address(&string), 0), 0, Status::OBJECT_PATH_SYNTAX_BAD),
        (attributes(48, 0, 0x200), 0, Status::SUCCESS),
    ] {
        let create = || ZwCreateEvent(address(&out), 0, address(&attributes), kind, 0);
        assert_eq!(Status(clean(&kernel, drive(&kernel, Irql::PASSIVE, create))), expected);
    }
    let routine = ends as *const () as usize;
    for flags in [0x10, 0x20, 0x80] {
        let attributes = attributes(48, 0, flags);
        let create = || PsCreateSystemThread(address(&out), 0, address(&attributes), 0, 0, routine, 0);
        let status = Status(clean(&kernel, drive(&kernel, Irql::PASSIVE, create)));
        assert_eq!(status, Status::INVALID_PARAMETER, "{flags:#x}");
    }
}

static RAN: AtomicU32 = AtomicU32::new(0);

/// Waits for the event whose handle it gets, then counts.
extern "win64" fn body(event: usize) -> u64 {
    assert_eq!(super::super::ke::KeGetCurrentIrql(), 0);
    assert_eq!(ZwWaitForSingleObject(event, 0, 0), 0);
    RAN.fetch_add(1, Ordering::SeqCst);
    0
}

#[test]
fn a_wait_for_a_thread_ends_with_the_thread() {
    let kernel = machine();
    let (event, thread) = (0usize, 0usize);
    let now = LARGE_INTEGER { QuadPart: 0 };
    let routine = body as *const () as usize;
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let created = ZwCreateEvent(address(&event), 0, 0, 1, 0);
        let context = peek::<usize>(address(&event));
        let started = PsCreateSystemThread(address(&thread), 0, 0, 0, 0, routine, context);
        let handle = peek::<usize>(address(&thread));
        let early = ZwWaitForSingleObject(handle, 0, address(&now));
        (created, started, early, context, handle)
    });
    let (created, started, early, event, thread) = clean(&kernel, outcome);
    assert_eq!((created, started, early), (0, 0, status::TIMEOUT.0));
    assert_eq!(RAN.load(Ordering::SeqCst), 0);
    assert_eq!(kernel.objects().threads, [(routine, DriverId::SYSTEM)]);
    let previous = 7i32;
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let wrong = ZwSetEvent(thread, 0);
        let set = ZwSetEvent(event, address(&previous));
        (wrong, set, ZwWaitForSingleObject(thread, 0, 0), ZwClose(thread), ZwClose(event))
    });
    assert_eq!(clean(&kernel, outcome), (Status::OBJECT_TYPE_MISMATCH.0, 0, 0, 0, 0));
    assert_eq!(peek::<i32>(address(&previous)), 0);
    assert_eq!(RAN.load(Ordering::SeqCst), 1);
    assert!(kernel.objects().threads.is_empty());
}
