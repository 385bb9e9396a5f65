//! Lists what is left in an engine, by name.

use std::collections::{BTreeMap, HashMap};

use super::lock::Locked;
use super::store::{Entry, Lifetime};
use super::{DisplayData, Engine, Guid};
use crate::driver::DriverId;

/// The names of all objects that are left in the engine, for leak reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Objects {
    pub registered_callouts: Vec<String>,
    pub sessions: Vec<String>,
    pub providers: Vec<String>,
    pub sublayers: Vec<String>,
    pub callouts: Vec<String>,
    pub filters: Vec<String>,
    pub flow_contexts: Vec<String>,
    pub subscriptions: Vec<String>,
}

impl Objects {
    /// The objects that `others` does not contain.
    pub fn without(self, others: &Self) -> Self {
        let without = |mut own: Vec<String>, others: &[String]| {
            own.retain(|object| !others.contains(object));
            own
        };
        Self {
            registered_callouts: without(self.registered_callouts, &others.registered_callouts),
            sessions: without(self.sessions, &others.sessions),
            providers: without(self.providers, &others.providers),
            sublayers: without(self.sublayers, &others.sublayers),
            callouts: without(self.callouts, &others.callouts),
            filters: without(self.filters, &others.filters),
            flow_contexts: without(self.flow_contexts, &others.flow_contexts),
            subscriptions: without(self.subscriptions, &others.subscriptions),
        }
    }
}

impl Engine {
    /// The objects that drivers and sessions have added and not removed.
    pub fn objects(&self) -> Objects {
        self.objects_of(|_| true)
    }

    /// Those of the drivers for which `of` is true. Objects of sessions that no driver
    /// has opened are the system's.
    pub fn objects_of(&self, of: impl Fn(DriverId) -> bool) -> Objects {
        let registered = self.callouts.registered();
        let callouts: HashMap<u32, (Guid, DriverId)> =
            registered.iter().map(|(key, id, driver)| (*id, (*key, *driver))).collect();
        let contexts = self.flows.contexts();
        let core = self.core.locked();
        let store = &core.store;
        let filters = store.filters.values().filter(|stored| of(stored.owner));
        let sessions = core.sessions.iter().filter(|(_, open)| of(open.owner));
        let subscriptions = core.subscriptions.iter().filter(|(_, it)| of(it.owner));
        Objects {
            registered_callouts: registered
                .iter()
                .filter(|(_, _, driver)| of(*driver))
                .map(|(key, id, _)| format!("registered callout {id} {{{key}}}"))
                .collect(),
            sessions: sessions.map(|(id, open)| core.describe(*id, open)).collect(),
            providers: named("provider", &store.providers, &of, |object| &object.display),
            sublayers: named("sublayer", &store.sublayers, &of, |object| &object.display),
            callouts: named("callout", &store.callouts, &of, |object| &object.display),
            filters: filters
                .map(|stored| name_of("filter", &stored.filter.display, stored.filter.key))
                .collect(),
            flow_contexts: contexts
                .iter()
                .filter_map(|(flow, (layer, id), context)| {
                    let (key, driver) = callouts.get(id).copied().unwrap_or_default();
                    let layer = self.layer(*layer).map_or("?", |layer| layer.name);
                    let text =
                        format!("context {context:#x} of flow {} at {layer}, callout {{{key}}}", flow.0);
                    of(driver).then_some(text)
                })
                .collect(),
            subscriptions: subscriptions.map(|(id, _)| format!("BFE state subscription {}", id.0)).collect(),
        }
    }
}

fn named<T>(
    kind: &str,
    table: &BTreeMap<Guid, Entry<T>>,
    of: impl Fn(DriverId) -> bool,
    display: impl Fn(&T) -> &DisplayData,
) -> Vec<String> {
    let own = table.iter().filter(|(_, entry)| entry.lifetime != Lifetime::BuiltIn && of(entry.owner));
    own.map(|(key, entry)| name_of(kind, display(&entry.object), *key)).collect()
}

fn name_of(kind: &str, display: &DisplayData, key: Guid) -> String {
    format!("{kind} \"{}\" {{{key}}}", display.name.as_deref().unwrap_or_default())
}
