//! What a driver has registered, as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use machine::nt::irp::Device;
use machine::wfp::{
    ActionType, AddedFilter, Condition, DisplayData, Engine, Field, Filter, Guid, Inventory, LayerInfo,
    MatchType, Value, flag_names,
};

use crate::printable::printable;

/// Callouts, filters by layer and sublayer, sublayers, providers.
pub fn objects(engine: &Engine, own: &Inventory) -> String {
    let mut text = String::new();
    let out = &mut text;
    // Writing to a string cannot fail.
    let _ = callouts(out, engine, own);
    let _ = filters(out, engine, own);
    let _ = others(out, own);
    text
}

/// Devices and the links that lead to them.
pub fn devices(devices: &[Device]) -> String {
    let mut text = format!("{}\n", counted(devices.len(), "device"));
    for Device { name, links } in devices {
        let name = if name.is_empty() { "(no name)" } else { name };
        let links: Vec<_> = links.iter().map(|link| printable(&format!(r"\\.\{link}"))).collect();
        let leads = if links.is_empty() { "no symbolic link".to_owned() } else { links.join(", ") };
        let _ = writeln!(text, "  {}: {leads}", printable(name));
    }
    text
}

/// `1 filter`, `2 filters`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn name(display: &DisplayData) -> String {
    format!("\"{}\"", printable(display.name.as_deref().unwrap_or_default()))
}

fn layer_name(engine: &Engine, key: Guid) -> String {
    engine.layer_by_key(key).map_or_else(|| format!("{{{key}}}"), |layer| layer.name.to_owned())
}

fn flags(prefix: &str, flags: u32) -> String {
    let names = flag_names(prefix, flags);
    if names.is_empty() { String::new() } else { format!(", {}", names.join(" ")) }
}

fn callouts(out: &mut String, engine: &Engine, own: &Inventory) -> std::fmt::Result {
    let keys: BTreeSet<_> = own.registered.iter().map(|one| one.key).collect();
    let added = own.callouts.iter().filter(|one| !keys.contains(&one.key));
    writeln!(out, "{}", counted(own.registered.len(), "registered callout"))?;
    for callout in &own.registered {
        let (id, key) = (callout.id, callout.key);
        let flags = flags("FWP_CALLOUT_FLAG_", callout.flags);
        match own.callouts.iter().find(|one| one.key == key) {
            Some(added) => {
                let layer = layer_name(engine, added.applicable_layer);
                writeln!(out, "  {layer}: {} {{{key}}}, id {id}{flags}", name(&added.display))?;
            }
            None => writeln!(out, "  at no layer: {{{key}}}, id {id}{flags}")?,
        }
    }
    for added in added {
        let layer = layer_name(engine, added.applicable_layer);
        writeln!(out, "  {layer}: {} {{{}}}, added and not registered", name(&added.display), added.key)?;
    }
    Ok(())
}

fn filters(out: &mut String, engine: &Engine, own: &Inventory) -> std::fmt::Result {
    writeln!(out, "{}", counted(own.filters.len(), "filter"))?;
    let mut layers: BTreeMap<_, Vec<&AddedFilter>> = BTreeMap::new();
    for added in &own.filters {
        let layer = engine.layer_by_key(added.filter.layer).map(|layer| layer.id.0);
        layers.entry((layer, added.filter.layer)).or_default().push(added);
    }
    for ((_, layer), mut filters) in layers {
        writeln!(out, "  {}", layer_name(engine, layer))?;
        let weight = |key: Guid| engine.sublayer(key).map_or(0, |sublayer| sublayer.weight);
        filters.sort_by_key(|one| {
            std::cmp::Reverse((weight(one.filter.sublayer), one.filter.sublayer, one.weight))
        });
        for added in filters {
            write_filter(out, engine, own, added)?;
        }
    }
    Ok(())
}

