//! The kernel-mode layers, their ids, GUIDs and data fields.
//!
//! They are built from tables: ids from `FWPS_BUILTIN_LAYERS`, fields from the
//! `FWPS_FIELDS_*` enums, other names of fields from the `FWPS_FIELD_*` macros
//! (`fwpsk.h`), GUIDs from `fwpmk.h`. Only the data types of the fields are written
//! by hand, because no header contains them (Filtering Condition Identifiers).

use std::sync::LazyLock;

use super::{DataType, Guid, LayerId, Value, facts};

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
    /// The type of its values; `None` if no source names it.
    pub data_type: Option<DataType>,
}

impl Field {
    /// Whether a host may pass `value`. `FWP_EMPTY` is always allowed.
    pub fn accepts(&self, value: &Value) -> bool {
        let given = value.data_type();
        given == DataType::Empty || self.data_type.is_none_or(|expected| expected == given)
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
    /// discouraged.
    pub fn allows_absorb(&self) -> bool {
        const FAMILIES: [&str; 8] = [
            "BOUND_MAC_FRAME_",
            "VSWITCH_ETHERNET",
            "BOUND_IPPACKET_",
            "BOUND_TRANSPORT_",
            "BOUND_ICMP_ERROR_",
            "DATAGRAM_DATA_",
            "STREAM_PACKET_",
            "ALE_",
        ];
        const ALE: [&str; 3] = ["ALE_AUTH_RECV_ACCEPT_", "ALE_AUTH_CONNECT_", "ALE_FLOW_ESTABLISHED_"];
        !self.is_discard()
            && FAMILIES.iter().any(|family| self.name.contains(family))
            && (!self.name.starts_with("ALE_") || ALE.iter().any(|ale| self.name.starts_with(ale)))
    }
}

/// All kernel-mode layers that have a management GUID, by id.
pub fn layers() -> &'static [LayerInfo] {
    static TABLE: LazyLock<Vec<LayerInfo>> = LazyLock::new(build);
    &TABLE
}

/// The number of kernel-mode layer ids (`FWPS_BUILTIN_KM_LAYER_MAX`).
pub(super) fn layer_ids() -> usize {
    layers().last().map_or(0, |layer| usize::from(layer.id.0) + 1)
}

pub(super) fn layer_by_id(id: LayerId) -> Option<&'static LayerInfo> {
    let table = layers();
    table.binary_search_by_key(&id, |layer| layer.id).ok().map(|at| &table[at])
}

pub(super) fn layer_by_key(key: Guid) -> Option<&'static LayerInfo> {
    layers().iter().find(|layer| layer.key == key)
}

pub(super) fn layer_by_name(name: &str) -> Option<&'static LayerInfo> {
    layers().iter().find(|layer| layer.name == name)
}

fn build() -> Vec<LayerInfo> {
    let kernel_mode = facts::macros("FWPS_BUILTIN_KM_LAYER_MAX").map(|(_, value)| value).next();
    let limit = kernel_mode.expect("the tables contain the number of kernel-mode layers");
    let ids = facts::enumerators("FWPS_BUILTIN_LAYERS").into_iter().flatten();
    let mut table: Vec<_> = ids.filter(|(_, id)| *id < limit).filter_map(build_layer).collect();
    table.sort_by_key(|layer| layer.id);
    table
}

/// Builds a layer; `None` for a reserved id, which has no GUID, so that no filter
/// can name it.
fn build_layer((name, id): (&'static str, u64)) -> Option<LayerInfo> {
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
    let data_fields: Vec<_> = fields
        .into_iter()
        .map(|(_, name)| Field {
            name,
            condition: condition(name),
            data_type: data_type(name, parent.ends_with("_V6")),
        })
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

/// A condition has the name of its field, with four exceptions. It is inferred that
/// `CURRENT_PROFILE_ID` tests a profile field.
fn condition(field: &str) -> Option<Guid> {
    let name = match field {
        "PROFILE_ID" => "CURRENT_PROFILE_ID",
        "SIO_FIREWALL_SOCKET_PROPERTY" => "ALE_SIO_FIREWALL_SOCKET_PROPERTY",
        "SIO_FIREWALL_SYSTEM_PORT" => "ALE_SIO_FIREWALL_SYSTEM_PORT",
        "NAP_CONTEXT" => "ALE_NAP_CONTEXT",
        name => name,
    };
    facts::guid(&format!("FWPM_CONDITION_{name}"))
}

/// The types of Filtering Condition Identifiers. It is inferred that a value has
/// the base type of its condition; the types of the identity fields are inferred,
/// too.
fn data_type(field: &str, v6: bool) -> Option<DataType> {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| field.ends_with(suffix));
    let undocumented = field.starts_with("RESERVED")
        || field.starts_with("VSWITCH_")
        || matches!(field, "NAP_CONTEXT" | "IPSEC_SECURITY_REALM_ID");
    if undocumented {
        return None;
    }
    Some(match field {
        "IP_PROTOCOL" | "EMBEDDED_PROTOCOL" => DataType::Uint8,
        "ETHER_TYPE" | "VLAN_ID" => DataType::Uint16,
        "INTERFACE" | "INTERFACE_QUARANTINE_EPOCH" => DataType::Uint64,
        "ALE_USER_ID" | "ALE_REMOTE_USER_ID" | "ALE_REMOTE_MACHINE_ID" => DataType::TokenAccessInformation,
        "ALE_PACKAGE_ID" => DataType::Sid,
        "ALE_APP_ID"
        | "ALE_ORIGINAL_APP_ID"
        | "ALE_SECURITY_ATTRIBUTE_FQBN_VALUE"
        | "ALE_EFFECTIVE_NAME"
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
    })
}
