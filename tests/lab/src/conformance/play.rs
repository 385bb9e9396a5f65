//! Runs the conformance driver in a world of the lab, and sends its probes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use etherparse::IpNumber;
use machine::Machine;
use machine::etw::Enable;
use machine::host::{Application, Host, Options, SocketHandle, Stack};
use machine::nt::parameters_key;
use machine::nt::registry::RegistryValue;
use machine::wfp::Guid;
use machine::wire::{Family, Network, compose};

use super::probe::{self, Probe, Sent, probes};
use super::{LAST_STEP, Report, SERVICE};
use crate::world::{Plan, Service};

/// The driver does flow contexts, and the wait for the packet that is held.
const CONTEXTS: u32 = 2;
const HOLD: u32 = 3;
const HELD: u32 = 4;
/// The steps with a filter at the discard layer.
const FILTERS: std::ops::RangeInclusive<u32> = 5..=8;

/// The longest wait for a step of the driver.
const PATIENCE: Duration = Duration::from_secs(120);

/// The first port of the peer.
const PEER: u16 = 41_000;

/// Runs the driver in the world of a plan, and returns its report.
///
/// # Errors
/// If the driver does not start, does not go on, or leaves something behind.
pub fn play(sys: &Path, plan: &Plan<'_>) -> Result<Report> {
    let plan = Plan {
        driver: None,
        service: Service(SERVICE),
        values: vec![("Probes".to_owned(), probe::value())],
        ..plan.clone()
    };
    let mut machine = plan.machine()?;
    let session = machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    machine.start(sys).with_context(|| format!("{} does not start", sys.display()))?;
    let mut run = Run::new(machine, &plan);
    let outcome = run.all();
    let Run { mut machine, host, .. } = run;
    let report = outcome.and_then(|()| {
        let values = machine.kernel().registry().values(&report_key());
        Report::of_registry(values)
    })?;
    report.ensure_told_by(&session.events())?;
    drop(session);
    drop(host);
    let left = machine.stop().map_err(|stop| anyhow!("unload stopped the machine: {stop}"))?;
    ensure!(left.is_empty(), "the driver left behind: {left}");
    Ok(report)
}

/// The provider of the driver's events.
const EVENT_PROVIDER: Guid = Guid::from_u128(0x8b0f7921_2386_5309_28b0_c6fab993f106);

fn report_key() -> String {
    format!(r"{}\Report", parameters_key(SERVICE))
}

/// A host with the driver, and a peer, in simulated time.
struct Run {
    machine: Machine,
    host: Host,
    peer: Stack,
    now: Duration,
    next_port: u16,
}

impl Run {
    fn new(machine: Machine, plan: &Plan<'_>) -> Self {
        let mut options = Options::default();
        options.profile = plan.profile.unwrap_or(options.profile);
        let network = options.network.clone();
        let swapped = Network { near: network.host, host: network.near, ..network };
        Self {
            host: Host::new(Arc::clone(machine.engine()) as _, options, plan.open_points.clone()),
            peer: Stack::new(&Options { network: swapped, seed: 2, ..Options::default() }),
            machine,
            now: Duration::ZERO,
            next_port: PEER,
        }
    }

    fn all(&mut self) -> Result<()> {
        self.confirmed(1)?;
        for family in Family::BOTH {
            for probe in probes().iter().filter(|probe| probe.listen) {
                let local = self.at_host(family, probe.port);
                match probe.protocol {
                    17 => self.host.echo_datagrams(local)?,
                    _ => self.host.listen(local, Application::Echo)?,
                }
            }
        }
        let mut flow = None;
        for family in Family::BOTH {
            for probe in probes().iter().filter(|probe| probe.step.is_none()) {
                if probe.role != "flow" {
                    self.send(probe, family)?;
                } else if family == Family::V4 {
                    // It stays until its contexts have been dealt with.
                    flow = Some(self.connect(probe, family)?);
                }
            }
        }
        self.step(CONTEXTS)?;
        if let Some(flow) = flow {
            self.close(flow)?;
        }
        self.step(HOLD)?;
        self.send_in_step(HOLD, &[Family::V4])?;
        for step in [HELD].into_iter().chain(FILTERS) {
            self.step(step)?;
            self.send_in_step(step, &Family::BOTH)?;
        }
        (*FILTERS.end() + 1..=LAST_STEP).try_for_each(|step| self.step(step))
    }

