//! What drivers and programs have added to an engine, as objects.

use super::lock::Locked;
use super::store::{Entry, Lifetime};
use super::{Callout, Engine, Filter, Guid, Provider, Sublayer};

/// A callout that a driver has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisteredCallout {
    /// Its key.
    pub key: Guid,
    /// Its run-time id.
    pub id: u32,
    /// `FWP_CALLOUT_FLAG_*`.
    pub flags: u32,
}

/// A filter in the engine.
#[derive(Clone, Debug)]
pub struct AddedFilter {
    /// Its run-time id.
    pub id: u64,
    /// Its effective weight.
    pub weight: u64,
    /// The filter, with the sublayer that it got.
    pub filter: Filter,
}

/// Everything in an engine but Windows' own objects.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// By key.
    pub providers: Vec<Provider>,
    /// The heaviest first.
    pub sublayers: Vec<Sublayer>,
    /// By key.
    pub callouts: Vec<Callout>,
    /// By run-time id.
    pub registered: Vec<RegisteredCallout>,
    /// By run-time id.
    pub filters: Vec<AddedFilter>,
}

impl Inventory {
    /// The objects that are not in `others`.
    pub fn without(mut self, others: &Self) -> Self {
        self.providers.retain(|one| others.providers.iter().all(|other| other.key != one.key));
        self.sublayers.retain(|one| others.sublayers.iter().all(|other| other.key != one.key));
        self.callouts.retain(|one| others.callouts.iter().all(|other| other.key != one.key));
        self.registered.retain(|one| others.registered.iter().all(|other| other.key != one.key));
        self.filters.retain(|one| others.filters.iter().all(|other| other.id != one.id));
        self
    }
}

impl Engine {
    /// The objects in the engine.
    pub fn inventory(&self) -> Inventory {
        fn own<'a, T: Clone + 'a>(entries: impl Iterator<Item = &'a Entry<T>>) -> Vec<T> {
            let own = entries.filter(|entry| entry.lifetime != Lifetime::BuiltIn);
            own.map(|entry| T::clone(&entry.object)).collect()
        }
        let registered = self.callouts.registered().into_iter().filter_map(|(key, id, _)| {
            let flags = self.callouts.find(key)?.flags()?;
            Some(RegisteredCallout { key, id, flags })
        });
        let registered = registered.collect();
        let core = self.core.locked();
        let store = &core.store;
        let mut sublayers = own(store.sublayers.values());
        sublayers.sort_by_key(|sublayer| std::cmp::Reverse(sublayer.weight));
        Inventory {
            providers: own(store.providers.values()),
            sublayers,
            callouts: own(store.callouts.values()),
            registered,
            filters: store
                .filters
                .values()
                .map(|stored| AddedFilter {
                    id: stored.id(),
                    weight: stored.active.runtime.weight,
                    filter: stored.filter.clone(),
                })
                .collect(),
        }
    }

    /// The weight and name of a sublayer, Windows' own or an added one.
    pub fn sublayer(&self, key: Guid) -> Option<Sublayer> {
        let core = self.core.locked();
        core.store.sublayers.get(&key).map(|entry| Sublayer::clone(&entry.object))
    }
}
