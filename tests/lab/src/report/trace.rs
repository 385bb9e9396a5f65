//! The report of a played capture, in plain text.

use std::io::{Result, Write};

use crate::flows::CourseText;
use crate::trace::{Played, Port, Protocols, Scanner, Scans, Summary};

/// The maximum number of ports and of sources that are named.
const NAMED: usize = 10;

/// The maximum number of scanners that are named.
const NAMED_SCANNERS: usize = 100;

/// Writes the report. Text from the capture is escaped before it comes here.
pub fn trace_text(out: &mut impl Write, played: &Played, notes: &[String]) -> Result<()> {
    for (what, value) in facts(played) {
        writeln!(out, "{what:<14} {value}")?;
    }
    let account = &played.account;
    writeln!(out, "\neach documented flow, as the driver's callouts saw it")?;
    for flow in account.flows.iter() {
        writeln!(out, "{flow}")?;
    }
    writeln!(out, "\nthe events of each connection, in order; packets may be missing in a capture")?;
    for (lifecycle, course) in account.lifecycles.courses() {
        writeln!(out, "{}", CourseText(lifecycle, &course))?;
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
    scans(out, played)?;
    writeln!(out, "\nthe driver's answers, by layer (asked, block, permit, continue)")?;
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

/// The scanners, in the order of their first reports.
fn scans(out: &mut impl Write, played: &Played) -> Result<()> {
    let scans = &played.account.scans;
    if scans.scanners.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\nscans, as the driver reports them (first and last report, in seconds since the first packet)"
    )?;
    for Scanner { scan, last, reports } in scans.scanners.iter().take(NAMED_SCANNERS) {
        writeln!(
            out,
            "  {}  {:.3}{}  {:<39} {}, about {} ports within {} s{}",
            scan.time,
            scan.at.as_secs_f64(),
            match reports {
                1 => String::new(),
                count => format!(" to {:.3}, {count} reports", last.as_secs_f64()),
            },
            scan.remote,
            scan.technique_names(),
            scan.ports,
            scan.window_ms as f64 / 1000.0,
            scan.address(),
        )?;
    }
    let more = scans.scanners.len().saturating_sub(NAMED_SCANNERS);
    if more > 0 {
        writeln!(out, "  {more} more remotes")?;
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

/// What the capture holds and how it was played, line by line.
pub(super) fn facts(played: &Played) -> Vec<(&'static str, String)> {
    let summary = Summary::of(played);
    let tally = summary.capture;
    let seconds = played.account.timeline.length().as_secs_f64();
    let of_file = match tally.file_bytes == tally.bytes {
        true => String::new(),
        false => format!(" out of {}", tally.file_bytes),
    };
    let frames = match tally.frames {
        0 => "empty: it holds no packet".to_owned(),
        count => format!("{count} frames, {seconds:.3} s"),
    };
    let host = match &summary.local[..] {
        [] => "none: no IP packet shows one".to_owned(),
        local => format!("{} ({})", local.join(", "), summary.local_how),
    };
    let mut facts = vec![("capture", format!("{}, {} bytes{of_file}, {frames}", tally.format, tally.bytes))];
    if !tally.descriptions.is_empty() {
        facts.push(("described as", tally.descriptions.join("; ")));
    }
    facts.extend([
        ("IP packets", tally.packets.to_string()),
        ("host", host),
        ("received", protocols(&summary.traffic.received)),
        ("sent", protocols(&summary.traffic.sent)),
        ("indications", summary.indications.to_string()),
        ("silenced", summary.silenced.to_string()),
        ("suppressed", format!("{} answers that the capture holds", summary.suppressed)),
        ("deviations", summary.deviations.to_string()),
        ("scans", scans_in_a_line(summary.scans)),
    ]);
    let unplayed = summary.not_played;
    for (what, count) in [
        ("for others", tally.elsewhere),
        ("unreadable", tally.unreadable),
        ("cut short", tally.cut),
        ("bad checksums", tally.checksums),
        ("without a time", tally.untimed),
        ("out of order", tally.disordered),
        ("clock set", tally.clock_set),
        ("not the host's", unplayed.foreign),
        ("fragments out", unplayed.fragments_out),
        ("refused before", unplayed.refused),
        ("evicted", unplayed.forgotten),
        ("not surveyed", summary.not_surveyed),
    ] {
        if count > 0 {
            facts.push((what, count.to_string()));
        }
    }
    if tally.fragments > 0 {
        let whole = tally.reassembled;
        facts.push(("fragments", format!("{}, which make {whole} datagrams whole", tally.fragments)));
    }
    if tally.not_ip > 0 {
        facts.push(("not IP", format!("{} ({})", tally.not_ip, tally.others)));
    }
    if tally.tunnels.total() > 0 {
        facts.push(("tunnels", format!("{}; only the outer packets are played", tally.tunnels)));
    }
    if tally.unread_links.total() > 0 {
        facts.push(("not read", format!("frames of {}", tally.unread_links)));
    }
    facts
}

fn scans_in_a_line(scans: &Scans) -> String {
    if !scans.known {
        return "unknown: the driver writes no events".to_owned();
    }
    let mut text = format!("{} reports about {} remotes", scans.reports, scans.scanners.len());
    if scans.others > 0 {
        text += &format!("; {} about others", scans.others);
    }
    if scans.dropped > 0 {
        text += &format!("; the driver's rate limit suppressed {} more", scans.dropped);
    }
    text
}

fn protocols(counts: &Protocols) -> String {
    let Protocols { tcp, udp, icmp, other, fragments, malformed } = *counts;
    let named = [
        ("TCP", tcp),
        ("UDP", udp),
        ("ICMP", icmp),
        ("other", other),
        ("fragments", fragments),
        ("malformed", malformed),
    ];
    let met: Vec<_> =
        named.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    if met.is_empty() { "nothing".to_owned() } else { met.join(", ") }
}
