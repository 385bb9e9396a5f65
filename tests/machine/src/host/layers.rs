//! The layers at which a host indicates, built from the tables.
//!
//! Ids come from `FWPS_BUILTIN_LAYERS`, fields and their order from the
//! `FWPS_FIELDS_*` enums (`fwpsk.h`). A layer, its IPv6 form and its discard layer
//! are one entry here; the tables distinguish them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value as Json;

use crate::wfp::{AleFields, LayerId};
use crate::wire::Family;

const ENUMS: &str = include_str!("../../facts/enums.json");

macro_rules! names {
    ($(#[$meta:meta])* $kind:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names are fwpsk.h's own, recased")]
        pub enum $kind { $($variant),+ }

        #[allow(missing_docs, reason = "see the enum")]
        impl $kind {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in `fwpsk.h`, without prefix and family.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

names! {
    /// A layer of both families.
    Layer {
        InboundIppacket = "INBOUND_IPPACKET",
        OutboundIppacket = "OUTBOUND_IPPACKET",
        Ipforward = "IPFORWARD",
        InboundTransport = "INBOUND_TRANSPORT",
        OutboundTransport = "OUTBOUND_TRANSPORT",
        Stream = "STREAM",
        StreamPacket = "STREAM_PACKET",
        DatagramData = "DATAGRAM_DATA",
        InboundIcmpError = "INBOUND_ICMP_ERROR",
        OutboundIcmpError = "OUTBOUND_ICMP_ERROR",
        AleResourceAssignment = "ALE_RESOURCE_ASSIGNMENT",
        AleAuthListen = "ALE_AUTH_LISTEN",
        AleAuthRecvAccept = "ALE_AUTH_RECV_ACCEPT",
        AleAuthConnect = "ALE_AUTH_CONNECT",
        AleFlowEstablished = "ALE_FLOW_ESTABLISHED",
        AleResourceRelease = "ALE_RESOURCE_RELEASE",
        AleEndpointClosure = "ALE_ENDPOINT_CLOSURE",
        AleConnectRedirect = "ALE_CONNECT_REDIRECT",
        AleBindRedirect = "ALE_BIND_REDIRECT",
    }
}

names! {
    /// A data field of any of these layers.
    Field {
        AppId = "ALE_APP_ID",
        EffectiveName = "ALE_EFFECTIVE_NAME",
        OriginalAppId = "ALE_ORIGINAL_APP_ID",
        PackageId = "ALE_PACKAGE_ID",
        PromiscuousMode = "ALE_PROMISCUOUS_MODE",
        RemoteMachineId = "ALE_REMOTE_MACHINE_ID",
        RemoteUserId = "ALE_REMOTE_USER_ID",
        Fqbn = "ALE_SECURITY_ATTRIBUTE_FQBN_VALUE",
        UserId = "ALE_USER_ID",
        ArrivalInterfaceProfileId = "ARRIVAL_INTERFACE_PROFILE_ID",
        ArrivalInterfaceIndex = "ARRIVAL_INTERFACE_INDEX",
        ArrivalInterfaceType = "ARRIVAL_INTERFACE_TYPE",
        ArrivalTunnelType = "ARRIVAL_TUNNEL_TYPE",
        CompartmentId = "COMPARTMENT_ID",
        CurrentProfileId = "CURRENT_PROFILE_ID",
        DestinationAddress = "IP_DESTINATION_ADDRESS",
        DestinationInterfaceIndex = "DESTINATION_INTERFACE_INDEX",
        DestinationSubInterfaceIndex = "DESTINATION_SUB_INTERFACE_INDEX",
        Direction = "DIRECTION",
        EmbeddedLocalAddressType = "EMBEDDED_LOCAL_ADDRESS_TYPE",
        EmbeddedLocalPort = "EMBEDDED_LOCAL_PORT",
        EmbeddedProtocol = "EMBEDDED_PROTOCOL",
        EmbeddedRemoteAddress = "EMBEDDED_REMOTE_ADDRESS",
        EmbeddedRemotePort = "EMBEDDED_REMOTE_PORT",
        Flags = "FLAGS",
        IcmpCode = "ICMP_CODE",
        IcmpType = "ICMP_TYPE",
        InterfaceIndex = "INTERFACE_INDEX",
        InterfaceQuarantineEpoch = "INTERFACE_QUARANTINE_EPOCH",
        InterfaceType = "INTERFACE_TYPE",
        ArrivalInterface = "IP_ARRIVAL_INTERFACE",
        ForwardInterface = "IP_FORWARD_INTERFACE",
        PhysicalArrivalInterface = "IP_PHYSICAL_ARRIVAL_INTERFACE",
        PhysicalNexthopInterface = "IP_PHYSICAL_NEXTHOP_INTERFACE",
        SourceAddress = "IP_SOURCE_ADDRESS",
        SourceInterfaceIndex = "SOURCE_INTERFACE_INDEX",
        SourceSubInterfaceIndex = "SOURCE_SUB_INTERFACE_INDEX",
        DestinationAddressType = "IP_DESTINATION_ADDRESS_TYPE",
        LocalAddress = "IP_LOCAL_ADDRESS",
        LocalAddressType = "IP_LOCAL_ADDRESS_TYPE",
        LocalInterface = "IP_LOCAL_INTERFACE",
        LocalPort = "IP_LOCAL_PORT",
        NexthopInterface = "IP_NEXTHOP_INTERFACE",
        Protocol = "IP_PROTOCOL",
        RemoteAddress = "IP_REMOTE_ADDRESS",
        RemotePort = "IP_REMOTE_PORT",
        IpsecSecurityRealmId = "IPSEC_SECURITY_REALM_ID",
        LocalInterfaceProfileId = "LOCAL_INTERFACE_PROFILE_ID",
        NapContext = "NAP_CONTEXT",
        NexthopInterfaceIndex = "NEXTHOP_INTERFACE_INDEX",
        NexthopInterfaceProfileId = "NEXTHOP_INTERFACE_PROFILE_ID",
        NexthopInterfaceType = "NEXTHOP_INTERFACE_TYPE",
        NexthopSubInterfaceIndex = "NEXTHOP_SUB_INTERFACE_INDEX",
        NexthopTunnelType = "NEXTHOP_TUNNEL_TYPE",
        OriginalIcmpType = "ORIGINAL_ICMP_TYPE",
        OriginalProfileId = "ORIGINAL_PROFILE_ID",
        PackageFamilyName = "PACKAGE_FAMILY_NAME",
        PeerName = "PEER_NAME",
        ProfileId = "PROFILE_ID",
        ReauthorizeReason = "REAUTHORIZE_REASON",
        Reserved0 = "RESERVED_0",
        Reserved1 = "RESERVED_1",
        Reserved2 = "RESERVED_2",
        Reserved3 = "RESERVED_3",
        SocketProperty = "SIO_FIREWALL_SOCKET_PROPERTY",
        SystemPort = "SIO_FIREWALL_SYSTEM_PORT",
        SubInterfaceIndex = "SUB_INTERFACE_INDEX",
        TunnelType = "TUNNEL_TYPE",
    }
}

/// A layer of one family, with its discard layer.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Run-time id.
    pub id: LayerId,
    /// Name without prefix: `INBOUND_TRANSPORT_V4`.
    pub name: &'static str,
    /// Id and name of the discard layer, if there is one.
    pub discard: Option<(LayerId, &'static str)>,
    /// The data fields of the headers in index order. The discard layer uses the
    /// positions of its layer.
    fields: Vec<Field>,
}

impl Definition {
    /// The data fields in index order, at the layer or at its discard layer.
    pub fn fields(&self, ale_fields: AleFields, discard: bool) -> Cow<'_, [Field]> {
        const RESERVED: [Field; 4] = [Field::Reserved0, Field::Reserved1, Field::Reserved2, Field::Reserved3];
        let reserved = self.fields.iter().position(|field| RESERVED.contains(field));
        let older = &self.fields[..reserved.unwrap_or(self.fields.len())];
        match ale_fields {
            _ if !self.name.starts_with("ALE_") => Cow::Borrowed(&self.fields),
            AleFields::Headers => Cow::Borrowed(&self.fields),
            AleFields::Older => Cow::Borrowed(older),
            AleFields::Newer => {
                let short = discard && self.name == "ALE_AUTH_RECV_ACCEPT_V6";
                let before = if short { older } else { &self.fields };
                before.iter().copied().chain([Field::PackageFamilyName]).collect()
            }
        }
    }
}

/// The definition of a layer in a family.
pub fn definition(layer: Layer, family: Family) -> &'static Definition {
    static TABLE: OnceLock<BTreeMap<(Layer, Family), Definition>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let enums: Json = serde_json::from_str(ENUMS).expect("facts/enums.json is JSON");
        let mut table = BTreeMap::new();
        for &layer in Layer::ALL {
            for family in Family::BOTH {
                table.insert((layer, family), define(&enums, layer, family));
            }
        }
        table
    });
    &table[&(layer, family)]
}

