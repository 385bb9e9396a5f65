//! `cargo lab up`: keeps a host running, for tools of your own.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use machine::etw::{Enable, Event};
use machine::host::Application;
use machine::nt::Trace;
use machine::wire::{Family, Named};

use super::{as_root, driver, explain};
use crate::explain::{Firewall, profile};
use crate::hushport::EVENT_PROVIDER;
use crate::policy::{Assignment, state};
use crate::remote_registry;
use crate::setup::{self, Need};
use crate::variants::Variant;
use crate::world::{Plan, Service, World};

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
}

const NAME: &str = "hushport";

/// Runs the host until interrupted.
pub fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::IP])?;
    let driver = match arguments.no_driver {
        true => None,
        false => Some(arguments.driver.sys()?),
    };
    let service = arguments.driver.service();
    // Only hushport reports which values it accepts.
    let hushport = driver.filter(|_| arguments.driver.is_hushport());
    as_root()?;
    let (interrupted, interrupts) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _gone = interrupted.send(());
    })?;
    let listen = match &arguments.listen[..] {
        [] => vec![(80, Application::Http)],
        listen => listen.to_vec(),
    };
    let (values, datagrams) = (arguments.driver.values(&arguments.set)?, arguments.udp.clone());
    let mut plan = Plan { driver, service: Service(&service), values, listen, datagrams, ..Plan::default() };
    for variant in &arguments.variant {
        variant.turn(&mut plan);
    }
    plan.state = arguments.state.as_deref().map(explain::read).transpose()?.map(Arc::new);
    plan.firewall.clone_from(&arguments.firewall);
    plan.profile = Some(arguments.profile);
    let mut world = World::start(&plan)?;
    if let Some(sys) = hushport {
        state::check(world.machine.kernel(), sys, &plan.values)?;
    }
    let _session = arguments.events.as_deref().map(|file| listen_to(&world, file)).transpose()?;
    let _registry = remote_registry::Served::start(Arc::clone(world.machine.kernel()), &service, hushport)?;
    let named = Named::attach(NAME, &world.namespace);
    announce(&plan, &world, &enter(&world, named.as_ref()));
    let mut stopped = false;
    while interrupts.recv_timeout(Duration::from_millis(200)).is_err() {
        if let Some(stop) = world.machine.kernel().stopped().filter(|_| !stopped) {
            eprintln!("lab: the driver stopped the machine; its callouts are gone\n{stop}");
            stopped = true;
        }
    }
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
    }
    if let Some(path) = &arguments.pcap {
        let file = std::fs::File::create(path).with_context(|| format!("--pcap {}", path.display()))?;
        world.recorder.write_pcap(file)?;
    }
    world.host.stop()?;
    Ok(well)
}

/// Writes the driver's events as they come.
fn listen_to(world: &World, file: &Path) -> Result<Trace> {
    let mut lines: Box<dyn Write + Send> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdout()),
        false => {
            Box::new(std::fs::File::create(file).with_context(|| format!("--events {}", file.display()))?)
        }
    };
    let write = move |event: &Event| {
        // A failed write, such as to a full disk, does not stop the host.
        let _written = writeln!(lines, "{}", event.json()).and_then(|()| lines.flush());
    };
    Ok(world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), Some(Box::new(write))))
}

fn announce(plan: &Plan<'_>, world: &World, enter: &str) {
    let ports: Vec<_> = plan.listen.iter().map(|(port, _)| port.to_string()).collect();
    let ports = ports.join(",");
    let hosts = Family::BOTH.map(|family| world.network.host_address(family));
    let [v4, v6] = &hosts;
    println!("driver     {}", plan.driver.map_or("none".into(), |driver| driver.display().to_string()));
    for (name, value) in &plan.values {
        println!("           {name} = {}", remote_registry::text(value));
    }
    println!("host       {v4}, {v6}");
    println!("listening  {ports}");
    println!("interface  {} in the namespace\n", world.network.interface);
    println!("reach it with");
    println!("  {enter} nmap -sS -Pn -n -p 1-100 {v4}");
    println!("  {enter} nmap -6 -sS -Pn -n --send-ip -p 1-100 {v6}");
    let port = plan.listen.first().map_or(80, |(port, _)| *port);
    println!("  {enter} curl http://{v4}:{port}/");
    println!("  {enter} tcpdump -ni {}", world.network.interface);
    println!("\nread and change the driver's values with");
    println!("  cargo lab reg");
    println!("\nCtrl-C ends it.");
}

/// The prefix that makes a command run in the host's network.
fn enter(world: &World, named: Option<&Named>) -> String {
    match named {
        Some(named) => format!("ip netns exec {}", named.name()),
        // If `ip netns` cannot name the namespace, it is entered through this
        // process.
        None => format!(
            "nsenter --preserve-credentials --user=/proc/{}/ns/user --net={}",
            std::process::id(),
            world.namespace.path().display()
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
