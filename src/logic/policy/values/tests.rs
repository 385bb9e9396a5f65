//! Tests that the table is consistent, and that no value changes another.

use proptest::prelude::*;

use super::super::exemptions::{Exemption, Sender};
use super::*;
use crate::logic::address::Address;

/// Empty lists.
pub fn exemptions() -> Box<Exemptions> {
    Box::new(Exemptions::empty())
}

fn dword(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

pub fn multi_sz(entries: &[&str]) -> Vec<u8> {
    let text = entries.iter().map(|entry| format!("{entry}\0")).collect::<String>() + "\0";
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn numbers(policy: &Policy) -> Vec<u32> {
    let of = |value: &RegistryValue| match value.kind {
        ValueKind::Number { get, .. } => Some(get(policy)),
        ValueKind::List { .. } => None,
    };
    VALUES.iter().filter_map(of).collect()
}

fn value(name: &str) -> &'static RegistryValue {
    VALUES.iter().find(|value| value.name == name).unwrap()
}

fn v4(octets: [u8; 4]) -> Option<Address> {
    Some(Address::V4(u32::from_be_bytes(octets)))
}

/// For each list: whether a packet that should be on it is on it.
fn lists(exemptions: &Exemptions) -> [bool; 4] {
    let nothing = Sender { protocol: Some(6), ..Sender::default() };
    let on = |remote| exemptions.of(&remote).is_some();
    [
        on(Sender { local_port: Some(113), ..nothing }),
        on(Sender { address: v4([10, 1, 2, 3]), ..nothing }),
        on(Sender { interface: Some(LUID), ..nothing }),
        exemptions.has_profile(Some(2)),
    ]
}

const ENTRIES: [(&str, &str); 4] = [
    ("ExemptPorts", "113"),
    ("ExemptPrefixes", "10.0.0.0/8"),
    ("ExemptInterfaces", "0x6000005000000"),
    ("ExemptProfiles", "private"),
];

/// The LUID among them.
const LUID: u64 = 0x6_0000_0500_0000;

#[test]
fn the_default_policy_has_the_defaults_of_the_table() {
    for value in &VALUES {
        let (mut policy, mut lists) = (Policy::DEFAULT, exemptions());
        if let ValueKind::Number { default, min, max, get, .. } = value.kind {
            assert_eq!(get(&policy), default, "{}", value.name);
            assert!((min..=max).contains(&default) && min < max, "{}", value.name);
            assert_eq!(value.parse(REG_DWORD, &dword(default), &mut policy, &mut lists), Ok(()));
        }
        assert_eq!(numbers(&policy), numbers(&Policy::DEFAULT), "{}", value.name);
    }
}

#[test]
fn each_number_sets_itself_and_nothing_else() {
    for value in &VALUES {
        let ValueKind::Number { min, max, get, .. } = value.kind else { continue };
        for number in [min, min + 1, max] {
            let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
            value.parse(REG_DWORD, &dword(number), &mut policy, &mut tables).unwrap();
            assert_eq!(get(&policy), number, "{}", value.name);
            for other in VALUES.iter().filter(|other| other.name != value.name) {
                let ValueKind::Number { get, default, .. } = other.kind else { continue };
                assert_eq!(get(&policy), default, "{} by {}", other.name, value.name);
            }
            assert_eq!(lists(&tables), [false; 4]);
        }
    }
}

#[test]
fn each_list_fills_itself_and_nothing_else() {
    for (index, (name, entry)) in ENTRIES.iter().enumerate() {
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        value(name).parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut tables).unwrap();
        assert_eq!(lists(&tables), std::array::from_fn(|list| list == index), "{name}");
        assert!(!tables.is_empty() && exemptions().is_empty());
        assert_eq!(numbers(&policy), numbers(&Policy::DEFAULT));
    }
}

#[test]
fn a_refused_number_leaves_its_default() {
    for value in &VALUES {
        let ValueKind::Number { default, min, max, get, .. } = value.kind else { continue };
        let beyond = [min.checked_sub(1), max.checked_add(1), Some(u32::MAX)];
        let beyond = beyond.into_iter().flatten().map(|number| (REG_DWORD, dword(number).to_vec()));
        let shapes = [(REG_DWORD, vec![1, 0, 0]), (REG_DWORD, vec![1, 0, 0, 0, 0]), (1, vec![1, 0, 0, 0])];
        for (kind, data) in beyond.chain(shapes) {
            let expected = match (kind, data.len()) {
                (REG_DWORD, 4) => Reason::OutOfRange,
                (REG_DWORD, _) => Reason::WrongLength,
                _ => Reason::WrongType,
            };
            let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
            value.parse(REG_DWORD, &dword(max), &mut policy, &mut tables).unwrap();
            let refused = value.parse(kind, &data, &mut policy, &mut tables).unwrap_err();
            assert_eq!(refused, value.rejected(expected), "{data:?}");
            assert_eq!(get(&policy), default, "{}", value.name);
        }
    }
}

