//! System threads through the exports.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::ps::PsCreateSystemThread;
use super::super::types::LARGE_INTEGER;
use super::super::zw::*;
use super::super::{Irql, status};
use super::{clean, drive, machine, peek};
use crate::driver::DriverId;
use crate::status::Status;

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
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
