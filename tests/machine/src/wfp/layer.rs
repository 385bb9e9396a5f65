//! The kernel-mode layers, their ids, GUIDs and data fields.
//!
//! They are built from tables: ids from `FWPS_BUILTIN_LAYERS`, fields from the
//! `FWPS_FIELDS_*` enums, other names of fields from the `FWPS_FIELD_*` macros
//! (`fwpsk.h`), GUIDs from `fwpmk.h`. Only the data types of the fields are written
//! by hand, because no header contains them (Filtering Condition Identifiers). A test
//! compares everything with the layers of real machines.

use std::sync::LazyLock;

use super::{AleFields, DataType, Guid, LayerId, Value, facts};

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct LayerInfo {
    pub id: LayerId,
    /// Management GUID (`FWPM_LAYER_*`).
    pub key: Guid,
    /// Without prefix: `INBOUND_TRANSPORT_V4_DISCARD`.
    pub name: &'static str,
    /// Number of data fields.
    pub fields: usize,
    /// The data fields in index order.
    pub data_fields: Vec<Field>,
    /// Further names of fields, such as `ICMP_TYPE` for the local port.
    pub aliases: Vec<(&'static str, usize)>,
}

/// A data field of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Without prefix: `IP_LOCAL_ADDRESS`.
    pub name: &'static str,
    /// `FWPM_CONDITION_*`, if a condition may test the field.
    pub condition: Option<Guid>,
    /// The type of its values.
    pub data_type: DataType,
}

impl Field {
    /// Whether a host may pass `value`. `FWP_EMPTY` is always allowed.
    pub fn accepts(&self, value: &Value) -> bool {
        let given = value.data_type();
        given == DataType::Empty || given == self.data_type
    }

    /// Whether the field is an IP address, so that a condition may be a mask.
    pub fn is_ip_address(&self) -> bool {
        self.name.ends_with("_ADDRESS") && !self.name.contains("MAC")
    }
}

impl LayerInfo {
    /// The index of a data field, by its short name or an alias.
    pub fn field(&self, name: &str) -> Option<usize> {
        let own = self.data_fields.iter().position(|field| field.name == name);
        own.or_else(|| self.aliases.iter().find(|alias| alias.0 == name).map(|alias| alias.1))
    }

    /// The index of the field that conditions with this GUID test.
    pub fn field_by_condition(&self, condition: Guid) -> Option<usize> {
        self.data_fields.iter().position(|field| field.condition == Some(condition))
    }

    /// Whether this is a discard layer.
    pub fn is_discard(&self) -> bool {
        self.name.ends_with("_DISCARD")
    }

    /// Whether the callouts at this layer form a chain, in which rights have no
    /// meaning (Using a Callout for Deep Inspection).
    pub fn is_stream(&self) -> bool {
        self.name.starts_with("STREAM_V")
    }

    /// Whether `FWPS_CLASSIFY_OUT_FLAG_ABSORB` is valid here
    /// (`FWPS_CLASSIFY_OUT0`). At `ALE_FLOW_ESTABLISHED` it is valid but
    /// discouraged. The page has no list entry for three layers where others ask for it:
    /// `FwpsPendOperation0` at the layers of bind and listen, *Processing Classify
    /// Callouts Asynchronously* for packets, which IPFORWARD has, too.
    pub fn allows_absorb(&self) -> bool {
        const FAMILIES: [&str; 9] = [
            "IPFORWARD_",
            "BOUND_MAC_FRAME_",
            "VSWITCH_ETHERNET",
            "BOUND_IPPACKET_",
            "BOUND_TRANSPORT_",
            "BOUND_ICMP_ERROR_",
            "DATAGRAM_DATA_",
            "STREAM_PACKET_",
            "ALE_",
        ];
        const ALE: [&str; 5] = [
            "ALE_RESOURCE_ASSIGNMENT_",
            "ALE_AUTH_LISTEN_",
            "ALE_AUTH_RECV_ACCEPT_",
            "ALE_AUTH_CONNECT_",
            "ALE_FLOW_ESTABLISHED_",
        ];
        !self.is_discard()
            && FAMILIES.iter().any(|family| self.name.contains(family))
            && (!self.name.starts_with("ALE_") || ALE.iter().any(|ale| self.name.starts_with(ale)))
    }
}

