//! Kernel: active processors, and those that are added (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::sync::atomic::Ordering;

use super::cpu;
use super::enter::enter;
use super::guest::Stop;
use super::objects::ProcessorCallback;
use super::types::{Address, KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, PROCESSOR_NUMBER};
use super::{Irql, Kernel, RunningCallbacks};
use crate::schedule::Waited;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `KE_PROCESSOR_CHANGE_ADD_EXISTING`.
const ADD_EXISTING: u32 = 1;
/// `KE_PROCESSOR_CHANGE_NOTIFY_STATE`.
const START: i32 = 0;
const COMPLETE: i32 = 1;
const FAILURE: i32 = 2;

/// `KeQueryGroupAffinity`. 0 for a number that is no group's.
pub extern "win64" fn KeQueryGroupAffinity(GroupNumber: u16) -> u64 {
    let kernel = enter!(KeQueryGroupAffinity);
    kernel.active_in(GroupNumber)
}

/// `KeQueryMaximumGroupCount`.
pub extern "win64" fn KeQueryMaximumGroupCount() -> u16 {
    let kernel = enter!(KeQueryMaximumGroupCount);
    kernel.options().possible().div_ceil(kernel.options().group_size) as u16
}

/// `KeQueryActiveGroupCount`. Groups become active in their order.
pub extern "win64" fn KeQueryActiveGroupCount() -> u16 {
    let kernel = enter!(KeQueryActiveGroupCount);
    kernel.active_count().div_ceil(kernel.options().group_size) as u16
}

/// `KeRegisterProcessorChangeCallback`. NULL while the lab makes allocations fail.
///
/// With `KE_PROCESSOR_CHANGE_ADD_EXISTING` the callback is called for each active
/// processor before the call returns: at the start, and when all have started. If one
/// fails, those before it get a failure, and the callback is not registered (remarks).
pub extern "win64" fn KeRegisterProcessorChangeCallback(
    CallbackFunction: Address,
    CallbackContext: Address,
    Flags: u32,
) -> Address {
    let kernel = enter!(KeRegisterProcessorChangeCallback);
    if kernel.pool().take_shortage() {
        return 0;
    }
    let (driver, handle) = (kernel.caller(), kernel.objects().opaque());
    let call = (CallbackFunction, CallbackContext);
    let callback = ProcessorCallback { driver, call, running: 0 };
    kernel.objects().processor_callbacks.insert(handle, callback);
    if Flags & ADD_EXISTING == 0 {
        return handle;
    }
    let active = kernel.active_count();
    let started = (0..active)
        .find(|&number| !kernel.announce(handle, number, START).is_ok_and(|status| status.is_success()));
    let (until, state) = started.map_or((active, COMPLETE), |failed| (failed, FAILURE));
    for number in 0..until {
        // If the callback does not return, the machine has stopped.
        let _ = kernel.announce(handle, number, state);
    }
    kernel.leave_if_stopped();
    if state == FAILURE {
        kernel.objects().processor_callbacks.remove(&handle);
        return 0;
    }
    handle
}

/// `KeDeregisterProcessorChangeCallback`. `Options::processor_callbacks` says what it does
/// while the callback runs.
pub extern "win64" fn KeDeregisterProcessorChangeCallback(CallbackHandle: Address) {
    let kernel = enter!(KeDeregisterProcessorChangeCallback);
    if kernel.options().processor_callbacks == RunningCallbacks::Awaited {
        let runs = || kernel.objects().processor_callbacks.get(&CallbackHandle).map(|found| found.running);
        let what = || "the return of a processor callback".to_owned();
        if kernel.bell.wait(&what, None, || runs().unwrap_or(0) == 0) != Waited::Ready {
            kernel.leave_if_stopped();
        }
    }
    if kernel.objects().processor_callbacks.remove(&CallbackHandle).is_none() {
        let text = "KeDeregisterProcessorChangeCallback: no such registration";
        kernel.violate(Violation::new(&rules::BAD_OBJECT, [CallbackHandle as u64, 0, 0], text));
    }
}

