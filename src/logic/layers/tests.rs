//! Compares the rows with the values of the headers.

use serde_json::Value;

use super::*;

fn table(name: &str) -> Value {
    let path = format!("tests/machine/facts/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Every row of the table, by family and discard layer, with its id and key.
fn rows() -> impl Iterator<Item = (&'static Layer, Family, bool, u16, Guid)> {
    LAYERS.iter().flat_map(|layer| {
        Family::ALL.into_iter().flat_map(move |family| {
            let column = family as usize;
            let own = (layer, family, false, layer.ids[column], layer.keys[column]);
            let discard_layer = layer.discard.as_ref();
            let discard_layer = discard_layer.map(|discard_layer| {
                (layer, family, true, layer.ids[column] + 1, discard_layer.keys[column])
            });
            [Some(own), discard_layer].into_iter().flatten()
        })
    })
}

#[test]
fn ids_and_keys_are_the_headers() {
    let (enums, guids) = (table("enums"), table("guids"));
    for (layer, family, discard, id, key) in rows() {
        let name = format!("{}_{family:?}{}", layer.name, if discard { "_DISCARD" } else { "" });
        assert_eq!(enums["FWPS_BUILTIN_LAYERS"][format!("FWPS_LAYER_{name}")], id, "{name}");
        let text = guids[format!("FWPM_LAYER_{name}")].as_str().unwrap();
        assert_eq!(u128::from_str_radix(&text.replace('-', ""), 16).unwrap(), key, "{name}");
    }
}

#[test]
fn a_layer_has_a_discard_layer_if_the_header_has_one() {
    let guids = table("guids");
    for layer in &LAYERS {
        let known = guids.get(format!("FWPM_LAYER_{}_V4_DISCARD", layer.name)).is_some();
        assert_eq!(layer.discard.is_some(), known, "{}", layer.name);
    }
}

#[test]
fn positions_are_the_headers_in_both_families() {
    let enums = table("enums");
    for layer in &LAYERS {
        for family in ["V4", "V6"] {
            let prefix = format!("{}_{family}", layer.name);
            let known = &enums[format!("FWPS_FIELDS_{prefix}")];
            let position = |field: &str| {
                // The header gives OUTBOUND_ICMP_ERROR_V6's type and code the names
                // of ports.
                let field = match (layer.name, field) {
                    ("OUTBOUND_ICMP_ERROR", "IP_LOCAL_PORT" | "IP_REMOTE_PORT") => return None,
                    ("OUTBOUND_ICMP_ERROR", "ICMP_TYPE") if family == "V6" => "IP_LOCAL_PORT",
                    ("OUTBOUND_ICMP_ERROR", "ICMP_CODE") if family == "V6" => "IP_REMOTE_PORT",
                    _ => field,
                };
                let value = known.get(format!("FWPS_FIELD_{prefix}_{field}"))?;
                Some(u8::try_from(value.as_u64().unwrap()).unwrap())
            };
            let expected = Fields {
                protocol: position("IP_PROTOCOL"),
                local_address: position("IP_LOCAL_ADDRESS"),
                remote_address: position("IP_REMOTE_ADDRESS"),
                local_port: position("IP_LOCAL_PORT"),
                remote_port: position("IP_REMOTE_PORT"),
                interface: position("IP_LOCAL_INTERFACE"),
                icmp: position("ICMP_TYPE").zip(position("ICMP_CODE")).map(|(kind, code)| [kind, code]),
                flags: position("FLAGS"),
                address_type: match layer.name {
                    "INBOUND_IPPACKET" | "INBOUND_TRANSPORT" => position("IP_LOCAL_ADDRESS_TYPE"),
                    _ => None,
                },
                compartment: match layer.name {
                    "INBOUND_IPPACKET"
                    | "INBOUND_TRANSPORT"
                    | "OUTBOUND_ICMP_ERROR"
                    | "ALE_FLOW_ESTABLISHED" => position("COMPARTMENT_ID"),
                    _ => None,
                },
                // Only where the driver decides.
                profile: match layer.name {
                    // CURRENT_PROFILE_ID among the conditions.
                    "INBOUND_TRANSPORT" => position("PROFILE_ID"),
                    "OUTBOUND_ICMP_ERROR" => position("NEXTHOP_INTERFACE_PROFILE_ID"),
                    _ => None,
                },
            };
            assert_eq!(layer.fields, expected, "{prefix}");
            if let Shows::Segment(Way::Field(field)) = layer.shows {
                assert_eq!(position("DIRECTION"), Some(field), "{prefix}");
            }
        }
    }
}

/// The layers of real machines, in both forms of the ALE layers, which differ at their
/// end only.
#[test]
fn real_machines_have_these_layers_and_fields() {
    let machines = table("windows/layers");
    for (layer, family, discard, id, _) in rows() {
        let name = format!("{}_{family:?}{}", layer.name, if discard { "_DISCARD" } else { "" });
        let real = &machines[format!("FWPM_LAYER_{name}")];
        assert_eq!(real["id"], Value::from([id]), "{name}");
        let has_flag = |flag: &str| {
            let flags = real["flags"][0].as_array().unwrap();
            flags.contains(&Value::from(format!("FWPM_LAYER_FLAG_{flag}")))
        };
        assert!(has_flag("KERNEL"), "{name}");
        assert_eq!(has_flag("BUFFERED"), layer.shows == Shows::Stream, "{name}");
        let address = match family {
            Family::V4 => "FWP_UINT32",
            Family::V6 => "FWP_BYTE_ARRAY16_TYPE",
        };
        let direction = match layer.shows {
            Shows::Segment(Way::Field(position)) => Some(position),
            _ => None,
        };
        // Machines call type and code of ICMP by the names of the ports.
        let Fields { icmp, local_port, remote_port, .. } = layer.fields;
        let (kind, code) = icmp.map_or((None, None), |[kind, code]| (Some(kind), Some(code)));
        let fields = [
            (layer.fields.protocol, "IP_PROTOCOL", "FWP_UINT8"),
            (layer.fields.local_address, "IP_LOCAL_ADDRESS", address),
            (layer.fields.remote_address, "IP_REMOTE_ADDRESS", address),
            (local_port.or(kind), "IP_LOCAL_PORT", "FWP_UINT16"),
            (remote_port.or(code), "IP_REMOTE_PORT", "FWP_UINT16"),
            (layer.fields.interface, "IP_LOCAL_INTERFACE", "FWP_UINT64"),
            (layer.fields.flags, "FLAGS", "FWP_UINT32"),
            (direction, "DIRECTION", "FWP_UINT32"),
            (layer.fields.address_type, "IP_LOCAL_ADDRESS_TYPE", "FWP_UINT8"),
            (layer.fields.compartment, "COMPARTMENT_ID", "FWP_UINT32"),
        ];
        let shapes = real["shapes"].as_array().unwrap();
        assert_eq!(shapes.len(), if layer.name.starts_with("ALE_") { 2 } else { 1 }, "{name}");
        for shape in shapes {
            for (position, field, data_type) in fields {
                let Some(position) = position else { continue };
                let real = &shape["fields"][usize::from(position)];
                assert_eq!([&real[0], &real[2]], [field, data_type], "{name}, {position}");
            }
        }
    }
}

#[test]
fn layers_are_sorted_by_the_order_of_the_flows() {
    assert!(LAYERS.is_sorted_by_key(|layer| layer.first_met));
}
