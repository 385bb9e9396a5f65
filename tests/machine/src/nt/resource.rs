//! Executive: resources (`ERESOURCE`) and push locks (`wdm.h`).
#![expect(unsafe_code, reason = "works on locks in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cpu;
use super::enter::enter;
use super::ex::apcs_enabled;
use super::foreign;
use super::ke;
use super::locks::Kind;
use super::types::{Address, BOOLEAN, ERESOURCE, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};

/// A resource that a driver has initialized.
#[derive(Debug, Default)]
pub struct Resource {
    /// The thread that holds it exclusively, and how often.
    exclusive: Option<(usize, u32)>,
    /// How often each thread shares it.
    shared: BTreeMap<usize, u32>,
}

impl Resource {
    /// Takes it for a thread, if it is free for this.
    fn take(&mut self, me: Address, shared: bool) -> bool {
        match &mut self.exclusive {
            // The owner may acquire it again in both ways.
            Some((owner, count)) if *owner == me => *count += 1,
            Some(_) => return false,
            None if shared => *self.shared.entry(me).or_default() += 1,
            None if self.shared.is_empty() => self.exclusive = Some((me, 1)),
            None => return false,
        }
        true
    }

    /// Releases it once. `false` if the thread does not hold it.
    fn release(&mut self, me: Address) -> bool {
        match &mut self.exclusive {
            Some((owner, 1)) if *owner == me => self.exclusive = None,
            Some((owner, count)) if *owner == me => *count -= 1,
            _ => match self.shared.get_mut(&me) {
                Some(1) => drop(self.shared.remove(&me)),
                Some(count) => *count -= 1,
                None => return false,
            },
        }
        true
    }

    /// A thread that holds it.
    fn holder(&self) -> Option<Address> {
        self.exclusive.map(|(thread, _)| thread).or_else(|| self.shared.keys().next().copied())
    }
}

fn about(rule: &'static Rule, resource: Address) -> Violation {
    Violation::new(rule, [resource as u64, 0, 0], format!("the resource at {resource:#x}"))
}

/// `ExInitializeResourceLite`.
pub extern "win64" fn ExInitializeResourceLite(Resource: Address) -> NTSTATUS {
    let kernel = enter!(ExInitializeResourceLite);
    let initialize = || {
        kernel.resident(Resource)?;
        if kernel.objects().resources.contains_key(&Resource) {
            return Err(about(&rules::RESOURCE_INITIALIZED_AGAIN, Resource).into());
        }
        foreign::write(Resource, &ERESOURCE::zeroed())?;
        kernel.objects().resources.insert(Resource, self::Resource::default());
        Ok::<_, Trouble>(())
    };
    kernel.settle(initialize(), ());
    Status::SUCCESS.0
}

/// `ExDeleteResourceLite`.
pub extern "win64" fn ExDeleteResourceLite(Resource: Address) -> NTSTATUS {
    let kernel = enter!(ExDeleteResourceLite);
    let known = kernel.objects().resources.remove(&Resource);
    let outcome = match known.map(|it| it.holder()) {
        None => Err(about(&rules::RESOURCE_NOT_INITIALIZED, Resource)),
        Some(Some(thread)) => {
            let text = format!("the resource at {Resource:#x}");
            Err(Violation::new(&rules::LOCK_FREED_HELD, [Resource as u64, thread as u64, 0], text))
        }
        Some(None) => Ok(()),
    };
    kernel.settle(outcome, ());
    Status::SUCCESS.0
}

fn acquire(kernel: &Kernel, resource: Address, wait: bool, shared: bool) -> Result<bool, Violation> {
    if !resource.is_multiple_of(align_of::<u64>()) {
        let text = format!("the resource at {resource:#x}");
        return Err(Violation::new(&rules::RESOURCE_UNALIGNED, [0, 0, resource as u64], text));
    }
    apcs_enabled(&rules::RESOURCE_ACQUIRE_APCS, resource)?;
    let me = kernel.thread_object();
    {
        let objects = kernel.objects();
        let known = objects.resources.get(&resource);
        let known = known.ok_or_else(|| about(&rules::LOCK_NOT_INITIALIZED, resource))?;
        // It would wait for itself.
        if !shared && wait && known.exclusive.is_none() && known.shared.contains_key(&me) {
            return Err(about(&rules::SELF_DEADLOCK, resource));
        }
    }
    let take = || kernel.objects().resources.get_mut(&resource).is_some_and(|it| it.take(me, shared));
    if !wait {
        return Ok(take());
    }
    let what = || format!("the resource at {resource:#x}");
    let _taken = ke::wait(kernel, &what, None, take);
    Ok(true)
}

/// `ExAcquireResourceExclusiveLite`. FALSE if it does not wait, and others hold the
/// resource.
pub extern "win64" fn ExAcquireResourceExclusiveLite(Resource: Address, Wait: BOOLEAN) -> BOOLEAN {
    let kernel = enter!(ExAcquireResourceExclusiveLite);
    BOOLEAN::from(kernel.settle(acquire(&kernel, Resource, Wait != 0, false), false))
}

/// `ExAcquireResourceSharedLite`. FALSE if it does not wait, and another thread holds the
/// resource exclusively.
pub extern "win64" fn ExAcquireResourceSharedLite(Resource: Address, Wait: BOOLEAN) -> BOOLEAN {
    let kernel = enter!(ExAcquireResourceSharedLite);
    BOOLEAN::from(kernel.settle(acquire(&kernel, Resource, Wait != 0, true), false))
}