#[test]
fn a_refused_list_is_empty_and_the_others_are_unchanged() {
    for (index, (name, entry)) in ENTRIES.iter().enumerate() {
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        for (name, entry) in ENTRIES {
            value(name).parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut tables).unwrap();
        }
        let data = multi_sz(&[entry, "-"]);
        let refused = value(name).parse(REG_MULTI_SZ, &data, &mut policy, &mut tables).unwrap_err();
        assert_eq!((refused.name, refused.entry), (*name, 2));
        assert_eq!(lists(&tables), std::array::from_fn(|list| list != index), "{name}");
    }
}

#[test]
fn a_list_has_its_limits() {
    for value in &VALUES {
        let ValueKind::List { most, .. } = value.kind else { continue };
        let entries = |count: u16| {
            let entry = |number: u16| match value.name {
                "ExemptPrefixes" => format!("10.{}.{}.7", number / 256, number % 256),
                "ExemptInterfaces" => format!("0x6{number:06x}000000"),
                "ExemptProfiles" => "Domain".to_owned(),
                _ => format!("{}", number + 1),
            };
            let entries: Vec<String> = (0..count).map(entry).collect();
            multi_sz(&entries.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        let mut parse = |kind, data: &[u8]| value.parse(kind, data, &mut policy, &mut tables);
        assert_eq!(parse(REG_MULTI_SZ, &entries(most)), Ok(()), "{}", value.name);
        assert_eq!(
            parse(REG_MULTI_SZ, &entries(most + 1)).unwrap_err(),
            value.rejected(Reason::TooManyEntries)
        );
        assert_eq!(parse(REG_MULTI_SZ, &[0; MAX_BYTES]), Ok(()));
        assert_eq!(parse(REG_MULTI_SZ, &[0; MAX_BYTES + 2]), Err(value.rejected(Reason::TooLong)));
        assert_eq!(parse(REG_DWORD, &dword(0)), Err(value.rejected(Reason::WrongType)));
    }
}

/// A value and what becomes of it. The tests of `inf/Hushport.psm1` read the same file.
#[derive(Debug)]
struct Case {
    value: &'static RegistryValue,
    kind: u32,
    data: Vec<u8>,
    /// The reason and the entry, if it is refused.
    refused: Option<(String, u64)>,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string("src/logic/policy/values/cases.json").unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let case = |case: &serde_json::Value| {
        let (kind, data) = match case["entries"].as_array() {
            Some(entries) => {
                let entries: Vec<&str> = entries.iter().map(|entry| entry.as_str().unwrap()).collect();
                (REG_MULTI_SZ, multi_sz(&entries))
            }
            None => (REG_DWORD, dword(u32::try_from(case["number"].as_u64().unwrap()).unwrap()).to_vec()),
        };
        let entry = case["entry"].as_u64().unwrap_or(u64::from(kind == REG_MULTI_SZ));
        let refused = case["reason"].as_str().map(|reason| (reason.to_owned(), entry));
        Case { value: value(case["value"].as_str().unwrap()), kind, data, refused }
    };
    cases.iter().map(case).collect()
}

#[test]
fn every_case_is_taken_or_refused_as_the_file_says() {
    let cases = cases();
    assert!(cases.len() > 120, "{}", cases.len());
    for case in cases {
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        let parsed = case.value.parse(case.kind, &case.data, &mut policy, &mut tables);
        let refused = parsed.err().map(|refused| (format!("{:?}", refused.reason), refused.entry.into()));
        assert_eq!(refused, case.refused, "{case:?}");
    }
}

/// The table in `inf/Hushport.psm1`.
fn module_table() -> String {
    let rows = VALUES.iter().map(|value| match value.kind {
        ValueKind::Number { default, min, max, .. } => {
            format!(
                "    @{{ Name = '{}'; Kind = 'Number'; Default = {default}; Least = {min}; Most = {max} }}\n",
                value.name
            )
        }
        ValueKind::List { most, .. } => {
            format!("    @{{ Name = '{}'; Kind = 'List'; Default = @(); Most = {most} }}\n", value.name)
        }
    });
    rows.collect()
}

/// With HUSHPORT_WRITE_DOCS set, this writes the table of the module.
#[test]
fn the_module_has_the_table() {
    const MARKS: [&str; 2] = ["$script:Values = @(\n", ")\n# The end of the table.\n"];
    let path = "inf/Hushport.psm1";
    let file = std::fs::read_to_string(path).unwrap();
    let (head, rest) = file.split_once(MARKS[0]).unwrap();
    let (table, tail) = rest.split_once(MARKS[1]).unwrap();
    if std::env::var_os("HUSHPORT_WRITE_DOCS").is_some() {
        std::fs::write(path, [head, MARKS[0], &module_table(), MARKS[1], tail].concat()).unwrap();
        return;
    }
    assert_eq!(table, module_table(), "{path} differs from the table; HUSHPORT_WRITE_DOCS=1 writes it");
}

proptest! {
    /// Whatever a value holds, only its own part of the policy changes.
    #[test]
    fn no_value_changes_another(
        row in 0..VALUES.len(),
        kind in prop_oneof![Just(REG_DWORD), Just(REG_MULTI_SZ), any::<u32>()],
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        for (name, entry) in ENTRIES {
            value(name).parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut tables).unwrap();
        }
        let value = &VALUES[row];
        let _read_or_refused = value.parse(kind, &data, &mut policy, &mut tables);
        for other in VALUES.iter().filter(|other| other.name != value.name) {
            if let ValueKind::Number { get, default, .. } = other.kind {
                prop_assert_eq!(get(&policy), default);
            }
        }
        for (list, (name, _)) in lists(&tables).into_iter().zip(ENTRIES) {
            prop_assert!(list || name == value.name);
        }
    }
}

#[test]
fn the_types_are_the_headers() {
    let path = "tests/machine/facts/macros.json";
    let macros: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(
        (&macros["REG_DWORD"][0], &macros["REG_MULTI_SZ"][0]),
        (&REG_DWORD.into(), &REG_MULTI_SZ.into())
    );
}

#[test]
fn the_inf_lists_every_default() {
    let path = "inf/hushport.inx";
    let inf = std::fs::read_to_string(path).unwrap();
    let section = inf.split_once("[Parameters]\n").unwrap().1.split("\n[").next().unwrap();
    let lines: Vec<Vec<&str>> = section
        .lines()
        .map(|line| line.split(';').next().unwrap_or_default())
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.split(',').map(str::trim).collect())
        .collect();
    assert_eq!(lines.len(), VALUES.len());
    for (line, value) in lines.iter().zip(&VALUES) {
        // FLG_ADDREG_TYPE_DWORD and _MULTI_SZ, both with FLG_ADDREG_NOCLOBBER:
        // an update of the package keeps what the administrator has set.
        match value.kind {
            ValueKind::Number { default, .. } => {
                assert_eq!(line[..4], ["HKR", "Parameters", value.name, "0x00010003"]);
                let number = match line[4].strip_prefix("0x") {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => line[4].parse(),
                };
                assert_eq!(number, Ok(default), "{}", value.name);
            }
            ValueKind::List { .. } => assert_eq!(line[..], ["HKR", "Parameters", value.name, "0x00010002"]),
        }
    }
}

