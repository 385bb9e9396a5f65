//! Kernel: timers (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use super::cpu::{self, Irql};
use super::dispatcher::{header, kind};
use super::enter::enter;
use super::foreign;
use super::ke::{self, object_type, signal_state};
use super::types::{Address, BOOLEAN, KDPC, KTIMER, LARGE_INTEGER};
use super::{Kernel, Trouble};
use crate::verifier::{Violation, rules};

/// A timer that is set.
#[derive(Clone, Copy, Debug)]
struct Active {
    /// Tells this setting from others of the same timer.
    number: u64,
    /// The `KDPC`, or 0.
    dpc: Address,
    /// Its routine.
    routine: Address,
}

/// The timers that are set, by address.
#[derive(Debug, Default)]
pub(super) struct Timers {
    last: u64,
    active: BTreeMap<Address, Active>,
}

impl Timers {
    /// Address and DPC routine of the timers that are set.
    pub fn active(&self) -> impl Iterator<Item = (Address, Address)> {
        self.active.iter().map(|(timer, active)| (*timer, active.routine))
    }
}

/// `KeInitializeTimer`.
pub extern "win64" fn KeInitializeTimer(Timer: Address) {
    let kernel = enter!(KeInitializeTimer);
    kernel.settle(initialize(&kernel, Timer, kind::TIMER), ());
}

/// `KeInitializeTimerEx`. `Type`: a notification timer (0) or a synchronization timer.
pub extern "win64" fn KeInitializeTimerEx(Timer: Address, Type: i32) {
    let kernel = enter!(KeInitializeTimerEx);
    let kind = if Type == 0 { kind::TIMER } else { kind::SYNCHRONIZATION_TIMER };
    kernel.settle(initialize(&kernel, Timer, kind), ());
}

fn initialize(kernel: &Kernel, at: Address, kind: u8) -> Result<(), Trouble> {
    kernel.resident(at)?;
    if kernel.deferred().timers.active.contains_key(&at) {
        let text = format!("the timer at {at:#x} is set, and was initialized again");
        return Err(Violation::new(&rules::TIMER_ACTIVE, [at as u64, 0, 0], text).into());
    }
    let timer = KTIMER { Header: header(at, kind, size_of::<KTIMER>(), 0), ..KTIMER::zeroed() };
    Ok(foreign::write(at, &timer)?)
}

/// `KeSetTimer`. TRUE if the timer was set already.
pub extern "win64" fn KeSetTimer(Timer: Address, DueTime: LARGE_INTEGER, Dpc: Address) -> BOOLEAN {
    let kernel = enter!(KeSetTimer);
    kernel.settle(set(&kernel, Timer, DueTime.QuadPart, 0, Dpc), 0)
}

/// `KeSetTimerEx`. `Period`: in milliseconds; 0 for a timer that fires once.
pub extern "win64" fn KeSetTimerEx(
    Timer: Address,
    DueTime: LARGE_INTEGER,
    Period: i32,
    Dpc: Address,
) -> BOOLEAN {
    let kernel = enter!(KeSetTimerEx);
    kernel.settle(set(&kernel, Timer, DueTime.QuadPart, Period, Dpc), 0)
}

/// `KeSetCoalescableTimer`. The timer is never late on purpose.
pub extern "win64" fn KeSetCoalescableTimer(
    Timer: Address,
    DueTime: LARGE_INTEGER,
    Period: u32,
    TolerableDelay: u32,
    Dpc: Address,
) -> BOOLEAN {
    let kernel = enter!(KeSetCoalescableTimer);
    let _ = TolerableDelay;
    kernel.settle(set(&kernel, Timer, DueTime.QuadPart, Period as i32, Dpc), 0)
}

fn set(kernel: &Kernel, timer: Address, due: i64, period: i32, dpc: Address) -> Result<BOOLEAN, Trouble> {
    let mut object: KTIMER = foreign::read(timer)?;
    if !matches!(object.Header.Type, kind::TIMER | kind::SYNCHRONIZATION_TIMER) {
        let text = format!("{timer:#x} is no initialized KTIMER");
        return Err(Violation::new(&rules::BAD_OBJECT, [timer as u64, 0, 0], text).into());
    }
    let routine = if dpc == 0 { 0 } else { foreign::read::<KDPC>(dpc)?.DeferredRoutine };
    object.Dpc = dpc;
    object.Period = period as u32;
    foreign::write(timer + offset_of!(KTIMER, Dpc), &object.Dpc)?;
    foreign::write(timer + offset_of!(KTIMER, Period), &object.Period)?;
    signal_state(timer).store(0, Ordering::Release);
    let (was_set, number) = {
        let mut deferred = kernel.deferred();
        let timers = &mut deferred.timers;
        timers.last += 1;
        let number = timers.last;
        (timers.active.insert(timer, Active { number, dpc, routine }).is_some(), number)
    };
    kernel.bell.ring();
    let processor = cpu::processor();
    kernel.start_system_thread(move |kernel| run(kernel, timer, number, due, period, processor));
    Ok(BOOLEAN::from(was_set))
}

/// Waits for the due time, and fires: again and again, if there is a period.
fn run(kernel: &Kernel, timer: Address, number: u64, due: i64, period: i32, processor: u32) {
    let active = || kernel.deferred().timers.active.get(&timer).filter(|it| it.number == number).copied();
    let mut due = due;
    loop {
        kernel.on_processor(processor, Irql::PASSIVE, |kernel| {
            let what = || format!("the timer at {timer:#x} to be due");
            let _due = ke::wait(kernel, &what, Some(due), || active().is_none());
        });
        // Set again, or cancelled.
        let Some(Active { dpc, .. }) = active() else { return };
        if kernel.stopped().is_some() {
            return;
        }
        if period <= 0 {
            kernel.deferred().timers.active.remove(&timer);
        }
        kernel.on_processor(processor, Irql::DISPATCH, |kernel| {
            // The memory may be gone, if the rule about it is tolerated.
            if foreign::read::<KTIMER>(timer).is_ok() {
                kernel.signal(timer);
            }
            if dpc != 0 {
                // The arguments of a timer's DPC are the time it fired.
                let now = kernel.clock().system_time() as Address;
                if let Err(trouble) = kernel.queue_dpc(dpc, [now & 0xFFFF_FFFF, now >> 32]) {
                    kernel.condemn(kernel.breach(trouble));
                }
            }
        });
        if period <= 0 {
            return;
        }
        due = -(i64::from(period) * 10_000);
    }
}

/// `KeCancelTimer`. TRUE if the timer was set. Its DPC may be queued already.
pub extern "win64" fn KeCancelTimer(Timer: Address) -> BOOLEAN {
    let kernel = enter!(KeCancelTimer);
    let was_set = kernel.deferred().timers.active.remove(&Timer).is_some();
    kernel.bell.ring();
    BOOLEAN::from(was_set)
}

/// `KeReadStateTimer`. TRUE if the timer is signaled.
pub extern "win64" fn KeReadStateTimer(Timer: Address) -> BOOLEAN {
    enter!(KeReadStateTimer);
    debug_assert!(matches!(object_type(Timer), kind::TIMER | kind::SYNCHRONIZATION_TIMER));
    BOOLEAN::from(signal_state(Timer).load(Ordering::Acquire) != 0)
}
