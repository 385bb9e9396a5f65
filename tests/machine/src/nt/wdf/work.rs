//! Work items of the framework (`wdfworkitem.h`).

use std::thread::{self, ThreadId};

use super::super::cpu::Irql;
use super::super::enter::enter;
use super::super::types::{Address, NTSTATUS, WDF_OBJECT_ATTRIBUTES, WDF_WORKITEM_CONFIG};
use super::super::work::Job;
use super::super::{Kernel, foreign, ke};
use super::object::{self, Parent};
use super::{Data as ObjectData, Kind, finish, finish_value, finish_void, not_null, scope, status};

/// A work item.
#[derive(Debug)]
pub(super) struct Data {
    callback: Address,
    /// Whether it runs under the lock of its parent's callbacks.
    serialized: bool,
    /// Whether it is queued and no worker has taken it.
    queued: bool,
    /// The threads that run it. It may be queued again while it runs.
    running: Vec<ThreadId>,
}

/// `WdfWorkItemCreate`. It needs a parent.
pub extern "win64" fn WdfWorkItemCreate(
    DriverGlobals: Address,
    Config: Address,
    Attributes: Address,
    WorkItem: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfWorkItemCreate);
    let _ = DriverGlobals;
    let create = || {
        let config: WDF_WORKITEM_CONFIG = foreign::read_sized(not_null("Config", Config)?)?;
        not_null("WorkItem", WorkItem)?;
        if config.EvtWorkItemFunc == 0 {
            return Ok(status::NO_CALLBACK);
        }
        let serialized = config.AutomaticSerialization != 0;
        let parent = match Attributes {
            0 => 0,
            at => foreign::read_sized::<WDF_OBJECT_ATTRIBUTES>(at)?.ParentObject,
        };
        // "A work item runs at PASSIVE_LEVEL", where it cannot wait for a spin lock.
        if serialized && scope::has_spin_lock(&kernel.framework(), parent) {
            return Ok(status::INCOMPATIBLE_EXECUTION_LEVEL);
        }
        let data = Data { callback: config.EvtWorkItemFunc, serialized, queued: false, running: Vec::new() };
        let data = ObjectData::WorkItem(data);
        object::give(object::create(&kernel, Kind::WorkItem, Attributes, Parent::Required, data)?, WorkItem)
    };
    finish(&kernel, create())
}

/// `WdfWorkItemEnqueue`. Has no effect while the item is queued.
pub extern "win64" fn WdfWorkItemEnqueue(DriverGlobals: Address, WorkItem: Address) {
    let kernel = enter!(WdfWorkItemEnqueue);
    let _ = DriverGlobals;
    let enqueue = || {
        let was_queued = std::mem::replace(&mut kernel.framework().work_item(WorkItem)?.queued, true);
        if !was_queued {
            let driver = kernel.framework().owner(WorkItem);
            kernel.work().push(Job::FrameworkWorkItem { handle: WorkItem }, driver);
        }
        Ok(())
    };
    finish_void(&kernel, enqueue());
}

/// Runs a work item on a worker's thread.
pub(in crate::nt) fn run(kernel: &Kernel, handle: Address) {
    let (callback, serialized) = {
        let mut framework = kernel.framework();
        let Ok(item) = framework.work_item(handle) else { return };
        item.queued = false;
        item.running.push(thread::current().id());
        (item.callback, item.serialized)
    };
    let way = (Irql::PASSIVE, "worker routine");
    match serialized {
        true => scope::call(kernel, handle, callback, &[handle as u64], way),
        false => drop(kernel.call_driver(callback, &[handle as u64], way.0, way.1)),
    }
    // It may have deleted itself.
    if let Ok(item) = kernel.framework().work_item(handle) {
        item.running.retain(|thread| *thread != thread::current().id());
    }
    kernel.bell.ring();
}

/// Waits until a work item is neither queued nor running on another thread.
pub(super) fn flush(kernel: &Kernel, handle: Address) {
    let what = || format!("the WDFWORKITEM {handle:#x} to end");
    let own = thread::current().id();
    let _over = ke::wait(kernel, &what, None, || match kernel.framework().work_item(handle) {
        Ok(item) => !item.queued && item.running.iter().all(|thread| *thread == own),
        Err(_) => true,
    });
}

/// `WdfWorkItemFlush`: waits until the item has run.
pub extern "win64" fn WdfWorkItemFlush(DriverGlobals: Address, WorkItem: Address) {
    let kernel = enter!(WdfWorkItemFlush);
    let _ = DriverGlobals;
    let check = kernel.framework().work_item(WorkItem).map(|_| ()).map_err(Into::into);
    finish_void(&kernel, check);
    flush(&kernel, WorkItem);
}

/// `WdfWorkItemGetParentObject`.
pub extern "win64" fn WdfWorkItemGetParentObject(DriverGlobals: Address, WorkItem: Address) -> Address {
    let kernel = enter!(WdfWorkItemGetParentObject);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().object_of(WorkItem, Kind::WorkItem)?.parent);
    finish_value(&kernel, get())
}
