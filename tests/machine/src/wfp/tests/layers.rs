//! The layer table: ids, keys, and fields of every layer that is indicated.

use std::sync::LazyLock;

use serde_json::Value as Json;

use super::*;

/// Names of the 66 layers with kernel-mode callouts, by family.
fn walked_layers() -> Vec<String> {
    const TWINNED: [&str; 14] = [
        "INBOUND_IPPACKET",
        "OUTBOUND_IPPACKET",
        "IPFORWARD",
        "INBOUND_TRANSPORT",
        "OUTBOUND_TRANSPORT",
        "STREAM",
        "DATAGRAM_DATA",
        "INBOUND_ICMP_ERROR",
        "OUTBOUND_ICMP_ERROR",
        "ALE_RESOURCE_ASSIGNMENT",
        "ALE_AUTH_LISTEN",
        "ALE_AUTH_RECV_ACCEPT",
        "ALE_AUTH_CONNECT",
        "ALE_FLOW_ESTABLISHED",
    ];
    const SINGLE: [&str; 5] = [
        "ALE_RESOURCE_RELEASE",
        "ALE_ENDPOINT_CLOSURE",
        "ALE_CONNECT_REDIRECT",
        "ALE_BIND_REDIRECT",
        "STREAM_PACKET",
    ];
    let mut names = Vec::new();
    for family in ["V4", "V6"] {
        for stem in TWINNED {
            names.push(format!("{stem}_{family}"));
            names.push(format!("{stem}_{family}_DISCARD"));
        }
        names.extend(SINGLE.map(|stem| format!("{stem}_{family}")));
    }
    names
}

