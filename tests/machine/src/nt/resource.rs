//! Executive: resources (`ERESOURCE`) and push locks (`wdm.h`, `ntifs.h`).
//!
//! The lab keeps their state itself. The driver's memory only identifies them.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::collections::BTreeMap;
use std::ops::Range;

use super::cpu;
use super::enter::enter;
use super::ex::apcs_enabled;
use super::types::{Address, BOOLEAN, NTSTATUS};
use super::{Kernel, ke};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};

/// Who holds a lock that can be shared: the thread that holds it exclusively, and how
/// often; or how often each thread shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    exclusive: Option<(Address, u32)>,
    sharers: BTreeMap<Address, u32>,
}

/// The initialized resources and the push locks in use, by address.
#[derive(Debug, Default)]
pub(super) struct Resources {
    resources: BTreeMap<Address, Shared>,
    push_locks: BTreeMap<Address, Shared>,
}

impl Shared {
    /// Takes the lock for a thread, if nobody else has it in a way that excludes that.
    fn take(&mut self, thread: Address, exclusive: bool) -> bool {
        match &mut self.exclusive {
            Some((owner, count)) if *owner == thread => *count += 1,
            Some(_) => return false,
            None if exclusive && !self.sharers.is_empty() => return false,
            None if exclusive => self.exclusive = Some((thread, 1)),
            None => *self.sharers.entry(thread).or_default() += 1,
        }
        true
    }

    /// Releases the lock once. `false` if the thread does not hold it.
    fn give(&mut self, thread: Address) -> bool {
        match (&mut self.exclusive, self.sharers.get_mut(&thread)) {
            (Some((owner, count)), _) if *owner == thread => {
                *count -= 1;
                if *count == 0 {
                    self.exclusive = None;
                }
            }
            (_, Some(count)) => {
                *count -= 1;
                if *count == 0 {
                    self.sharers.remove(&thread);
                }
            }
            _ => return false,
        }
        true
    }

    fn is_free(&self) -> bool {
        self.exclusive.is_none() && self.sharers.is_empty()
    }
}

/// `ExInitializeResourceLite`.
pub extern "win64" fn ExInitializeResourceLite(Resource: Address) -> NTSTATUS {
    let kernel = enter!(ExInitializeResourceLite);
    kernel.settle(kernel.resident(Resource), ());
    let again = kernel.resources().resources.insert(Resource, Shared::default()).is_some();
    if again {
        kernel.violate(about(&rules::RESOURCE_INITIALIZED_AGAIN, Resource));
    }
    Status::SUCCESS.0
}

/// `ExDeleteResourceLite`.
pub extern "win64" fn ExDeleteResourceLite(Resource: Address) -> NTSTATUS {
    let kernel = enter!(ExDeleteResourceLite);
    let removed = kernel.resources().resources.remove(&Resource);
    let outcome = match removed {
        None => Err(about(&rules::RESOURCE_NOT_INITIALIZED, Resource)),
        Some(shared) if !shared.is_free() => {
            let owner = shared.exclusive.map(|(thread, _)| thread);
            let owner = owner.or_else(|| shared.sharers.keys().next().copied()).unwrap_or(0);
            let parameters = [Resource as u64, owner as u64, 0];
            Err(Violation::new(&rules::LOCK_FREED_HELD, parameters, format!("resource {Resource:#x}")))
        }
        Some(_) => Ok(()),
    };
    kernel.settle(outcome, ());
    Status::SUCCESS.0
}

fn about(rule: &'static Rule, resource: Address) -> Violation {
    Violation::new(rule, [resource as u64, 0, 0], format!("resource {resource:#x}"))
}

/// `ExAcquireResourceExclusiveLite`. Normal kernel APCs must be disabled.
pub extern "win64" fn ExAcquireResourceExclusiveLite(Resource: Address, Wait: BOOLEAN) -> BOOLEAN {
    let kernel = enter!(ExAcquireResourceExclusiveLite);
    acquire(&kernel, Resource, true, Wait != 0)
}

/// `ExAcquireResourceSharedLite`. Normal kernel APCs must be disabled.
pub extern "win64" fn ExAcquireResourceSharedLite(Resource: Address, Wait: BOOLEAN) -> BOOLEAN {
    let kernel = enter!(ExAcquireResourceSharedLite);
    acquire(&kernel, Resource, false, Wait != 0)
}

fn acquire(kernel: &Kernel, address: Address, exclusive: bool, waits: bool) -> BOOLEAN {
    kernel.settle(may_acquire(kernel, address, exclusive, waits), ());
    let thread = kernel.thread_object();
    let take = || {
        let mut resources = kernel.resources();
        resources.resources.get_mut(&address).is_none_or(|shared| shared.take(thread, exclusive))
    };
    if !waits {
        return BOOLEAN::from(take());
    }
    let what = || format!("the resource at {address:#x}");
    let _taken = ke::wait(kernel, &what, None, take);
    1
}

