//! Synchronization scopes: callbacks that the framework runs one at a time
//! ("Using Automatic Synchronization", Windows driver documentation).
//!
//! An object's scope names the device or the queue whose lock its callbacks run under. The
//! lock is a spin lock, under which they run at DISPATCH_LEVEL, unless the execution level
//! is passive.

use std::collections::VecDeque;
use std::thread::{self, ThreadId};

use super::super::cpu::{self, Backoff, Irql};
use super::super::types::{Address, WDF_OBJECT_ATTRIBUTES};
use super::super::{Kernel, ke};
use super::{Framework, Kind};

/// `WDF_SYNCHRONIZATION_SCOPE` (`wdfobject.h`).
const OF_DEVICE: i32 = 2;
const OF_QUEUE: i32 = 3;
/// `WDF_EXECUTION_LEVEL` (`wdfobject.h`).
const PASSIVE: i32 = 2;
const DISPATCH: i32 = 3;

/// What an object's attributes say; 0 and 1 are the parent's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    scope: i32,
    level: i32,
}

impl Wanted {
    pub fn of(attributes: Option<&WDF_OBJECT_ATTRIBUTES>) -> Self {
        attributes.map_or_else(Self::default, |given| Self {
            scope: given.SynchronizationScope,
            level: given.ExecutionLevel,
        })
    }
}

/// A callback with its arguments and its name.
type Callback = (Address, Vec<u64>, &'static str);

/// The lock of a device's or a queue's callbacks.
#[derive(Debug, Default)]
pub(super) struct Lock {
    holder: Option<ThreadId>,
    /// What the holder's callback led to. It runs when that callback has returned.
    later: VecDeque<Callback>,
}

/// The lock of an object's callbacks: the object that it belongs to, and whether it is
/// taken at PASSIVE_LEVEL. `None` if the framework does not serialize them.
fn lock_of(framework: &Framework, object: Address) -> Option<(Address, bool)> {
    let upwards = |from: Address| {
        std::iter::successors(framework.objects.get_key_value(&from), |(_, it)| {
            framework.objects.get_key_value(&it.parent)
        })
    };
    let scope = upwards(object).map(|(_, it)| it.wanted.scope).find(|scope| *scope >= OF_DEVICE)?;
    let kind = match scope {
        OF_DEVICE => Kind::Device,
        OF_QUEUE => Kind::Queue,
        _ => return None,
    };
    let (owner, _) = upwards(object).find(|(_, it)| it.kind == kind)?;
    let levels = upwards(*owner).map(|(_, it)| it.wanted.level);
    let level = levels.into_iter().find(|level| [PASSIVE, DISPATCH].contains(level));
    Some((*owner, level == Some(PASSIVE)))
}

/// Whether an object's callbacks run under a spin lock.
pub(super) fn has_spin_lock(framework: &Framework, object: Address) -> bool {
    lock_of(framework, object).is_some_and(|(_, passive)| !passive)
}

/// Calls a routine of the driver's for an object, under the lock of its scope if it has
/// one. On a thread that holds the lock already, the call is made when the running
/// callback has returned.
pub(super) fn call(
    kernel: &Kernel,
    object: Address,
    callback: Address,
    arguments: &[u64],
    (level, name): (Irql, &'static str),
) {
    let lock = lock_of(&kernel.framework(), object);
    let Some((owner, passive)) = lock else {
        let _ = kernel.call_driver(callback, arguments, level, name);
        return;
    };
    let me = thread::current().id();
    {
        let mut framework = kernel.framework();
        let lock = framework.scopes.entry(owner).or_default();
        if lock.holder == Some(me) {
            lock.later.push_back((callback, arguments.to_vec(), name));
            return;
        }
    }
    let take = || {
        let mut framework = kernel.framework();
        let lock = framework.scopes.entry(owner).or_default();
        let is_free = lock.holder.is_none();
        if is_free {
            lock.holder = Some(me);
        }
        is_free
    };
    let what = || format!("the callbacks of {owner:#x}");
    let old = cpu::irql();
    if passive {
        let _taken = ke::wait(kernel, &what, None, take);
    } else {
        cpu::set_irql(kernel, old.max(Irql::DISPATCH));
        let mut backoff = Backoff::default();
        while !take() && kernel.stopped().is_none() {
            backoff.wait(&what);
        }
    }
    let level = if passive { level } else { level.max(Irql::DISPATCH) };
    let mut next = Some((callback, arguments.to_vec(), name));
    while let Some((callback, arguments, name)) = next {
        let _ = kernel.call_driver(callback, &arguments, level, name);
        let mut framework = kernel.framework();
        let lock = framework.scopes.entry(owner).or_default();
        next = lock.later.pop_front().filter(|_| kernel.stopped().is_none());
        if next.is_none() {
            lock.holder = None;
        }
    }
    if !passive {
        cpu::set_irql(kernel, old);
    }
    kernel.bell.ring();
}
