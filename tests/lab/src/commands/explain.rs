//! `cargo lab explain`: who decides on a machine.

use std::io::{BufWriter, Read, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::explain::{Configuration, Packet, Report, State, write};
use crate::policy::{Assignment, assignment};
use crate::printable::printable;
use crate::sandbox::inner;

/// The machine's filters, and what is asked about.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What `netsh wfp show state` wrote on the machine
    #[arg(long, value_name = "wfpstate.xml")]
    state: PathBuf,
    /// A packet or an operation: 'tcp syn 203.0.113.7:4000 -> :22 profile=public';
    /// also udp, icmp, connect, listen and accept
    #[arg(long, value_name = "TEXT", value_parser = str::parse::<Packet>)]
    packet: Option<Packet>,
    /// The program that connects, listens or accepts
    #[arg(long, value_name = "PATH", requires = "packet")]
    app: Option<String>,
    /// A value of the driver's policy, as in its registry key: a number, or strings
    /// separated by commas. Says what the driver does with these values; without any,
    /// what each mode does
    #[arg(long, value_name = "NAME=VALUE", value_parser = str::parse::<Assignment>)]
    set: Vec<Assignment>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Explains it; whether the file was whole.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let values = assignment::resolve(&arguments.set)?;
    let state = read(&arguments.state)?;
    let mut packet = arguments.packet.clone();
    if let Some(packet) = &mut packet {
        packet.app.clone_from(&arguments.app);
    }
    let configuration = Configuration::new(&values)?;
    let report = Report::new(&state, packet.as_ref(), &configuration);
    let mut out = BufWriter::new(stdout().lock());
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write(&mut out, &report)?;
    }
    out.flush()?;
    Ok(state.problems.is_empty())
}

/// Reads the file, and says what is wrong with it.
pub fn read(file: &Path) -> Result<State> {
    /// Real ones have a few megabytes.
    const MOST_BYTES: u64 = 512 << 20;
    let name = || format!("--state {}", file.display());
    let mut opened = inner::open(file).with_context(name)?;
    let size = opened.metadata().with_context(name)?.len();
    ensure!(size <= MOST_BYTES, "{}: {size} bytes are no state of a machine", name());
    let mut bytes = Vec::new();
    opened.read_to_end(&mut bytes).with_context(name)?;
    let state = State::read(&bytes);
    for problem in &state.problems {
        eprintln!("lab: {}, line {}: {}", file.display(), problem.line, printable(&problem.text));
    }
    Ok(state)
}