/// `ExReleaseResourceLite`.
pub extern "win64" fn ExReleaseResourceLite(Resource: Address) {
    let kernel = enter!(ExReleaseResourceLite);
    let release = || {
        apcs_enabled(&rules::RESOURCE_RELEASE_APCS, Resource)?;
        let me = kernel.thread_object();
        let released = kernel.objects().resources.get_mut(&Resource).map(|it| it.release(me));
        match released {
            None => Err(about(&rules::LOCK_NOT_INITIALIZED, Resource)),
            Some(true) => Ok(()),
            Some(false) => {
                let text = format!("the resource at {Resource:#x}");
                Err(Violation::new(&rules::RESOURCE_NOT_OWNED, [Resource as u64, me as u64, 0], text))
            }
        }
    };
    kernel.settle(release(), ());
    kernel.bell.ring();
}

impl Kernel {
    /// The calling thread's object.
    pub(super) fn thread_object(&self) -> Address {
        cpu::thread_object(|| self.objects().opaque())
    }

    /// Finds what must not be in pool that is freed: a queued work item, a lock that a
    /// thread holds, and what [`Self::check_objects`] finds.
    pub(super) fn check_freed(&self, block: &Range<Address>) -> Result<(), Violation> {
        let [start, end] = [block.start, block.end].map(|number| number as u64);
        if let Some(item) = self.work().queued_item_in(block) {
            let text = format!("work item {item:#x}");
            return Err(Violation::new(&rules::POOL_WORK_ITEM_FREED, [item as u64, start, end], text));
        }
        if let Some((lock, thread)) = self.locks().held_in(block) {
            let text = format!("lock {lock:#x}");
            return Err(Violation::new(&rules::LOCK_FREED_HELD, [lock as u64, thread as u64, 0], text));
        }
        self.check_objects(block)
    }

    /// Finds objects that the system keeps in lists, in memory that is freed: DPCs, timers,
    /// lookaside lists, resources.
    pub(super) fn check_objects(&self, memory: &Range<Address>) -> Result<(), Violation> {
        self.check_deferred(memory.clone())?;
        self.check_lookasides(memory.clone())?;
        self.check_resources(memory.clone())
    }

    /// Checks that memory which is freed holds no resource.
    pub(super) fn check_resources(&self, memory: Range<Address>) -> Result<(), Violation> {
        let objects = self.objects();
        match objects.resources.range(memory.clone()).next() {
            None => Ok(()),
            Some((resource, _)) => {
                let size = (memory.end - memory.start) as u64;
                let text = format!("the resource at {resource:#x} is in freed memory");
                let parameters = [*resource as u64, memory.start as u64, size];
                Err(Violation::new(&rules::POOL_RESOURCE_FREED, parameters, text))
            }
        }
    }
}

/// Set in an `EX_PUSH_LOCK` that is held exclusively. The other bits count those that
/// share it, in units of two.
const EXCLUSIVE: usize = 1;
const SHARED: usize = 2;

fn word<'a>(lock: Address) -> &'a AtomicUsize {
    // SAFETY: an EX_PUSH_LOCK is an aligned pointer-size word in driver memory, which
    // processors share only by atomic operations. A bad pointer faults, and the guest
    // attributes the fault to the driver.
    unsafe { AtomicUsize::from_ptr(lock as *mut usize) }
}

fn push(kernel: &Kernel, lock: Address, shared: bool) {
    let may = apcs_enabled(&rules::PUSH_LOCK_ACQUIRE_APCS, lock)
        .and_then(|()| kernel.locks().acquiring(lock, kind(shared)));
    if let Err(violation) = may {
        // The lock is not taken, even if the breach is tolerated.
        kernel.violate(violation);
        return;
    }
    let more = |held: usize| match shared {
        true => (held & EXCLUSIVE == 0).then_some(held + SHARED),
        false => (held == 0).then_some(EXCLUSIVE),
    };
    let what = || format!("the push lock at {lock:#x}");
    let _taken = ke::wait(kernel, &what, None, || {
        word(lock).fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok()
    });
    kernel.locks().acquired(lock, kind(shared), kernel.thread_object());
}

fn pull(kernel: &Kernel, lock: Address, shared: bool) {
    let released = apcs_enabled(&rules::PUSH_LOCK_RELEASE_APCS, lock)
        .and_then(|()| kernel.locks().releasing(lock, kind(shared), kernel.thread_object()));
    kernel.settle(released, ());
    match shared {
        true => drop(word(lock).fetch_sub(SHARED, Ordering::Release)),
        false => word(lock).store(0, Ordering::Release),
    }
    kernel.bell.ring();
}

fn kind(shared: bool) -> Kind {
    if shared { Kind::SharedPush } else { Kind::ExclusivePush }
}

/// `ExInitializePushLock`.
pub extern "win64" fn ExInitializePushLock(PushLock: Address) {
    let kernel = enter!(ExInitializePushLock);
    kernel.settle(kernel.locks().initializing(PushLock), ());
    word(PushLock).store(0, Ordering::Release);
}

/// `ExAcquirePushLockExclusiveEx`.
pub extern "win64" fn ExAcquirePushLockExclusiveEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExAcquirePushLockExclusiveEx);
    let _ = Flags;
    push(&kernel, PushLock, false);
}

/// `ExAcquirePushLockSharedEx`.
pub extern "win64" fn ExAcquirePushLockSharedEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExAcquirePushLockSharedEx);
    let _ = Flags;
    push(&kernel, PushLock, true);
}

/// `ExReleasePushLockExclusiveEx`.
pub extern "win64" fn ExReleasePushLockExclusiveEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExReleasePushLockExclusiveEx);
    let _ = Flags;
    pull(&kernel, PushLock, false);
}

/// `ExReleasePushLockSharedEx`.
pub extern "win64" fn ExReleasePushLockSharedEx(PushLock: Address, Flags: u32) {
    let kernel = enter!(ExReleasePushLockSharedEx);
    let _ = Flags;
    pull(&kernel, PushLock, true);
}
