//! Executive: resources (`ERESOURCE`) and push locks (`wdm.h`).
#![expect(unsafe_code, reason = "works on locks in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::avl::not_initialized;
use super::cpu::{self, Irql};
use super::enter::enter;
use super::ex::this_thread;
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
    /// Takes it, if it is free for this.
    fn take(&mut self, shared: bool) -> bool {
        let me = this_thread();
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

    /// Releases it once. `false` if this thread does not hold it.
    fn release(&mut self) -> bool {
        let me = this_thread();
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
}

/// The breach of a driver that does not disable kernel APCs, as the lock asks for.
fn apcs_disabled(rule: &'static Rule, lock: Address) -> Result<(), Violation> {
    let irql = cpu::irql();
    if irql >= Irql::APC || cpu::thread_state().critical_regions > 0 {
        return Ok(());
    }
    Err(Violation::new(rule, [irql.0.into(), 0, lock as u64], format!("the lock at {lock:#x}")))
}

/// `ExInitializeResourceLite`.
pub extern "win64" fn ExInitializeResourceLite(Resource: Address) -> NTSTATUS {
    let kernel = enter!(ExInitializeResourceLite);
    let initialize = || {
        kernel.resident(Resource)?;
        if kernel.objects().resources.contains_key(&Resource) {
            let text = format!("the resource at {Resource:#x}");
            return Err(Violation::new(&rules::RESOURCE_AGAIN, [Resource as u64, 0, 0], text).into());
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
    let known = kernel.objects().resources.remove(&Resource).is_some();
    if !known {
        let text = format!("the resource at {Resource:#x}");
        kernel.violate(Violation::new(&rules::RESOURCE_UNKNOWN, [Resource as u64, 0, 0], text));
    }
    Status::SUCCESS.0
}

fn acquire(kernel: &Kernel, resource: Address, wait: bool, shared: bool) -> Result<bool, Violation> {
    apcs_disabled(&rules::RESOURCE_APCS_ACQUIRE, resource)?;
    {
        let objects = kernel.objects();
        let known =
            objects.resources.get(&resource).ok_or_else(|| not_initialized("the resource", resource))?;
        if !shared && known.exclusive.is_none() && known.shared.contains_key(&this_thread()) && wait {
            let text = format!("the resource at {resource:#x}, which this thread shares");
            return Err(Violation::new(&rules::SELF_DEADLOCK, [resource as u64, 0, 0], text));
        }
    }
    let take = || kernel.objects().resources.get_mut(&resource).is_some_and(|it| it.take(shared));
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
        apcs_disabled(&rules::RESOURCE_APCS_RELEASE, Resource)?;
        let released = {
            let mut objects = kernel.objects();
            let known = objects.resources.get_mut(&Resource);
            known.ok_or_else(|| not_initialized("the resource", Resource))?.release()
        };
        if !released {
            let text = format!("the resource at {Resource:#x}");
            return Err(Violation::new(&rules::LOCK_NOT_ACQUIRED, [Resource as u64, 0, 0], text));
        }
        Ok(())
    };
    kernel.settle(release(), ());
    kernel.bell.ring();
}

impl Kernel {
    /// Checks that memory which is freed holds no resource.
    pub(super) fn check_resources(&self, memory: Range<Address>) -> Result<(), Violation> {
        let objects = self.objects();
        match objects.resources.range(memory.clone()).next() {
            None => Ok(()),
            Some((resource, _)) => {
                let size = (memory.end - memory.start) as u64;
                let text = format!("the resource at {resource:#x} is in freed memory");
                let parameters = [*resource as u64, memory.start as u64, size];
                Err(Violation::new(&rules::RESOURCE_FREED, parameters, text))
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
    let may =
        apcs_disabled(&rules::PUSH_LOCK_APCS_ACQUIRE, lock).and_then(|()| kernel.locks().acquiring(lock));
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
    kernel.locks().acquired(lock, kind(shared));
}

fn pull(kernel: &Kernel, lock: Address, shared: bool) {
    let held = word(lock).load(Ordering::Relaxed);
    let released = apcs_disabled(&rules::PUSH_LOCK_APCS_RELEASE, lock)
        .and_then(|()| kernel.locks().releasing(lock, kind(shared), held != 0));
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
    enter!(ExInitializePushLock);
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