/// A row of the table in docs/CONFIGURATION.md.
fn row(value: &RegistryValue) -> String {
    let (kind, default, allowed) = match value.kind {
        ValueKind::Number { default, min, max, .. } => {
            let allowed = if (min, max) == (0, 1) { "0, 1".into() } else { format!("{min} to {max}") };
            ("REG_DWORD", default.to_string(), allowed)
        }
        ValueKind::List { most, .. } => ("REG_MULTI_SZ", "empty".into(), format!("up to {most} entries")),
    };
    let read = match value.read {
        Read::Live => "at once",
        Read::AtStart => "at the start",
    };
    format!("| {} | {kind} | {default} | {allowed} | {read} | {} |\n", value.name, value.meaning)
}

#[test]
fn the_document_has_the_table() {
    let path = "docs/CONFIGURATION.md";
    let document = std::fs::read_to_string(path).unwrap();
    let head = "| value | type | default | allowed | holds | what for |\n|---|---|---|---|---|---|\n";
    let rows: String = VALUES.iter().map(row).collect();
    assert!(
        document.contains(&format!("\n{head}{rows}\n")),
        "docs/CONFIGURATION.md must contain\n{head}{rows}"
    );
    for reason in REASONS {
        assert!(document.contains(&format!("| {} | {reason:?} |", reason as u8)), "{reason:?}");
    }
}

const REASONS: [Reason; 20] = [
    Reason::WrongType,
    Reason::WrongLength,
    Reason::OutOfRange,
    Reason::TooLong,
    Reason::Unreadable,
    Reason::OddLength,
    Reason::NotTerminated,
    Reason::TextAfterEnd,
    Reason::TooManyEntries,
    Reason::EntryTooLong,
    Reason::BadCharacter,
    Reason::BadPort,
    Reason::ReversedRange,
    Reason::BadProtocol,
    Reason::BadPrefix,
    Reason::BadPrefixLength,
    Reason::HostBits,
    Reason::BadLuid,
    Reason::NeverRemote,
    Reason::BadProfile,
];

