//! Packets and operations.

use lab::explain::{Configuration, Packet, Report, State};

use super::written::*;

/// The winners at a layer: blocked by, permitted by, for each case.
fn winners(state: &State, packet: &str, app: Option<&str>, layer: &str) -> Vec<(bool, bool)> {
    let mut packet: Packet = packet.parse().unwrap();
    packet.app = app.map(str::to_owned);
    let report = Report::new(state, Some(&packet), &Configuration::default()).packet.unwrap();
    let mut layers = report.paths.into_iter().flat_map(|path| path.layers);
    let layer = layers.find(|found| found.layer == layer).unwrap_or_else(|| panic!("{layer} is not passed"));
    layer.winners.iter().map(|winner| (!winner.blocks.is_empty(), !winner.permits.is_empty())).collect()
}

const BLOCKED: (bool, bool) = (true, false);
const PERMITTED: (bool, bool) = (false, true);
const EITHER: (bool, bool) = (true, true);

#[test]
fn a_syn_to_a_closed_port() {
    let state = Written::new().firewall().state();
    for (more, expected) in [
        // The last case: what is exempt, with AnswerExempt 1.
        ("profile=public", vec![BLOCKED, BLOCKED, PERMITTED]),
        ("profile=private", vec![BLOCKED, PERMITTED, PERMITTED]),
        ("", vec![BLOCKED, EITHER, PERMITTED]),
        ("profile=public loopback", vec![PERMITTED, PERMITTED]),
        ("profile=public ipsec", vec![PERMITTED, PERMITTED]),
    ] {
        let packet = format!("tcp syn 203.0.113.7:4000 -> :22 {more}");
        assert_eq!(winners(&state, &packet, None, TRANSPORT_DISCARD), expected, "{more}");
    }
    // Only requests of ICMP are decided before an endpoint is looked for.
    assert_eq!(winners(&state, "tcp syn : -> :22", None, "INBOUND_TRANSPORT_V4"), [PERMITTED]);
    assert_eq!(winners(&state, "icmp : -> :", None, "INBOUND_TRANSPORT_V4"), [BLOCKED, PERMITTED]);
    assert_eq!(winners(&state, "icmp 13/0 : -> :", None, "INBOUND_TRANSPORT_V4"), [BLOCKED, PERMITTED]);
    assert_eq!(winners(&state, "icmp 14/0 : -> :", None, "INBOUND_TRANSPORT_V4"), [PERMITTED]);
}

/// SILENT_DROP drops what has no endpoint. It permits the late segments of a connection,
/// as in the engine's model.
#[test]
fn the_callout_of_windows_drops_only_what_has_no_endpoint() {
    let state = Written::new().firewall().state();
    let packet: Packet = "tcp ack 203.0.113.7:4000 -> :22 profile=public".parse().unwrap();
    let report = Report::new(&state, Some(&packet), &Configuration::default()).packet.unwrap();
    let at_discard = |when: &str| {
        let path = report.paths.iter().find(|path| path.when == when).unwrap();
        let layer = path.layers.iter().find(|layer| layer.layer == TRANSPORT_DISCARD).unwrap();
        let winners =
            layer.winners.iter().map(|winner| (!winner.blocks.is_empty(), !winner.permits.is_empty()));
        winners.collect::<Vec<_>>()
    };
    assert_eq!(at_discard("if no program has the port"), [BLOCKED, BLOCKED, PERMITTED]);
    assert_eq!(at_discard("if its connection has just been closed"), [PERMITTED]);
}

