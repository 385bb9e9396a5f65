//! The layers that the driver stands at, in the order of the documented flows.
//!
//! A layer comes in two families, and nearly every one with a twin for what
//! was discarded there; both are data here, never code. Ids and positions are
//! those of `fwpsk.h` (`FWPS_BUILTIN_LAYERS`, `FWPS_FIELDS_*`), keys those of
//! `fwpmk.h` (`FWPM_LAYER_*`).

use super::policy::Policy;

/// A GUID as one number, in the order in which it is written.
pub type Guid = u128;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order of the tables' columns.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// One documented layer: both families and, where there is one, its twin.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    /// `fwpsk.h`'s name without prefix and family.
    pub name: &'static str,
    /// Run-time ids by family; a twin's id is the next one.
    pub ids: [u16; 2],
    /// Management keys by family.
    pub keys: [Guid; 2],
    /// The layer's twin for what was discarded at it.
    pub discard: Option<Discard>,
    /// Positions of data fields; the same in both families and in the twin.
    pub fields: Fields,
    /// What the driver does there.
    pub role: Role,
    /// Where the "TCP packet flows" page first comes to the layer.
    pub first_met: Event,
}

/// A layer's twin.
#[derive(Debug, PartialEq, Eq)]
pub struct Discard {
    /// Management keys by family.
    pub keys: [Guid; 2],
    /// What the driver does there.
    pub role: Role,
}

/// What a callout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counts and watches, never decides.
    Observe,
    /// Decides.
    Decide(Decision),
}

/// What there is to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Whether what the transport layer discarded is answered.
    TransportDiscard,
    /// Whether what the network layer discarded is.
    PacketDiscard,
    /// Whether an ICMP error goes out.
    IcmpError,
    /// Whether an echo request is taken in.
    EchoRequest,
}

impl Role {
    /// Whether a callout of this role has a filter: one that has nothing to
    /// decide, and is not to observe, costs no packet anything.
    pub fn has_filter(self, policy: &Policy) -> bool {
        match self {
            Self::Observe => policy.observe,
            Self::Decide(Decision::EchoRequest) => policy.observe || policy.silence_echo,
            Self::Decide(_) => true,
        }
    }
}

/// Positions in `FWPS_INCOMING_VALUES0::incomingValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// `IP_PROTOCOL`.
    pub protocol: Option<u8>,
    /// `IP_LOCAL_ADDRESS`.
    pub local_address: Option<u8>,
    /// `IP_REMOTE_ADDRESS`.
    pub remote_address: Option<u8>,
    /// `IP_LOCAL_PORT`; for ICMP its type.
    pub local_port: Option<u8>,
    /// `IP_REMOTE_PORT`; for ICMP its code.
    pub remote_port: Option<u8>,
    /// `ICMP_TYPE` and `ICMP_CODE` where they have places of their own.
    pub icmp: Option<[u8; 2]>,
    /// `IP_LOCAL_INTERFACE`.
    pub interface: Option<u8>,
    /// `FLAGS`.
    pub flags: Option<u8>,
}

/// The events of the "TCP packet flows" page that first come to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A socket is bound.
    Bind,
    /// A server listens.
    Listen,
    /// A client connects.
    Connect,
    /// The client's SYN leaves.
    SynOut,
    /// It arrives at the server.
    SynIn,
    /// The server's answer arrives at the client.
    SynAckIn,
    /// Data passes.
    Data,
    /// The page's TCP flows never come here.
    Beside,
}

