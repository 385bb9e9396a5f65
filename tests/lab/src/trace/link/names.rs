//! Names of protocols between frame and IP, for the report.

use std::borrow::Cow;

/// An Ethernet type (IANA, "IEEE 802 Numbers"); common ones have a name.
pub(super) fn type_name(kind: u16) -> Cow<'static, str> {
    let name = match kind {
        0x0806 => "ARP",
        0x0842 => "Wake-on-LAN",
        0x22f0 => "AVTP",
        0x22f3 => "TRILL",
        0x6000..=0x6009 => "DEC",
        0x8035 => "RARP",
        0x809b | 0x80f3 => "AppleTalk",
        0x8137 => "IPX",
        0x8809 => "slow protocols",
        0x8863 => "PPPoE discovery",
        0x887b | 0x8912 | 0x88e1 => "HomePlug",
        0x888e | 0x88c7 => "EAPOL",
        0x8892 => "PROFINET",
        0x88a4 => "EtherCAT",
        0x88b8 => "GOOSE",
        0x88ba => "sampled values",
        0x88cc => "LLDP",
        0x88e5 => "MACsec",
        0x88f7 => "PTP",
        0x8902 => "CFM",
        0x8906 | 0x8914 => "FCoE",
        0x8909 => "Cisco metadata",
        0x8915 => "RoCE",
        0x8947 => "GeoNetworking",
        0x894f => "NSH",
        0x9000 => "configuration test",
        _ => return format!("Ethernet type {kind:#06x}").into(),
    };
    name.into()
}

/// A service access point of LLC.
pub(super) fn sap_name(sap: u8) -> Cow<'static, str> {
    let name = match sap {
        0x42 => "STP",
        0xe0 => "IPX",
        0xf0 => "NetBIOS",
        0xfe => "OSI",
        _ => return format!("LLC {sap:#04x}").into(),
    };
    name.into()
}

/// A protocol of PPP.
pub(super) fn ppp_name(protocol: u16) -> Cow<'static, str> {
    let name = match protocol {
        0x002d | 0x002f => "PPP, compressed headers",
        0x003d => "PPP, multilink",
        0x00fd => "PPP, compressed",
        0x8021 | 0x8057 | 0xc021 | 0xc023 | 0xc025 | 0xc223 | 0x80fd => "PPP control",
        _ => return format!("PPP {protocol:#06x}").into(),
    };
    name.into()
}

/// An unsupported link type; common ones have a name (tcpdump.org, "Link-layer
/// header types").
pub fn link_name(link: u32) -> Cow<'static, str> {
    let name = match link {
        6 => "token ring",
        10 => "FDDI",
        11 => "ATM",
        107 => "frame relay",
        117 => "pflog",
        119 => "802.11 with Prism header",
        143 => "DOCSIS",
        163 => "802.11 with AVS header",
        187 | 201 | 254 => "Bluetooth",
        189 | 220 | 249 => "USB",
        192 => "PPI",
        195 | 230 | 283 => "802.15.4",
        197 => "ERF",
        227 => "CAN",
        231 => "D-Bus",
        239 => "nflog",
        252 => "exported PDUs",
        253 => "netlink",
        _ => return format!("link type {link}").into(),
    };
    format!("{name} (link type {link})").into()
}
