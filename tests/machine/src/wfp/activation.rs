//! Publishes committed objects to classify, and notifies callouts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard};

use super::filter::StoredFilter;
use super::transaction::Core;
use super::{BfeState, CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY, Engine, NotifyType};
use crate::status::Status;

/// Notifications that are delivered when no lock is held.
#[must_use]
#[derive(Default)]
pub(super) struct Notices(Vec<(NotifyType, Arc<StoredFilter>)>);

impl Engine {
    /// Updates the active filters from the objects and the engine's state. Returns
    /// the notifications for callouts.
    pub(super) fn activate(&self, core: &mut Core, announced: &[Arc<StoredFilter>]) -> Notices {
        // Boot-time filters are active until the engine runs, all others while it
        // runs.
        let running = core.bfe == BfeState::Running || core.bfe == BfeState::StopPending;
        let stored = core.store.filters.iter();
        let wanted = stored.filter(|(_, stored)| stored.is_boot_time() != running);
        let wanted: BTreeMap<_, _> = wanted.map(|(id, stored)| (*id, Arc::clone(stored))).collect();
        let before = std::mem::replace(&mut core.active, wanted);
        let gone = before.values().filter(|stored| !core.active.contains_key(&stored.id()));
        let new = core.active.values().filter(|stored| !before.contains_key(&stored.id()));
        let (gone, new): (Vec<_>, Vec<_>) = (gone.cloned().collect(), new.cloned().collect());

        let layers: BTreeSet<_> = gone.iter().chain(&new).map(|stored| stored.layer.id).collect();
        for layer in layers {
            self.publish(layer, core.active.values().filter(|stored| stored.layer.id == layer));
        }

        let was_told =
            |stored: &Arc<StoredFilter>| announced.iter().any(|announced| announced.id() == stored.id());
        let kept = |stored: &Arc<StoredFilter>| core.store.filters.contains_key(&stored.id());
        let brief = announced.iter().filter(|stored| !kept(stored)).cloned();
        let mut notices = Notices::deleted(gone).and(Notices::deleted(brief.collect()));
        for stored in new {
            if !was_told(&stored) {
                notices.0.push((NotifyType::AddFilter, Arc::clone(&stored)));
            }
            notices.0.push((NotifyType::AddFilterPostCommit, stored));
        }
        notices
    }

    /// Releases the lock, wakes the waiting sessions, and notifies the callouts.
    pub(super) fn release(&self, core: MutexGuard<'_, Core>, notices: Notices) {
        drop(core);
        self.transaction_free.ring();
        for (kind, stored) in notices.0 {
            // A failure is ignored for DELETE and too late for the others. A
            // classify that began before may still use a filter whose deletion is
            // notified here; no source excludes that.
            let _ignored = notify(kind, &stored);
        }
    }
}

impl Notices {
    pub(super) fn and(mut self, mut more: Self) -> Self {
        self.0.append(&mut more.0);
        self
    }

    pub(super) fn deleted(list: Vec<Arc<StoredFilter>>) -> Self {
        Self(list.into_iter().map(|stored| (NotifyType::DeleteFilter, stored)).collect())
    }
}

/// Calls `notifyFn` if the callout is registered. Otherwise the notification is
/// lost.
pub(super) fn notify(kind: NotifyType, stored: &StoredFilter) -> Status {
    let Some(callout) = stored.active.slot.as_ref().and_then(|slot| slot.enter()) else {
        return Status::SUCCESS;
    };
    let asked = callout.flags & CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY != 0;
    if kind == NotifyType::AddFilterPostCommit && !asked {
        return Status::SUCCESS;
    }
    let key = (kind != NotifyType::DeleteFilter).then_some(stored.filter.key);
    callout.driver.notify(kind, key, &stored.active.runtime)
}
