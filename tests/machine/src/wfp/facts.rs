//! The tables of names and numbers from which the layers are built.
//!
//! They were extracted from the headers of WDK 10.0.22621, so that thousands of
//! numbers and GUIDs need not be typed again. The tables in `windows` were extracted
//! from five outputs of `netsh wfp show state` that owners of real machines
//! published.

use std::sync::LazyLock;

use serde_json::{Map, Value as Json};

use super::Guid;

static ENUMS: LazyLock<Json> = LazyLock::new(|| parse(include_str!("../../facts/enums.json")));
static GUIDS: LazyLock<Json> = LazyLock::new(|| parse(include_str!("../../facts/guids.json")));
static MACROS: LazyLock<Json> = LazyLock::new(|| parse(include_str!("../../facts/macros.json")));
static WINDOWS_CALLOUTS: LazyLock<Json> =
    LazyLock::new(|| parse(include_str!("../../facts/windows/callouts.json")));
static WINDOWS_SUBLAYERS: LazyLock<Json> =
    LazyLock::new(|| parse(include_str!("../../facts/windows/sublayers.json")));

/// Names that `fwpmu.h` of SDK 10.0.28000 has and the tables do not.
const NEWER_GUIDS: [(&str, Guid); 3] = [
    ("FWPM_CONDITION_ALE_PACKAGE_FAMILY_NAME", Guid::from_u128(0x81bc78fb_f28d_4886_a604_6acc261f261b)),
    ("FWPM_CONDITION_RPC_OPNUM", Guid::from_u128(0xd58efb76_aab7_4148_a87e_9581134129b9)),
    ("FWPM_CALLOUT_TCP_TEMPLATES_CONNECT_LAYER_V6", Guid::from_u128(0x838b37a1_5c12_4d34_8b38_078728b2d25c)),
];

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
    let newer = || NEWER_GUIDS.iter().find(|(newer, _)| *newer == name).map(|(_, guid)| *guid);
    GUIDS.get(name).map_or_else(newer, |text| Guid::parse_str(text.as_str()?).ok())
}

/// A key as `netsh wfp show state` writes it: a name, or a GUID in braces.
fn key(text: &str) -> Option<Guid> {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(text) => Guid::parse_str(text).ok(),
        None => guid(text),
    }
}

/// Windows' own sublayers: name without prefix, key, weight.
pub(super) fn windows_sublayers() -> impl Iterator<Item = (&'static str, Guid, u16)> {
    let table: Option<&'static Map<String, Json>> = WINDOWS_SUBLAYERS.as_object();
    table.into_iter().flatten().filter_map(|(name, sublayer)| {
        // The last row has other products' weights and no key.
        let weight = u16::try_from(sublayer.get("weight")?.get(0)?.as_u64()?).ok()?;
        Some((name.strip_prefix("FWPM_SUBLAYER_")?, guid(name)?, weight))
    })
}

/// A callout of Windows' own.
pub(super) struct WindowsCallout {
    /// Without prefix.
    pub(super) name: &'static str,
    pub(super) key: Guid,
    /// Management GUID of its layer.
    pub(super) layer: Guid,
    /// `FWPM_CALLOUT_FLAG_*`, without REGISTERED, which is read-only.
    pub(super) flags: u32,
    /// `FWP_CALLOUT_FLAG_*`; `None` if it is not registered.
    pub(super) registered: Option<u32>,
}

/// Windows' own callouts.
pub(super) fn windows_callouts() -> impl Iterator<Item = WindowsCallout> {
    const USES_PROVIDER_CONTEXT: u32 = 0x2_0000;
    const ALLOW_OFFLOAD: u32 = 2;
    let table: Option<&'static Map<String, Json>> = WINDOWS_CALLOUTS.as_object();
    table.into_iter().flatten().filter_map(|(name, callout)| {
        let (mut flags, mut driver, mut is_registered) = (0, 0, false);
        for flag in callout.get("flags")?.get(0)?.as_array()? {
            match flag.as_str()? {
                "FWPM_CALLOUT_FLAG_REGISTERED" => is_registered = true,
                "FWPM_CALLOUT_FLAG_USES_PROVIDER_CONTEXT" => flags |= USES_PROVIDER_CONTEXT,
                "FWP_CALLOUT_FLAG_ALLOW_OFFLOAD" => driver |= ALLOW_OFFLOAD,
                number => driver |= u32::from_str_radix(number, 16).ok()?,
            }
        }
        Some(WindowsCallout {
            name: name.strip_prefix("FWPM_CALLOUT_")?,
            key: guid(name)?,
            layer: key(callout.get("layer")?.as_str()?)?,
            flags,
            registered: is_registered.then_some(driver),
        })
    })
}

/// Integer macros whose name starts with `prefix`; the prefix is removed.
pub(super) fn macros(prefix: &str) -> impl Iterator<Item = (&'static str, u64)> {
    let table: Option<&'static Map<String, Json>> = MACROS.as_object();
    table
        .into_iter()
        .flatten()
        .filter_map(move |(name, entry)| Some((name.strip_prefix(prefix)?, bits(entry.get(1)?.as_str()?)?)))
}

/// The names of the bits of `flags`, by macros with this prefix such as
/// `FWPM_FILTER_FLAG_`. Bits without a name are a number at the end.
pub fn flag_names(prefix: &str, flags: u32) -> Vec<String> {
    let mut known: Vec<_> =
        macros(prefix).filter(|(_, bit)| *bit != 0 && u64::from(flags) & bit == *bit).collect();
    known.sort_by_key(|(_, bit)| *bit);
    let unknown = known.iter().fold(u64::from(flags), |left, (_, bit)| left & !bit);
    let names = known.into_iter().map(|(name, _)| name.to_owned());
    names.chain((unknown != 0).then(|| format!("{unknown:#x}"))).collect()
}

/// The bit pattern of an integer macro.
fn bits(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