#[test]
fn every_walked_layer_has_id_key_and_typed_fields() {
    let names = walked_layers();
    assert_eq!(names.len(), 66);
    let engine = Engine::new();
    for name in names {
        let layer = engine.layer_by_name(&name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(engine.layer(layer.id), Some(layer));
        assert_eq!(engine.layer_by_key(layer.key), Some(layer));
        assert_eq!(layer.fields, layer.data_fields.len());
        assert!(layer.fields >= 8, "{name} has {} fields", layer.fields);
        for field in &layer.data_fields {
            assert!(field.condition.is_some(), "{name}: {}", field.name);
        }
    }
}

/// Each layer of real machines, with its run-time id, its flags and its two forms of
/// fields, which are equal for most.
fn real_layers() -> impl Iterator<Item = (&'static str, u64, Vec<&'static str>, [&'static Json; 2])> {
    static LAYERS: LazyLock<Json> =
        LazyLock::new(|| serde_json::from_str(include_str!("../../../facts/windows/layers.json")).unwrap());
    LAYERS.as_object().unwrap().iter().map(|(name, layer)| {
        let flags = layer["flags"][0].as_array().unwrap().iter();
        let flags = flags.map(|flag| flag.as_str().unwrap().strip_prefix("FWPM_LAYER_FLAG_").unwrap());
        let shapes = layer["shapes"].as_array().unwrap();
        let shapes = [&shapes[0]["fields"], &shapes[shapes.len() - 1]["fields"]];
        (
            name.strip_prefix("FWPM_LAYER_").unwrap_or(name),
            layer["id"][0].as_u64().unwrap(),
            flags.collect(),
            shapes,
        )
    })
}

/// Two layers of real machines have no name in public headers ("ALE Accept Redirect").
const NAMELESS: [u64; 2] = [83, 84];

#[test]
fn real_machines_have_these_layers() {
    let mut kernel_mode = 0;
    for (name, id, flags, _) in real_layers().filter(|layer| !NAMELESS.contains(&layer.1)) {
        let layer = layer::layer_by_name(AleFields::Headers, name);
        assert_eq!(layer.is_some(), flags.contains(&"KERNEL"), "{name}");
        assert!(flags.contains(&"BUILTIN"), "{name}");
        let Some(layer) = layer else { continue };
        assert_eq!(u64::from(layer.id.0), id, "{name}");
        assert_eq!(layer.is_stream(), flags.contains(&"BUFFERED"), "{name}");
        assert!(flags.contains(&"CLASSIFY_MOSTLY"), "{name}");
        kernel_mode += 1;
    }
    assert_eq!(kernel_mode, layers().len());
}

#[test]
fn real_machines_have_these_fields_in_both_forms() {
    let mut compared = 0;
    for (name, _, _, shapes) in real_layers() {
        for (ale_fields, fields) in [AleFields::Older, AleFields::Newer].into_iter().zip(shapes) {
            let Some(layer) = layer::layer_by_name(ale_fields, name) else { continue };
            let fields = fields.as_array().unwrap();
            assert_eq!(layer.fields, fields.len(), "{name}, {ale_fields:?}");
            for (own, real) in layer.data_fields.iter().zip(fields) {
                let [condition, kind, data_type] = [0, 1, 2].map(|part| real[part].as_str().unwrap());
                let text = format!("{name}: {}", own.name);
                let key = facts::guid(&format!("FWPM_CONDITION_{condition}"));
                assert_eq!(own.condition, Some(key.expect(condition)), "{text} is {condition}");
                // Older machines give this one layer the addresses of IPv4.
                let of_v4 = name == "OUTBOUND_NETWORK_CONNECTION_POLICY_V6" && ale_fields == AleFields::Older;
                if !(of_v4 && own.is_ip_address()) {
                    let number =
                        facts::enumerators("FWP_DATA_TYPE").unwrap().find(|(name, _)| *name == data_type);
                    assert_eq!(own.data_type as u64, number.unwrap().1, "{text} is {data_type}");
                }
                let reserved = condition.starts_with("RESERVED");
                assert!(reserved || own.is_ip_address() == (kind == "IP_ADDRESS"), "{text} is {kind}");
                compared += 1;
            }
        }
    }
    assert!(compared > 2000, "{compared}");
}

/// The headers' form lies between: the fields of both others stand where it has them.
#[test]
fn fields_differ_only_at_the_end() {
    for layer in layers() {
        let older = layer::layer_by_id(AleFields::Older, layer.id).unwrap();
        let newer = layer::layer_by_id(AleFields::Newer, layer.id).unwrap();
        assert_eq!(older.data_fields, layer.data_fields[..older.fields], "{}", layer.name);
        assert_eq!(older.data_fields, newer.data_fields[..older.fields], "{}", layer.name);
        assert_eq!(older.fields < newer.fields, layer.name.starts_with("ALE_"), "{}", layer.name);
    }
}

#[test]
fn ids_keep_the_documented_pattern() {
    for layer in layers() {
        if let Some(parent) = layer.name.strip_suffix("_DISCARD") {
            let parent = layer::layer_by_name(AleFields::Headers, parent).unwrap();
            assert_eq!(layer.id.0, parent.id.0 + 1, "{}", layer.name);
            assert_eq!(layer.data_fields, parent.data_fields);
        }
        if let Some(stem) = layer.name.strip_suffix("_V4") {
            let v6 = layer::layer_by_name(AleFields::Headers, &format!("{stem}_V6")).unwrap();
            let twinned =
                layer::layer_by_name(AleFields::Headers, &format!("{}_DISCARD", layer.name)).is_some();
            let apart = v6.id.0 - layer.id.0;
            assert_eq!(apart, if twinned { 2 } else { 1 }, "{}", layer.name);
            assert_eq!(layer.fields, v6.fields, "{}", layer.name);
        }
    }
    let id = |name| layer::layer_by_name(AleFields::Headers, name).unwrap().id.0;
    assert_eq!(id("INBOUND_TRANSPORT_V4_DISCARD"), 13);
    assert_eq!(id("ALE_AUTH_RECV_ACCEPT_V6"), 46);
    assert_eq!(id("OUTBOUND_TRANSPORT_FAST"), 79);
}

#[test]
fn fields_are_found_by_name_and_alias() {
    let field = |layer, name| layer::layer_by_name(AleFields::Headers, layer).unwrap().field(name);
    assert_eq!(field("INBOUND_TRANSPORT_V4", "IP_REMOTE_PORT"), Some(5));
    assert_eq!(field("INBOUND_TRANSPORT_V6_DISCARD", "ICMP_CODE"), Some(5));
    assert_eq!(field("ALE_AUTH_CONNECT_V4", "ICMP_TYPE"), Some(4));
    assert_eq!(field("OUTBOUND_ICMP_ERROR_V4", "ICMP_TYPE"), Some(4));
    assert_eq!(field("OUTBOUND_ICMP_ERROR_V6", "ICMP_TYPE"), Some(4));
    assert_eq!(field("ALE_AUTH_RECV_ACCEPT_V4", "LOCAL_INTERFACE_INDEX"), Some(16));
    assert_eq!(field("INBOUND_TRANSPORT_V4", "MAX"), None);
}

#[test]
fn types_follow_the_family() {
    let of = |layer: &str, name: &str| {
        let layer = layer::layer_by_name(AleFields::Headers, layer).unwrap();
        layer.data_fields[layer.field(name).unwrap()].data_type
    };
    assert_eq!(of("INBOUND_TRANSPORT_V4", "IP_LOCAL_ADDRESS"), DataType::Uint32);
    assert_eq!(of("INBOUND_TRANSPORT_V6", "IP_LOCAL_ADDRESS"), DataType::ByteArray16);
    assert_eq!(of("IPFORWARD_V6", "IP_SOURCE_ADDRESS"), DataType::ByteArray16);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "IP_LOCAL_ADDRESS_TYPE"), DataType::Uint8);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "IP_PROTOCOL"), DataType::Uint8);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "IP_LOCAL_PORT"), DataType::Uint16);
    assert_eq!(of("INBOUND_ICMP_ERROR_V6", "ICMP_TYPE"), DataType::Uint16);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "IP_LOCAL_INTERFACE"), DataType::Uint64);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "INTERFACE_INDEX"), DataType::Uint32);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "INTERFACE_TYPE"), DataType::Uint32);
    assert_eq!(of("INBOUND_TRANSPORT_V4", "FLAGS"), DataType::Uint32);
    assert_eq!(of("ALE_AUTH_CONNECT_V4", "ALE_APP_ID"), DataType::ByteBlob);
    assert_eq!(of("ALE_AUTH_CONNECT_V4", "ALE_PACKAGE_ID"), DataType::Sid);
    let token = DataType::TokenAccessInformation;
    assert_eq!(of("ALE_AUTH_CONNECT_V4", "ALE_USER_ID"), token);
}

