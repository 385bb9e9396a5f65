//! Lists what is left in an engine, by name.

use std::collections::{BTreeMap, HashMap};

use super::lock::Locked;
use super::store::{Entry, Lifetime};
use super::{DisplayData, Engine, Guid};

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
        let registered = self.callouts.registered();
        let names: HashMap<u32, Guid> = registered.iter().map(|(key, id)| (*id, *key)).collect();
        let contexts = self.flows.contexts();
        let core = self.core.locked();
        let store = &core.store;
        Objects {
            registered_callouts: registered
                .iter()
                .map(|(key, id)| format!("registered callout {id} {{{key}}}"))
                .collect(),
            sessions: core.sessions.iter().map(|(id, open)| core.describe(*id, open)).collect(),
            providers: named("provider", &store.providers, |object| &object.display),
            sublayers: named("sublayer", &store.sublayers, |object| &object.display),
            callouts: named("callout", &store.callouts, |object| &object.display),
            filters: store
                .filters
                .values()
                .map(|stored| name_of("filter", &stored.filter.display, stored.filter.key))
                .collect(),
            flow_contexts: contexts
                .iter()
                .map(|(flow, (layer, id), context)| {
                    let layer = self.layer(*layer).map_or("?", |layer| layer.name);
                    let key = names.get(id).copied().unwrap_or_default();
                    format!("context {context:#x} of flow {} at {layer}, callout {{{key}}}", flow.0)
                })
                .collect(),
            subscriptions: core
                .subscriptions
                .keys()
                .map(|id| format!("BFE state subscription {}", id.0))
                .collect(),
        }
    }
}

fn named<T>(
    kind: &str,
    table: &BTreeMap<Guid, Entry<T>>,
    display: impl Fn(&T) -> &DisplayData,
) -> Vec<String> {
    let own = table.iter().filter(|(_, entry)| entry.lifetime != Lifetime::BuiltIn);
    own.map(|(key, entry)| name_of(kind, display(&entry.object), *key)).collect()
}

fn name_of(kind: &str, display: &DisplayData, key: Guid) -> String {
    format!("{kind} \"{}\" {{{key}}}", display.name.as_deref().unwrap_or_default())
}
