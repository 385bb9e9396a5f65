//! A machine whose time passes only when the lab moves it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::ke::{KeDelayExecutionThread, KeQueryUnbiasedInterruptTime};
use super::super::ps::PsCreateSystemThread;
use super::super::types::LARGE_INTEGER;
use super::super::zw::*;
use super::super::{Direct, Irql, Kernel, Options};
use super::{clean, drive, peek};

const MS: i64 = 10_000;

static TIMES: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static ENDING: AtomicBool = AtomicBool::new(false);

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

/// Waits 10 ms again and again, and notes when each wait ends.
extern "win64" fn body(_: usize) -> u64 {
    let interval = LARGE_INTEGER { QuadPart: -10 * MS };
    while !ENDING.load(Ordering::SeqCst) {
        assert_eq!(KeDelayExecutionThread(0, 0, address(&interval)), 0);
        let now = KeQueryUnbiasedInterruptTime();
        TIMES.lock().unwrap().push(now / MS as u64);
    }
    0
}

fn times() -> Vec<u64> {
    std::mem::take(&mut TIMES.lock().unwrap())
}

#[test]
fn waits_end_at_their_time() {
    let kernel = Kernel::new(Arc::new(Direct), Options { own_time: true, ..Options::default() });
    let run_until = |ms| kernel.run_until(Duration::from_millis(ms), Duration::from_millis(100));
    let thread = 0usize;
    let routine = body as *const () as usize;
    let started =
        drive(&kernel, Irql::PASSIVE, || PsCreateSystemThread(address(&thread), 0, 0, 0, 0, routine, 0));
    assert_eq!(clean(&kernel, started), 0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(kernel.clock().since_start(), Duration::ZERO, "the host's time does not count");
    run_until(35);
    assert_eq!(times(), [10, 20, 30]);
    assert_eq!(kernel.clock().since_start(), Duration::from_millis(35));
    run_until(39);
    assert!(times().is_empty());
    // After 100 ms without anything else, the rest is left out up to the last wait.
    run_until(1_003);
    assert_eq!(times(), (4..=13).map(|wait| wait * 10).chain([1_000]).collect::<Vec<_>>());
    // Time passes while the driver waits on the thread that drives the machine.
    let wait = LARGE_INTEGER { QuadPart: -15 * MS };
    let waited = drive(&kernel, Irql::PASSIVE, || KeDelayExecutionThread(0, 0, address(&wait)));
    assert_eq!(clean(&kernel, waited), 0);
    assert_eq!((times(), kernel.clock().since_start()), (vec![1_010], Duration::from_millis(1_018)));
    // And if that wait has no timeout.
    ENDING.store(true, Ordering::SeqCst);
    let handle = peek::<usize>(address(&thread));
    let ended = drive(&kernel, Irql::PASSIVE, || (ZwWaitForSingleObject(handle, 0, 0), ZwClose(handle)));
    assert_eq!(clean(&kernel, ended), (0, 0));
    assert_eq!(times(), [1_020]);
    assert!(!kernel.has_run_ahead());
}