/// With values, only what these values make of a packet is shown.
#[test]
fn values_say_what_this_configuration_does() {
    let state = Written::new().firewall().state();
    let cases = |values: &[&str], packet: &str, layer: &str| {
        let packet: Packet = packet.parse().unwrap();
        let report = Report::new(&state, Some(&packet), &configuration(values)).packet.unwrap();
        let mut layers = report.paths.into_iter().flat_map(|path| path.layers);
        let layer = layers.find(|found| found.layer == layer).unwrap();
        let winners = layer.winners.into_iter();
        let winners =
            winners.map(|winner| (winner.case, (!winner.blocks.is_empty(), !winner.permits.is_empty())));
        winners.collect::<Vec<_>>()
    };
    let (public, private) = ("tcp syn : -> :22 profile=public", "tcp syn : -> :22 profile=private");
    let of = |name: &str, ends| (name.to_owned(), ends);
    for (values, packet, expected) in [
        (&["Mode=2"][..], private, vec![of("Mode 2", BLOCKED)]),
        (&["Mode=1"], private, vec![of("Mode 1", PERMITTED)]),
        (&["Mode=1"], public, vec![of("Mode 1", BLOCKED)]),
        (&["Mode=0"], private, vec![of("Mode 0", PERMITTED)]),
        (&["SilenceTcp=0"], private, vec![of("Mode 2 with SilenceTcp 0", PERMITTED)]),
        (&["SilenceTcp=0"], "udp : -> :22 profile=private", vec![of("Mode 2", BLOCKED)]),
        (&["ExemptProfiles=private"], private, vec![of("Mode 2, on a network of ExemptProfiles", PERMITTED)]),
        (&["ExemptProfiles=Private"], public, vec![of("Mode 2", BLOCKED)]),
        (
            &["ExemptProfiles=public", "AnswerExempt=1"],
            public,
            vec![of("Mode 2, on a network of ExemptProfiles", PERMITTED)],
        ),
        (
            &["ExemptProfiles=public", "AnswerExempt=1", "Mode=1"],
            public,
            vec![of("Mode 1, on a network of ExemptProfiles", BLOCKED)],
        ),
        (
            &["ExemptProfiles=private"],
            "tcp syn : -> :22",
            vec![
                // Its profile is not known, so neither is the firewall's filter.
                of("Mode 2, on a network of ExemptProfiles", EITHER),
                of("Mode 2, on other networks", BLOCKED),
            ],
        ),
        (
            &["ExemptPorts=22", "AnswerExempt=1"],
            public,
            vec![of("Mode 2", BLOCKED), of("Mode 2, what ExemptPorts names, with AnswerExempt 1", PERMITTED)],
        ),
        (&["Mode=2"], "tcp syn : -> :22 profile=private loopback", vec![of("Mode 2, exempt", PERMITTED)]),
        (&["ExemptLoopback=0"], "tcp syn : -> :22 profile=private loopback", vec![of("Mode 2", BLOCKED)]),
    ] {
        assert_eq!(cases(values, packet, TRANSPORT_DISCARD), expected, "{values:?} {packet}");
    }
    let echo = |values| cases(values, "icmp : -> :", "INBOUND_TRANSPORT_V4");
    assert_eq!(echo(&["Mode=2"]), [of("Mode 2 with SilenceEcho 0", PERMITTED)]);
    assert_eq!(echo(&["SilenceEcho=1"]), [of("Mode 2 with SilenceEcho 1", BLOCKED)]);
    assert_eq!(echo(&["SilenceEcho=1", "Mode=1"]), [of("Mode 1 with SilenceEcho 1", PERMITTED)]);
    let udp = "udp : -> :22 profile=private";
    assert_eq!(
        cases(&["ExemptProfiles=domain"], udp, "INBOUND_IPPACKET_V4_DISCARD"),
        [of("Mode 2 with ExemptProfiles", PERMITTED)]
    );
}