/// Every layer, ordered by when the page's flows first come to it.
pub const LAYERS: [Layer; 19] = [
    Layer {
        name: "ALE_BIND_REDIRECT",
        ids: [68, 69],
        keys: [0x66978cad_c704_42ac_86ac_7c1a231bd253, 0xbef02c9c_606b_4536_8c26_1c2fc7b631d4],
        discard: None,
        fields: at([5, 2, NO, 4, NO, NO, 6]),
        role: Role::Observe,
        first_met: Event::Bind,
    },
    Layer {
        name: "ALE_RESOURCE_ASSIGNMENT",
        ids: [36, 38],
        keys: [0x1247d66d_0b60_4a15_8d44_7155d0f53a0c, 0x55a650e1_5f0a_4eca_a653_88f53b26aa8c],
        discard: Some(Discard {
            keys: [0x0b5812a2_c3ff_4eca_b88d_c79e20ac6322, 0xcbc998bb_c51f_4c1a_bb4f_9775fcacab2f],
            role: Role::Observe,
        }),
        fields: at([5, 2, NO, 4, NO, 7, 8]),
        role: Role::Observe,
        first_met: Event::Bind,
    },
    Layer {
        name: "ALE_AUTH_LISTEN",
        ids: [40, 42],
        keys: [0x88bb5dad_76d7_4227_9c71_df0a3ed7be7e, 0x7ac9de24_17dd_4814_b4bd_a9fbc95a321b],
        discard: Some(Discard {
            keys: [0x371dfada_9f26_45fd_b4eb_c29eb212893f, 0x60703b07_63c8_48e9_ada3_12b1af40a617],
            role: Role::Observe,
        }),
        fields: at([NO, 2, NO, 4, NO, 5, 6]),
        role: Role::Observe,
        first_met: Event::Listen,
    },
    Layer {
        name: "ALE_CONNECT_REDIRECT",
        ids: [66, 67],
        keys: [0xc6e63c8c_b784_4562_aa7d_0a67cfcaf9a3, 0x587e54a7_8046_42ba_a0aa_b716250fc7fd],
        discard: None,
        fields: at([5, 2, 6, 4, 8, NO, 9]),
        role: Role::Observe,
        first_met: Event::Connect,
    },
    Layer {
        name: "ALE_AUTH_CONNECT",
        ids: [48, 50],
        keys: [0xc38d57d1_05a7_4c33_904f_7fbceee60e82, 0x4a72393b_319f_44bc_84c3_ba54dcb3b6b4],
        discard: Some(Discard {
            keys: [0xd632a801_f5ba_4ad6_96e3_607017d9836a, 0xc97bc3b8_c9a3_4e33_8695_8e17aad4de09],
            role: Role::Observe,
        }),
        fields: at([5, 2, 6, 4, 7, 11, 12]),
        role: Role::Observe,
        first_met: Event::Connect,
    },
    Layer {
        name: "OUTBOUND_TRANSPORT",
        ids: [16, 18],
        keys: [0x09e61aea_d214_46e2_9b21_b26b0b2f28c8, 0xe1735bde_013f_4655_b351_a49e15762df0],
        discard: Some(Discard {
            keys: [0xc5f10551_bdb0_43d7_a313_50e211f4d68a, 0xf433df69_ccbd_482e_b9b2_57165658c3b3],
            role: Role::Observe,
        }),
        fields: at([0, 1, 3, 4, 5, 6, 10]),
        role: Role::Observe,
        first_met: Event::SynOut,
    },
    Layer {
        name: "OUTBOUND_IPPACKET",
        ids: [4, 6],
        keys: [0x1e5c9fae_8a84_4135_a331_950b54229ecd, 0xa3b3ab6b_3564_488c_9117_f34e82142763],
        discard: Some(Discard {
            keys: [0x08e4bcb5_b647_48f3_953c_e5ddbd03937e, 0x9513d7c4_a934_49dc_91a7_6ccb80cc02e3],
            role: Role::Observe,
        }),
        fields: at([NO, 0, 2, NO, NO, 3, 6]),
        role: Role::Observe,
        first_met: Event::SynOut,
    },
    Layer {
        name: "INBOUND_IPPACKET",
        ids: [0, 2],
        keys: [0xc86fd1bf_21cd_497e_a0bb_17425c885c58, 0xf52032cb_991c_46e7_971d_2601459a91ca],
        discard: Some(Discard {
            keys: [0xb5a230d0_a8c0_44f2_916e_991b53ded1f7, 0xbb24c279_93b4_47a2_83ad_ae1698b50885],
            role: Role::Decide(Decision::PacketDiscard),
        }),
        fields: at([NO, 0, 1, NO, NO, 3, 6]),
        role: Role::Observe,
        first_met: Event::SynIn,
    },
    Layer {
        name: "INBOUND_TRANSPORT",
        ids: [12, 14],
        keys: [0x5926dfc8_e3cf_4426_a283_dc393f5d0f9d, 0x634a869f_fc23_4b90_b0c1_bf620a36ae6f],
        discard: Some(Discard {
            keys: [0xac4a9833_f69d_4648_b261_6dc84835ef39, 0x2a6ff955_3b2b_49d2_9848_ad9d72dcaab7],
            role: Role::Decide(Decision::TransportDiscard),
        }),
        fields: at([0, 1, 2, 4, 5, 6, 9]),
        role: Role::Decide(Decision::EchoRequest),
        first_met: Event::SynIn,
    },
    Layer {
        name: "ALE_AUTH_RECV_ACCEPT",
        ids: [44, 46],
        keys: [0xe1cd9fe7_f4b5_4273_96c0_592e487b8650, 0xa3b42c97_9f04_4672_b87e_cee9c483257f],
        discard: Some(Discard {
            keys: [0x9eeaa99b_bd22_4227_919f_0073c63357b1, 0x89455b97_dbe1_453f_a224_13da895af396],
            role: Role::Observe,
        }),
        fields: at([5, 2, 6, 4, 7, 10, 11]),
        role: Role::Observe,
        first_met: Event::SynIn,
    },
    Layer {
        name: "ALE_FLOW_ESTABLISHED",
        ids: [52, 54],
        keys: [0xaf80470a_5596_4c13_9992_539e6fe57967, 0x7021d2b3_dfa4_406e_afeb_6afaf7e70efd],
        discard: Some(Discard {
            keys: [0x146ae4a9_a1d2_4d43_a31a_4c42682b8e4f, 0x46928636_bbca_4b76_941d_0fa7f5d7d372],
            role: Role::Observe,
        }),
        fields: at([5, 2, 6, 4, 7, 11, 15]),
        role: Role::Observe,
        first_met: Event::SynAckIn,
    },
    Layer {
        name: "STREAM",
        ids: [20, 22],
        keys: [0x3b89653c_c170_49e4_b1cd_e0eeeee19a3e, 0x47c9137a_7ec4_46b3_b6e4_48e926b1eda4],
        discard: Some(Discard {
            keys: [0x25c4c2c2_25ff_4352_82f9_c54a4a4726dc, 0x10a59fc7_b628_4c41_9eb8_cf37d55103cf],
            role: Role::Observe,
        }),
        fields: at([NO, 0, 2, 3, 4, NO, 6]),
        role: Role::Observe,
        first_met: Event::Data,
    },
    Layer {
        name: "ALE_ENDPOINT_CLOSURE",
        ids: [64, 65],
        keys: [0xb4766427_e2a2_467a_bd7e_dbcd1bd85a09, 0xbb536ccd_4755_4ba9_9ff7_f9edf8699c7b],
        discard: None,
        fields: at([5, 2, 6, 4, 7, 8, 9]),
        role: Role::Observe,
        first_met: Event::Beside,
    },
    Layer {
        name: "ALE_RESOURCE_RELEASE",
        ids: [62, 63],
        keys: [0x74365cce_ccb0_401a_bfc1_b89934ad7e15, 0xf4e5ce80_edcc_4e13_8a2f_b91454bb057b],
        discard: None,
        fields: at([5, 2, NO, 4, NO, 6, 7]),
        role: Role::Observe,
        first_met: Event::Beside,
    },
    Layer {
        name: "STREAM_PACKET",
        ids: [70, 71],
        keys: [0xaf52d8ec_cb2d_44e5_ad92_f8dc38d2eb29, 0x779a8ca3_f099_468f_b5d4_83535c461c02],
        discard: None,
        fields: at([NO, 0, 1, 2, 3, 4, 8]),
        role: Role::Observe,
        first_met: Event::Beside,
    },
    Layer {
        name: "DATAGRAM_DATA",
        ids: [24, 26],
        keys: [0x3d08bf4e_45f6_4930_a922_417098e20027, 0xfa45fe2f_3cba_4427_87fc_57b9a4b10d00],
        discard: Some(Discard {
            keys: [0x18e330c6_7248_4e52_aaab_472ed67704fd, 0x09d1dfe1_9b86_4a42_be9d_8c315b92a5d0],
            role: Role::Observe,
        }),
        fields: at([0, 1, 2, 4, 5, 6, 10]),
        role: Role::Observe,
        first_met: Event::Beside,
    },
    Layer {
        name: "INBOUND_ICMP_ERROR",
        ids: [28, 30],
        keys: [0x61499990_3cb6_4e84_b950_53b94b6964f3, 0x65f9bdff_3b2d_4e5d_b8c6_c720651fe898],
        discard: Some(Discard {
            keys: [0xa6b17075_ebaf_4053_a4e7_213c8121ede5, 0xa6e7ccc0_08fb_468d_a472_9771d5595e09],
            role: Role::Observe,
        }),
        fields: Fields { icmp: Some([8, 9]), ..at([NO, 1, 2, NO, NO, 7, 18]) },
        role: Role::Observe,
        first_met: Event::Beside,
    },
    Layer {
        name: "OUTBOUND_ICMP_ERROR",
        ids: [32, 34],
        keys: [0x41390100_564c_4b32_bc1d_718048354d7c, 0x7fb03b60_7b8d_4dfa_badd_980176fc4e12],
        discard: Some(Discard {
            keys: [0xb3598d36_0561_4588_a6bf_e955e3f6264b, 0x65f2e647_8d0c_4f47_b19b_33a4d3f1357c],
            role: Role::Observe,
        }),
        fields: Fields { icmp: Some([4, 5]), ..at([NO, 0, 1, NO, NO, 3, 10]) },
        role: Role::Decide(Decision::IcmpError),
        first_met: Event::Beside,
    },
    Layer {
        name: "IPFORWARD",
        ids: [8, 10],
        keys: [0xa82acc24_4ee1_4ee1_b465_fd1d25cb10a4, 0x7b964818_19c7_493a_b71f_832c3684d28c],
        discard: Some(Discard {
            keys: [0x9e9ea773_2fae_4210_8f17_34129ef369eb, 0x31524a5d_1dfe_472f_bb93_518ee945d8a2],
            role: Role::Observe,
        }),
        fields: at([NO, NO, NO, NO, NO, 3, 9]),
        role: Role::Observe,
        first_met: Event::Beside,
    },
];

