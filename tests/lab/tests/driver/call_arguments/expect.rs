//! Compares recorded calls with the table.

use std::collections::{BTreeMap, BTreeSet};

use machine::nt::Place;
use machine::nt::journal::{Call, Value};
use machine::wfp::{Engine, Guid};

/// The calls of one export.
pub struct Export {
    /// Its name.
    pub name: &'static str,
    /// IRQLs at which the driver calls it, each at least once.
    pub levels: &'static [u8],
    /// Every argument, and every field behind a pointer.
    pub arguments: &'static [Row],
}

/// One argument: its path, its expected value, and the reason with its source.
pub type Row = (&'static str, Expect, &'static str);

/// The expected value of an argument.
#[derive(Clone, Copy)]
pub enum Expect {
    /// This number.
    Is(u64),
    /// Any number. The export itself or another row checks it.
    Number,
    /// An address in this kind of memory.
    At(Place),
    /// This text.
    Text(&'static str),
    /// This GUID.
    Guid(u128),
    /// A value that this function accepts.
    By(fn(&Value, &Call, &Life<'_>) -> bool),
    /// One of these. A life must pass each of them.
    Each(&'static [Expect]),
}

/// The calls of a driver's life, and its filter engine.
pub struct Life<'a> {
    /// The calls, in their order.
    pub calls: Vec<Call>,
    /// Has the names of layers.
    pub engine: &'a Engine,
}

impl Life<'_> {
    /// The name of the layer behind a management key.
    pub fn layer(&self, key: Guid) -> Option<&'static str> {
        self.engine.layer_by_key(key).map(|layer| layer.name)
    }

    /// The layer at which a callout was added.
    pub fn layer_of(&self, callout: Guid) -> Option<Guid> {
        let added = self.calls.iter().filter(|call| call.export == "FwpmCalloutAdd0");
        let mut added = added.filter(|call| call.guid("callout.calloutKey") == Some(callout));
        added.next()?.guid("callout.applicableLayer")
    }

    /// Whether a call of `export` passed this GUID.
    pub fn has_passed(&self, export: &str, path: &str, guid: Guid) -> bool {
        let mut calls = self.calls.iter().filter(|call| call.export == export);
        calls.any(|call| call.guid(path) == Some(guid))
    }
}

/// Differences between a life and the table: unknown calls and arguments, other values,
/// and values of the table that no call passed.
pub fn differences(life: &Life<'_>, table: impl Iterator<Item = &'static Export> + Clone) -> Vec<String> {
    let mut problems = BTreeSet::new();
    let mut met: BTreeMap<(&str, &str), BTreeSet<usize>> = BTreeMap::new();
    let mut levels: BTreeSet<(&str, u8)> = BTreeSet::new();
    for call in &life.calls {
        let Some(export) = table.clone().find(|export| export.name == call.export) else {
            problems.insert(format!("{} is not in the table", call.export));
            continue;
        };
        levels.insert((export.name, call.irql.0));
        if !export.levels.contains(&call.irql.0) {
            problems.insert(format!("{} was called at {}", call.export, call.irql));
        }
        for argument in &call.arguments {
            let row = export.arguments.iter().find(|(path, ..)| *path == argument.path);
            let Some((path, expect, why)) = row else {
                problems.insert(format!("{}: {} is not in the table", call.export, argument.path));
                continue;
            };
            match expect.matches(&argument.value, call, life) {
                Some(alternative) => {
                    met.entry((export.name, *path)).or_default().insert(alternative);
                }
                None => {
                    let text = format!("{}: {path} is {:x?}; {why}", call.export, argument.value);
                    problems.insert(text);
                }
            }
        }
    }
    for export in table {
        for level in export.levels.iter().filter(|level| !levels.contains(&(export.name, **level))) {
            problems.insert(format!("{} was never called at level {level}", export.name));
        }
        for (path, expect, _) in export.arguments {
            let met = met.get(&(export.name, *path)).map_or(0, BTreeSet::len);
            let missing = expect.alternatives() - met;
            if missing > 0 {
                problems.insert(format!("{}: {path} never took {missing} of its values", export.name));
            }
        }
    }
    problems.into_iter().collect()
}

impl Expect {
    fn alternatives(&self) -> usize {
        match self {
            Self::Each(all) => all.len(),
            _ => 1,
        }
    }

    /// The index of the alternative that a value matches.
    fn matches(&self, value: &Value, call: &Call, life: &Life<'_>) -> Option<usize> {
        let holds = match (self, value) {
            (Self::Each(all), _) => {
                return all.iter().position(|one| one.matches(value, call, life).is_some());
            }
            (Self::Is(expected), Value::Number(number)) => number == expected,
            (Self::Number, Value::Number(_)) => true,
            (Self::At(expected), Value::Pointer(place, _)) => place == expected,
            (Self::Text(expected), Value::Text(text)) => text == expected,
            (Self::Guid(expected), Value::Guid(guid)) => guid.as_u128() == *expected,
            (Self::By(holds), _) => holds(value, call, life),
            _ => false,
        };
        holds.then_some(0)
    }
}
