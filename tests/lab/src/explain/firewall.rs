//! Windows Firewall's stock filters, as a state.
//!
//! `netsh wfp show state` wrote them on real machines. They were taken where profile 1
//! was connected and at least one of the others was not. A connected profile gets the
//! filters of profile 1, one without a network gets those of profile 3.

use std::str::FromStr;
use std::sync::Arc;

use machine::host::{self, PROFILES};
use machine::wfp::{Guid, Value};
use serde_json::Value as Json;

use super::packet::profile;
use super::state::{self, Condition, Filter, Key, Provider, State};

const FILTERS: &str = include_str!("../../../machine/facts/windows/filters.json");

/// The profile whose filters those of every connected profile have as a model.
const CONNECTED: u64 = 1;
/// The profile that is not connected on any of the machines.
const NOT_CONNECTED: u64 = 3;

/// Windows Firewall: the profiles in which a network is connected. It is in stealth
/// for these. On a network of another profile it answers, as it does with
/// `DisableStealthMode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    connected: Vec<u32>,
}

impl FromStr for Firewall {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let connected = match text {
            "on" => PROFILES.iter().map(|(number, _)| *number).collect(),
            "off" => Vec::new(),
            list => list.split(',').map(profile).collect::<Result<_, _>>()?,
        };
        Ok(Self { connected })
    }
}

impl Firewall {
    /// In stealth for every profile.
    pub fn on() -> Self {
        Self { connected: PROFILES.map(|(number, _)| number).to_vec() }
    }

    /// In stealth for no profile.
    pub fn off() -> Self {
        Self { connected: Vec::new() }
    }

    /// Whether it is in stealth on networks of a profile.
    pub fn is_stealthy(&self, profile: u32) -> bool {
        self.connected.contains(&profile)
    }

    /// Its filters, and two that every machine has in a form of its own.
    pub fn state(&self) -> State {
        let rows: Vec<Json> = serde_json::from_str(FILTERS).expect("the tables of this repository are JSON");
        let mut state = State::default();
        let key = Key::new("FWPM_PROVIDER_MPSSVC_WF");
        state.providers.push(Provider { key, name: "Windows Firewall".into() });
        for row in &rows {
            for profile in self.profiles_of(row) {
                let filter = filter(row, profile, state.filters.len());
                state.filters.push(filter);
            }
        }
        for family in ["V4", "V6"] {
            for filter in [released_interface(family), rule(family)] {
                let id = state.filters.len();
                state.filters.push(Filter { id: id as u64, key: own_key(id), ..filter });
            }
        }
        state
    }

    /// The profiles for which a row makes filters; `None` if it asks for no profile.
    fn profiles_of(&self, row: &Json) -> Vec<Option<u32>> {
        let numbers = PROFILES.iter().map(|(number, _)| *number);
        match asked_profile(row) {
            Some(CONNECTED) => numbers.filter(|number| self.is_stealthy(*number)).map(Some).collect(),
            Some(NOT_CONNECTED) => numbers.filter(|number| !self.is_stealthy(*number)).map(Some).collect(),
            // The other one that was not connected on most machines.
            Some(2) => Vec::new(),
            _ => vec![None],
        }
    }
}

fn fields(row: &Json) -> impl Iterator<Item = (&str, &Json)> {
    let conditions = row["conditions"].as_array().into_iter().flatten();
    conditions.map(|condition| (condition[0].as_str().unwrap_or_default(), condition))
}

fn asked_profile(row: &Json) -> Option<u64> {
    fields(row).find(|(field, _)| field.ends_with("_PROFILE_ID")).and_then(|(_, row)| row[2][1].as_u64())
}