fn write_filter(out: &mut String, engine: &Engine, own: &Inventory, added: &AddedFilter) -> std::fmt::Result {
    let AddedFilter { id, weight, filter } = added;
    let Filter { display, sublayer, conditions, action, callout, .. } = filter;
    let sublayer = engine.sublayer(*sublayer);
    let sublayer =
        sublayer.map_or_else(String::new, |one| format!("{} weight {}", name(&one.display), one.weight));
    let flags = flags("FWPM_FILTER_FLAG_", filter.flags);
    writeln!(out, "    {id} {}, weight {weight:#x}, in sublayer {sublayer}{flags}", name(display))?;
    let callout = callout.map(|key| match own.callouts.iter().find(|one| one.key == key) {
        Some(known) => format!(" {} {{{key}}}", name(&known.display)),
        None => format!(" {{{key}}}"),
    });
    writeln!(out, "      {}{}", action_name(*action), callout.unwrap_or_default())?;
    let layer = engine.layer_by_key(filter.layer);
    let conditions: Vec<_> = conditions.iter().map(|one| condition(layer, one)).collect();
    match conditions.is_empty() {
        true => writeln!(out, "      always"),
        false => writeln!(out, "      if {}", conditions.join("; ")),
    }
}

/// The name of an action without its prefix.
fn action_name(action: ActionType) -> String {
    match action {
        ActionType::BLOCK => "BLOCK".to_owned(),
        ActionType::PERMIT => "PERMIT".to_owned(),
        ActionType::CALLOUT_TERMINATING => "CALLOUT_TERMINATING".to_owned(),
        ActionType::CALLOUT_INSPECTION => "CALLOUT_INSPECTION".to_owned(),
        ActionType::CALLOUT_UNKNOWN => "CALLOUT_UNKNOWN".to_owned(),
        ActionType(other) => format!("action {other:#x}"),
    }
}

fn condition(layer: Option<&LayerInfo>, condition: &Condition) -> String {
    let field = layer.and_then(|layer| Some(&layer.data_fields[layer.field_by_condition(condition.field)?]));
    let name = field.map_or_else(|| format!("{{{}}}", condition.field), |field| field.name.to_owned());
    let is = match condition.match_type {
        MatchType::Equal => "is",
        MatchType::Greater => ">",
        MatchType::Less => "<",
        MatchType::GreaterOrEqual => ">=",
        MatchType::LessOrEqual => "<=",
        MatchType::Range => "in",
        MatchType::FlagsAllSet => "has all of",
        MatchType::FlagsAnySet => "has one of",
        MatchType::FlagsNoneSet => "has none of",
        MatchType::EqualCaseInsensitive => "is (in any case)",
        MatchType::NotEqual => "is not",
        MatchType::Prefix => "begins with",
        MatchType::NotPrefix => "does not begin with",
    };
    format!("{name} {is} {}", value(field, &condition.value))
}

