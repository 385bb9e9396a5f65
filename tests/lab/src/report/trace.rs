//! A capture that was played, in plain text.

use std::io::{Result, Write};

use crate::trace::{Played, Port, Summary};

/// How many ports and sources are named.
const NAMED: usize = 10;

/// Writes it. What is text of the capture's own is printed without control
/// characters.
pub fn trace_text(out: &mut impl Write, played: &Played, notes: &[String]) -> Result<()> {
    for (what, value) in facts(played) {
        writeln!(out, "{what:<14} {value}")?;
    }
    let account = &played.account;
    writeln!(out, "\neach documented flow, as the driver's callouts saw it")?;
    for flow in account.flows.iter() {
        writeln!(out, "{flow}")?;
    }
    let (ports, others) = account.timeline.ports(NAMED);
    if !ports.is_empty() {
        writeln!(out, "\nsilenced, by port")?;
        for (port, line) in &ports {
            writeln!(out, "  {:<12} {}", port_text(*port), line.total)?;
        }
        rest(out, others.total)?;
        let (sources, others) = account.timeline.sources(NAMED);
        writeln!(out, "silenced, by source")?;
        for (source, line) in &sources {
            writeln!(out, "  {source:<40} {}", line.total)?;
        }
        rest(out, others.total)?;
    }
    writeln!(out, "\nwhat the driver said, by layer (asked, block, permit, left alone)")?;
    for (layer, answers) in &account.answers {
        let (asked, blocked) = (answers.asked, answers.blocked);
        writeln!(
            out,
            "  {layer:<36} {asked:>9} {blocked:>9} {:>9} {:>9}",
            answers.permitted, answers.left_alone
        )?;
    }
    for deviation in &account.deviating {
        writeln!(out, "DIFFERS: {deviation}")?;
    }
    for note in notes {
        writeln!(out, "NOTE: {note}")?;
    }
    Ok(())
}

fn rest(out: &mut impl Write, others: u64) -> Result<()> {
    if others > 0 { writeln!(out, "  others       {others}") } else { Ok(()) }
}

/// A port with its protocol.
pub(super) fn port_text((protocol, port): Port) -> String {
    match protocol {
        6 => format!("{port}/tcp"),
        17 => format!("{port}/udp"),
        1 => "ICMP".into(),
        58 => "ICMPv6".into(),
        other => format!("protocol {other}"),
    }
}

/// What the capture was and what became of it, line by line.
pub(super) fn facts(played: &Played) -> Vec<(&'static str, String)> {
    let summary = Summary::of(played);
    let tally = summary.capture;
    let clean = |text: &String| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let seconds = played.account.timeline.length().as_secs_f64();
    let mut facts = vec![
        (
            "capture",
            format!("{}, {} bytes, {} frames, {seconds:.3} s", tally.format, tally.bytes, tally.frames),
        ),
        ("IP packets", tally.packets.to_string()),
        ("host", format!("{} ({})", summary.local.join(", "), summary.local_how)),
        ("indications", summary.indications.to_string()),
        ("silenced", summary.silenced.to_string()),
        ("kept back", format!("{} answers that the capture holds", summary.kept_back)),
        ("deviations", summary.deviations.to_string()),
    ];
    if !tally.said.is_empty() {
        let said: Vec<_> = tally.said.iter().map(clean).collect();
        facts.insert(1, ("says of itself", said.join("; ")));
    }
    let unplayed = summary.not_played;
    for (what, count) in [
        ("not IP", tally.not_ip),
        ("for others", tally.elsewhere),
        ("unreadable", tally.unreadable),
        ("cut short", tally.cut),
        ("bad checksums", tally.checksums),
        ("not the host's", unplayed.foreign),
        ("fragments out", unplayed.fragments_out),
        ("refused before", unplayed.refused),
        ("gave way", unplayed.forgotten),
        ("not surveyed", summary.not_surveyed),
    ] {
        if count > 0 {
            facts.push((what, count.to_string()));
        }
    }
    if let Some((link, count)) = tally.unknown_link {
        facts.push(("link type", format!("{count} frames of link type {link}, which is not read here")));
    }
    facts
}