    fn send_in_step(&mut self, step: u32, families: &[Family]) -> Result<()> {
        for family in families {
            for probe in probes().iter().filter(|probe| probe.step == Some(step)) {
                self.send(probe, *family)?;
            }
        }
        Ok(())
    }

    /// Asks the driver for a step, and waits until it is done.
    fn step(&mut self, step: u32) -> Result<()> {
        self.machine.set_value("Step", RegistryValue::dword(step));
        self.confirmed(step)
    }

    fn confirmed(&self, step: u32) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(stop) = self.machine.kernel().stopped() {
                return Err(anyhow!("the machine has stopped: {stop}"));
            }
            let value = self.machine.kernel().registry().value(&report_key(), "Step");
            if value.is_some_and(|value| value == RegistryValue::dword(step)) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the driver does not confirm step {step}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn at_host(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(Network::default().host_address(family), port)
    }

    fn at_peer(&self, family: Family, port: u16) -> SocketAddr {
        let (v4, v6) = Network::default().near;
        match family {
            Family::V4 => (v4, port).into(),
            Family::V6 => (v6, port).into(),
        }
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Sends a probe of one family.
    fn send(&mut self, probe: &Probe, family: Family) -> Result<()> {
        let from = self.port();
        let (from, to) = (self.at_peer(family, from), self.at_host(family, probe.port));
        let ip = compose::ip(from.ip(), to.ip());
        let mut packet = Vec::new();
        let segment = |step: etherparse::PacketBuilderStep<etherparse::IpHeaders>| {
            step.tcp(from.port(), to.port(), 1000, 65_000)
        };
        match probe.send {
            Sent::Syn => segment(ip).syn().write(&mut packet, &[])?,
            Sent::Ack => segment(ip).ack(1).write(&mut packet, &[])?,
            Sent::Fin => segment(ip).fin().write(&mut packet, &[])?,
            Sent::Null => segment(ip).write(&mut packet, &[])?,
            Sent::Xmas => segment(ip).fin().psh().urg(0).write(&mut packet, &[])?,
            Sent::SynFin => segment(ip).syn().fin().write(&mut packet, &[])?,
            Sent::Udp => ip.udp(from.port(), to.port()).write(&mut packet, b"probe")?,
            Sent::Protocol => ip.write(&mut packet, IpNumber(probe.protocol), b"12345678")?,
            Sent::Connection => {
                let client = self.connect(probe, family)?;
                return self.close(client);
            }
            Sent::Connect => return self.connected(probe, family),
            Sent::Nothing => return Ok(()),
        }
        self.now += Duration::from_millis(1);
        self.host.receive(&packet, self.now);
        self.exchange()
    }

    /// Connects to the host, and sends some data.
    fn connect(&mut self, probe: &Probe, family: Family) -> Result<SocketHandle> {
        let from = self.port();
        let (from, to) = (self.at_peer(family, from), self.at_host(family, probe.port));
        let client = self.peer.connect(from, to).context("the peer cannot connect")?;
        self.exchange()?;
        for bytes in [&b"first"[..], b"second"] {
            let taken = self.peer.socket(client).send_slice(bytes);
            ensure!(taken == Ok(bytes.len()), "{}: the peer cannot send: {taken:?}", probe.name);
            self.exchange()?;
        }
        Ok(client)
    }

    /// The host connects to the peer.
    fn connected(&mut self, probe: &Probe, family: Family) -> Result<()> {
        let to = self.at_peer(family, probe.port);
        let server = self.peer.listen(to).context("the peer cannot listen")?;
        self.host.connect(to, b"question".to_vec())?;
        self.exchange()?;
        let taken = self.peer.socket(server).send_slice(b"answer");
        ensure!(taken == Ok(6), "{}: the peer cannot send: {taken:?}", probe.name);
        self.exchange()?;
        self.close(server)
    }

    fn close(&mut self, handle: SocketHandle) -> Result<()> {
        self.peer.socket(handle).close();
        self.exchange()?;
        // Delayed acknowledgements and TIME-WAIT.
        for _ in 0..30 {
            self.now += Duration::from_secs(1);
            self.exchange()?;
        }
        Ok(())
    }

    /// Runs both sides until neither sends anything more.
    fn exchange(&mut self) -> Result<()> {
        let is_over = self.host.exchange(&mut self.peer, &mut self.now, |_| ());
        ensure!(is_over, "the host and the peer do not stop sending");
        Ok(())
    }
}
