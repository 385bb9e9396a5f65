//! The tables of names and numbers from which the layers are built.
//!
//! They were extracted from the headers of WDK 10.0.22621, so that thousands of
//! numbers and GUIDs need not be typed again.

use std::sync::LazyLock;

use serde_json::{Map, Value as Json};

use super::Guid;

static ENUMS: LazyLock<Json> = LazyLock::new(|| parse(include_str!("../../facts/enums.json")));
static GUIDS: LazyLock<Json> = LazyLock::new(|| parse(include_str!("../../facts/guids.json")));
static MACROS: LazyLock<Json> = LazyLock::new(|| parse(include_str!("../../facts/macros.json")));

fn parse(text: &str) -> Json {
    serde_json::from_str(text).expect("the tables of this repository are JSON")
}

/// The enumerators of an enum, with their values.
pub(super) fn enumerators(name: &str) -> Option<impl Iterator<Item = (&'static str, u64)>> {
    let table: &'static Map<String, Json> = ENUMS.get(name)?.as_object()?;
    Some(table.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_u64()?))))
}

/// A GUID by its name in `DEFINE_GUID` or in a macro.
pub fn guid(name: &str) -> Option<Guid> {
    Guid::parse_str(GUIDS.get(name)?.as_str()?).ok()
}

/// Integer macros whose name starts with `prefix`; the prefix is removed.
pub(super) fn macros(prefix: &str) -> impl Iterator<Item = (&'static str, u64)> {
    let table: Option<&'static Map<String, Json>> = MACROS.as_object();
    table
        .into_iter()
        .flatten()
        .filter_map(move |(name, entry)| Some((name.strip_prefix(prefix)?, bits(entry.get(1)?.as_str()?)?)))
}

/// The bit pattern of an integer macro.
fn bits(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
