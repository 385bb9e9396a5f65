//! `cargo lab run`: anybody's driver, loaded, put under traffic, checked, unloaded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use machine::host::Application;
use machine::image::PeFile;
use machine::sweep::Variant;
use machine::wire::{Family, Named};

use super::{as_root, driver, faults, up};
use crate::anydriver::host::{self, Companion, Question, Told};
use crate::anydriver::{Verdict, seeded};
use crate::policy::Assignment;
use crate::programs::Programs;
use crate::programs::server::Server;
use crate::sandbox::{self, Job, Mode, Nothing, inner};
use crate::scan;
use crate::setup::{self, Need};
use crate::world::apart::Apart;
use crate::world::{Near, Plan, Service};

/// The driver, and what happens to it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    given: driver::Given,
    /// A value in the driver's `Parameters` key: a number, or strings separated by
    /// commas
    #[arg(long, value_name = "NAME=VALUE", value_parser = str::parse::<Assignment>)]
    set: Vec<Assignment>,
    /// Scan the host with nmap, and fetch pages with curl
    #[arg(long)]
    traffic: bool,
    /// Then make every call of the driver that can fail do so in turn, as
    /// `cargo lab faults`
    #[arg(long)]
    faults: bool,
    /// The number of processors of the machine
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    processors: u32,
    /// Then load and unload it under traffic on all processors, in an order that this
    /// number fixes
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Write a page for a browser: the layers of each packet, and the driver's answers
    #[arg(long, value_name = "FILE.html")]
    trace: Option<PathBuf>,
    /// Let programs open the driver's devices through a Unix socket, until Ctrl-C
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The parts of the command that have a process of their own.
const HOST: usize = 0;
const SEEDED: usize = 1;
const FAULTS: usize = 2;

const HTTP: u16 = 80;
const ECHO: u16 = 7;
/// The ports that nmap scans: two that listen, 98 that do not.
const PORTS: &str = "1-100";
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs the driver. Returns whether nothing was wrong.
///
/// # Errors
/// If a file is wrong, or something is missing on this machine.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let driver = arguments.given.arguments();
    let service = driver.service();
    let mut plan = Plan {
        service: Service(&service),
        values: driver.values(&arguments.set)?,
        registry: driver.registry()?,
        ..served()
    };
    plan.machine.processors = arguments.processors;
    let sys = driver.sys()?;
    match inner::task() {
        None => outside(arguments, &driver, &plan),
        Some(HOST) => host::run(&Plan { driver: Some(sys), ..plan }, |kernel| {
            let programs = arguments.socket.as_ref().map(|_| Programs::start(kernel, inner::programs()?));
            Ok(programs.transpose()?.map(|programs| Box::new(programs) as Box<dyn Companion>))
        }),
        Some(SEEDED) => Ok(seeded::play(&plan, sys, arguments.seed.unwrap_or_default())? == Verdict::Well),
        Some(FAULTS) => {
            let file = PeFile::read(sys).with_context(|| format!("cannot read {}", sys.display()))?;
            faults::sweep(&Arc::new(file), &driver, &arguments.set, Variant::Plain, 1, None)
        }
        Some(other) => anyhow::bail!("there is no part {other}"),
    }
}

/// A host with a page and an echo.
pub fn served() -> Plan<'static> {
    let listen = vec![(HTTP, Application::Http), (ECHO, Application::Echo)];
    Plan { listen, datagrams: vec![ECHO], ..Plan::default() }
}

/// What a part of the command came to.
struct Part {
    what: &'static str,
    is_well: bool,
    /// The last line's words for it.
    verdict: String,
}

fn outside(arguments: &Arguments, driver: &driver::Arguments, plan: &Plan<'_>) -> Result<bool> {
    setup::ensure(&[Need::IP])?;
    if arguments.traffic {
        setup::ensure(&[Need::NMAP, Need::CURL])?;
    }
    let job = |task| Ok::<_, anyhow::Error>(Job { task, is_last: false, ..driver.job()? });
    let host_job = job(HOST)?;
    as_root()?;
    sandbox::drop_privileges()?;
    println!("driver   {}, service {}", driver.sys()?.display(), plan.service.0);
    let mut parts = vec![on_a_host(arguments, host_job)?];
    let runs = parts[0].is_well;
    if arguments.seed.is_some() && runs {
        parts.push(apart("under the seed", job(SEEDED)?)?);
    }
    if arguments.faults && runs {
        println!("\neach call that can fail fails in turn");
        parts.push(apart("where calls fail", job(FAULTS)?)?);
    }
    match parts.iter().find(|part| !part.is_well) {
        Some(part) => println!("\nverdict: {}{}", part.verdict, part.what),
        None => println!("\nverdict: {}", Verdict::Well),
    }
    Ok(parts.iter().all(|part| part.is_well))
}

/// Runs a part that needs no network.
fn apart(what: &'static str, job: Job) -> Result<Part> {
    let is_well = sandbox::judge(job, &mut Nothing)?.tell();
    let verdict = "not well ".to_owned();
    Ok(Part { what, is_well, verdict })
}

