//! Compares the table of events with the documentation and with other tables.

use super::*;
use crate::logic::policy::{Policy, Reason, VALUES, ValueSet};
use crate::logic::protection::State;
use crate::logic::scan::{Encounter, Remote, Seed, Settings, Table, Technique, sweep};
use crate::logic::stealth::Verdict;
use crate::logic::tracelogging::{Description, FieldValue, Payload};

/// The part of docs/EVENTS.md that lists the events.
fn rendered() -> String {
    let mut text = String::new();
    for (event, documented) in EVENTS.iter().zip(DOCUMENTED) {
        let Description { name, level, keyword, per_second, fields, .. } = event;
        let level_name = ["", "critical", "error", "warning", "information", "verbose"][usize::from(*level)];
        let (_, keyword_name) = KEYWORDS.iter().find(|(bit, _)| bit == keyword).unwrap();
        text += &format!("\n### {name}\n\n{}\n\n", joined(documented.text));
        text += &format!("Level {level} ({level_name}), keyword {keyword:#x} ({keyword_name})");
        if let Some(most) = per_second {
            text += &format!(", at most {most} a second");
        }
        text += ".\n\n| field | type | |\n|---|---|---|\n";
        let dropped: &[&[&str]] = &[&["Events of this type suppressed before it."]];
        let dropped = if per_second.is_some() { dropped } else { &[] };
        assert_eq!(fields.len(), documented.fields.len() + dropped.len());
        for (field, about) in fields.iter().zip(documented.fields.iter().chain(dropped)) {
            text += &format!("| {} | {} | {} |\n", field.name, field.kind.name, joined(about));
        }
    }
    text
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// With HUSHPORT_WRITE_DOCS set, this writes the document from the table.
#[test]
fn the_documentation_matches_the_table() {
    const MARK: &str = "## The events\n";
    let path = "docs/EVENTS.md";
    let file = std::fs::read_to_string(path).unwrap();
    let (head, events) = file.split_once(MARK).unwrap();
    if std::env::var_os("HUSHPORT_WRITE_DOCS").is_some() {
        std::fs::write(path, [head, MARK, &rendered()].concat()).unwrap();
        return;
    }
    assert_eq!(
        events,
        rendered(),
        "docs/EVENTS.md differs from src/logic/events; HUSHPORT_WRITE_DOCS=1 writes it"
    );
    for (bit, name) in KEYWORDS {
        assert!(head.contains(&format!("| {bit:#x} | {name} |")), "{name}");
    }
    for verdict in VERDICTS {
        assert!(head.contains(&format!("| `{verdict}` |")), "{verdict}");
    }
    for state in [State::WaitingForBfe, State::Active, State::Refused, State::Outdated] {
        assert_eq!(format!("{state:?}"), state_name(state));
        assert!(head.contains(&format!("| `{}` |", state_name(state))), "{state:?}");
    }
    for reason in &REASONS[1..] {
        assert!(head.contains(&format!("| `{reason}` |")), "{reason}");
    }
    let id = format!("{PROVIDER_ID:032x}");
    let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
    assert!(head.contains(&id), "{id}");
}

#[test]
fn names_are_in_the_order_of_their_numbers() {
    for (number, name) in VERDICTS.iter().enumerate() {
        let all = [
            Verdict::Observed,
            Verdict::Silenced,
            Verdict::Audited,
            Verdict::Off,
            Verdict::OtherKind,
            Verdict::Loopback,
            Verdict::IpsecSecured,
            Verdict::FilterDrop,
            Verdict::Endpoint,
            Verdict::NoAnswer,
            Verdict::NotUnicast,
            Verdict::ExemptCompartment,
            Verdict::ExemptPort,
            Verdict::ExemptPrefix,
            Verdict::ExemptInterface,
            Verdict::ExemptProfile,
            Verdict::Deferred,
            Verdict::Overruled,
            Verdict::AlreadyBlocked,
            Verdict::Malformed,
        ];
        assert_eq!(all[number] as usize, number);
        assert_eq!(format!("{:?}", all[number]), *name);
        // Only one verdict has a counter of its own and no name in an event.
        let shown = if all[number] == Verdict::NotUnicast { "Observed" } else { *name };
        assert_eq!(verdict(all[number]), shown);
    }
    for reason in
        [Reason::WrongType, Reason::Unreadable, Reason::BadPort, Reason::HostBits, Reason::BadProfile]
    {
        assert_eq!(REASONS[reason as usize], format!("{reason:?}"));
    }
}

#[test]
fn policy_applied_has_every_value() {
    let fields: Vec<_> = PolicyApplied::DESCRIPTION.fields.iter().map(|field| field.name).collect();
    for value in &VALUES {
        assert!(fields.contains(&value.name), "{}", value.name);
    }
}

#[test]
fn the_largest_values_fit() {
    fn fits(event: impl Event) {
        let mut room = [0; LARGEST];
        let mut payload = Payload::new(&mut room);
        event.put(u32::MAX, &mut payload);
        assert!(payload.bytes().is_some());
    }
    let layer = Text(["ALE_RESOURCE_ASSIGNMENT", "_V4", "_DISCARD"]);
    let socket = Socket::new(Some(core::net::Ipv6Addr::LOCALHOST.into()), Some(1));
    let verdicts = Counts([u64::MAX; Verdict::COUNT]);
    fits(LayerCounters { layer, verdicts });
    fits(Counters {
        protection: "WaitingForBfe",
        verdicts,
        flows: u32::MAX,
        flows_ended: u64::MAX,
        flows_refused: u64::MAX,
        deviations: u64::MAX,
        scans: u64::MAX,
        events_dropped: u64::MAX,
    });
    fits(PolicyApplied::new(
        "Rundown",
        u32::MAX,
        &Policy::DEFAULT,
        None,
        ValueSet::of_bits((1 << VALUES.len()) - 1),
    ));
    fits(Silenced {
        layer,
        audited: true,
        protocol: 6,
        local: socket,
        remote: socket,
        interface: Hex(1),
        compartment: u32::MAX,
        module: "Transport",
        reason: 1,
        technique: "Maimon",
    });
    let two = Text(["ALE_RESOURCE_ASSIGNMENT", "", "_DISCARD"]);
    let (local, remote) = (socket, socket);
    fits(OrderDeviation { layer, flow: Hex(1), expected: two, seen: two, protocol: 6, local, remote });
}

#[test]
fn techniques_are_written_as_one_text() {
    let (table, settings) = (Table::<16, 0>::empty(), Settings { ports: 2, seed: Seed::new(1) });
    table.meet(&Encounter { remote: Remote(7), port: 1, technique: Technique::Syn }, 0, Seed::new(1));
    table.meet(&Encounter { remote: Remote(7), port: 2, technique: Technique::Udp }, 0, Seed::new(1));
    table.meet(&Encounter { remote: Remote(7), port: 3, technique: Technique::Other }, 0, Seed::new(1));
    let mut techniques = Techniques::default();
    sweep(|number| [&table].get(number).copied(), 0, &settings, |scan| techniques = scan.techniques);
    let mut room = [0; 64];
    let mut payload = Payload::new(&mut room);
    techniques.put(&mut payload);
    assert_eq!(payload.bytes().unwrap(), b"\x0d\0Syn,Udp,Other");
}
