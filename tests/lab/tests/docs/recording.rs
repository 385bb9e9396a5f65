//! docs/OBSERVE.md and docs/hushport.wprp match the driver's events.
//!
//! The schema of recording profiles is not available here. This checks the rules on
//! the pages of its elements (Windows Performance Toolkit, "Recording profile XML
//! schema").

use std::collections::BTreeSet;

use lab::hushport::EVENT_PROVIDER;
use roxmltree::{Document, Node};

use super::read;

/// All keywords of the table in docs/EVENTS.md.
fn keywords() -> u64 {
    let text = read("docs/EVENTS.md");
    let rows = text.lines().filter_map(|line| {
        let hex = line.strip_prefix("| 0x")?.split(' ').next()?;
        u64::from_str_radix(hex, 16).ok()
    });
    rows.fold(0, |all, keyword| all | keyword)
}

fn hex(text: &str) -> u64 {
    let digits = text.strip_prefix("0x").unwrap_or_else(|| panic!("{text}: expected a hexadecimal number"));
    u64::from_str_radix(digits, 16).unwrap()
}

#[test]
fn every_guid_in_the_documents_is_the_providers() {
    for (name, least) in [("OBSERVE.md", 4), ("EVENTS.md", 1), ("hushport.wprp", 2)] {
        let text = read(&format!("docs/{name}"));
        let words = text.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
        let guids: Vec<_> = words.filter(|word| word.len() == 36).collect();
        assert!(guids.len() >= least, "{name}: {guids:?}");
        assert!(guids.iter().all(|guid| *guid == EVENT_PROVIDER.to_string()), "{name}: {guids:?}");
    }
}

#[test]
fn documented_keywords_are_those_of_the_events() {
    assert_eq!(keywords(), 0x7f);
    let text = read("docs/OBSERVE.md");
    let named =
        text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1)?.strip_prefix("0x"));
    let named: Vec<_> = named.map(|digits| u64::from_str_radix(digits, 16).unwrap()).collect();
    assert!(named.len() > 5 && named.iter().all(|keyword| keyword & !keywords() == 0), "{named:x?}");
    assert!(named.contains(&keywords()));
}

/// Elements: name, required attributes, optional attributes.
const ELEMENTS: [(&str, &[&str], &[&str]); 14] = [
    (
        "WindowsPerformanceRecorder",
        &["Version"],
        &["Author", "Team", "Comments", "Company", "Copyright", "Tag"],
    ),
    ("Profiles", &[], &[]),
    ("EventCollector", &["Id", "Name"], &["Base", "FileName", "Realtime", "Secure"]),
    ("BufferSize", &["Value"], &[]),
    ("Buffers", &["Value"], &["PercentageOfTotalMemory", "MaximumBufferSpace"]),
    ("EventProvider", &["Id", "Name"], &["Base", "Level", "Stack", "NonPagedMemory", "CaptureStateOnly"]),
    ("Keywords", &[], &["Operation"]),
    ("Keyword", &["Value"], &[]),
    ("CaptureStateOnSave", &[], &["Operation"]),
    (
        "Profile",
        &["Id", "Name", "DetailLevel", "LoggingMode", "Description"],
        &["Base", "Default", "Internal", "Strict"],
    ),
    ("Collectors", &[], &["Operation"]),
    ("EventCollectorId", &["Value"], &[]),
    ("EventProviders", &[], &["Operation"]),
    ("EventProviderId", &["Value"], &[]),
];

/// Elements and their children, in the required order.
const CHILDREN: [(&str, &[&str]); 9] = [
    ("WindowsPerformanceRecorder", &["Profiles"]),
    ("Profiles", &["EventCollector", "EventProvider", "Profile"]),
    ("EventCollector", &["BufferSize", "Buffers"]),
    ("EventProvider", &["Keywords", "CaptureStateOnSave"]),
    ("Keywords", &["Keyword"]),
    ("CaptureStateOnSave", &["Keyword"]),
    ("Profile", &["Collectors"]),
    ("Collectors", &["EventCollectorId"]),
    ("EventCollectorId", &["EventProviders"]),
];

fn elements<'a>(node: Node<'a, 'a>) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(Node::is_element)
}

fn check(node: Node<'_, '_>) {
    let name = node.tag_name().name();
    let known = ELEMENTS.iter().find(|(known, ..)| *known == name);
    let (_, required, optional) = known.unwrap_or_else(|| panic!("{name}: no such element"));
    for attribute in *required {
        assert!(node.has_attribute(*attribute), "{name}: {attribute} is missing");
    }
    for attribute in node.attributes() {
        assert!(
            required.iter().chain(*optional).any(|known| *known == attribute.name()),
            "{name}: {}",
            attribute.name()
        );
    }
    let places = elements(node).map(|child| {
        let allowed = match name {
            "EventProviders" => &["EventProviderId"],
            _ => {
                CHILDREN.iter().find(|(parent, _)| *parent == name).map_or(&[][..], |(_, children)| children)
            }
        };
        let child = child.tag_name().name();
        allowed.iter().position(|allowed| *allowed == child).unwrap_or_else(|| panic!("{child} in {name}"))
    });
    assert!(places.is_sorted(), "{name}: its children are in the wrong order");
    elements(node).for_each(check);
}

#[test]
fn the_recorders_profile_is_what_its_elements_pages_ask_for() {
    let text = read("docs/hushport.wprp");
    let document = Document::parse(&text).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "WindowsPerformanceRecorder");
    check(root);
    let all = || document.descendants().filter(Node::is_element);
    let ids: Vec<_> = all().filter_map(|node| node.attribute("Id")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is used twice");
    for node in all() {
        let referred = match node.tag_name().name() {
            "EventCollectorId" | "EventProviderId" => node.attribute("Value"),
            _ => node.attribute("Base"),
        };
        assert!(referred.is_none_or(|id| ids.contains(&id)), "{referred:?}");
    }
    let mut kinds = BTreeSet::new();
    for profile in all().filter(|node| node.has_tag_name("Profile")) {
        let [id, name, detail, mode] = ["Id", "Name", "DetailLevel", "LoggingMode"]
            .map(|attribute| profile.attribute(attribute).unwrap());
        assert_eq!(id, format!("{name}.{detail}.{mode}"));
        kinds.insert((detail, mode));
    }
    let both =
        ["Light", "Verbose"].into_iter().flat_map(|detail| ["File", "Memory"].map(|mode| (detail, mode)));
    assert_eq!(kinds, both.collect());
    let mut asked = BTreeSet::new();
    for provider in all().filter(|node| node.has_tag_name("EventProvider")) {
        // "Required for kernel-mode drivers."
        assert_eq!(provider.attribute("NonPagedMemory"), Some("true"));
        let level: u8 = provider.attribute("Level").unwrap().parse().unwrap();
        let list = elements(provider).find(|node| node.has_tag_name("Keywords")).unwrap();
        let keywords = elements(list).map(|keyword| hex(keyword.attribute("Value").unwrap()));
        asked.insert((level, keywords.fold(0, |all, keyword| all | keyword)));
    }
    assert_eq!(asked, BTreeSet::from([(4, keywords() & !0x20), (5, keywords())]));
}
