//! The network between this computer and the machine, and the scan over it.
//!
//! It is a TAP device in a network namespace of its own, with no route to anything else.
//! So the machine reaches nobody else, and no scan leaves it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result, bail};
use machine::wire::{Namespace, Network};

use super::run::Event;
use crate::setup;

/// The name of the TAP device.
pub const INTERFACE: &str = "vm0";

/// The network.
pub struct Link {
    /// Where QEMU and the scanners run.
    pub namespace: Namespace,
    /// The addresses.
    pub network: Network,
}

impl Link {
    /// Makes the network.
    ///
    /// # Errors
    /// Without root or user namespaces, or without /dev/net/tun.
    pub fn new() -> Result<Self> {
        let network = Network { interface: INTERFACE.to_owned(), ..Network::default() };
        let link = Self { namespace: Namespace::new()?, network };
        let (v4, v6) = (link.network.near.0, link.network.near.1);
        let (prefix4, prefix6) = link.network.prefix;
        link.ip(&["tuntap", "add", "dev", INTERFACE, "mode", "tap"])?;
        link.ip(&["link", "set", "dev", INTERFACE, "up"])?;
        link.ip(&["address", "add", &format!("{v4}/{prefix4}"), "dev", INTERFACE])?;
        link.ip(&["-6", "address", "add", &format!("{v6}/{prefix6}"), "dev", INTERFACE, "nodad"])?;
        Ok(link)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(arguments);
        let output = self.namespace.output(command)?;
        if !output.status.success() {
            bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts one scan, which the machine directs. Its lines and its end are events.
    pub fn scan(&self, patience: u64, events: &Sender<Event>) -> Result<Scan> {
        let mut command = Command::new("python3");
        // The interpreter's buffer would hold the lines back.
        command.arg("-u").arg(setup::root().join("tests/vm/scan.py"));
        command.arg(self.network.host.0.to_string()).args(["--control", "--scans", "1", "--nmap"]);
        // The machine offers its addresses. Only this one is scanned.
        command.args(["--only", &self.network.host.1.to_string(), "--wait", &patience.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.namespace.spawn(command)?;
        let output = child.stdout.take().context("no output of scan.py")?;
        let errors = child.stderr.take().context("no errors of scan.py")?;
        let sender = events.clone();
        std::thread::Builder::new().name("scan".into()).spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _over = sender.send(Event::Scan(line));
            }
            let said: Vec<String> = BufReader::new(errors).lines().map_while(Result::ok).collect();
            let _over = sender.send(Event::ScanEnded(said.last().cloned()));
        })?;
        Ok(Scan(child))
    }
}

/// A scan that runs. Dropping ends it.
pub struct Scan(Child);

impl Drop for Scan {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