#[test]
fn data_types_are_numbered_as_in_the_header() {
    let table: Vec<_> = facts::enumerators("FWP_DATA_TYPE").unwrap().collect();
    let number = |name| table.iter().find(|entry| entry.0 == name).unwrap().1;
    for (data_type, name) in [
        (DataType::Empty, "FWP_EMPTY"),
        (DataType::Uint8, "FWP_UINT8"),
        (DataType::Uint16, "FWP_UINT16"),
        (DataType::Uint32, "FWP_UINT32"),
        (DataType::Uint64, "FWP_UINT64"),
        (DataType::ByteArray16, "FWP_BYTE_ARRAY16_TYPE"),
        (DataType::ByteBlob, "FWP_BYTE_BLOB_TYPE"),
        (DataType::Sid, "FWP_SID"),
        (DataType::TokenAccessInformation, "FWP_TOKEN_ACCESS_INFORMATION_TYPE"),
        (DataType::ByteArray6, "FWP_BYTE_ARRAY6_TYPE"),
        (DataType::V4AddrMask, "FWP_V4_ADDR_MASK"),
        (DataType::V6AddrMask, "FWP_V6_ADDR_MASK"),
        (DataType::Range, "FWP_RANGE_TYPE"),
    ] {
        assert_eq!(data_type as u64, number(name), "{name}");
    }
}