impl Kernel {
    /// How many processors are active. They are the first ones.
    pub fn active_count(&self) -> u32 {
        self.active.load(Ordering::Acquire)
    }

    /// The active processors of a group, as bits.
    pub(super) fn active_in(&self, group: u16) -> u64 {
        let numbers = self.options().group(group).filter(|number| *number < self.active_count());
        numbers.fold(0, |bits, number| bits | 1 << self.options().group_and_number(number).1)
    }

    /// Adds the next of the possible processors, as a hypervisor does. The driver's
    /// callbacks are told. If one refuses, the processor does not become active, and
    /// its status is returned.
    ///
    /// # Errors
    /// What stopped the machine.
    ///
    /// # Panics
    /// If all processors are active.
    pub fn add_processor(&self) -> Result<Status, Stop> {
        let number = self.active_count();
        assert!(number < self.options().possible(), "all processors are active");
        let callbacks: Vec<_> = self.objects().processor_callbacks.keys().copied().collect();
        let mut refused = None;
        for (at, callback) in callbacks.iter().enumerate() {
            let status = self.announce(*callback, number, START)?;
            if !status.is_success() {
                refused = Some((at, status));
                break;
            }
        }
        let (told, state) = match refused {
            None => (callbacks.len(), COMPLETE),
            Some((at, _)) => (at, FAILURE),
        };
        if state == COMPLETE {
            self.add_processor_unannounced();
        }
        for callback in &callbacks[..told] {
            let _told = self.announce(*callback, number, state)?;
        }
        Ok(refused.map_or(Status::SUCCESS, |(_, status)| status))
    }

    /// Adds the next processor without a word to the driver, which no document
    /// promises.
    pub fn add_processor_unannounced(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    /// Calls a driver's callback about a processor, unless its registration is undone.
    /// Returns the status that it left.
    fn announce(&self, handle: Address, processor: u32, state: i32) -> Result<Status, Stop> {
        let began = self.objects().processor_callbacks.get_mut(&handle).map(|callback| {
            callback.running += 1;
            callback.call
        });
        let Some(call) = began else { return Ok(Status::SUCCESS) };
        let status = self.call_about(call, processor, state);
        if let Some(callback) = self.objects().processor_callbacks.get_mut(&handle) {
            callback.running -= 1;
        }
        self.bell.ring();
        status
    }

    fn call_about(
        &self,
        (function, context): (Address, Address),
        processor: u32,
        state: i32,
    ) -> Result<Status, Stop> {
        let (group, number) = self.options().group_and_number(processor);
        let change = KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT {
            State: state,
            NtNumber: processor,
            Status: 0,
            ProcNumber: PROCESSOR_NUMBER { Group: group, Number: number, Reserved: 0 },
        };
        // The driver writes it through its address.
        let status = std::sync::atomic::AtomicI32::new(Status::SUCCESS.0);
        let arguments = [context, std::ptr::from_ref(&change).addr(), status.as_ptr().expose_provenance()]
            .map(|at| at as u64);
        self.call_driver(function, &arguments, Irql::PASSIVE, "processor callback")?;
        Ok(Status(status.load(Ordering::Acquire)))
    }

    /// Keeps a thread of this priority busy on a processor, until `None`.
    pub fn keep_busy(&self, processor: u32, priority: Option<i32>) {
        let mut busy = self.busy();
        match priority {
            Some(priority) => busy.insert(processor, priority),
            None => busy.remove(&processor),
        };
        self.any_busy.store(!busy.is_empty(), Ordering::Relaxed);
        drop(busy);
        self.bell.ring();
    }

    /// Runs `f` with another priority of this thread.
    pub fn with_priority<R>(&self, priority: i32, f: impl FnOnce() -> R) -> R {
        let before = cpu::set_priority(priority);
        let result = f();
        cpu::set_priority(before);
        result
    }

    /// Whether a busy thread keeps one of a lower priority from a processor.
    pub(super) fn is_kept_busy(&self, processor: u32, priority: i32) -> bool {
        self.busy().get(&processor).is_some_and(|busy| *busy > priority)
    }
}
