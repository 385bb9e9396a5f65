//! Executive: pool, rundown protection, fast mutexes (`wdm.h`).
#![expect(unsafe_code, reason = "works on locks in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use super::cpu::{self, Irql};
use super::enter::enter;
use super::fault;
use super::locks::Kind;
use super::pool::{PoolTag, Wanted, pool_type as kind};
use super::types::{Address, BOOLEAN, FAST_MUTEX};
use super::{Kernel, ke};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};

/// `POOL_FLAGS` (`wdm.h`).
mod pool_flag {
    pub(super) const UNINITIALIZED: u64 = 0x2;
    pub(super) const SESSION: u64 = 0x4;
    pub(super) const CACHE_ALIGNED: u64 = 0x8;
    pub(super) const RAISE_ON_FAILURE: u64 = 0x20;
    pub(super) const NON_PAGED: u64 = 0x40;
    pub(super) const NON_PAGED_EXECUTE: u64 = 0x80;
    pub(super) const PAGED: u64 = 0x100;
    /// Required bits that the header does not use. Bits of the upper half are
    /// optional.
    pub(super) const UNUSED_REQUIRED: u64 = 0xFFFF_F800;
    pub(super) const RESERVED: u64 = 0x610;
}

/// `ExAllocatePool2`. The memory is zeroed unless the flags say otherwise.
pub extern "win64" fn ExAllocatePool2(Flags: u64, NumberOfBytes: usize, Tag: u32) -> Address {
    // Paged and nonpaged pool have different ceilings, which `allocate` checks.
    let kernel = enter!(ExAllocatePool2, Irql::HIGH);
    allocate_or_raise(&kernel, Flags, NumberOfBytes, Tag, false)
}

/// `POOL_TYPE` (`wdm.h`).
mod pool_type {
    /// Set for paged pool.
    pub(super) const PAGED: i32 = 1;
    pub(super) const CACHE_ALIGNED: i32 = 4;
    /// `POOL_RAISE_IF_ALLOCATION_FAILURE`.
    pub(super) const RAISE: i32 = 16;
    /// `POOL_NX_ALLOCATION`.
    pub(super) const NO_EXECUTE: i32 = 512;
}

/// `ExAllocatePoolWithTag`. The memory is not initialized.
pub extern "win64" fn ExAllocatePoolWithTag(PoolType: i32, NumberOfBytes: usize, Tag: u32) -> Address {
    let kernel = enter!(ExAllocatePoolWithTag, Irql::HIGH);
    let has = |bit| PoolType & bit != 0;
    let kind = match () {
        () if has(pool_type::PAGED) => pool_flag::PAGED,
        () if has(pool_type::NO_EXECUTE) => pool_flag::NON_PAGED,
        () => pool_flag::NON_PAGED_EXECUTE,
    };
    let when = |bit, flag| if has(bit) { flag } else { 0 };
    let flags = kind
        | pool_flag::UNINITIALIZED
        | when(pool_type::CACHE_ALIGNED, pool_flag::CACHE_ALIGNED)
        | when(pool_type::RAISE, pool_flag::RAISE_ON_FAILURE);
    allocate_or_raise(&kernel, flags, NumberOfBytes, Tag, true)
}

/// Allocates. A failure raises an exception if the flags ask for one. `old`: for
/// ExAllocatePoolWithTag.
fn allocate_or_raise(kernel: &Kernel, flags: u64, size: usize, tag: u32, old: bool) -> Address {
    let address = kernel.settle(allocate(kernel, flags, size, tag, old).map(Some), None);
    if address == Some(0) && flags & pool_flag::RAISE_ON_FAILURE != 0 {
        kernel.raise(Status::INSUFFICIENT_RESOURCES, &[]);
        let text = format!("{size} bytes, tag {}, at {}", PoolTag(tag), cpu::irql());
        kernel.violate(fault::in_thread(Violation::new(
            &rules::POOL_RAISE,
            [kernel.call_site(), 0, 0],
            text,
        )));
    }
    address.unwrap_or(0)
}

