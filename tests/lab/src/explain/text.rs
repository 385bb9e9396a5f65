//! The report as text.

use std::io::{Result, Write};

use super::report::{FilterReport, Report, SublayerReport};

/// Filters of one sublayer that are written before the rest is only counted.
const MOST_FILTERS: usize = 12;

/// Writes it.
pub fn write(out: &mut impl Write, report: &Report) -> Result<()> {
    let Report { sublayers, callouts, filters, problems, hushport, layers, packet } = report;
    writeln!(out, "{sublayers} sublayers, {callouts} callouts, {filters} filters")?;
    for problem in problems {
        writeln!(out, "line {}: {}", problem.line, crate::printable::printable(&problem.text))?;
    }
    match (hushport.in_file, &hushport.weights[..]) {
        (true, weights) => writeln!(out, "hushport is there, with weight {}", weights[0])?,
        (false, [weight]) => writeln!(out, "hushport is not there; its weight would be {weight}")?,
        (false, weights) => writeln!(
            out,
            "hushport is not there; the weight it asks for is taken, so the engine would give it one nearby: {}",
            weights.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
        )?,
    }
    writeln!(out, "hushport's values: {}", crate::printable::printable(&hushport.values))?;
    if let Some(packet) = packet {
        writeln!(out, "\n{}", packet.packet)?;
        for path in &packet.paths {
            writeln!(out, "\n{}:", path.when)?;
            for layer in &path.layers {
                writeln!(out, "  {}", layer.layer)?;
                for sublayer in &layer.sublayers {
                    write_sublayer(out, sublayer, "    ")?;
                }
                for winner in &layer.winners {
                    let side = |verb: &str, who: &[String]| match who.len() {
                        0..=3 => format!("{verb} by {}", who.join(", or ")),
                        count => format!("{verb} by {}, or {} more", who[..3].join(", or "), count - 3),
                    };
                    let ends = match (&winner.blocks[..], &winner.permits[..]) {
                        ([], who) => side("permitted", who),
                        (who, []) => side("blocked", who),
                        (blocks, permits) => {
                            format!(
                                "not certain: {}; {}",
                                side("blocked", blocks),
                                side("permitted", permits)
                            )
                        }
                    };
                    writeln!(out, "    => {}: {ends}", winner.case)?;
                }
            }
        }
        return Ok(());
    }
    for layer in layers {
        writeln!(out, "\n{}", layer.layer)?;
        for sublayer in &layer.sublayers {
            write_sublayer(out, sublayer, "  ")?;
        }
        for consequence in &layer.consequences {
            writeln!(out, "  => {consequence}")?;
        }
    }
    Ok(())
}

fn write_sublayer(out: &mut impl Write, sublayer: &SublayerReport, indent: &str) -> Result<()> {
    let SublayerReport { key, name, weight, is_hushport, filters } = sublayer;
    if *is_hushport {
        return writeln!(out, "{indent}{weight:5} hushport");
    }
    match &**name {
        "" => writeln!(out, "{indent}{weight:5} {key}")?,
        name => writeln!(out, "{indent}{weight:5} {name} {key}")?,
    }
    for filter in filters.iter().take(MOST_FILTERS) {
        write_filter(out, filter, indent)?;
    }
    match filters.len().saturating_sub(MOST_FILTERS) {
        0 => Ok(()),
        more => writeln!(out, "{indent}        and {more} lighter filters (--json has all)"),
    }
}

fn write_filter(out: &mut impl Write, filter: &FilterReport, indent: &str) -> Result<()> {
    let callout = if filter.callout.is_empty() { String::new() } else { format!(": {}", filter.callout) };
    writeln!(out, "{indent}        {} \"{}\": {}{callout}", filter.id, filter.name, filter.action)?;
    match &filter.unknown {
        None if filter.conditions.is_empty() => writeln!(out, "{indent}            always"),
        None => writeln!(out, "{indent}            if {}", filter.conditions.join("; ")),
        Some(unknown) if unknown.is_empty() => {
            writeln!(out, "{indent}            matches: {}", filter.verdicts.join(" or "))
        }
        Some(unknown) => writeln!(
            out,
            "{indent}            may match, which depends on {}: {}",
            unknown.join(", "),
            filter.verdicts.join(" or "),
        ),
    }
}
