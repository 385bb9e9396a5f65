//! Timers of the framework (`wdftimer.h`).

use std::thread::{self, ThreadId};

use super::super::cpu::Irql;
use super::super::enter::enter;
use super::super::types::{Address, BOOLEAN, NTSTATUS, WDF_OBJECT_ATTRIBUTES, WDF_TIMER_CONFIG_V1_7};
use super::super::{Kernel, foreign, ke};
use super::object::{self, Parent};
use super::{Data as ObjectData, Kind, boolean, finish, finish_value, not_null, scope, status};
use crate::status::Status;

/// `WdfExecutionLevelPassive` (`wdfobject.h`).
const PASSIVE_EXECUTION: i32 = 2;

/// A timer.
#[derive(Debug)]
pub(super) struct Data {
    callback: Address,
    /// Whether it runs under the lock of its parent's callbacks.
    serialized: bool,
    /// In milliseconds; 0 for a timer that fires once.
    period: u32,
    /// The level of the callback: DISPATCH_LEVEL unless the driver asked for less.
    level: Irql,
    /// Whether it is started.
    started: bool,
    /// Counts starts and stops. A thread of an earlier start ends.
    generation: u64,
    /// The thread that runs the callback.
    running: Option<ThreadId>,
}

/// `WdfTimerCreate`. It needs a parent.
pub extern "win64" fn WdfTimerCreate(
    DriverGlobals: Address,
    Config: Address,
    Attributes: Address,
    Timer: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfTimerCreate);
    let _ = DriverGlobals;
    let create = || {
        let config: WDF_TIMER_CONFIG_V1_7 = foreign::read_sized(not_null("Config", Config)?)?;
        not_null("Timer", Timer)?;
        if config.EvtTimerFunc == 0 {
            return Ok(status::NO_CALLBACK);
        }
        let attributes: WDF_OBJECT_ATTRIBUTES = foreign::read_sized(not_null("Attributes", Attributes)?)?;
        let is_passive = attributes.ExecutionLevel == PASSIVE_EXECUTION;
        // "A periodic timer cannot have WdfExecutionLevelPassive" (WDF_TIMER_CONFIG).
        if is_passive && config.Period != 0 {
            return Ok(Status::NOT_SUPPORTED);
        }
        let data = ObjectData::Timer(Data {
            callback: config.EvtTimerFunc,
            serialized: config.AutomaticSerialization != 0,
            period: config.Period,
            level: if is_passive { Irql::PASSIVE } else { Irql::DISPATCH },
            started: false,
            generation: 0,
            running: None,
        });
        object::give(object::create(&kernel, Kind::Timer, Attributes, Parent::Required, data)?, Timer)
    };
    finish(&kernel, create())
}

/// `WdfTimerStart`. A negative due time counts from now, in 100 ns units. TRUE if the
/// timer was started before; it is then started again.
pub extern "win64" fn WdfTimerStart(DriverGlobals: Address, Timer: Address, DueTime: i64) -> BOOLEAN {
    let kernel = enter!(WdfTimerStart);
    let _ = DriverGlobals;
    let start = || {
        let (was_started, generation) = {
            let mut framework = kernel.framework();
            let timer = framework.timer(Timer)?;
            timer.generation += 1;
            (std::mem::replace(&mut timer.started, true), timer.generation)
        };
        kernel.bell.ring();
        kernel.start_system_thread(move |kernel| run(kernel, Timer, generation, DueTime));
        Ok(boolean(was_started))
    };
    finish_value(&kernel, start())
}

/// Waits for the due time, and calls the driver: again and again, if there is a period.
fn run(kernel: &Kernel, handle: Address, generation: u64, due: i64) {
    let mut due = due;
    loop {
        let is_over =
            || kernel.framework().timer(handle).map_or(true, |timer| timer.generation != generation);
        let what = || format!("the WDFTIMER {handle:#x} to be due");
        let processor = kernel.options().processors - 1;
        kernel.on_processor(processor, Irql::PASSIVE, |kernel| {
            let _due = ke::wait(kernel, &what, Some(due), is_over);
        });
        let (callback, level, period, serialized) = {
            let mut framework = kernel.framework();
            let Ok(timer) = framework.timer(handle) else { return };
            if timer.generation != generation || kernel.stopped().is_some() {
                return;
            }
            timer.running = Some(thread::current().id());
            timer.started = timer.period != 0;
            (timer.callback, timer.level, timer.period, timer.serialized)
        };
        let (arguments, way) = ([handle as u64], (level, "EvtTimerFunc"));
        kernel.on_processor(processor, level, |kernel| match serialized {
            true => scope::call(kernel, handle, callback, &arguments, way),
            false => drop(kernel.call_driver(callback, &arguments, way.0, way.1)),
        });
        if let Ok(timer) = kernel.framework().timer(handle) {
            timer.running = None;
        }
        kernel.bell.ring();
        if period == 0 {
            return;
        }
        due = -(i64::from(period) * 10_000);
    }
}

/// Stops a timer. Returns whether it was started. `wait`: until its callback, if it runs
/// on another thread, has returned.
fn stop(kernel: &Kernel, handle: Address, wait: bool) -> Result<bool, crate::verifier::Violation> {
    let was_started = {
        let mut framework = kernel.framework();
        let timer = framework.timer(handle)?;
        timer.generation += 1;
        std::mem::take(&mut timer.started)
    };
    kernel.bell.ring();
    if wait {
        let what = || format!("the WDFTIMER {handle:#x} to end");
        let own = thread::current().id();
        let _over = ke::wait(kernel, &what, None, || match kernel.framework().timer(handle) {
            Ok(timer) => timer.running.is_none_or(|thread| thread == own),
            Err(_) => true,
        });
    }
    Ok(was_started)
}

/// Stops a timer that is deleted.
pub(super) fn close(kernel: &Kernel, handle: Address) {
    let _ = stop(kernel, handle, true);
}

/// `WdfTimerStop`. TRUE if the timer was started. To wait, the caller must be at
/// PASSIVE_LEVEL.
pub extern "win64" fn WdfTimerStop(DriverGlobals: Address, Timer: Address, Wait: BOOLEAN) -> BOOLEAN {
    let ceiling = if Wait == 0 { Irql::DISPATCH } else { Irql::PASSIVE };
    let kernel = enter!(WdfTimerStop, ceiling);
    let _ = DriverGlobals;
    finish_value(&kernel, stop(&kernel, Timer, Wait != 0).map(boolean).map_err(Into::into))
}

/// `WdfTimerGetParentObject`.
pub extern "win64" fn WdfTimerGetParentObject(DriverGlobals: Address, Timer: Address) -> Address {
    let kernel = enter!(WdfTimerGetParentObject);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().object_of(Timer, Kind::Timer)?.parent);
    finish_value(&kernel, get())
}
