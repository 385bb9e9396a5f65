//! Measures every layer under each policy that changes a classify.
//!
//! Each layer gets its most common packet. `CheckOrder` has groups of its own; the
//! one with 0 is the default policy, and this module measures what differs from it.

use anyhow::Result;

use super::cases::{Set, prefixes};
use super::figures::{Figures, at_layer, number, timed};
use super::time::{Effort, nanoseconds};
use super::tracing;

/// The values that are set, and whether a session listens.
struct Setting {
    name: String,
    values: Vec<Set>,
    listened: bool,
}

fn settings() -> Vec<Setting> {
    let quiet = |name: String, value| Setting { name, values: vec![value], listened: false };
    let mut all = vec![quiet("Observe 0".into(), number("Observe", 0))];
    all.extend((0..2).map(|mode| quiet(format!("Mode {mode}"), number("Mode", mode))));
    all.extend([10, 1000].map(|length| quiet(format!("{length} exempt prefixes"), prefixes(length))));
    // `Trace` 1 without a session is the default.
    for (trace, listened) in [(0, false), (0, true), (1, true), (2, false), (2, true)] {
        let values = vec![number("Trace", trace)];
        all.push(Setting { name: tracing::name(trace, listened), values, listened });
    }
    all
}

/// Adds the figures.
pub(super) fn take(figures: &mut Figures, effort: Effort) -> Result<()> {
    for Setting { name, values, listened } in settings() {
        let stage = timed(&values)?;
        let _session = listened.then(|| tracing::session(&stage));
        let group = format!("each layer, {name}: time");
        for layer in stage.layers() {
            let time = match stage.has_filter(layer) {
                true => nanoseconds(&stage, effort, &[&at_layer(&stage, layer.name)?])?,
                // The engine does not call a callout there.
                false => 0.0,
            };
            figures.add(&group, layer.name, "ns", time);
        }
    }
    Ok(())
}