/// All kernel-mode layers that have a management GUID, by id, with the fields of the
/// headers.
pub fn layers() -> &'static [LayerInfo] {
    table(AleFields::Headers)
}

fn table(ale_fields: AleFields) -> &'static [LayerInfo] {
    static OLDER: LazyLock<Vec<LayerInfo>> = LazyLock::new(|| build(AleFields::Older));
    static HEADERS: LazyLock<Vec<LayerInfo>> = LazyLock::new(|| build(AleFields::Headers));
    static NEWER: LazyLock<Vec<LayerInfo>> = LazyLock::new(|| build(AleFields::Newer));
    match ale_fields {
        AleFields::Older => &OLDER,
        AleFields::Headers => &HEADERS,
        AleFields::Newer => &NEWER,
    }
}

/// The number of kernel-mode layer ids (`FWPS_BUILTIN_KM_LAYER_MAX`).
pub(super) fn layer_ids() -> usize {
    layers().last().map_or(0, |layer| usize::from(layer.id.0) + 1)
}

pub(super) fn layer_by_id(ale_fields: AleFields, id: LayerId) -> Option<&'static LayerInfo> {
    let table = table(ale_fields);
    table.binary_search_by_key(&id, |layer| layer.id).ok().map(|at| &table[at])
}

pub(super) fn layer_by_key(ale_fields: AleFields, key: Guid) -> Option<&'static LayerInfo> {
    table(ale_fields).iter().find(|layer| layer.key == key)
}

pub(super) fn layer_by_name(ale_fields: AleFields, name: &str) -> Option<&'static LayerInfo> {
    table(ale_fields).iter().find(|layer| layer.name == name)
}

fn build(ale_fields: AleFields) -> Vec<LayerInfo> {
    let kernel_mode = facts::macros("FWPS_BUILTIN_KM_LAYER_MAX").map(|(_, value)| value).next();
    let limit = kernel_mode.expect("the tables contain the number of kernel-mode layers");
    let ids = facts::enumerators("FWPS_BUILTIN_LAYERS").into_iter().flatten();
    let mut table: Vec<_> =
        ids.filter(|(_, id)| *id < limit).filter_map(|entry| build_layer(entry, ale_fields)).collect();
    table.sort_by_key(|layer| layer.id);
    table
}

