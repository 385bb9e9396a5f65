//! The driver's own counters, as it reports them to a session.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use machine::etw::{Enable, Filter, Value, ZeroKeyword};
use machine::nt::Kernel;
use machine::wfp::{Change, Engine, Guid};

use crate::hushport::EVENT_PROVIDER;

/// How often each callout reached each verdict, on all processors together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<Guid, BTreeMap<String, u64>>);

/// The keyword of counter events (docs/EVENTS.md).
const KEYWORD: u64 = 0x40;
/// The level of a callout's counters: verbose.
const LEVEL: u8 = 5;

impl Counters {
    /// Reads the counters; those that are zero are left out. A driver with `Trace`
    /// 0 does not report them.
    pub fn read(kernel: &Arc<Kernel>, engine: &Engine) -> Result<Self> {
        let filter = Filter { level: LEVEL, any: KEYWORD, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        // The driver reports its counters when a session starts.
        let events = kernel.trace(enable, None).events();
        ensure!(
            events.iter().any(|event| event.name == "Counters"),
            "the driver does not report its counters"
        );
        let callouts = callouts(engine);
        let mut counters = Self::default();
        for event in events.iter().filter(|event| event.name == "LayerCounters") {
            let layer = event.text("Layer");
            let callout = callouts.get(layer).with_context(|| format!("no callout at {layer:?}"))?;
            let Some(Value::Structure(verdicts)) = event.field("Verdicts") else { continue };
            let counted = verdicts.iter().filter_map(|(verdict, count)| {
                let count = count.number().filter(|count| *count > 0)?;
                Some((verdict.clone(), count))
            });
            counters.0.insert(*callout, counted.collect());
        }
        Ok(counters)
    }

    /// The verdicts of a callout.
    pub fn of(&self, callout: Guid) -> BTreeMap<String, u64> {
        self.0.get(&callout).cloned().unwrap_or_default()
    }

    /// The verdicts of the driver's callout at a layer.
    pub fn at(&self, layer: &str, engine: &Engine) -> BTreeMap<String, u64> {
        callouts(engine).get(layer).map(|callout| self.of(*callout)).unwrap_or_default()
    }

    /// How often a callout was called.
    pub fn asked(&self, callout: Guid) -> u64 {
        self.0.get(&callout).into_iter().flat_map(BTreeMap::values).sum()
    }
}

/// The driver's callouts by the layer's name.
fn callouts(engine: &Engine) -> BTreeMap<&'static str, Guid> {
    let added = engine.journal().into_iter().filter_map(|change| match change {
        Change::CalloutAdd { key, layer, .. } => Some((engine.layer_by_key(layer)?.name, key)),
        _ => None,
    });
    added.collect()
}