fn value(field: Option<&Field>, of: &Value) -> String {
    let is_address = field.is_some_and(Field::is_ip_address);
    match of {
        Value::Empty => "empty".to_owned(),
        Value::Uint32(address) if is_address => Ipv4Addr::from(*address).to_string(),
        Value::Uint8(number) => number.to_string(),
        Value::Uint16(number) => number.to_string(),
        Value::Uint32(number) => number.to_string(),
        Value::Uint64(number) => format!("{number:#x}"),
        Value::ByteArray16(bytes) => Ipv6Addr::from(*bytes).to_string(),
        Value::V4AddrMask(address, mask) => format!("{}/{}", Ipv4Addr::from(*address), mask.count_ones()),
        Value::V6AddrMask(address, length) => format!("{}/{length}", Ipv6Addr::from(*address)),
        Value::Range(ends) => format!("{} to {}", value(field, &ends.0), value(field, &ends.1)),
        Value::ByteBlob(bytes) => blob(bytes),
        Value::Sid(bytes) | Value::TokenAccessInformation(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// A byte blob, which is mostly a path in UTF-16.
fn blob(bytes: &[u8]) -> String {
    let units: Vec<_> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    match String::from_utf16(&units) {
        Ok(text) if bytes.len() >= 4 && bytes.len().is_multiple_of(2) && text.is_ascii() => {
            format!("\"{}\"", printable(text.trim_end_matches('\0')))
        }
        _ => format!("{} bytes", bytes.len()),
    }
}

fn others(out: &mut String, own: &Inventory) -> std::fmt::Result {
    writeln!(out, "{}", counted(own.sublayers.len(), "sublayer"))?;
    for sublayer in &own.sublayers {
        let flags = flags("FWPM_SUBLAYER_FLAG_", sublayer.flags);
        writeln!(
            out,
            "  {} {{{}}}, weight {}{flags}",
            name(&sublayer.display),
            sublayer.key,
            sublayer.weight
        )?;
    }
    writeln!(out, "{}", counted(own.providers.len(), "provider"))?;
    for provider in &own.providers {
        let flags = flags("FWPM_PROVIDER_FLAG_", provider.flags);
        writeln!(out, "  {} {{{}}}{flags}", name(&provider.display), provider.key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use machine::wfp::{Callout, FILTER_FLAG_CLEAR_ACTION_RIGHT, Session, Sublayer, named_guid};

    use super::*;

    fn named(name: &str) -> DisplayData {
        DisplayData { name: Some(name.to_owned()), description: None }
    }

    #[test]
    fn objects_are_shown_with_their_conditions_and_weights() {
        let engine = Engine::new();
        let before = engine.inventory();
        let session = engine.open(Session { display: named("test"), ..Session::default() }).unwrap();
        let sublayer =
            Sublayer { key: Guid::from_u128(1), display: named("ours"), weight: 77, ..Sublayer::default() };
        assert!(engine.sublayer_add(session, sublayer).is_success());
        let layer = engine.layer_by_name("ALE_AUTH_CONNECT_V4").unwrap().key;
        let callout = Callout {
            key: Guid::from_u128(2),
            display: named("looks"),
            applicable_layer: layer,
            ..Callout::default()
        };
        engine.callout_add(session, callout).unwrap();
        let field = |name: &str| named_guid(&format!("FWPM_CONDITION_{name}")).unwrap();
        let condition = |field, match_type, value| Condition { field, match_type, value };
        let path: Arc<[u8]> = "\\a.exe\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let filter = Filter {
            display: named("web"),
            flags: FILTER_FLAG_CLEAR_ACTION_RIGHT,
            sublayer: Guid::from_u128(1),
            weight: Value::Uint64(5),
            conditions: vec![
                condition(field("IP_REMOTE_PORT"), MatchType::Equal, Value::Uint16(443)),
                condition(
                    field("IP_REMOTE_PORT"),
                    MatchType::Range,
                    Value::Range(Box::new((Value::Uint16(1), Value::Uint16(9)))),
                ),
                condition(
                    field("IP_REMOTE_ADDRESS"),
                    MatchType::NotEqual,
                    Value::V4AddrMask(0x0A00_0000, 0xFF00_0000),
                ),
                condition(field("ALE_APP_ID"), MatchType::Equal, Value::ByteBlob(path)),
            ],
            callout: Some(Guid::from_u128(2)),
            ..Filter::new(layer, ActionType::CALLOUT_UNKNOWN)
        };
        engine.filter_add(session, filter).unwrap();
        let text = objects(&engine, &engine.inventory().without(&before));
        for expected in [
            "0 registered callouts",
            "ALE_AUTH_CONNECT_V4: \"looks\" {00000000-0000-0000-0000-000000000002}, added and not registered",
            "1 filter\n  ALE_AUTH_CONNECT_V4\n",
            "\"web\", weight 0x5, in sublayer \"ours\" weight 77, CLEAR_ACTION_RIGHT",
            "CALLOUT_UNKNOWN \"looks\"",
            "if IP_REMOTE_PORT is 443; IP_REMOTE_PORT in 1 to 9; IP_REMOTE_ADDRESS is not 10.0.0.0/8; ALE_APP_ID is \"\\a.exe\"",
            "1 sublayer\n  \"ours\"",
            "0 providers",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(objects(&engine, &engine.inventory().without(&engine.inventory())).contains("0 filters"));
    }
}
