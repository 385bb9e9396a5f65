//! I/O manager: remove locks (`IO_REMOVE_LOCK`, `wdm.h`).
//!
//! The lab keeps their state itself, with the tags that Driver Verifier compares.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use super::enter::enter;
use super::types::{Address, NTSTATUS};
use super::{Kernel, ke};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// A remove lock.
#[derive(Debug, Default)]
pub(super) struct RemoveLock {
    /// The tags with which it is acquired, in order.
    tags: Vec<Address>,
    /// Whether nobody can acquire it any more.
    removed: bool,
}

/// The initialized remove locks by address.
pub(super) type RemoveLocks = BTreeMap<Address, RemoveLock>;

/// `IoInitializeRemoveLockEx`.
pub extern "win64" fn IoInitializeRemoveLockEx(
    Lock: Address,
    AllocateTag: u32,
    MaxLockedMinutes: u32,
    HighWatermark: u32,
    RemlockSize: u32,
) {
    let kernel = enter!(IoInitializeRemoveLockEx);
    let _ = (AllocateTag, MaxLockedMinutes, HighWatermark, RemlockSize);
    let again = kernel.remove_locks().insert(Lock, RemoveLock::default()).is_some();
    if again {
        let text = format!("remove lock {Lock:#x}");
        // Driver Verifier has a lock of its own behind the driver's.
        kernel.violate(Violation::new(&rules::REMOVE_LOCK_AGAIN, [Lock as u64, Lock as u64, 0], text));
    }
}

/// `IoAcquireRemoveLockEx`. STATUS_DELETE_PENDING after `IoReleaseRemoveLockAndWaitEx`.
pub extern "win64" fn IoAcquireRemoveLockEx(
    RemoveLock: Address,
    Tag: Address,
    File: Address,
    Line: u32,
    RemlockSize: u32,
) -> NTSTATUS {
    /// `STATUS_DELETE_PENDING` (`ntstatus.h`).
    const DELETE_PENDING: Status = Status(0xC000_0056_u32 as i32);
    let kernel = enter!(IoAcquireRemoveLockEx);
    let _ = (File, Line, RemlockSize);
    let mut locks = kernel.remove_locks();
    let outcome = match locks.get_mut(&RemoveLock) {
        None => Err(()),
        Some(lock) if lock.removed => Ok(DELETE_PENDING),
        Some(lock) => {
            lock.tags.push(Tag);
            Ok(Status::SUCCESS)
        }
    };
    drop(locks);
    kernel.settle(outcome.map_err(|()| unknown(RemoveLock)), DELETE_PENDING).0
}

fn unknown(lock: Address) -> Violation {
    let text = format!("{lock:#x} is no initialized remove lock");
    Violation::new(&rules::BAD_OBJECT, [lock as u64, 0, 0], text)
}

/// `IoReleaseRemoveLockEx`.
pub extern "win64" fn IoReleaseRemoveLockEx(RemoveLock: Address, Tag: Address, RemlockSize: u32) {
    let kernel = enter!(IoReleaseRemoveLockEx);
    let _ = RemlockSize;
    let mut locks = kernel.remove_locks();
    let outcome = match locks.get_mut(&RemoveLock) {
        None => Err(unknown(RemoveLock)),
        Some(lock) => match lock.tags.iter().rposition(|tag| *tag == Tag) {
            Some(at) => {
                lock.tags.remove(at);
                Ok(())
            }
            None => {
                let text = format!("remove lock {RemoveLock:#x} with tag {Tag:#x}");
                let parameters = [RemoveLock as u64, Tag as u64, 0];
                Err(Violation::new(&rules::REMOVE_LOCK_TAG, parameters, text))
            }
        },
    };
    drop(locks);
    kernel.settle(outcome, ());
    kernel.bell.ring();
}

/// `IoReleaseRemoveLockAndWaitEx`: waits until it is released as often as acquired.
pub extern "win64" fn IoReleaseRemoveLockAndWaitEx(RemoveLock: Address, Tag: Address, RemlockSize: u32) {
    let kernel = enter!(IoReleaseRemoveLockAndWaitEx);
    let _ = RemlockSize;
    kernel.settle(release_last(&kernel, RemoveLock, Tag), ());
    let what = || format!("the remove lock {RemoveLock:#x}");
    let _free = ke::wait(&kernel, &what, None, || {
        kernel.remove_locks().get(&RemoveLock).is_none_or(|lock| lock.tags.is_empty())
    });
}

fn release_last(kernel: &Kernel, address: Address, tag: Address) -> Result<(), Violation> {
    let mut locks = kernel.remove_locks();
    let lock = locks.get_mut(&address).ok_or_else(|| unknown(address))?;
    match lock.tags.iter().rposition(|known| *known == tag) {
        Some(at) => {
            lock.tags.remove(at);
            lock.removed = true;
            Ok(())
        }
        None => {
            let acquired = lock.tags.last().copied().unwrap_or(0);
            let text = format!("remove lock {address:#x} with tag {tag:#x}, acquired with {acquired:#x}");
            let parameters = [address as u64, tag as u64, acquired as u64];
            Err(Violation::new(&rules::REMOVE_LOCK_WAIT_TAG, parameters, text))
        }
    }
}

impl Kernel {
    fn remove_locks(&self) -> MutexGuard<'_, RemoveLocks> {
        self.remove_locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the remove locks in a device's memory.
    pub(super) fn forget_remove_locks(&self, memory: std::ops::Range<Address>) {
        self.remove_locks().retain(|lock, _| !memory.contains(lock));
    }
}
