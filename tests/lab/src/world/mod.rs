//! A running world: network namespace, machine, host, and maybe the driver.

pub mod apart;
pub mod product;
pub mod reinjector;
pub mod stronger;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use machine::Machine;
use machine::host::{Application, Disorder, Disordered, Filter, Host, HostHandle, OpenPoints, spawn};
use machine::nt::registry::RegistryValue;
use machine::verifier::rules;
use machine::wfp::{ActionType, NO_ACTION};
use machine::wire::{Family, Loss, Lossy, Namespace, Network, Recorder, Recording, Tun};
use machine::{host, nt, wfp};

use crate::explain;
use crate::hushport::SERVICE;
use crate::registry_file::Changes;

/// The plan of a world.
#[derive(Clone, Debug, Default)]
pub struct Plan<'a> {
    /// The driver to start; `None` starts none.
    pub driver: Option<&'a Path>,
    /// The driver's service.
    pub service: Service<'a>,
    /// The values in the driver's `Parameters` key.
    pub values: Vec<(String, RegistryValue)>,
    /// The keys of the driver's service that a file gives.
    pub registry: Changes,
    /// Ports that listen, on both families, and their applications.
    pub listen: Vec<(u16, Application)>,
    /// UDP ports that echo, on both families.
    pub datagrams: Vec<u16>,
    /// The points about the stack that Microsoft's documents leave open.
    pub open_points: OpenPoints,
    /// The points about the filter engine that they leave open.
    pub engine: wfp::Options,
    /// Whether a sublayer of higher weight hard-permits at every layer where the
    /// driver decides.
    pub stronger: bool,
    /// Another product, which injects again what arrives.
    pub reinjects: Option<reinjector::Reinjects>,
    /// Filters of a real machine, beside the driver's.
    pub state: Option<Arc<explain::State>>,
    /// Windows Firewall with its stock filters, beside the driver's.
    pub firewall: Option<explain::Firewall>,
    /// The number of the profile of the host's network; `None` is the host's default.
    pub profile: Option<u32>,
    /// The machine.
    pub machine: nt::Options,
    /// A fault to plant in the order of layers.
    pub disorder: Option<Disorder>,
    /// The packets that the wire loses.
    pub loss: Loss,
}

/// The name of a service; hushport's by default.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a>(pub &'a str);

impl Default for Service<'_> {
    fn default() -> Self {
        Self(SERVICE)
    }
}

/// A running world.
pub struct World {
    /// The namespace where scanners and clients run.
    pub namespace: Namespace,
    /// The addresses.
    pub network: Network,
    /// Every packet that the host sent or received.
    pub recorder: Arc<Recorder>,
    /// The kernel, the engine and the driver.
    pub machine: Machine,
    /// The host between network and machine.
    pub host: HostHandle,
}

/// The network's side of a world: where scanners and clients run.
pub trait Near {
    /// Their namespace.
    fn namespace(&self) -> &Namespace;

    /// The addresses.
    fn network(&self) -> &Network;
}

impl Near for World {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn network(&self) -> &Network {
        &self.network
    }
}

/// A world without its network: what the process of the driver holds.
pub struct Hosted {
    /// The addresses.
    pub network: Network,
    /// Every packet that the host sent or received.
    pub recorder: Arc<Recorder>,
    /// The kernel, the engine and the driver.
    pub machine: Machine,
    /// The host between network and machine.
    pub host: HostHandle,
}

/// The maximum size of the packets that a world records, in bytes.
pub const KEPT_PACKETS: usize = 256 << 20;

impl Plan<'_> {
    /// Creates the machine and starts its driver.
    ///
    /// # Errors
    /// If the driver does not start.
    pub fn machine(&self) -> Result<Machine> {
        let is_foreign = self.service.0 != SERVICE;
        let mut engine = self.engine.clone();
        if is_foreign {
            // It shows whether a callout sets an action.
            engine.initial_action = NO_ACTION;
        }
        let mut machine = Machine::with(self.service.0, self.machine.clone(), engine);
        if is_foreign {
            machine.report_missing_at_call();
            for rule in rules::OF_CLASSIFY {
                machine.kernel().verifier().tolerate(rule);
            }
        }
        // The INF creates the key, so the driver can watch it from the start.
        machine.kernel().create_key(&nt::parameters_key(self.service.0));
        self.registry.apply(machine.kernel());
        for (name, value) in &self.values {
            machine.set_value(name, value.clone());
        }
        if self.stronger {
            stronger::add(machine.engine(), ActionType::PERMIT)?;
        }
        if let Some(into) = self.reinjects {
            reinjector::add(machine.engine(), into)?;
        }
        if let Some(state) = &self.state {
            eprintln!("lab: {}", explain::load(state, machine.engine())?);
        }
        if let Some(firewall) = &self.firewall {
            let loaded = explain::load(&firewall.state(), machine.engine())?;
            ensure!(loaded.left_out.is_empty(), "Windows Firewall: {loaded}");
        }
        if let Some(driver) = self.driver {
            machine.start(driver).with_context(|| format!("{} does not start", driver.display()))?;
        }
        Ok(machine)
    }
}

impl World {
    /// Starts everything. The driver starts first, so that it sees the host's
    /// sockets being created.
    pub fn start(plan: &Plan<'_>) -> Result<Self> {
        let namespace = Namespace::new()?;
        let tun = namespace.tun(&plan.options().network)?;
        let Hosted { network, recorder, machine, host } = plan.hosted(tun)?;
        Ok(Self { namespace, network, recorder, machine, host })
    }

    /// A port of the host.
    pub fn address(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.network.host_address(family), port)
    }

    /// The address of the network's side, where clients and servers run.
    pub fn near(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.network.near.0.into(),
            Family::V6 => self.network.near.1.into(),
        }
    }
}

impl Plan<'_> {
    /// The options of the host.
    fn options(&self) -> host::Options {
        let mut options = host::Options::default();
        options.profile = self.profile.unwrap_or(options.profile);
        options
    }

    /// Starts machine, driver and host on the host's end of a wire.
    ///
    /// # Errors
    /// If the driver does not start, or a port cannot be opened.
    pub fn hosted(&self, tun: Tun) -> Result<Hosted> {
        self.host(self.machine()?, tun)
    }

    /// Starts the host of a machine on the host's end of a wire.
    ///
    /// # Errors
    /// If a port cannot be opened.
    pub fn host(&self, machine: Machine, tun: Tun) -> Result<Hosted> {
        let (plan, options) = (self, self.options());
        let network = options.network.clone();
        let recorder = Recorder::new(KEPT_PACKETS);
        let mut filter: Arc<dyn Filter> = Arc::clone(machine.engine()) as _;
        if let Some(disorder) = plan.disorder {
            filter = Arc::new(Disordered::new(filter, disorder));
        }
        let host = Host::new(filter, options, plan.open_points.clone());
        let wire = Lossy::new(tun, plan.loss);
        let host = spawn(host, Recording::new(wire, Arc::clone(&recorder)))?;
        for (port, application) in &plan.listen {
            for family in Family::BOTH {
                let local = SocketAddr::new(network.host_address(family), *port);
                host.listen(local, *application)?.with_context(|| format!("listening on {local}"))?;
            }
        }
        for port in &plan.datagrams {
            for family in Family::BOTH {
                let local = SocketAddr::new(network.host_address(family), *port);
                host.echo_datagrams(local)?.with_context(|| format!("UDP {local}"))?;
            }
        }
        Ok(Hosted { network, recorder, machine, host })
    }
}