/// Reads a layer from the tables. They are part of this crate, so a missing layer
/// or field is a fault here.
fn define(enums: &Json, layer: Layer, family: Family) -> Definition {
    let name: &'static str = format!("{}_{family:?}", layer.name()).leak();
    let id_of = |name: &str| {
        enums["FWPS_BUILTIN_LAYERS"][format!("FWPS_LAYER_{name}")].as_u64().map(|id| LayerId(id as u16))
    };
    let discard_name: &'static str = format!("{name}_DISCARD").leak();
    let prefix = format!("FWPS_FIELD_{name}_");
    let entries = enums[format!("FWPS_FIELDS_{name}")]
        .as_object()
        .unwrap_or_else(|| panic!("facts/enums.json has no fields of {name}"));
    let mut fields: Vec<(u64, Field)> = entries
        .iter()
        .filter_map(|(key, index)| {
            let field = key.strip_prefix(&prefix).unwrap_or(key);
            let index = index.as_u64().unwrap_or_else(|| panic!("index of {key}"));
            (field != "MAX").then(|| (index, field_named(layer, field)))
        })
        .collect();
    fields.sort_unstable_by_key(|(index, _)| *index);
    assert!(
        fields.iter().map(|(index, _)| *index).eq(0..fields.len() as u64),
        "facts/enums.json: the fields of {name} are not numbered from 0"
    );
    Definition {
        id: id_of(name).unwrap_or_else(|| panic!("facts/enums.json has no layer {name}")),
        name,
        discard: id_of(discard_name).map(|id| (id, discard_name)),
        fields: fields.into_iter().map(|(_, field)| field).collect(),
    }
}