/// The examples in the document are taken or refused as it says.
#[test]
fn the_examples_in_the_document_are_right() {
    let path = "docs/CONFIGURATION.md";
    let document = std::fs::read_to_string(path).unwrap();
    let mut seen = 0;
    for line in document.lines() {
        let Some((name, rest)) = line.strip_prefix("- `").and_then(|line| line.split_once("`: ")) else {
            continue;
        };
        let (taken, refused) = rest.split_once("; refused: ").unwrap();
        for (examples, expected) in [(taken, true), (refused, false)] {
            for entry in examples.split('`').skip(1).step_by(2) {
                let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
                let parsed = value(name).parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut tables);
                assert_eq!(parsed.is_ok(), expected, "{name}: {entry}: {parsed:?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 12, "{seen}");
}

#[test]
fn an_exemption_says_which_list() {
    let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
    for (name, entry) in ENTRIES {
        value(name).parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut tables).unwrap();
    }
    let tcp = Sender {
        protocol: Some(6),
        local_port: Some(113),
        address: v4([10, 0, 0, 1]),
        interface: Some(LUID),
    };
    assert_eq!(tables.of(&tcp), Some(Exemption::Port));
    // Other protocols have no ports, whatever the field holds.
    let icmp = Sender { protocol: Some(1), ..tcp };
    assert_eq!(tables.of(&icmp), Some(Exemption::Prefix));
    let elsewhere = Sender { address: v4([11, 0, 0, 1]), ..icmp };
    assert_eq!(tables.of(&elsewhere), Some(Exemption::Interface));
    assert_eq!(tables.of(&Sender { interface: Some(LUID + (1 << 24)), ..elsewhere }), None);
    let unknown = Sender::default();
    assert_eq!(tables.of(&unknown), None);
    assert!(tables.has_profiles() && !tables.has_profile(Some(1)) && !tables.has_profile(None));
}

/// A LUID changes with the adapter, the type does not (NET_LUID_LH, ifdef.h: the type
/// is in the upper 16 bits).
#[test]
fn a_type_exempts_all_interfaces_of_it() {
    let macros = std::fs::read_to_string("tests/machine/facts/macros.json").unwrap();
    let macros: serde_json::Value = serde_json::from_str(&macros).unwrap();
    for (entry, name) in [
        ("tunnel", "IF_TYPE_TUNNEL"),
        ("Tunnel", "IF_TYPE_TUNNEL"),
        ("131", "IF_TYPE_TUNNEL"),
        ("0x83", "IF_TYPE_TUNNEL"),
        ("ppp", "IF_TYPE_PPP"),
        ("53", "IF_TYPE_PROP_VIRTUAL"),
        ("6", "IF_TYPE_ETHERNET_CSMACD"),
    ] {
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        let data = multi_sz(&[entry, entry]);
        value("ExemptInterfaces").parse(REG_MULTI_SZ, &data, &mut policy, &mut tables).unwrap();
        assert_eq!(tables.counts(), [0, 0, 1, 0], "twice the same entry is one");
        let kind = macros[name][0].as_u64().unwrap();
        let of = |luid| tables.of(&Sender { interface: Some(luid), ..Sender::default() });
        for index in [0, 1, 0xff_ffff] {
            assert_eq!(of(kind << 48 | index << 24), Some(Exemption::Interface), "{entry} {index}");
            for other in [kind + 1, kind - 1, kind ^ 0x8000, kind << 1] {
                assert_eq!(of(other << 48 | index << 24), None, "{entry} {other}");
            }
        }
    }
}

#[test]
fn a_profile_has_its_number_and_others_are_refused() {
    for (entry, expected) in
        [("public", Ok(1)), ("private", Ok(2)), ("DOMAIN", Ok(3)), ("2", Err(())), ("privat", Err(()))]
    {
        let (mut policy, mut tables) = (Policy::DEFAULT, exemptions());
        let value = value("ExemptProfiles");
        let read = value.parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut tables);
        match expected {
            Ok(number) => {
                assert_eq!(read, Ok(()), "{entry}");
                let profiles = (0..9).filter(|profile| tables.has_profile(Some(*profile)));
                assert_eq!(profiles.collect::<Vec<_>>(), [number], "{entry}");
            }
            Err(()) => {
                assert_eq!(read, Err(Rejected { entry: 1, ..value.rejected(Reason::BadProfile) }));
                assert!(tables.is_empty(), "{entry}");
            }
        }
    }
}