/// Builds a layer; `None` for a reserved id, which has no GUID, so that no filter
/// can name it.
fn build_layer((name, id): (&'static str, u64), ale_fields: AleFields) -> Option<LayerInfo> {
    let name = name.strip_prefix("FWPS_LAYER_")?;
    // A discard layer has no enum of its own. It uses the positions of its layer
    // (inferred).
    let parent = name.strip_suffix("_DISCARD").unwrap_or(name);
    // The only enum whose name differs from that of its layer.
    let list = match parent.split_once("_CONNECTION_POLICY_") {
        Some((stem, family)) => format!("FWPS_FIELDS_{stem}_POLICY_{family}"),
        None => format!("FWPS_FIELDS_{parent}"),
    };
    let prefix = format!("FWPS_FIELD_{parent}_");
    let mut fields: Vec<_> = facts::enumerators(&list)?
        .filter_map(|(field, index)| Some((index, field.strip_prefix(&prefix)?)))
        .filter(|(_, field)| *field != "MAX")
        .collect();
    fields.sort_unstable();
    let mut fields: Vec<_> = fields.into_iter().map(|(_, field)| field).collect();
    if name.starts_with("ALE_") {
        ale_fields.apply(name, &mut fields);
    }
    let data_fields: Vec<_> = fields
        .into_iter()
        .map(|field| Field { name: field, condition: condition(field), data_type: data_type(field, parent) })
        .collect();
    let aliases = facts::macros(&prefix)
        .filter_map(|(alias, index)| Some((alias, usize::try_from(index).ok()?)))
        .collect();
    Some(LayerInfo {
        id: LayerId(u16::try_from(id).ok()?),
        key: facts::guid(&format!("FWPM_LAYER_{name}"))?,
        name,
        fields: data_fields.len(),
        data_fields,
        aliases,
    })
}

impl AleFields {
    /// Changes the fields of an ALE layer from the headers' to these.
    fn apply(self, layer: &str, fields: &mut Vec<&'static str>) {
        // On newer machines this layer alone has no reserved fields.
        let no_reserved = layer == "ALE_AUTH_RECV_ACCEPT_V6_DISCARD" && self == Self::Newer;
        if self == Self::Older || no_reserved {
            fields.retain(|field| !field.starts_with("RESERVED_"));
        }
        if self == Self::Newer {
            fields.push("PACKAGE_FAMILY_NAME");
        }
    }
}

/// A condition has the name of its field, with few exceptions.
fn condition(field: &str) -> Option<Guid> {
    let name = match field {
        "PROFILE_ID" => "CURRENT_PROFILE_ID",
        "SIO_FIREWALL_SOCKET_PROPERTY" | "SIO_FIREWALL_SYSTEM_PORT" => "ALE_SIO_FIREWALL_SYSTEM_PORT",
        "NAP_CONTEXT" => "ALE_NAP_CONTEXT",
        "PACKAGE_FAMILY_NAME" => "ALE_PACKAGE_FAMILY_NAME",
        "INTERFACE" => "IP_LOCAL_INTERFACE",
        name => name,
    };
    facts::guid(&format!("FWPM_CONDITION_{}", name.replace("RESERVED_", "RESERVED")))
}

/// The types of Filtering Condition Identifiers, and where it names none, those of real
/// machines. `layer` is a layer or that of which it is the discard layer.
fn data_type(field: &str, layer: &str) -> DataType {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| field.ends_with(suffix));
    let v6 = layer.ends_with("_V6");
    match field {
        _ if layer == "INBOUND_RESERVED2" => reserved2_type(field),
        "RESERVED_0" | "RESERVED_1" if layer == "ALE_RESOURCE_ASSIGNMENT_V4" => DataType::Uint8,
        _ if field.starts_with("RESERVED_") => DataType::ByteBlob,
        "VSWITCH_TENANT_NETWORK_ID" => DataType::Uint32,
        _ if field.starts_with("VSWITCH_") && ends(&["_TYPE"]) => DataType::Uint8,
        _ if field.starts_with("VSWITCH_") => DataType::ByteBlob,
        "IP_PROTOCOL" | "EMBEDDED_PROTOCOL" => DataType::Uint8,
        "ETHER_TYPE" | "VLAN_ID" => DataType::Uint16,
        "INTERFACE" | "INTERFACE_QUARANTINE_EPOCH" => DataType::Uint64,
        "ALE_USER_ID" if layer.starts_with("NAME_RESOLUTION_CACHE_") => DataType::Sid,
        "ALE_USER_ID" | "ALE_REMOTE_USER_ID" | "ALE_REMOTE_MACHINE_ID" | "PACKAGE_FAMILY_NAME" => {
            DataType::TokenAccessInformation
        }
        "ALE_PACKAGE_ID" => DataType::Sid,
        "ALE_APP_ID"
        | "ALE_ORIGINAL_APP_ID"
        | "ALE_SECURITY_ATTRIBUTE_FQBN_VALUE"
        | "ALE_EFFECTIVE_NAME"
        | "IPSEC_SECURITY_REALM_ID"
        | "PEER_NAME" => DataType::ByteBlob,
        _ if ends(&["_MAC_ADDRESS"]) => DataType::ByteArray6,
        _ if field.starts_with("MAC_") && ends(&["_ADDRESS"]) => DataType::ByteArray6,
        _ if ends(&["_ADDRESS_TYPE"]) => DataType::Uint8,
        _ if ends(&["_ADDRESS"]) && v6 => DataType::ByteArray16,
        _ if ends(&["_ADDRESS"]) => DataType::Uint32,
        "SIO_FIREWALL_SYSTEM_PORT" | "NDIS_PORT" => DataType::Uint32,
        _ if ends(&["_PORT", "ICMP_TYPE", "ICMP_CODE"]) => DataType::Uint16,
        _ if field.starts_with("IP_") && ends(&["_INTERFACE"]) => DataType::Uint64,
        _ => DataType::Uint32,
    }
}

/// The types at a layer whose fields have no names.
fn reserved2_type(field: &str) -> DataType {
    match field {
        "RESERVED0" | "RESERVED11" | "RESERVED13" => DataType::Uint8,
        "RESERVED1" | "RESERVED4" => DataType::Uint32,
        "RESERVED2" | "RESERVED5" => DataType::ByteArray16,
        "RESERVED3" | "RESERVED6" | "RESERVED8" => DataType::Uint16,
        "RESERVED12" => DataType::Uint64,
        _ => DataType::ByteBlob,
    }
}
