//! The policy files keep the rules of the ADMX schema, and set what the driver reads.
//!
//! Source: "ADMX schema" and its child pages, Microsoft Learn (PolicyDefinitions.xsd).

use std::collections::{BTreeMap, BTreeSet};

use lab::policy::table;
use machine::nt::registry::RegistryValue;
use roxmltree::{Document, Node};

const NAMESPACE: &str = "http://schemas.microsoft.com/GroupPolicy/2006/07/PolicyDefinitions";

fn read(path: &str) -> String {
    std::fs::read_to_string(lab::setup::root().join(path)).unwrap()
}

/// Every rule that the files break.
fn faults(admx: &str, adml: &str) -> Vec<String> {
    let parsed = (Document::parse(admx), Document::parse(adml));
    let (admx, adml) = match &parsed {
        (Ok(admx), Ok(adml)) => (admx.root_element(), adml.root_element()),
        (Err(error), _) | (_, Err(error)) => return vec![error.to_string()],
    };
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            faults.push(what);
        }
    };
    for (root, name) in [(admx, "policyDefinitions"), (adml, "policyDefinitionResources")] {
        check(root.has_tag_name((NAMESPACE, name)), format!("the root is {:?}", root.tag_name()));
        check(root.attribute("revision") == Some("1.0"), "revision".into());
        check(root.attribute("schemaVersion") == Some("1.0"), "schemaVersion".into());
    }
    order(admx, &["policyNamespaces", "resources", "supportedOn", "categories", "policies"], &mut check);
    order(adml, &["displayName", "description", "resources"], &mut check);

    // Identifiers are unique, whatever their case, and have the characters of an xs:ID or
    // of the schema's resourceID.
    let named = |node: Node<'_, '_>, tag: &str, attribute: &str| -> Vec<String> {
        let nodes = node.descendants().filter(|node| node.has_tag_name((NAMESPACE, tag)));
        nodes.filter_map(|node| node.attribute(attribute)).map(str::to_owned).collect()
    };
    for (root, tag, attribute) in [
        (admx, "policy", "name"),
        (admx, "category", "name"),
        (admx, "definition", "name"),
        (adml, "string", "id"),
        (adml, "presentation", "id"),
    ] {
        let names = named(root, tag, attribute);
        let unique: BTreeSet<_> = names.iter().map(|name| name.to_lowercase()).collect();
        check(unique.len() == names.len(), format!("a {tag} occurs twice"));
        check(!names.is_empty(), format!("no {tag}"));
        for name in &names {
            let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
                && name.starts_with(|first: char| first.is_ascii_alphabetic());
            check(is_name, format!("{tag} {name}"));
        }
    }

    // References: every string and presentation is defined, and every one is used.
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for attribute in admx.descendants().flat_map(|node| node.attributes()) {
        for kind in ["string", "presentation"] {
            let inner =
                attribute.value().strip_prefix(&format!("$({kind}.")).and_then(|rest| rest.strip_suffix(')'));
            if let Some(name) = inner {
                used.entry(kind).or_default().insert(name.to_owned());
            }
        }
    }
    for kind in ["string", "presentation"] {
        let defined: BTreeSet<_> = named(adml, kind, "id").into_iter().collect();
        let used = used.remove(kind).unwrap_or_default();
        for name in defined.symmetric_difference(&used) {
            check(false, format!("{kind} {name} is not both defined and used"));
        }
    }
    for string in adml.descendants().filter(|node| node.has_tag_name((NAMESPACE, "string"))) {
        check(
            !string.text().unwrap_or_default().trim().is_empty(),
            format!("{:?} is empty", string.attribute("id")),
        );
    }
    let categories = named(admx, "category", "name");
    let definitions = named(admx, "definition", "name");
    for policy in admx.descendants().filter(|node| node.has_tag_name((NAMESPACE, "policy"))) {
        let name = policy.attribute("name").unwrap_or_default();
        order(
            policy,
            &[
                "parentCategory",
                "supportedOn",
                "enabledValue",
                "disabledValue",
                "enabledList",
                "disabledList",
                "elements",
            ],
            &mut check,
        );
        let reference = |tag: &str| {
            let child = policy.children().find(|node| node.has_tag_name((NAMESPACE, tag)));
            child.and_then(|child| child.attribute("ref")).unwrap_or_default().to_owned()
        };
        check(categories.contains(&reference("parentCategory")), format!("{name}: parentCategory"));
        check(definitions.contains(&reference("supportedOn")), format!("{name}: supportedOn"));
        check(policy.attribute("class") == Some("Machine"), format!("{name}: class"));
        let key = policy.attribute("key").unwrap_or_default();
        check(
            !key.is_empty() && !key.starts_with("HK") && !key.starts_with('\\'),
            format!("{name}: key {key}"),
        );
        for attribute in ["displayName", "explainText"] {
            let text = policy.attribute(attribute).unwrap_or_default();
            check(text.starts_with("$(string."), format!("{name}: {attribute}"));
        }
        // Each element has its control, of the right kind, in the policy's presentation.
        let presentation = policy
            .attribute("presentation")
            .map(|text| text.trim_start_matches("$(presentation.").trim_end_matches(')').to_owned());
        let controls: BTreeMap<String, String> = adml
            .descendants()
            .filter(|node| {
                node.attribute("id").map(str::to_owned) == presentation
                    && node.has_tag_name((NAMESPACE, "presentation"))
            })
            .flat_map(|node| node.children())
            .filter_map(|node| Some((node.attribute("refId")?.to_owned(), node.tag_name().name().to_owned())))
            .collect();
        let elements: Vec<Node<'_, '_>> = policy
            .children()
            .filter(|node| node.has_tag_name((NAMESPACE, "elements")))
            .flat_map(|node| node.children().filter(Node::is_element).collect::<Vec<_>>())
            .collect();
        check(controls.len() == elements.len(), format!("{name}: {} controls", controls.len()));
        check(
            policy.attribute("valueName").is_some() == elements.is_empty(),
            format!("{name}: valueName and elements"),
        );
        for element in elements {
            let (id, tag) = (element.attribute("id").unwrap_or_default(), element.tag_name().name());
            let control = match tag {
                "enum" => "dropdownList",
                "decimal" => "decimalTextBox",
                "multiText" => "multiTextBox",
                _ => "",
            };
            check(controls.get(id).map(String::as_str) == Some(control), format!("{name}: {tag} {id}"));
            let number = |attribute: &str, default: u64| {
                element.attribute(attribute).map_or(Some(default), |text| text.parse::<u64>().ok())
            };
            if tag == "decimal" {
                let (least, most) = (number("minValue", 0), number("maxValue", 9999));
                check(least <= most && most <= Some(u32::MAX.into()), format!("{name}: limits"));
            }
            if tag == "multiText" {
                check(
                    number("maxStrings", 0).is_some() && number("maxLength", 1023) > Some(0),
                    format!("{name}: limits"),
                );
            }
        }
    }
    faults
}

