//! `cargo lab scan`: scans with every nmap technique, in each world.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use comfy_table::presets;
use machine::wire::Family;

use super::{as_root, driver};
use crate::explain::Firewall;
use crate::sandbox::{self, inner};
use crate::scan::Technique;
use crate::scan::matrix::{self, Case};
use crate::scan::scanned;
use crate::setup::{self, Need};
use crate::variants::{self, Variant};
use crate::world::apart::Apart;

/// What to scan [default: the base world in each mode, and each variant alone in
/// mode 2].
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Scan every variant in every mode
    #[arg(long)]
    all: bool,
    /// Scan only one world with these variants; may be repeated
    #[arg(long, value_name = "NAME", value_parser = super::variant)]
    variant: Vec<&'static Variant>,
    /// Scan only the base world, in this mode
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=2), conflicts_with_all = ["all", "variant"])]
    mode: Option<u32>,
    /// Scan only worlds with Windows Firewall and its stock filters: in stealth for
    /// every profile, for none, or for these; the host's network is public
    #[arg(long, value_name = "on|off|PROFILES", value_parser = str::parse::<Firewall>,
        conflicts_with_all = ["all", "variant"])]
    firewall: Option<Firewall>,
    /// Use only this technique; may be repeated
    #[arg(long, value_enum)]
    technique: Vec<Technique>,
    /// List the variants
    #[arg(long)]
    list: bool,
    /// Number of worlds scanned at a time
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    #[command(flatten)]
    driver: driver::Arguments,
    /// Write the matrix to this file as Markdown
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
}

/// Scans. Returns whether every cell is as expected.
pub fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for variant in &variants::ALL {
            println!("{:26} {}", variant.name, variant.what);
        }
        return Ok(true);
    }
    let cases = cases(arguments);
    if let Some(case) = inner::task() {
        let case = cases.get(case).context("no such world")?;
        return scanned::host(&case.plan(arguments.driver.sys()?));
    }
    setup::ensure(&[Need::NMAP, Need::IP, Need::CURL])?;
    ensure!(
        arguments.driver.is_hushport(),
        "the expected results are hushport's; --service must be hushport"
    );
    arguments.driver.refuse_registry()?;
    arguments.driver.sys()?;
    as_root()?;
    sandbox::drop_privileges()?;
    let start = |index, _: &Case| Apart::start(arguments.driver.job()?, index);
    let outcomes = matrix::run(&cases, arguments.jobs.max(1), start);
    let (mut well, mut cells, mut markdown) = (true, 0, String::from(HEAD));
    for outcome in outcomes {
        let outcome = outcome?;
        println!("\n{}", outcome.case.name());
        print!("{}", outcome.table(presets::NOTHING));
        writeln!(markdown, "\n## {}\n", outcome.case.name())?;
        for variant in &outcome.case.variants {
            writeln!(markdown, "{}: {}.\n", variant.name, variant.what)?;
        }
        markdown += &outcome.table(presets::ASCII_MARKDOWN);
        for fault in &outcome.faults {
            println!("  DIFFERS: {fault}");
            writeln!(markdown, "\nDIFFERS: {fault}")?;
        }
        well &= outcome.holds();
        cells += outcome.cells.len();
    }
    println!("\n{cells} scans, {}", if well { "all as expected" } else { "not all as expected" });
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, markdown).with_context(|| format!("--markdown {}", path.display()))?;
    }
    Ok(well)
}

const HEAD: &str = "\
# The nmap matrix

`cargo lab scan --markdown` wrote this page. Each section is one world: the driver's Mode, and the variants in force.
A variant is a point that Microsoft's documents leave open, with another answer than the default (`cargo lab scan
--list`). Each row is one nmap technique. It probes one open and two closed TCP ports, UDP ports or protocols. RST and
ICMP errors are counted on the wire. In every world, curl fetched a page through the open port, over IPv4 and IPv6.

- If the host answers, nmap calls a closed port `closed`, or `unfiltered` for an ACK probe. Windows answers FIN, NULL,
  Xmas and Maimon probes of open ports with a RST as well.
- If the host is silent, nmap calls the port `filtered`. If an open port may be silent, too, nmap calls it
  `open/filtered`. Open and closed ports then look alike.
- `-sn` sends an echo request. The host answers unless SilenceEcho is 1, or Windows Firewall is there, whose stock
  rules block it. `-O` shows whether nmap found a closed TCP
  port, which it needs to detect the system.
- Worlds with Windows Firewall have its stock filters and a rule for the open ports. \"Stealth on\" means that it is in
  stealth for the profile of the host's network. \"Exempt 113, 9999\" means that ExemptPorts has these ports.
";

/// The worlds, with the techniques that were asked for.
fn cases(arguments: &Arguments) -> Vec<Case> {
    let mut cases = worlds(arguments);
    for case in cases.iter_mut().filter(|_| !arguments.technique.is_empty()) {
        case.techniques.retain(|technique| arguments.technique.contains(technique));
    }
    cases.retain(|case| !case.techniques.is_empty());
    cases
}

fn worlds(arguments: &Arguments) -> Vec<Case> {
    const MODES: [u32; 3] = [0, 1, 2];
    if let Some(firewall) = &arguments.firewall {
        let cases = beside(firewall).into_iter();
        return cases.filter(|case| arguments.mode.is_none_or(|mode| case.mode == mode)).collect();
    }
    if let Some(mode) = arguments.mode {
        return vec![Case::base(mode)];
    }
    if !arguments.variant.is_empty() {
        let modes = if arguments.all { &MODES[..] } else { &MODES[2..] };
        return modes.iter().map(|mode| Case::of(*mode, arguments.variant.clone())).collect();
    }
    let mut cases: Vec<_> = MODES.map(Case::base).into();
    cases.push(Case { silence_echo: true, techniques: vec![Technique::Ping], ..Case::base(2) });
    // OS detection is slow, and its result over IPv6 does not differ.
    let os = |mode| Case { techniques: vec![Technique::Os], families: vec![Family::V4], ..Case::base(mode) };
    cases.extend([os(0), os(2)]);
    cases.push(Case { exempt: true, techniques: vec![Technique::Syn, Technique::Udp], ..Case::base(2) });
    cases.extend([Firewall::on(), Firewall::off()].iter().flat_map(beside));
    let modes = if arguments.all { &MODES[..] } else { &MODES[2..] };
    for variant in variants::ALL.iter().filter(|variant| variant.concerns_packets) {
        cases.extend(modes.iter().map(|mode| Case::of(*mode, vec![variant])));
    }
    cases
}

/// Each mode, and an exemption, beside Windows Firewall.
fn beside(firewall: &Firewall) -> Vec<Case> {
    let base = |mode| Case { firewall: Some(firewall.clone()), ..Case::base(mode) };
    let exempt = Case { exempt: true, techniques: vec![Technique::Syn, Technique::Udp], ..base(2) };
    vec![base(0), base(1), base(2), exempt]
}