#[test]
fn values_that_the_driver_refuses_are_refused() {
    for (value, expected) in
        [("Mode=3", "0 to 2"), ("SilenceTcp=2", "0, 1"), ("ExemptProfiles=home", "public, private or domain")]
    {
        let values = lab::policy::assignment::resolve(&[value.parse().unwrap()]).unwrap();
        let error = Configuration::new(&values).unwrap_err().to_string();
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn every_field_is_compared() {
    let range = "<rangeValue><valueLow><type>FWP_UINT16</type><uint16>20</uint16></valueLow>\
                 <valueHigh><type>FWP_UINT16</type><uint16>30</uint16></valueHigh></rangeValue>";
    let net = "<v6AddrMask><addr>2001:db8::</addr><prefixLength>32</prefixLength></v6AddrMask>";
    for (layer, condition, matching, other) in [
        (
            TRANSPORT_DISCARD,
            ("IP_LOCAL_PORT", "RANGE", "FWP_RANGE_TYPE", range),
            "tcp : -> :30",
            "tcp : -> :31",
        ),
        (
            TRANSPORT_DISCARD,
            ("IP_REMOTE_ADDRESS", "EQUAL", "FWP_UINT32", "<uint32>192.0.2.1</uint32>"),
            "udp 192.0.2.1 -> :53",
            "udp 192.0.2.2 -> :53",
        ),
        (
            "INBOUND_TRANSPORT_V6_DISCARD",
            ("IP_REMOTE_ADDRESS", "EQUAL", "FWP_V6_ADDR_MASK", net),
            "tcp [2001:db8::1]:1 -> :22",
            "tcp [2001:db9::1]:1 -> :22",
        ),
        (
            TRANSPORT_DISCARD,
            ("IP_PROTOCOL", "EQUAL", "FWP_UINT8", "<uint8>17</uint8>"),
            "udp : -> :1",
            "tcp : -> :1",
        ),
        (
            "OUTBOUND_ICMP_ERROR_V4",
            ("NEXTHOP_INTERFACE_PROFILE_ID", "EQUAL", "FWP_UINT32", "<uint32>2</uint32>"),
            "udp : -> :1 profile=private",
            "udp : -> :1 profile=domain",
        ),
        (
            "ALE_AUTH_CONNECT_V4",
            ("IP_REMOTE_PORT", "EQUAL", "FWP_UINT16", "<uint16>443</uint16>"),
            "connect :4000 -> 192.0.2.1:443",
            "connect :443 -> 192.0.2.1:4000",
        ),
        (
            "ALE_AUTH_LISTEN_V4",
            ("IP_LOCAL_PORT", "EQUAL", "FWP_UINT16", "<uint16>80</uint16>"),
            "listen tcp :80",
            "listen tcp :81",
        ),
    ] {
        let state = Written::new().filter(layer, FIREWALL, ("BLOCK", "", ""), &[condition]).state();
        let without_hushport = |packet: &str| {
            let winners = winners(&state, packet, None, layer);
            winners[usize::from(winners.len() > 1)]
        };
        assert_eq!(without_hushport(matching), BLOCKED, "{matching}");
        assert_eq!(without_hushport(other), PERMITTED, "{other}");
    }
}

#[test]
fn programs_are_compared_behind_the_volume() {
    let path: String = "\\device\\harddiskvolume3\\tools\\a.exe\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let value = format!("<byteBlob><data>{path}</data></byteBlob>");
    let condition = ("ALE_APP_ID", "EQUAL", "FWP_BYTE_BLOB_TYPE", &*value);
    let layer = "ALE_AUTH_RECV_ACCEPT_V4";
    let state = Written::new().filter(layer, FIREWALL, ("BLOCK", "", ""), &[condition]).state();
    let accept = |app| winners(&state, "accept tcp : -> :80", app, layer);
    assert_eq!(accept(Some("C:\\Tools\\A.exe")), [BLOCKED]);
    assert_eq!(accept(Some("C:\\Tools\\B.exe")), [PERMITTED]);
    assert_eq!(accept(None), [EITHER]);
}

/// Consecutive conditions on a field are joined by OR, others by AND.
#[test]
fn conditions_are_joined_as_documented() {
    let port = |text| ("IP_LOCAL_PORT", "EQUAL", "FWP_UINT16", text);
    let tcp = ("IP_PROTOCOL", "EQUAL", "FWP_UINT8", "<uint8>6</uint8>");
    let conditions = [port("<uint16>1</uint16>"), port("<uint16>2</uint16>"), tcp];
    let state = Written::new().filter(TRANSPORT_DISCARD, FIREWALL, ("BLOCK", "", ""), &conditions).state();
    for (packet, expected) in [
        ("tcp : -> :1", BLOCKED),
        ("tcp : -> :2", BLOCKED),
        ("tcp : -> :3", PERMITTED),
        ("udp : -> :1", PERMITTED),
    ] {
        assert_eq!(winners(&state, packet, None, TRANSPORT_DISCARD)[1], expected, "{packet}");
    }
}

#[test]
fn text_that_describes_no_packet_is_refused() {
    for text in [
        "",
        "sctp : -> :1",
        "tcp syn",
        "tcp : -> :65536",
        "tcp : -> : :",
        "tcp 192.0.2.1 -> [::1]:1",
        "tcp : -> :1 profile=home",
        "tcp : -> :1 colour=red",
        "icmp 300/0 : -> :",
    ] {
        assert!(text.parse::<Packet>().is_err(), "{text}");
    }
}

#[test]
fn json_has_what_text_has() {
    let packet = "tcp syn 203.0.113.7:4000 -> :22 profile=public".parse().unwrap();
    let report = Report::new(&Written::new().firewall().state(), Some(&packet), &Configuration::default());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["layers"][0]["layer"], TRANSPORT_DISCARD);
    assert_eq!(json["layers"][0]["sublayers"][1]["filters"][0]["id"], 1);
    assert_eq!(json["packet"]["paths"][0]["layers"][1]["winners"][0]["blocks"][0], "hushport");
    let mut text = Vec::new();
    lab::explain::write(&mut text, &report).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("=> Mode 2: blocked by hushport"));
}