/// Checks that the children of a node are of these names, in this order.
fn order(node: Node<'_, '_>, names: &[&str], check: &mut impl FnMut(bool, String)) {
    let places: Vec<Option<usize>> = node
        .children()
        .filter(Node::is_element)
        .map(|child| names.iter().position(|name| child.has_tag_name((NAMESPACE, *name))))
        .collect();
    let known = places.iter().all(Option::is_some);
    check(
        known && places.is_sorted_by(|one, other| one < other),
        format!("the children of {:?}", node.tag_name()),
    );
}

#[test]
fn the_policy_files_keep_the_rules_of_the_schema() {
    assert_eq!(faults(&read("inf/hushport.admx"), &read("inf/en-US/hushport.adml")), [""; 0]);
}

#[test]
fn each_rule_of_the_schema_can_be_broken() {
    let (admx, adml) = (read("inf/hushport.admx"), read("inf/en-US/hushport.adml"));
    for (in_adml, from, to) in [
        (false, "</policies>", "</policy>"),
        (false, "schemaVersion=\"1.0\"", "schemaVersion=\"0.9\""),
        (false, "<policy name=\"SilenceTcp\"", "<policy name=\"silenceudp\""),
        (false, "<policy name=\"SilenceTcp\"", "<policy name=\"Silence Tcp\""),
        (false, "ref=\"Hushport\"", "ref=\"Hushports\""),
        (false, "<supportedOn ref=\"SUPPORTED_Hushport\" />", ""),
        (false, "key=\"SOFTWARE", "key=\"HKLM\\SOFTWARE"),
        (false, "class=\"Machine\"", "class=\"User\""),
        (false, "$(string.Mode_Help)", "$(string.Mode_Hilfe)"),
        (false, "$(presentation.Mode)", "$(presentation.Mod)"),
        (false, "<decimal id=\"ScanPorts\"", "<text id=\"ScanPorts\""),
        (false, "minValue=\"1\" maxValue=\"65536\"", "minValue=\"65537\" maxValue=\"65536\""),
        (false, "maxStrings=\"1024\"", "maxStrings=\"many\""),
        (
            false,
            "<parentCategory ref=\"Hushport\" />\n      <supportedOn ref=\"SUPPORTED_Hushport\" />",
            "<supportedOn ref=\"SUPPORTED_Hushport\" />\n      <parentCategory ref=\"Hushport\" />",
        ),
        (true, "<string id=\"Mode_1\">", "<string id=\"Mode_7\">"),
        (true, "<string id=\"Mode_1\">", "<string id=\"Mode_2\">"),
        (true, "refId=\"ScanPorts\"", "refId=\"ScanPort\""),
        (true, "<decimalTextBox refId=\"FlowLimit\"", "<textBox refId=\"FlowLimit\""),
    ] {
        let (mut admx, mut adml) = (admx.clone(), adml.clone());
        let file = if in_adml { &mut adml } else { &mut admx };
        assert!(file.contains(from), "{from}");
        *file = file.replacen(from, to, 1);
        assert!(!faults(&admx, &adml).is_empty(), "{from} -> {to}");
    }
}