/// Allocates pool. `old`: for ExAllocatePoolWithTag, whose bad tags are fatal; the pages
/// of ExAllocatePool2 say that it returns NULL for bad flags and for a tag of 0.
fn allocate(kernel: &Kernel, flags: u64, size: usize, tag: u32, old: bool) -> Result<Address, Violation> {
    let irql = cpu::irql();
    let kinds = pool_flag::NON_PAGED | pool_flag::NON_PAGED_EXECUTE | pool_flag::PAGED;
    let paged = flags & pool_flag::PAGED != 0;
    let executable = flags & pool_flag::NON_PAGED_EXECUTE != 0;
    let kind = match () {
        () if paged => kind::PAGED,
        () if executable => kind::NON_PAGED_EXECUTE,
        () => kind::NON_PAGED,
    };
    let refuse = |rule, parameters, text: String| Err(Violation::new(rule, parameters, text));
    let unknown = pool_flag::UNUSED_REQUIRED | pool_flag::RESERVED | pool_flag::SESSION;
    if (flags & kinds).count_ones() != 1 || flags & unknown != 0 || (tag == 0 && !old) {
        return Ok(0);
    }
    let text = || format!("{size} bytes, tag {}, at {irql}", PoolTag(tag));
    if executable && kernel.verifier().checks(&rules::POOL_EXECUTABLE) {
        return refuse(&rules::POOL_EXECUTABLE, [kernel.call_site(), kind, tag.into()], text());
    }
    let parameters = [irql.0.into(), kind, size as u64];
    let limit = if paged { Irql::APC } else { Irql::DISPATCH };
    if irql > limit {
        let compliance = &rules::DDI_IRQL_EX_ALLOCATE_POOL;
        return match paged {
            _ if old && kernel.verifier().checks(compliance) => Err(Violation::of_ddi(compliance, text())),
            true => refuse(&rules::POOL_PAGED_IRQL, parameters, text()),
            false => refuse(&rules::POOL_IRQL, parameters, text()),
        };
    }
    if size == 0 {
        return refuse(&rules::POOL_ZERO_BYTES, parameters, text());
    }
    if tag == 0 {
        return refuse(&rules::POOL_ZERO_TAG, [kind, size as u64, kernel.call_site()], text());
    }
    if !tag.to_le_bytes().iter().any(u8::is_ascii_alphanumeric) {
        return refuse(&rules::POOL_BAD_TAG, [tag.into(), kind, kernel.call_site()], text());
    }
    if DEFAULT_TAGS.contains(&tag.to_le_bytes()) {
        return refuse(&rules::POOL_DEFAULT_TAG, [tag.into(), kind, kernel.call_site()], text());
    }
    Ok(kernel.pool().allocate(Wanted {
        size,
        tag,
        paged,
        zeroed: flags & pool_flag::UNINITIALIZED == 0,
        cache_aligned: flags & pool_flag::CACHE_ALIGNED != 0,
        origin: kernel.origin(),
    }))
}

/// The tags that `wdm.h` gives to allocations without a tag, which tell nothing (CodeQL,
/// "DefaultPoolTag").
const DEFAULT_TAGS: [[u8; 4]; 2] = [*b"Wdm ", *b"Ddk "];

/// `ExFreePool`. The tag may be any.
pub extern "win64" fn ExFreePool(P: Address) {
    let kernel = enter!(ExFreePool, Irql::HIGH);
    kernel.settle(free(&kernel, P, 0), ());
}

/// `ExFreePoolWithTag`. Tag 0 stands for any tag.
pub extern "win64" fn ExFreePoolWithTag(P: Address, Tag: u32) {
    let kernel = enter!(ExFreePoolWithTag, Irql::HIGH);
    kernel.settle(free(&kernel, P, Tag), ());
}

