//! `cargo lab up`: keeps a host running, for tools of your own.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::{Context, Result};
use machine::etw::{Enable, Event};
use machine::host::Application;
use machine::nt::Trace;
use machine::wire::{Family, Named, Namespace, Network};

use super::{as_root, driver, explain};
use crate::explain::{Firewall, profile};
use crate::hushport::EVENT_PROVIDER;
use crate::policy::{Assignment, state};
use crate::remote_registry::{self, Registry};
use crate::sandbox::{self, Job, Mode, Order, Wish, inner};
use crate::setup::{self, Need};
use crate::variants::Variant;
use crate::world::{Hosted, Plan, Service};

/// The host and its driver.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run the host without a driver
    #[arg(long, conflicts_with = "driver")]
    no_driver: bool,
    #[command(flatten)]
    driver: driver::Arguments,
    /// A port that listens, on both families, with its application: 80, 7/echo or
    /// 9/hold; the default application is HTTP [default: 80]
    #[arg(long, value_name = "PORT[/APPLICATION]", value_parser = listener)]
    listen: Vec<(u16, Application)>,
    /// A value of the driver's policy, as in its registry key: a number, or strings
    /// separated by commas
    #[arg(long, value_name = "NAME=VALUE", value_parser = str::parse::<Assignment>)]
    set: Vec<Assignment>,
    /// A UDP port that echoes datagrams, on both families
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,
    /// Change a point that the documents leave open; may be repeated
    #[arg(long, value_name = "NAME", value_parser = super::variant)]
    variant: Vec<&'static Variant>,
    /// Add the filters that `netsh wfp show state` wrote on a machine
    #[arg(long, value_name = "wfpstate.xml")]
    state: Option<std::path::PathBuf>,
    /// Add Windows Firewall with its stock filters: in stealth for every profile, for
    /// none, or for these
    #[arg(long, value_name = "on|off|PROFILES", value_parser = str::parse::<Firewall>,
        conflicts_with = "state")]
    firewall: Option<Firewall>,
    /// The profile of the host's network, which filters ask for
    #[arg(long, value_name = "public|private|domain", default_value = "public", value_parser = profile)]
    profile: u32,
    /// Write every packet to this file at the end
    #[arg(long, value_name = "FILE.pcap")]
    pcap: Option<std::path::PathBuf>,
    /// Write the driver's events to this file as they come, one line of JSON for
    /// each; - is the terminal
    #[arg(long, value_name = "FILE|-")]
    events: Option<std::path::PathBuf>,
    /// Write the driver's entries of the System event log to this file as they come, as
    /// Event Viewer shows them; - is the terminal
    #[arg(long, value_name = "FILE|-")]
    event_log: Option<std::path::PathBuf>,
}

/// The name of the network, for `ip netns`.
pub const NAME: &str = "hushport";

impl Arguments {
    /// What the driver's process gets.
    fn job(&self) -> Result<Job> {
        let job = if self.no_driver { Job::without_driver() } else { self.driver.job()? };
        let pcap = self.pcap.iter().map(|path| (path.clone(), Mode::Whole));
        let streams = [&self.events, &self.event_log].into_iter().flatten();
        let streams = streams.filter_map(|path| Some((file(path)?.to_owned(), Mode::Stream)));
        Ok(Job {
            inputs: self.state.iter().chain(&job.inputs).cloned().collect(),
            outputs: pcap.chain(streams).collect(),
            ..job
        })
    }

    /// The world, without a driver.
    fn plan(&self) -> Result<Plan<'_>> {
        let listen = match &self.listen[..] {
            [] => vec![(80, Application::Http)],
            listen => listen.to_vec(),
        };
        let values = self.driver.values(&self.set)?;
        let registry = self.driver.registry()?;
        let datagrams = self.udp.clone();
        let mut plan = Plan { values, registry, listen, datagrams, ..Plan::default() };
        for variant in &self.variant {
            variant.turn(&mut plan);
        }
        plan.firewall.clone_from(&self.firewall);
        plan.profile = Some(self.profile);
        Ok(plan)
    }
}

