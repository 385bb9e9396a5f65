//! The driver's own counters, read from its memory as a debugger would: by its
//! symbols and the types that its PDB describes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::image::Image;
use crate::nt::foreign;
use crate::wfp::{Change, Engine, Guid};

/// How often each callout came to each verdict, all processors together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<Guid, BTreeMap<String, u64>>);

const SHARED: &str = "hushport::driver::callouts::SHARED";
const COUNTERS: &str = "hushport::driver::counters::Counters";
const VERDICT: &str = "hushport::logic::stealth::Verdict";

impl Counters {
    /// Reads them; zero counts are left out. The engine says in which order
    /// the callouts were registered, which is that of the counters' rows.
    pub fn read(image: &Image, engine: &Engine) -> Result<Self> {
        let symbols = image.symbols()?;
        let verdicts = symbols.enumerators(VERDICT).with_context(|| format!("the PDB lacks {VERDICT}"))?;
        let stride = symbols.size_of(COUNTERS).with_context(|| format!("the PDB lacks {COUNTERS}"))? as usize;
        let callouts = engine.registered_callouts();
        let row = verdicts.len() * size_of::<u64>();
        ensure!(
            stride.abs_diff(row * callouts.len()) < 64,
            "{} callouts do not fit {COUNTERS}",
            callouts.len()
        );
        let (shared, _) = image.data(SHARED)?;
        let word = |address: usize| foreign::read::<u64>(address).map(|word| word as usize);
        let bad = |bad: foreign::BadPointer| anyhow::anyhow!("the driver's memory at {:#x}", bad.address);
        let shared = word(shared as usize).map_err(bad)?;
        ensure!(shared != 0, "nothing is published: the driver does not run");
        let (first, processors) = (word(shared).map_err(bad)?, word(shared + 16).map_err(bad)?);
        let mut counters = Self::default();
        for processor in 0..processors {
            for (index, key) in callouts.iter().enumerate() {
                let start = first + processor * stride + index * row;
                let counts: Vec<u64> = foreign::read_array(start, verdicts.len()).map_err(bad)?;
                for (verdict, value) in verdicts {
                    let count = counts.get(*value as usize).copied().unwrap_or(0);
                    if count > 0 {
                        *counters.0.entry(*key).or_default().entry(verdict.clone()).or_default() += count;
                    }
                }
            }
        }
        Ok(counters)
    }

    /// A callout's verdicts.
    pub fn of(&self, callout: Guid) -> BTreeMap<String, u64> {
        self.0.get(&callout).cloned().unwrap_or_default()
    }

    /// The verdicts of the driver's callout at a layer.
    pub fn at(&self, layer: &str, engine: &Engine) -> BTreeMap<String, u64> {
        let key = engine.journal().into_iter().find_map(|change| match change {
            Change::CalloutAdd { key, layer: at, .. } => {
                (engine.layer_by_key(at)?.name == layer).then_some(key)
            }
            _ => None,
        });
        key.map(|key| self.of(key)).unwrap_or_default()
    }

    /// How often a callout was asked.
    pub fn asked(&self, callout: Guid) -> u64 {
        self.0.get(&callout).into_iter().flat_map(BTreeMap::values).sum()
    }
}