fn filter(row: &Json, profile: Option<u32>, id: usize) -> Filter {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let callout = Key::new(text("callout"));
    let conditions = fields(row).map(|(field, row)| {
        let value = match profile {
            Some(profile) if field.ends_with("_PROFILE_ID") => Value::Uint32(profile),
            _ => value(&row[2]),
        };
        condition(field, row[1].as_str().unwrap_or_default(), value)
    });
    let conditions: Vec<_> = conditions.collect();
    let name =
        if callout.is_empty() { "a filter of Windows Firewall" } else { "Port Scanning Prevention Filter" };
    Filter {
        key: own_key(id),
        name: name.into(),
        id: id as u64,
        flags: row["flags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .map(Into::into)
            .collect(),
        provider: Key::new(text("provider")),
        layer: Key::new(text("layer")),
        sublayer: Key::new(text("sublayer")),
        weight: match (row["weight"][0].as_str(), row["weight"][1].as_u64().unwrap_or_default()) {
            (Some("FWP_UINT8"), range) => ranged(range, conditions.len()),
            (_, weight) => weight,
        },
        conditions,
        action: state::action_type(text("action")).expect("the table has known actions"),
        callout,
    }
}

/// A weight of which the filter names the range. How Windows computes the rest is not
/// documented; here a filter with more conditions weighs more.
fn ranged(range: u64, conditions: usize) -> u64 {
    range << 60 | conditions as u64
}

fn condition(field: &str, match_type: &str, value: Value) -> Condition {
    Condition {
        field: Key::new(&format!("FWPM_CONDITION_{field}")),
        shown: format!("{match_type} {value:?}"),
        match_type: state::match_type(match_type),
        value: Some(value),
    }
}

fn value(row: &Json) -> Value {
    let number = row[1].as_u64().unwrap_or_default();
    match row[0].as_str() {
        Some("FWP_UINT8") => Value::Uint8(number as u8),
        Some("FWP_UINT16") => Value::Uint16(number as u16),
        Some("FWP_UINT32") => Value::Uint32(number as u32),
        Some("FWP_RANGE_TYPE") => Value::Range(Box::new((value(&row[1]), value(&row[2])))),
        other => panic!("the table has a value of type {other:?}"),
    }
}

/// No table has the keys of these filters: they differ from machine to machine.
fn own_key(id: usize) -> Key {
    const FIRST: u128 = 0xf17e_3a11_0000_4000_8000_0000_0000_0000;
    Key::new(&format!("{{{}}}", Guid::from_u128(FIRST + id as u128)))
}

/// Permits what arrives on an interface that is not in quarantine ("Quarantine
/// behavior": the interface un-quarantine filter). Without it the stock filters of
/// that sublayer block everything.
fn released_interface(family: &str) -> Filter {
    let epoch = condition("INTERFACE_QUARANTINE_EPOCH", "EQUAL", Value::Uint64(0));
    inbound(family, "QUARANTINE", "Interface Un-quarantine filter", vec![epoch])
}

/// A rule that lets the lab's server be reached, as an administrator makes one.
fn rule(family: &str) -> Filter {
    let path: Arc<[u8]> = host::Options::default().process.path;
    let conditions = vec![
        condition("ALE_APP_ID", "EQUAL", Value::ByteBlob(path)),
        condition("IP_PROTOCOL", "EQUAL", Value::Uint8(6)),
        condition("IP_PROTOCOL", "EQUAL", Value::Uint8(17)),
    ];
    inbound(family, "WF", "the lab's server", conditions)
}

/// A permit that is heavier than the stock blocks in its sublayer.
fn inbound(family: &str, sublayer: &str, name: &str, conditions: Vec<Condition>) -> Filter {
    Filter {
        key: Key::default(),
        name: name.into(),
        id: 0,
        flags: Vec::new(),
        provider: Key::new("FWPM_PROVIDER_MPSSVC_WF"),
        layer: Key::new(&format!("FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_{family}")),
        sublayer: Key::new(&format!("FWPM_SUBLAYER_MPSSVC_{sublayer}")),
        weight: ranged(9, conditions.len()),
        conditions,
        action: machine::wfp::ActionType::PERMIT,
        callout: Key::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use machine::wfp::MatchType::{Equal, FlagsNoneSet};
    use machine::wfp::{Engine, named_guid};

    use super::*;
    use crate::explain::load;

    /// The stock filters of a profile without its number.
    fn rows_of(profile: u64) -> BTreeSet<String> {
        let rows: Vec<Json> = serde_json::from_str(FILTERS).unwrap();
        let rows = rows.iter().filter(|row| asked_profile(row) == Some(profile));
        rows.map(|row| {
            let conditions: Vec<_> = fields(row)
                .filter(|(field, _)| !field.ends_with("_PROFILE_ID"))
                .map(|(_, row)| row)
                .collect();
            format!("{} {} {} {conditions:?}", row["layer"], row["action"], row["weight"])
        })
        .collect()
    }

    #[test]
    fn profiles_without_a_network_have_one_form() {
        assert_eq!(rows_of(NOT_CONNECTED).len(), 7);
        assert_eq!(rows_of(2), rows_of(NOT_CONNECTED));
    }

    #[test]
    fn the_engine_takes_every_filter() {
        for text in ["on", "off", "private,domain"] {
            let state = text.parse::<Firewall>().unwrap().state();
            let engine = Engine::new();
            let loaded = load(&state, &engine).unwrap();
            assert!(loaded.left_out.is_empty(), "{text}: {loaded}");
            assert!(loaded.filters > 40, "{text}: {loaded}");
            assert_eq!(loaded.callouts, 0);
        }
        assert!("both".parse::<Firewall>().is_err());
    }

    /// The filters at INBOUND_TRANSPORT_V4_DISCARD, as the tables' description has
    /// them.
    #[test]
    fn stealth_is_per_profile() {
        let state = "public".parse::<Firewall>().unwrap().state();
        let layer = Key::new("FWPM_LAYER_INBOUND_TRANSPORT_V4_DISCARD");
        let flags = named_guid("FWPM_CONDITION_FLAGS").unwrap();
        let mut seen: Vec<_> = state
            .filters
            .iter()
            .filter(|filter| filter.layer == layer)
            .map(|filter| {
                let of = |flag: bool| {
                    let condition = filter.conditions.iter().find(|c| c.field.is(flags) == flag)?;
                    let expected = if flag { FlagsNoneSet } else { Equal };
                    assert_eq!(condition.match_type, Some(expected));
                    condition.value.as_ref()?.unsigned()
                };
                (of(false), of(true), !filter.callout.is_empty())
            })
            .collect();
        seen.sort_unstable();
        let expected = [
            (None, Some(3), true),
            (Some(1), Some(3), true),
            (Some(2), Some(1), false),
            (Some(3), Some(1), false),
        ];
        assert_eq!(seen, expected);
    }
}