const NO: u8 = u8::MAX;

/// Positions in the order of [`Fields`], [`NO`] where the layer has none.
const fn at(
    [protocol, local_address, remote_address, local_port, remote_port, interface, flags]: [u8; 7],
) -> Fields {
    const fn field(position: u8) -> Option<u8> {
        if position == NO { None } else { Some(position) }
    }
    Fields {
        protocol: field(protocol),
        local_address: field(local_address),
        remote_address: field(remote_address),
        local_port: field(local_port),
        remote_port: field(remote_port),
        interface: field(interface),
        icmp: None,
        flags: field(flags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn table(name: &str) -> Value {
        let path = format!("{}/tests/lab/facts/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Every row as written in the table, by family and twin, with its id.
    fn rows() -> impl Iterator<Item = (&'static Layer, Family, bool, u16, Guid)> {
        LAYERS.iter().flat_map(|layer| {
            Family::ALL.into_iter().flat_map(move |family| {
                let column = family as usize;
                let own = (layer, family, false, layer.ids[column], layer.keys[column]);
                let twin = layer.discard.as_ref();
                let twin = twin.map(|twin| (layer, family, true, layer.ids[column] + 1, twin.keys[column]));
                [Some(own), twin].into_iter().flatten()
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
    fn a_layer_has_a_twin_where_the_header_has_one() {
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
                    // The header names OUTBOUND_ICMP_ERROR_V6's type and code
                    // as ports.
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
                };
                assert_eq!(layer.fields, expected, "{prefix}");
            }
        }
    }

    #[test]
    fn layers_stand_in_the_order_of_the_flows() {
        assert!(LAYERS.is_sorted_by_key(|layer| layer.first_met));
    }
}
