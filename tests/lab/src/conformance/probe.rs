//! The probes, from the table that the scripts for Windows read, too.

use std::sync::LazyLock;

use machine::nt::registry::RegistryValue;
use serde::Deserialize;

/// A probe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its name.
    pub name: String,
    /// The protocol's number.
    pub protocol: u8,
    /// The port; 0 for none.
    pub port: u16,
    /// What the driver does to it, see `tests/conformance/src/probe.rs`.
    pub role: String,
    /// Whether the port has an endpoint.
    #[serde(default)]
    pub listen: bool,
    /// What is sent.
    pub send: Sent,
    /// The step in which it is sent, if it is not the first.
    pub step: Option<u32>,
    /// How it can be sent on Windows.
    pub windows: Means,
}

/// What is sent for a probe.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sent {
    Syn,
    Ack,
    Fin,
    Null,
    Xmas,
    SynFin,
    Udp,
    Protocol,
    /// A connection to the host, with data.
    Connection,
    /// A connection from the host, with data.
    Connect,
    Nothing,
}

/// How a probe can be sent on Windows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// An ordinary socket of the machine itself.
    Socket,
    /// A raw socket of the machine itself.
    Raw,
    /// Only another machine: Windows sends no TCP through raw sockets.
    SecondMachine,
}

/// Every probe.
pub fn probes() -> &'static [Probe] {
    static PROBES: LazyLock<Vec<Probe>> = LazyLock::new(|| {
        let text = include_str!("../../../conformance/probes.json");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("tests/conformance/probes.json: {error}"))
    });
    &PROBES
}

/// The value `Probes` of the driver.
pub(super) fn value() -> RegistryValue {
    RegistryValue::multi_sz(
        probes()
            .iter()
            .map(|probe| format!("{} {} {} {}", probe.name, probe.protocol, probe.port, probe.role)),
    )
}
