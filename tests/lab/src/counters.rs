//! The driver's own counters, as it says them to a session that asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use machine::etw::{Enable, Filter, Value, ZeroKeyword};
use machine::nt::Kernel;
use machine::wfp::{Change, Engine, Guid};

use crate::hushport::EVENT_PROVIDER;

/// How often each callout came to each verdict, all processors together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<Guid, BTreeMap<String, u64>>);

/// Keyword of the counters' events (docs/EVENTS.md).
const KEYWORD: u64 = 0x40;
/// Level of the counters of each callout: verbose.
const LEVEL: u8 = 5;

impl Counters {
    /// Asks for them; zero counts are left out. A driver that is told to say
    /// nothing (`Trace` 0) says these neither.
    pub fn read(kernel: &Arc<Kernel>, engine: &Engine) -> Result<Self> {
        let filter = Filter { level: LEVEL, any: KEYWORD, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        // To a session that comes the driver says its state.
        let events = kernel.trace(enable, None).events();
        ensure!(events.iter().any(|event| event.name == "Counters"), "the driver does not say its counters");
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

    /// A callout's verdicts.
    pub fn of(&self, callout: Guid) -> BTreeMap<String, u64> {
        self.0.get(&callout).cloned().unwrap_or_default()
    }

    /// The verdicts of the driver's callout at a layer.
    pub fn at(&self, layer: &str, engine: &Engine) -> BTreeMap<String, u64> {
        callouts(engine).get(layer).map(|callout| self.of(*callout)).unwrap_or_default()
    }

    /// How often a callout was asked.
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
