//! Spin locks that are shared, resources and push locks.

use super::super::affinity::*;
use super::super::ex::*;
use super::super::resource::*;
use super::super::rwlock::*;
use super::super::types::{Address, ERESOURCE};
use super::super::{Irql, cpu};
use super::{clean, drive, machine, stopped_by};
use crate::verifier::{Rule, rules};

const TAG: u32 = u32::from_le_bytes(*b"hush");

fn at<T>(value: &T) -> Address {
    std::ptr::from_ref(value) as Address
}

#[track_caller]
fn breaks<R>(rule: &'static Rule, f: impl FnOnce() -> R) {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, f);
    stopped_by(&kernel, outcome, rule);
}

#[test]
fn a_shared_spin_lock_raises_and_restores_the_level() {
    let kernel = machine();
    let lock = 0u64;
    let lock = at(&lock);
    let outcome = drive(&kernel, Irql::APC, || {
        let old = ExAcquireSpinLockShared(lock);
        let inside = cpu::irql();
        let converted = ExTryConvertSharedSpinLockExclusive(lock);
        ExReleaseSpinLockExclusive(lock, old);
        let old = ExAcquireSpinLockExclusive(lock);
        ExReleaseSpinLockExclusive(lock, old);
        (old, inside, converted, cpu::irql())
    });
    assert_eq!(clean(&kernel, outcome), (1, Irql::DISPATCH, 1, Irql::APC));
    breaks(&rules::LOCK_WRONG_RELEASE, || {
        let old = ExAcquireSpinLockShared(lock);
        ExReleaseSpinLockExclusive(lock, old);
    });
    // The first lock is still taken.
    let other = 0u64;
    let other = at(&other);
    breaks(&rules::SELF_DEADLOCK, || {
        ExAcquireSpinLockExclusive(other);
        ExAcquireSpinLockExclusiveAtDpcLevel(other);
    });
}

#[test]
fn threads_share_a_spin_lock_and_exclude_writers() {
    let kernel = machine();
    let lock = 0u64;
    let lock = at(&lock);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let old = ExAcquireSpinLockShared(lock);
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                super::drive_on(&kernel, 1, Irql::PASSIVE, || {
                    let old = ExAcquireSpinLockShared(lock);
                    let converted = ExTryConvertSharedSpinLockExclusive(lock);
                    ExReleaseSpinLockShared(lock, old);
                    converted
                })
            });
            other.join().unwrap().unwrap()
        });
        ExReleaseSpinLockShared(lock, old);
        both
    });
    assert_eq!(clean(&kernel, outcome), 0, "a lock that two threads share cannot be converted");
}

#[test]
fn a_resource_is_shared_or_exclusive_and_needs_a_critical_region() {
    let kernel = machine();
    let resource = ERESOURCE::zeroed();
    let resource = at(&resource);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        ExInitializeResourceLite(resource);
        KeEnterCriticalRegion();
        let taken = [
            ExAcquireResourceExclusiveLite(resource, 1),
            ExAcquireResourceExclusiveLite(resource, 1),
            ExAcquireResourceSharedLite(resource, 1),
        ];
        let other = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                super::drive_on(&kernel, 1, Irql::APC, || ExAcquireResourceSharedLite(resource, 0))
            });
            other.join().unwrap().unwrap()
        });
        (0..3).for_each(|_| ExReleaseResourceLite(resource));
        KeLeaveCriticalRegion();
        ExDeleteResourceLite(resource);
        (taken, other)
    });
    assert_eq!(clean(&kernel, outcome), ([1; 3], 0));
    breaks(&rules::RESOURCE_ACQUIRE_APCS, || {
        ExInitializeResourceLite(resource);
        ExAcquireResourceSharedLite(resource, 1)
    });
    breaks(&rules::RESOURCE_INITIALIZED_AGAIN, || {
        ExInitializeResourceLite(resource);
        ExInitializeResourceLite(resource)
    });
    breaks(&rules::RESOURCE_NOT_INITIALIZED, || ExDeleteResourceLite(resource));
    breaks(&rules::POOL_RESOURCE_FREED, || {
        let block = ExAllocatePool2(0x40, 104, TAG);
        ExInitializeResourceLite(block);
        ExFreePool(block);
    });
    breaks(&rules::SELF_DEADLOCK, || {
        ExInitializeResourceLite(resource);
        KeEnterCriticalRegion();
        ExAcquireResourceSharedLite(resource, 1);
        ExAcquireResourceExclusiveLite(resource, 1)
    });
}

#[test]
fn a_push_lock_needs_a_critical_region() {
    let kernel = machine();
    let lock = 0u64;
    let lock = at(&lock);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        ExInitializePushLock(lock);
        KeEnterCriticalRegion();
        ExAcquirePushLockSharedEx(lock, 0);
        ExReleasePushLockSharedEx(lock, 0);
        ExAcquirePushLockExclusiveEx(lock, 0);
        ExReleasePushLockExclusiveEx(lock, 0);
        KeLeaveCriticalRegion();
    });
    clean(&kernel, outcome);
    breaks(&rules::PUSH_LOCK_ACQUIRE_APCS, || ExAcquirePushLockSharedEx(lock, 0));
    breaks(&rules::PUSH_LOCK_RELEASE_APCS, || {
        KeEnterCriticalRegion();
        ExAcquirePushLockSharedEx(lock, 0);
        KeLeaveCriticalRegion();
        ExReleasePushLockSharedEx(lock, 0);
    });
}