fn field_named(layer: Layer, name: &str) -> Field {
    // OUTBOUND_ICMP_ERROR_V6 names type and code as ports (`fwpsk.h`).
    match (layer, name) {
        (Layer::OutboundIcmpError, "IP_LOCAL_PORT") => return Field::IcmpType,
        (Layer::OutboundIcmpError, "IP_REMOTE_PORT") => return Field::IcmpCode,
        _ => {}
    }
    Field::ALL
        .iter()
        .copied()
        .find(|field| field.name() == name)
        .unwrap_or_else(|| panic!("field {name} of {} is not known here", layer.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_discard_layers_and_order_match_the_headers() {
        let v4 = definition(Layer::InboundTransport, Family::V4);
        assert_eq!((v4.id, v4.name), (LayerId(12), "INBOUND_TRANSPORT_V4"));
        assert_eq!(v4.discard, Some((LayerId(13), "INBOUND_TRANSPORT_V4_DISCARD")));
        assert_eq!(v4.fields[0], Field::Protocol);
        assert_eq!(v4.fields[14], Field::CompartmentId);
        let closure = definition(Layer::AleEndpointClosure, Family::V6);
        assert_eq!((closure.id, closure.discard), (LayerId(65), None));
    }

    #[test]
    fn both_families_have_the_same_fields() {
        for &layer in Layer::ALL {
            assert_eq!(
                definition(layer, Family::V4).fields,
                definition(layer, Family::V6).fields,
                "{layer:?}"
            );
        }
    }
}