fn free(kernel: &Kernel, address: Address, tag: u32) -> Result<(), Violation> {
    if kernel.is_system_irp(address) {
        let text = format!("{address:#x} is an IRP");
        return Err(Violation::new(&rules::POOL_IRP_FREED, [address as u64, 0, 0], text));
    }
    if let Some(block) = kernel.pool().range_of(address).filter(|block| block.start == address) {
        kernel.check_freed(&block)?;
    }
    let stack = kernel.guest().frames();
    let size = kernel.pool().free(address, tag, cpu::irql(), stack)?;
    let memory = address..address + size;
    kernel.locks().forget(memory.clone());
    kernel.spin_locks.forget(memory.clone());
    kernel.forget_irps(&memory);
    kernel.forget_tables(memory);
    Ok(())
}

/// Set in an `EX_RUNDOWN_REF` when a thread starts to wait for the release. The
/// other bits count references in units of two.
const RUNDOWN_ACTIVE: u64 = 1;
const RUNDOWN_REFERENCE: u64 = 2;

fn rundown<'a>(address: Address) -> &'a AtomicU64 {
    // SAFETY: an EX_RUNDOWN_REF is one aligned 64-bit word in driver memory.
    // Processors share it only by atomic operations. A bad pointer faults, and the
    // guest attributes the fault to the driver.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// `ExInitializeRundownProtection`.
pub extern "win64" fn ExInitializeRundownProtection(RunRef: Address) {
    enter!(ExInitializeRundownProtection);
    rundown(RunRef).store(0, Ordering::Release);
}

/// `ExAcquireRundownProtection`. FALSE after rundown has begun.
pub extern "win64" fn ExAcquireRundownProtection(RunRef: Address) -> BOOLEAN {
    enter!(ExAcquireRundownProtection);
    let acquire = |count| (count & RUNDOWN_ACTIVE == 0).then_some(count + RUNDOWN_REFERENCE);
    let order = Ordering::AcqRel;
    let outcome = rundown(RunRef).fetch_update(order, Ordering::Acquire, acquire);
    BOOLEAN::from(outcome.is_ok())
}

/// `ExReleaseRundownProtection`.
pub extern "win64" fn ExReleaseRundownProtection(RunRef: Address) {
    let kernel = enter!(ExReleaseRundownProtection);
    let release = |count: u64| count.checked_sub(RUNDOWN_REFERENCE);
    let order = Ordering::AcqRel;
    match rundown(RunRef).fetch_update(order, Ordering::Acquire, release) {
        Ok(_) => kernel.bell.ring(),
        Err(_) => {
            kernel.violate(Violation::new(&rules::RUNDOWN_UNDERFLOW, [RunRef as u64, 0, 0], String::new()))
        }
    }
}

/// `ExWaitForRundownProtectionRelease`. Refuses new references from now on, and
/// returns when the last one is released.
pub extern "win64" fn ExWaitForRundownProtectionRelease(RunRef: Address) {
    let kernel = enter!(ExWaitForRundownProtectionRelease);
    rundown(RunRef).fetch_or(RUNDOWN_ACTIVE, Ordering::AcqRel);
    let what = || format!("the rundown of {RunRef:#x}");
    let _released =
        ke::wait(&kernel, &what, None, || rundown(RunRef).load(Ordering::Acquire) == RUNDOWN_ACTIVE);
}

fn mutex_count<'a>(mutex: Address) -> &'a AtomicI32 {
    let at = mutex + offset_of!(FAST_MUTEX, Count);
    // SAFETY: `Count` is an aligned 32-bit word in driver memory. Processors share
    // it only by atomic operations. A bad pointer faults, as above.
    unsafe { AtomicI32::from_ptr(at as *mut i32) }
}

fn mutex_owner<'a>(mutex: Address) -> &'a AtomicUsize {
    let at = mutex + offset_of!(FAST_MUTEX, Owner);
    // SAFETY: `Owner` is an aligned pointer-size word in driver memory, as
    // above.
    unsafe { AtomicUsize::from_ptr(at as *mut usize) }
}

fn mutex_irql<'a>(mutex: Address) -> &'a AtomicI32 {
    let at = mutex + offset_of!(FAST_MUTEX, OldIrql);
    // SAFETY: `OldIrql` is an aligned 32-bit word in driver memory, as above.
    unsafe { AtomicI32::from_ptr(at as *mut i32) }
}

/// `ExAcquireFastMutex`: raises to APC_LEVEL.
pub extern "win64" fn ExAcquireFastMutex(FastMutex: Address) {
    let kernel = enter!(ExAcquireFastMutex);
    if take_mutex(&kernel, FastMutex) {
        let old = cpu::irql();
        cpu::set_irql(&kernel, Irql::APC);
        mutex_irql(FastMutex).store(old.0.into(), Ordering::Relaxed);
    }
}

/// `ExAcquireFastMutexUnsafe`: APCs must be disabled already.
pub extern "win64" fn ExAcquireFastMutexUnsafe(FastMutex: Address) {
    let kernel = enter!(ExAcquireFastMutexUnsafe);
    let apcs = apcs_enabled(&rules::ACQUIRE_UNSAFE_MUTEX_IRQL, FastMutex);
    kernel.settle(apcs, ());
    take_mutex(&kernel, FastMutex);
}

/// Waits for a fast mutex. `false` if a tolerated breach prevents it.
fn take_mutex(kernel: &Kernel, address: Address) -> bool {
    kernel.settle(kernel.resident(address), ());
    if let Err(violation) = kernel.locks().acquiring(address, Kind::FastMutex) {
        // The mutex is not taken, even if the breach is tolerated.
        kernel.violate(violation);
        return false;
    }
    let event = address + offset_of!(FAST_MUTEX, Event);
    kernel.settle(ke::initialized(event), ());
    let what = || format!("the fast mutex at {address:#x}");
    let _taken = ke::wait(kernel, &what, None, || {
        // ExInitializeFastMutex (`wdm.h`, inline) sets Count to 1.
        mutex_count(address).compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
    });
    let thread = kernel.thread_object();
    mutex_owner(address).store(thread, Ordering::Relaxed);
    kernel.locks().acquired(address, Kind::FastMutex, thread);
    true
}

/// `ExReleaseFastMutex`: restores the IRQL.
pub extern "win64" fn ExReleaseFastMutex(FastMutex: Address) {
    let kernel = enter!(ExReleaseFastMutex);
    let old = Irql(mutex_irql(FastMutex).load(Ordering::Relaxed) as u8);
    give_mutex(&kernel, FastMutex);
    cpu::set_irql(&kernel, old.min(Irql::APC));
    kernel.bell.ring();
}

/// `ExReleaseFastMutexUnsafe`.
pub extern "win64" fn ExReleaseFastMutexUnsafe(FastMutex: Address) {
    let kernel = enter!(ExReleaseFastMutexUnsafe);
    kernel.settle(apcs_enabled(&rules::RELEASE_UNSAFE_MUTEX_IRQL, FastMutex), ());
    give_mutex(&kernel, FastMutex);
    kernel.bell.ring();
}

fn give_mutex(kernel: &Kernel, address: Address) {
    let thread = kernel.thread_object();
    kernel.settle(kernel.locks().releasing(address, Kind::FastMutex, thread), ());
    mutex_owner(address).store(0, Ordering::Relaxed);
    mutex_count(address).store(1, Ordering::Release);
}

/// A breach of `rule` if normal kernel APCs are enabled. Its parameters are the IRQL, the
/// thread's APC disable count and the object.
pub(super) fn apcs_enabled(rule: &'static Rule, object: Address) -> Result<(), Violation> {
    if cpu::apcs_disabled() {
        return Ok(());
    }
    let (count, _) = cpu::apc_disable_count();
    let text = format!("{object:#x} with APCs enabled");
    Err(Violation::new(rule, [cpu::irql().0.into(), count.into(), object as u64], text))
}