/// The policies write what the driver reads: names, types and limits.
#[test]
fn each_value_of_the_driver_has_a_policy_with_its_limits() {
    let admx = read("inf/hushport.admx");
    let admx = Document::parse(&admx).unwrap();
    let policies: BTreeMap<_, _> = admx
        .descendants()
        .filter(|node| node.has_tag_name((NAMESPACE, "policy")))
        .map(|policy| (policy.attribute("name").unwrap().to_owned(), policy))
        .collect();
    let inx = read("inf/hushport.inx");
    let mut seen = 0;
    for line in inx.lines().filter(|line| line.starts_with("HKR, Parameters,")) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let policy = policies.get(fields[2]).unwrap_or_else(|| panic!("{} has no policy", fields[2]));
        assert_eq!(policy.attribute("key"), Some("SOFTWARE\\Policies\\hushport"));
        let known = table::find(fields[2]).unwrap();
        let is_list = fields[3] == "0x00010002";
        let element = policy.descendants().find(|node| node.attribute("id") == Some(fields[2]));
        match element.map(|element| (element.tag_name().name().to_owned(), element.attribute("valueName"))) {
            Some((tag, value)) => {
                assert_eq!(value, Some(fields[2]));
                assert_eq!(tag == "multiText", is_list, "{}", fields[2]);
            }
            None => assert!(policy.attribute("valueName") == Some(fields[2]) && !is_list),
        }
        let default = lab::remote_registry::default(known);
        assert_eq!(matches!(default, RegistryValue { kind: 7, .. }), is_list);
        seen += 1;
    }
    assert_eq!(seen, policies.len());
}
