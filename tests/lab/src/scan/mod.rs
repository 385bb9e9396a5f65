//! Runs nmap in a world's namespace; [`matrix`] compares all scans. A world can be in
//! this process or in the driver's own ([`scanned`]).

pub mod matrix;
pub mod scanned;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use machine::wire::Family;

use crate::world::Near;

/// nmap's state of each port: `open`, `closed`, `filtered`, …
pub type States = BTreeMap<u16, String>;

/// A technique of nmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are nmap's own")]
pub enum Technique {
    Syn,
    Connect,
    Ack,
    Window,
    Maimon,
    Null,
    Fin,
    Xmas,
    Udp,
    Protocol,
    Ping,
    Os,
}

impl Technique {
    /// All techniques.
    pub const ALL: [Self; 12] = [
        Self::Syn,
        Self::Connect,
        Self::Ack,
        Self::Window,
        Self::Maimon,
        Self::Null,
        Self::Fin,
        Self::Xmas,
        Self::Udp,
        Self::Protocol,
        Self::Ping,
        Self::Os,
    ];

    /// The option of nmap for it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Syn => "-sS",
            Self::Connect => "-sT",
            Self::Ack => "-sA",
            Self::Window => "-sW",
            Self::Maimon => "-sM",
            Self::Null => "-sN",
            Self::Fin => "-sF",
            Self::Xmas => "-sX",
            Self::Udp => "-sU",
            Self::Protocol => "-sO",
            Self::Ping => "-sn",
            Self::Os => "-O",
        }
    }
}

/// Scans the host's TCP ports with a technique such as `-sS`; `ports` is nmap's
/// `-p`.
pub fn tcp(world: &impl Near, family: Family, technique: &str, ports: &str) -> Result<States> {
    states(&nmap(world, family, &[technique, "-Pn", "-p", ports])?).with_context(|| technique.to_owned())
}

/// Scans from a source port, which nmap cannot choose for every technique.
pub fn from_port(
    world: &impl Near,
    family: Family,
    technique: Technique,
    source: u16,
    ports: &str,
) -> Result<States> {
    let option = technique.option();
    let source = source.to_string();
    states(&nmap(world, family, &[option, "-Pn", "-g", &source, "-p", ports])?)
        .with_context(|| option.to_owned())
}

/// Scans with any technique: ports, or protocols for `-sO`. `-sn` and `-O` return
/// one state, under 0. For `-sn` it is `up` or `down`. For `-O` it is `closed` if
/// nmap found a closed TCP port that it needs to detect the system, otherwise
/// `none`.
pub fn states_by(world: &impl Near, family: Family, technique: Technique, ports: &str) -> Result<States> {
    let option = technique.option();
    match technique {
        Technique::Ping => up(&nmap(world, family, &[option, "-PE", "--disable-arp-ping"])?),
        Technique::Os => {
            let arguments = [option, "-Pn", "-p", ports, "--max-os-tries", "1"];
            closed_port(&nmap(world, family, &arguments)?)
        }
        _ => tcp(world, family, option, ports),
    }
    .with_context(|| option.to_owned())
}

/// Runs nmap and returns its XML.
fn nmap(world: &impl Near, family: Family, arguments: &[&str]) -> Result<String> {
    let mut nmap = Command::new("nmap");
    nmap.args(arguments).args(["-n", "--send-ip", "--max-retries", "2", "-T4"]);
    nmap.args(["--max-rtt-timeout", "200ms", "--min-hostgroup", "1", "-oX", "-"]);
    if family == Family::V6 {
        nmap.arg("-6");
    }
    nmap.arg(world.network().host_address(family).to_string());
    let command = format!("{nmap:?}");
    let output = world.namespace().output(nmap).context("nmap")?;
    if !output.status.success() {
        bail!("{command}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn document(xml: &str) -> Result<roxmltree::Document<'_>> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    Ok(roxmltree::Document::parse_with_options(xml, options)?)
}

fn up(xml: &str) -> Result<States> {
    let document = document(xml)?;
    let hosts = document
        .descendants()
        .find(|node| node.has_tag_name("hosts"))
        .context("nmap's XML has no hosts element")?;
    let state = if hosts.attribute("up") == Some("1") { "up" } else { "down" };
    Ok(States::from([(0, state.to_owned())]))
}

fn closed_port(xml: &str) -> Result<States> {
    let document = document(xml)?;
    let closed = document.descendants().any(|node| {
        node.has_tag_name("portused")
            && node.attribute("state") == Some("closed")
            && node.attribute("proto") == Some("tcp")
    });
    Ok(States::from([(0, if closed { "closed" } else { "none" }.to_owned())]))
}

/// The state of every port in nmap's XML, including summarized ones.
fn states(xml: &str) -> Result<States> {
    let document = document(xml)?;
    let mut states = States::new();
    for port in document.descendants().filter(|node| node.has_tag_name("port")) {
        let number = port.attribute("portid").and_then(|number| number.parse().ok());
        let state = port.children().find(|node| node.has_tag_name("state"));
        let state = state.and_then(|state| state.attribute("state"));
        if let (Some(number), Some(state)) = (number, state) {
            states.insert(number, state.to_owned());
        }
    }
    for reasons in document.descendants().filter(|node| node.has_tag_name("extrareasons")) {
        let state = reasons
            .parent()
            .and_then(|summed| summed.attribute("state"))
            .context("extraports without a state")?;
        for port in numbers(reasons.attribute("ports").unwrap_or_default())? {
            states.insert(port, state.to_owned());
        }
    }
    if states.is_empty() {
        bail!("nmap reports no port");
    }
    Ok(states)
}

/// Parses `1-3,7` into numbers.
fn numbers(list: &str) -> Result<Vec<u16>> {
    let mut numbers = Vec::new();
    for range in list.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse()?, last.parse()?);
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_and_summed_up_ports_are_read() {
        let xml = r#"<?xml version="1.0"?><!DOCTYPE nmaprun><nmaprun><host><ports>
            <extraports state="filtered" count="4">
            <extrareasons reason="no-response" count="4" proto="tcp" ports="1-3,7"/></extraports>
            <port protocol="tcp" portid="80"><state state="open" reason="syn-ack"/></port>
            </ports></host></nmaprun>"#;
        let states = states(xml).unwrap();
        let filtered: Vec<_> =
            states.iter().filter(|(_, state)| *state == "filtered").map(|(port, _)| *port).collect();
        assert_eq!(filtered, [1, 2, 3, 7]);
        assert_eq!(states[&80], "open");
    }

    #[test]
    fn a_report_without_ports_is_an_error() {
        assert!(states("<nmaprun><host/></nmaprun>").is_err());
    }
}