fn may_acquire(kernel: &Kernel, address: Address, exclusive: bool, waits: bool) -> Result<(), Violation> {
    if !address.is_multiple_of(align_of::<u64>()) {
        let text = format!("resource {address:#x}");
        return Err(Violation::new(&rules::RESOURCE_UNALIGNED, [0, 0, address as u64], text));
    }
    apcs_enabled(&rules::RESOURCE_ACQUIRE_APCS, address)?;
    let resources = kernel.resources();
    let Some(shared) = resources.resources.get(&address) else {
        return Err(about(&rules::LOCK_NOT_INITIALIZED, address));
    };
    // It would wait for itself.
    match exclusive && waits && shared.sharers.contains_key(&kernel.thread_object()) {
        true => Err(about(&rules::SELF_DEADLOCK, address)),
        false => Ok(()),
    }
}

/// `ExReleaseResourceLite`.
pub extern "win64" fn ExReleaseResourceLite(Resource: Address) {
    let kernel = enter!(ExReleaseResourceLite);
    kernel.settle(apcs_enabled(&rules::RESOURCE_RELEASE_APCS, Resource), ());
    let thread = kernel.thread_object();
    let given = kernel.resources().resources.get_mut(&Resource).is_some_and(|shared| shared.give(thread));
    if !given {
        let parameters = [Resource as u64, thread as u64, 0];
        let text = format!("resource {Resource:#x}");
        kernel.violate(Violation::new(&rules::RESOURCE_NOT_OWNED, parameters, text));
    }
    kernel.bell.ring();
}

/// `ExInitializePushLock`.
pub extern "win64" fn ExInitializePushLock(PushLock: Address) {
    let kernel = enter!(ExInitializePushLock);
    kernel.resources().push_locks.remove(&PushLock);
}

/// `ExAcquirePushLockExclusiveEx`. Normal kernel APCs must be disabled.
pub extern "win64" fn ExAcquirePushLockExclusiveEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExAcquirePushLockExclusiveEx);
    let _ = Flags;
    acquire_push_lock(&kernel, PushLock, true);
}

/// `ExAcquirePushLockSharedEx`. Normal kernel APCs must be disabled.
pub extern "win64" fn ExAcquirePushLockSharedEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExAcquirePushLockSharedEx);
    let _ = Flags;
    acquire_push_lock(&kernel, PushLock, false);
}

fn acquire_push_lock(kernel: &Kernel, address: Address, exclusive: bool) {
    kernel.settle(apcs_enabled(&rules::PUSH_LOCK_ACQUIRE_APCS, address), ());
    let thread = kernel.thread_object();
    // A push lock cannot be acquired recursively.
    let held = kernel.resources().push_locks.get(&address).is_some_and(|shared| {
        shared.exclusive.is_some_and(|(owner, _)| owner == thread) || shared.sharers.contains_key(&thread)
    });
    if held {
        kernel.violate(about(&rules::SELF_DEADLOCK, address));
        return;
    }
    let what = || format!("the push lock at {address:#x}");
    let _taken = ke::wait(kernel, &what, None, || {
        kernel.resources().push_locks.entry(address).or_default().take(thread, exclusive)
    });
}

/// `ExReleasePushLockExclusiveEx`.
pub extern "win64" fn ExReleasePushLockExclusiveEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExReleasePushLockExclusiveEx);
    let _ = Flags;
    release_push_lock(&kernel, PushLock);
}

/// `ExReleasePushLockSharedEx`.
pub extern "win64" fn ExReleasePushLockSharedEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExReleasePushLockSharedEx);
    let _ = Flags;
    release_push_lock(&kernel, PushLock);
}

fn release_push_lock(kernel: &Kernel, address: Address) {
    kernel.settle(apcs_enabled(&rules::PUSH_LOCK_RELEASE_APCS, address), ());
    let thread = kernel.thread_object();
    let given = kernel.resources().push_locks.get_mut(&address).is_some_and(|shared| shared.give(thread));
    if !given {
        kernel.violate(about(&rules::LOCK_NOT_ACQUIRED, address));
    }
    kernel.bell.ring();
}

impl Kernel {
    fn resources(&self) -> std::sync::MutexGuard<'_, Resources> {
        self.resources.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The calling thread's object.
    pub(super) fn thread_object(&self) -> Address {
        cpu::thread_object(|| self.objects().opaque())
    }

    /// Finds what must not be in pool that is freed: a queued work item, a resource, a
    /// lock that a thread holds.
    pub(super) fn check_freed(&self, block: &Range<Address>) -> Result<(), Violation> {
        let [start, end, size] = [block.start, block.end, block.len()].map(|number| number as u64);
        if let Some(item) = self.work().queued_item_in(block) {
            let text = format!("work item {item:#x}");
            return Err(Violation::new(&rules::POOL_WORK_ITEM_FREED, [item as u64, start, end], text));
        }
        if let Some((lock, thread)) = self.locks().held_in(block) {
            let text = format!("lock {lock:#x}");
            return Err(Violation::new(&rules::LOCK_FREED_HELD, [lock as u64, thread as u64, 0], text));
        }
        let resource = self.resources().resources.range(block.clone()).next().map(|(at, _)| *at);
        match resource {
            Some(at) => {
                let text = format!("resource {at:#x}");
                Err(Violation::new(&rules::POOL_RESOURCE_FREED, [at as u64, start, size], text))
            }
            None => Ok(()),
        }
    }
}
