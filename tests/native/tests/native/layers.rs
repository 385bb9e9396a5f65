//! Every layer of the engine has a callout, or a document says why not.

use std::collections::BTreeSet;

use hushport_native_driver::logic::callouts::CALLOUTS;

/// A file of the checkout.
fn read(path: &str) -> String {
    std::fs::read_to_string(lab::setup::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Layers in the table "Layers without a callout". Each row gives a reason.
fn without_a_callout() -> BTreeSet<String> {
    let document = read("docs/ARCHITECTURE.md");
    let section = document.split("### Layers without a callout").nth(1).expect("the section");
    let table = section.split("\n### ").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let [_, layers, reason, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        assert!(reason.trim().len() > 5, "{row}: a reason");
        for name in layers.split('`').skip(1).step_by(2) {
            assert!(names.insert(name.to_owned()), "{name} twice");
        }
    }
    names
}

/// The sentence of README.md and docs/ARCHITECTURE.md.
const CLAIM: &str = "The driver has a callout at every ALE, transport, IP packet, IP forward, stream, datagram and \
                     ICMP error layer of IPv4 and IPv6, except those of the virtual switch, and at each of their \
                     discard layers.";

/// Whether the sentence says that a layer has a callout.
fn is_claimed(name: &str) -> bool {
    let kinds = ["ALE_", "_TRANSPORT_V", "_IPPACKET_", "IPFORWARD_", "STREAM_", "DATAGRAM_", "_ICMP_ERROR_"];
    let of_a_family = ["_V4", "_V6"].iter().any(|family| name.contains(family));
    of_a_family && !name.contains("VSWITCH") && kinds.iter().any(|kind| name.contains(kind))
}

#[test]
fn every_layer_has_a_callout_or_a_reason() {
    let enums: serde_json::Value = serde_json::from_str(&read("tests/machine/facts/enums.json")).unwrap();
    let layers = enums["FWPS_BUILTIN_LAYERS"].as_object().unwrap();
    let callouts: BTreeSet<u64> = CALLOUTS.iter().map(|callout| callout.layer_id.into()).collect();
    let mut without = without_a_callout();
    for (name, id) in layers.iter().filter(|(name, _)| *name != "FWPS_BUILTIN_LAYER_MAX") {
        let name = name.strip_prefix("FWPS_LAYER_").unwrap();
        let has_callout = callouts.contains(&id.as_u64().unwrap());
        let has_reason = without.remove(name);
        assert!(has_callout != has_reason, "{name}: callout: {has_callout}, reason: {has_reason}");
    }
    assert!(without.is_empty(), "no layers: {without:?}");
    let callouts_by_name = |name: &str| callouts.contains(&layers[name].as_u64().unwrap());
    for name in layers.keys().filter(|name| *name != "FWPS_BUILTIN_LAYER_MAX") {
        assert_eq!(is_claimed(name), callouts_by_name(name), "{name}: the documents' sentence");
    }
    for document in ["README.md", "docs/ARCHITECTURE.md"] {
        assert!(read(document).contains(CLAIM), "{document} does not say: {CLAIM}");
    }
    assert_eq!(layers.len() - 1 - callouts.len(), 33, "layers without a callout");
}