#[test]
fn constants_are_those_of_the_headers() {
    let macros: std::collections::HashMap<_, _> = facts::macros("FW").collect();
    for (name, value) in [
        ("P_ACTION_BLOCK", ActionType::BLOCK.0),
        ("P_ACTION_PERMIT", ActionType::PERMIT.0),
        ("P_ACTION_CALLOUT_TERMINATING", ActionType::CALLOUT_TERMINATING.0),
        ("P_ACTION_CALLOUT_INSPECTION", ActionType::CALLOUT_INSPECTION.0),
        ("P_ACTION_CALLOUT_UNKNOWN", ActionType::CALLOUT_UNKNOWN.0),
        ("P_ACTION_CONTINUE", ActionType::CONTINUE.0),
        ("P_ACTION_NONE", ActionType::NONE.0),
        ("P_ACTION_NONE_NO_MATCH", ActionType::NONE_NO_MATCH.0),
        ("PS_RIGHT_ACTION_WRITE", RIGHT_ACTION_WRITE),
        ("PS_CLASSIFY_OUT_FLAG_ABSORB", CLASSIFY_OUT_FLAG_ABSORB),
        (
            "PS_FILTER_FLAG_CLEAR_ACTION_RIGHT",
            super::super::arbitration::RUNTIME_FLAG_CLEAR_ACTION_RIGHT.into(),
        ),
        (
            "PS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED",
            super::super::arbitration::RUNTIME_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED.into(),
        ),
        ("P_CALLOUT_FLAG_CONDITIONAL_ON_FLOW", CALLOUT_FLAG_CONDITIONAL_ON_FLOW),
        ("P_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY", CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY),
        ("PM_SESSION_FLAG_DYNAMIC", SESSION_FLAG_DYNAMIC),
        ("PM_TXN_READ_ONLY", TXN_READ_ONLY),
        ("PM_FILTER_FLAG_PERSISTENT", FLAG_PERSISTENT),
        ("PM_PROVIDER_FLAG_PERSISTENT", FLAG_PERSISTENT),
        ("PM_SUBLAYER_FLAG_PERSISTENT", FLAG_PERSISTENT),
        ("PM_CALLOUT_FLAG_PERSISTENT", CALLOUT_FLAG_PERSISTENT),
        ("PM_FILTER_FLAG_BOOTTIME", FILTER_FLAG_BOOTTIME),
        ("PM_FILTER_FLAG_CLEAR_ACTION_RIGHT", FILTER_FLAG_CLEAR_ACTION_RIGHT),
        ("PM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED", FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED),
    ] {
        assert_eq!(macros.get(name), Some(&u64::from(value)), "FW{name}");
    }
}

#[test]
fn absorb_is_valid_where_the_pages_say() {
    let valid: Vec<_> =
        layers().iter().filter(|layer| layer.allows_absorb()).map(|layer| layer.name).collect();
    for name in ["INBOUND_IPPACKET_V4", "OUTBOUND_TRANSPORT_V6", "STREAM_PACKET_V4"] {
        assert!(valid.contains(&name), "{name}");
    }
    for name in ["ALE_AUTH_RECV_ACCEPT_V4", "INGRESS_VSWITCH_ETHERNET", "DATAGRAM_DATA_V6"] {
        assert!(valid.contains(&name), "{name}");
    }
    for name in ["STREAM_V4", "ALE_RESOURCE_RELEASE_V4", "INBOUND_TRANSPORT_V4_DISCARD"] {
        assert!(!valid.contains(&name), "{name}");
    }
    // Other pages ask for it there.
    for name in ["ALE_AUTH_LISTEN_V4", "ALE_RESOURCE_ASSIGNMENT_V6", "IPFORWARD_V4"] {
        assert!(valid.contains(&name), "{name}");
    }
}

#[test]
#[should_panic(expected = "number of values")]
fn classify_refuses_a_wrong_number_of_values() {
    classify_with(&Engine::new(), LAYER, &[Value::Empty], &Metadata::default());
}

#[test]
#[should_panic(expected = "IP_LOCAL_PORT")]
fn classify_refuses_a_wrong_type() {
    let mut values = values(LAYER, &[]);
    values[4] = Value::Uint32(80);
    classify_with(&Engine::new(), LAYER, &values, &Metadata::default());
}
