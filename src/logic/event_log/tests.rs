//! Compares strings with the standard library, and the messages with the document.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::messages::{Category, MESSAGES, Message, Severity};
use super::strings::MOST;
use super::*;
use crate::logic::address::Address;
use crate::logic::events::{REASONS, technique_name};
use crate::logic::policy::VALUES;
use crate::logic::scan::Technique;

fn texts(strings: &Strings) -> Vec<String> {
    let units = strings.units();
    assert_eq!(units.last(), Some(&0));
    let parts = units[..units.len() - 1].split(|unit| *unit == 0);
    let texts: Vec<_> = parts.map(|part| String::from_utf16(part).unwrap()).collect();
    assert_eq!(texts.len(), strings.count());
    texts
}

proptest! {
    #[test]
    fn numbers_and_addresses_read_as_the_standard_library_writes_them(
        number: u64,
        status: i32,
        v4: u32,
        groups in prop::array::uniform8(prop_oneof![2 => Just(0), 1 => any::<u16>(), 1 => 0..20u16]),
    ) {
        let v6 = Ipv6Addr::from(groups);
        let mut strings = Strings::new();
        strings.number(number).status(status).address(Address::V4(v4)).address(Address::V6(v6.to_bits()));
        let expected = [
            number.to_string(),
            format!("0x{status:08X}"),
            Ipv4Addr::from_bits(v4).to_string(),
            v6.to_string(),
        ];
        prop_assert_eq!(texts(&strings), expected);
    }

    /// Whatever is added, every string has its end, and the entry has its size.
    #[test]
    fn strings_that_are_too_long_are_cut(lengths in prop::collection::vec(0..120usize, 1..7)) {
        let long = "x".repeat(120);
        let mut strings = Strings::new();
        for length in &lengths {
            strings.text(&long[..*length]);
        }
        prop_assert!(strings.units().len() <= ROOM);
        let texts = texts(&strings);
        prop_assert_eq!(texts.len(), lengths.len().min(MOST));
        let mut room = ROOM - MOST;
        for (text, length) in texts.iter().zip(lengths) {
            prop_assert_eq!(text.len(), length.min(room));
            room -= text.len();
        }
    }
}

#[test]
fn special_addresses_have_their_usual_form() {
    for text in
        ["::", "::1", "1::", "::ffff:192.0.2.1", "::192:1", "1:0:0:2::", "fe80::1:0:0:1", "1:2:3:4:5:6:7:8"]
    {
        let address: Ipv6Addr = text.parse().unwrap();
        let mut strings = Strings::new();
        strings.address(Address::V6(address.to_bits()));
        assert_eq!(texts(&strings), [address.to_string()]);
    }
    assert_eq!(texts(Strings::new().number(0).number(u64::MAX)), ["0", "18446744073709551615"]);
}

/// The largest strings of every entry fit, so that nothing is cut.
#[test]
fn the_strings_of_every_entry_fit() {
    let longest =
        |names: &mut dyn Iterator<Item = &'static str>| names.max_by_key(|name| name.len()).unwrap();
    let techniques = Technique::ALL.map(technique_name).join(",");
    let address = Address::V6(u128::MAX);
    let mut scan = Strings::new();
    scan.address(address).number(65536).number(5400).text(&techniques);
    assert_eq!(texts(&scan).last().unwrap(), &techniques);
    let mut refused = Strings::new();
    refused
        .text(longest(&mut VALUES.iter().map(|value| value.name)))
        .text(longest(&mut REASONS.iter().copied()))
        .number(u16::MAX.into())
        .text("LastPolicyExceptMode")
        .text("GroupPolicy");
    assert_eq!(texts(&refused).last().unwrap(), "GroupPolicy");
}

#[test]
fn a_count_is_reported_once_an_hour_and_only_if_it_grows() {
    let growth = Growth::default();
    assert_eq!(growth.report(0, 5), None);
    assert_eq!(growth.report(3, 6), Some(3), "the first growth is reported at once");
    assert!(!growth.is_due(7));
    assert_eq!(growth.report(9, 6 + HOUR_MS - 1), None);
    assert_eq!(growth.report(9, 6 + HOUR_MS), Some(6));
    assert_eq!(growth.report(9, 9 * HOUR_MS), None, "nothing has happened since");
    assert_eq!(growth.report(10, 9 * HOUR_MS + 1), Some(1));
}

/// The number of strings that a text inserts.
fn inserted(text: &str) -> usize {
    (2..=MOST + 1).filter(|number| text.contains(&format!("%{number}"))).count()
}

#[test]
fn messages_are_numbered_in_order_and_name_their_strings() {
    for (place, message) in MESSAGES.iter().enumerate() {
        assert_eq!(usize::from(message.id), place + 1);
        let count = inserted(message.text);
        let last = format!("%{}", count + 1);
        assert!(count == 0 || message.text.contains(&last), "{message:?}: the numbers have no gap");
        assert!(message.text.is_ascii() && !message.text.contains("%1"), "{message:?}");
        // The status of success and that of codes by Microsoft have other bits.
        assert_eq!(message.code().code >> 29, (message.severity as u32) << 1 | 1);
        assert!(Category::ALL.contains(&message.category));
    }
    for (place, category) in Category::ALL.iter().enumerate() {
        assert_eq!(*category as usize, place + 1);
    }
}

/// The part of docs/EVENTS.md that lists the entries.
fn rendered() -> String {
    let mut text = String::from(
        "\n| id | severity | category | text | when, and what the strings are |\n|---|---|---|---|---|\n",
    );
    for message in MESSAGES {
        let severity = match message.severity {
            Severity::Information => "Information",
            Severity::Warning => "Warning",
            Severity::Error => "Error",
        };
        let Message { id, text: says, about, .. } = message;
        text += &format!("| {id} | {severity} | {} | {says} | {about} |\n", message.category.name());
    }
    text + "\n"
}

/// With HUSHPORT_WRITE_DOCS set, this writes the document from the table.
#[test]
fn the_documentation_matches_the_messages() {
    const MARKS: [&str; 2] = ["<!-- entries -->\n", "<!-- end of entries -->\n"];
    let path = "docs/EVENTS.md";
    let file = std::fs::read_to_string(path).unwrap();
    let (head, rest) = file.split_once(MARKS[0]).unwrap();
    let (entries, tail) = rest.split_once(MARKS[1]).unwrap();
    if std::env::var_os("HUSHPORT_WRITE_DOCS").is_some() {
        std::fs::write(path, [head, MARKS[0], &rendered(), MARKS[1], tail].concat()).unwrap();
        return;
    }
    assert_eq!(
        entries,
        rendered(),
        "docs/EVENTS.md differs from src/logic/event_log; HUSHPORT_WRITE_DOCS=1 writes it"
    );
}