/// Makes the network, and runs the host in the driver's process until interrupted.
///
/// # Errors
/// If something is missing on this machine.
pub fn start(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::IP])?;
    let job = arguments.job()?;
    let plan = arguments.plan()?;
    as_root()?;
    let (sender, orders) = mpsc::channel();
    let stop = sender.clone();
    ctrlc::set_handler(move || {
        let _gone = stop.send(Order::Stop);
    })?;
    let network = Network::default();
    let namespace = Namespace::new()?;
    let wire = Some(namespace.tun(&network)?.into_descriptor());
    let named = Named::attach(NAME, &namespace);
    let (replies, reply) = mpsc::channel();
    let _registry = remote_registry::Served::start(Box::new(move |request| {
        // An answer that came too late for an earlier request.
        while reply.try_recv().is_ok() {}
        sender.send(Order::Ask(serde_json::to_string(&request)?))?;
        let text: String = reply.recv_timeout(PATIENCE)?;
        Ok(serde_json::from_str(&text)?)
    }))?;
    let enter = enter(&namespace, named.as_ref());
    let driver = job.driver.clone();
    let announce = move || announce(&plan, driver.as_deref(), &network, &enter);
    sandbox::run(Job { wire, ..job }, &mut Outside { orders, replies, announce })
}

/// How long the driver's process may take to answer about the registry.
const PATIENCE: Duration = Duration::from_secs(18);

/// What the outer process does while the host runs.
struct Outside<F> {
    orders: Receiver<Order>,
    replies: Sender<String>,
    announce: F,
}

impl<F: Fn()> Wish for Outside<F> {
    fn ready(&mut self) -> Result<()> {
        (self.announce)();
        Ok(())
    }

    fn order(&mut self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    fn answered(&mut self, reply: String) {
        // If the outer process has gone, nothing needs the answer.
        let _heard = self.replies.send(reply);
    }
}

/// Runs the host until the outer process says to stop.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let orders = inner::orders().context("this is not the driver's process")?;
    let driver = if arguments.no_driver { None } else { Some(arguments.driver.sys()?) };
    let service = arguments.driver.service();
    // Only hushport reports which values it accepts.
    let hushport = driver.filter(|_| arguments.driver.is_hushport());
    let state = arguments.state.as_deref().map(explain::read).transpose()?.map(Arc::new);
    let plan = Plan { driver, service: Service(&service), state, ..arguments.plan()? };
    let mut world = plan.hosted(inner::wire(&Network::default().interface)?)?;
    if let Some(sys) = hushport {
        state::check(world.machine.kernel(), sys, &plan.values)?;
    }
    let _session = arguments.events.as_deref().map(|path| listen_to(&world, path)).transpose()?;
    let mut log = match &arguments.event_log {
        Some(path) => Some(EventLog { lines: lines("--event-log", path)?, written: 0 }),
        None => None,
    };
    let mut registry = Registry::new(Arc::clone(world.machine.kernel()), &service, hushport)?;
    inner::ready()?;
    let stopped = serve(&world, &mut registry, &orders, log.as_mut())?;
    println!();
    let report = world.host.report()?;
    println!("{}", report.counters);
    let mut well = !stopped;
    if driver.is_some() && !stopped {
        let left =
            world.machine.stop().map_err(|stop| anyhow::anyhow!("unload stopped the machine: {stop}"))?;
        println!(
            "left behind by the driver: {}",
            if left.is_empty() { "nothing".into() } else { left.to_string() }
        );
        well = left.is_empty();
        for advised in world.machine.kernel().verifier().advice() {
            println!("against advice: {}", advised.violation);
        }
    }
    if let Some(log) = &mut log {
        log.follow(&world);
    }
    if let Some(path) = &arguments.pcap {
        let file = inner::create(path).with_context(|| format!("--pcap {}", path.display()))?;
        world.recorder.write_pcap(BufWriter::new(file))?;
    }
    world.host.stop()?;
    Ok(well)
}