/// Loads the driver, puts a host behind it, and unloads it.
fn on_a_host(arguments: &Arguments, job: Job) -> Result<Part> {
    let page = arguments.trace.iter().map(|path| (path.clone(), Mode::Whole)).collect();
    let (server, programs) = match &arguments.socket {
        Some(path) => Server::start(path).map(|(server, programs)| (Some(server), Some(programs)))?,
        None => (None, None),
    };
    let mut world = Apart::start(Job { outputs: page, programs, ..job }, HOST)?;
    let played = play(arguments, &mut world);
    drop(server);
    let (verdict, is_well) = judged(world, played)?;
    Ok(Part { what: "", is_well, verdict })
}

/// Ends a world. Returns the verdict in words, and whether all was well.
///
/// # Errors
/// The one of the play, if the driver's process has no fault.
pub fn judged(world: Apart, played: Result<Verdict>) -> Result<(String, bool)> {
    let ended = world.end()?;
    ended.tell();
    let verdict = match (played, &ended.faults[..]) {
        (Ok(verdict), []) => verdict.to_string(),
        (_, [first, ..]) => format!("the driver's process failed: {}", sandbox::shown(first)),
        (Err(error), []) => return Err(error),
    };
    Ok((verdict, ended.holds()))
}

fn play(arguments: &Arguments, world: &mut Apart) -> Result<Verdict> {
    let verdict = told(world, &Question::Shown, true)?;
    if verdict != Verdict::Well {
        return Ok(verdict);
    }
    println!("traffic");
    for family in Family::BOTH {
        println!("  {family}: {}", sandbox::shown(&exchange(world, family)?));
    }
    if arguments.traffic {
        for family in Family::BOTH {
            println!("  {family}: nmap -sS -p {PORTS}: {}", scanned(world, family)?);
            println!("  {family}: curl: {}", sandbox::shown(&fetched(world, family)?));
        }
    }
    if let Some(path) = &arguments.socket {
        let _named = announce(world);
        println!("socket   {}", path.display());
        until_the_end(world)?;
    }
    if let Some(path) = &arguments.trace {
        world
            .ask::<()>(&Question::Page(path.clone()))
            .with_context(|| format!("--trace {}", path.display()))?;
        println!("the page is {}", path.display());
    }
    println!("unload");
    told(world, &Question::Unload, true)
}

/// Asks, and prints what the driver's process tells if `is_shown` says so. Returns its
/// verdict.
///
/// # Errors
/// If the driver's process is gone.
pub fn told(world: &mut Apart, question: &Question, is_shown: bool) -> Result<Verdict> {
    let mut part: Told = world.ask(question)?;
    loop {
        if is_shown || part.verdict != Verdict::Well {
            print!("{}", sandbox::shown(&part.text));
        }
        if !part.more {
            return Ok(part.verdict);
        }
        part = world.ask(&Question::More)?;
    }
}

/// Waits until Ctrl-C, until the driver's process asks for the end, or until the
/// machine stops.
pub fn until_the_end(world: &mut Apart) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(100);
    let over = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&over);
    ctrlc::set_handler(move || end.store(true, Ordering::SeqCst))?;
    println!("Ctrl-C ends it.");
    std::io::stdout().flush()?;
    while !over.load(Ordering::SeqCst) && world.ask(&Question::Runs)? {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Says how to reach the host. Its network has a name until the result is dropped.
pub fn announce(world: &Apart) -> Option<Named> {
    let named = Named::attach(up::NAME, world.namespace());
    let enter = up::enter(world.namespace(), named.as_ref());
    let [v4, v6] = Family::BOTH.map(|family| world.network().host_address(family));
    println!("host     {v4}, {v6}\nreach it with\n  {enter} curl http://{v4}/");
    named
}

/// A page over TCP and an echo over UDP, in words.
fn exchange(world: &Apart, family: Family) -> Result<String> {
    let address = world.network().host_address(family);
    let near: std::net::IpAddr = match family {
        Family::V4 => world.network().near.0.into(),
        Family::V6 => world.network().near.1.into(),
    };
    let words =
        |outcome: std::io::Result<String>| outcome.unwrap_or_else(|error| format!("no answer ({error})"));
    let [page, echo] = world.namespace().run(move || {
        [page(SocketAddr::new(address, HTTP)), echo(SocketAddr::new(near, 0), SocketAddr::new(address, ECHO))]
            .map(words)
    })?;
    Ok(format!("HTTP: {page}; UDP: {echo}"))
}

fn page(server: SocketAddr) -> std::io::Result<String> {
    let mut client = TcpStream::connect_timeout(&server, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    Ok(format!("{first}, {} bytes", answer.len()))
}

fn echo(from: SocketAddr, server: SocketAddr) -> std::io::Result<String> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"hello", server)?;
    let mut answer = [0; 64];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(format!("an echo of {length} bytes"))
}

/// How many ports are in which state, in words.
fn scanned(world: &Apart, family: Family) -> Result<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for state in scan::tcp(world, family, "-sS", PORTS)?.into_values() {
        *counts.entry(state).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    Ok(counts.join(", "))
}

/// How curl ended, in words.
pub fn fetched(world: &Apart, family: Family) -> Result<String> {
    let url = format!("http://{}/", SocketAddr::new(world.network().host_address(family), HTTP));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "5", "--write-out", " %{http_code}", &url]);
    let output = world.namespace().output(curl)?;
    Ok(match output.status.success() {
        true => format!("{} bytes, code{}", output.stdout.len(), tail(&output.stdout)),
        false => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// The code that curl writes last.
fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.rsplit_once(' ').map_or_else(String::new, |(_, code)| format!(" {code}"))
}