/// Answers requests until the end. Returns whether the driver stopped the machine.
fn serve(
    world: &Hosted,
    registry: &mut Registry,
    orders: &Receiver<Order>,
    mut log: Option<&mut EventLog>,
) -> Result<bool> {
    let mut stopped = false;
    loop {
        if let Some(log) = &mut log {
            log.follow(world);
        }
        match orders.recv_timeout(Duration::from_millis(200)) {
            Ok(Order::Ask(request)) => {
                let reply = registry.reply(serde_json::from_str(&request)?);
                inner::answer(serde_json::to_string(&reply)?)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(stopped),
        }
        if let Some(stop) = world.machine.kernel().stopped().filter(|_| !stopped) {
            eprintln!("lab: the driver stopped the machine; its callouts are gone\n{stop}");
            stopped = true;
        }
    }
}

/// The file of an option, unless that is the terminal.
fn file(path: &Path) -> Option<&Path> {
    Some(path).filter(|path| path.as_os_str() != "-")
}

/// Where an option's lines go.
fn lines(option: &str, path: &Path) -> Result<Box<dyn Write + Send>> {
    Ok(match file(path) {
        None => Box::new(std::io::stdout()),
        Some(file) => Box::new(inner::create(file).with_context(|| format!("{option} {}", file.display()))?),
    })
}

/// Shows the System event log as it grows.
struct EventLog {
    lines: Box<dyn Write + Send>,
    /// The record that was written last.
    written: u64,
}

impl EventLog {
    /// Writes what is new.
    fn follow(&mut self, world: &Hosted) {
        let kernel = world.machine.kernel();
        let written = self.written;
        for entry in kernel.error_log().iter().filter(|entry| entry.record > written) {
            let messages = kernel.messages(&entry.source);
            let (severity, source, id) = (entry.severity(), &entry.source, entry.id());
            let (category, text) = (entry.category(&messages), entry.text(&messages));
            // A failed write, such as to a full disk, does not stop the host.
            let _written = writeln!(self.lines, "{severity}  {source}  event {id} ({category})  {text}")
                .and_then(|()| self.lines.flush());
            self.written = entry.record;
        }
    }
}

/// Writes the driver's events as they come.
fn listen_to(world: &Hosted, path: &Path) -> Result<Trace> {
    let mut lines = lines("--events", path)?;
    let write = move |event: &Event| {
        // A failed write, such as to a full disk, does not stop the host.
        let _written = writeln!(lines, "{}", event.json()).and_then(|()| lines.flush());
    };
    Ok(world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), Some(Box::new(write))))
}

fn announce(plan: &Plan<'_>, driver: Option<&Path>, network: &Network, enter: &str) {
    let ports: Vec<_> = plan.listen.iter().map(|(port, _)| port.to_string()).collect();
    let ports = ports.join(",");
    let hosts = Family::BOTH.map(|family| network.host_address(family));
    let [v4, v6] = &hosts;
    println!("driver     {}", driver.map_or("none".into(), |driver| driver.display().to_string()));
    for (name, value) in &plan.values {
        println!("           {name} = {}", remote_registry::text(value));
    }
    println!("host       {v4}, {v6}");
    println!("listening  {ports}");
    println!("interface  {} in the namespace\n", network.interface);
    println!("reach it with");
    println!("  {enter} nmap -sS -Pn -n -p 1-100 {v4}");
    println!("  {enter} nmap -6 -sS -Pn -n --send-ip -p 1-100 {v6}");
    let port = plan.listen.first().map_or(80, |(port, _)| *port);
    println!("  {enter} curl http://{v4}:{port}/");
    println!("  {enter} tcpdump -ni {}", network.interface);
    println!("\nread and change the driver's values with");
    println!("  cargo lab reg");
    println!("\nCtrl-C ends it.");
}

/// The prefix that makes a command run in the host's network.
pub fn enter(namespace: &Namespace, named: Option<&Named>) -> String {
    match named {
        Some(named) => format!("ip netns exec {}", named.name()),
        // If `ip netns` cannot name the namespace, it is entered through this
        // process.
        None => format!(
            "nsenter --preserve-credentials --user=/proc/{}/ns/user --net={}",
            std::process::id(),
            namespace.path().display()
        ),
    }
}

fn listener(text: &str) -> Result<(u16, Application), String> {
    let (port, application) = text.split_once('/').unwrap_or((text, "http"));
    let application = match application {
        "http" => Application::Http,
        "echo" => Application::Echo,
        "hold" => Application::Hold,
        other => return Err(format!("{other:?}: expected http, echo or hold")),
    };
    match port.parse() {
        Ok(0) | Err(_) => Err(format!("{port:?}: expected a port from 1 to 65535")),
        Ok(port) => Ok((port, application)),
    }
}
