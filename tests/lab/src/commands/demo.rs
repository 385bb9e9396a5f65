//! `cargo lab demo`: shows the driver at work, from a first scan to the unload.

mod inside;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use machine::host::{Application, Options};
use machine::wire::{Family, Way};

use inside::{Foreign, Outcome, Question, Told};

use super::as_root;
use crate::explain::Firewall;
use crate::report::{Check, Checks};
use crate::sandbox::{self, Job, Mode, inner};
use crate::scan::{self, States};
use crate::setup::{self, Need, Target};
use crate::world::apart::Apart;
use crate::world::{Near, Plan};

const OPEN: u16 = 80;
const ECHO: u16 = 7;
/// The scanned ports: two that listen, 98 that do not.
const PORTS: &str = "1-100";
const CLOSED: usize = 98;
const PATIENCE: Duration = Duration::from_secs(10);

/// What stands beside the driver.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Add Windows Firewall with its stock filters: in stealth for every profile, for
    /// none, or for these; the host's network is public
    #[arg(long, value_name = "on|off|PROFILES", value_parser = str::parse::<Firewall>)]
    firewall: Option<Firewall>,
}

impl Arguments {
    /// The state that nmap must report for closed ports without the driver. Windows
    /// Firewall's stealth silences what the driver lets pass.
    fn closed(&self) -> &'static str {
        match &self.firewall {
            Some(firewall) if firewall.is_stealthy(Options::default().profile) => "filtered",
            _ => "closed",
        }
    }

    fn plan(&self) -> Plan<'_> {
        let listen = vec![(OPEN, Application::Http), (ECHO, Application::Echo)];
        Plan { listen, datagrams: vec![ECHO], firewall: self.firewall.clone(), ..Plan::default() }
    }
}

/// The worlds of the demo, each in a process of its own.
const WITHOUT: usize = 0;
const WITH: usize = 1;

/// Runs the demo. Returns whether everything was as expected.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let plan = arguments.plan();
    match inner::task() {
        Some(WITHOUT) => return inside::run(&plan),
        Some(_) => return inside::run(&Plan { driver: inner::driver(), ..plan }),
        None => {}
    }
    let closed = arguments.closed();
    setup::ensure(&[Need::Libclang, Need::NMAP, Need::IP, Need::CURL])?;
    let mut steps = Steps::default();
    steps.next("build hushport.sys");
    let driver = setup::build(Target::X64)?;
    println!("  {}", driver.sys.display());
    as_root()?;
    sandbox::drop_privileges()?;
    let mut checks = Checks::default();
    let without = Apart::start(Job::of(driver.sys.clone()), WITHOUT)?;
    steps.next("nmap -sS, without the driver");
    scans(&without, "without", closed, &mut checks)?;
    end(without, "without the driver", &mut checks)?;

    let page = setup::state().join("demo.html");
    let job = Job { outputs: vec![(page.clone(), Mode::Whole)], ..Job::of(driver.sys.clone()) };
    let mut world = Apart::start(job, WITH)?;
    steps.next("nmap -sS, with the driver");
    world.ask::<()>(&Question::Listen)?;
    scans(&world, "with", "filtered", &mut checks)?;
    told(&mut world, &Question::Silenced, &mut checks)?;
    steps.next("curl through the open port");
    for family in Family::BOTH {
        fetch(&world, family, &mut checks)?;
    }
    steps.next("connections and datagrams out of the host, to a server in the namespace");
    for family in Family::BOTH {
        connect(&mut world, family, &mut checks)?;
        greet(&mut world, family, &mut checks)?;
        ask(&mut world, family, &mut checks)?;
    }
    steps.next("the layers of each flow, as the driver's callouts saw them");
    for family in Family::BOTH {
        reauthorize(&mut world, family)?;
        abort(&world, family)?;
        answer_once(&mut world, family, closed)?;
        world.ask::<()>(&Question::CloseDatagrams(address(&world, family, ECHO)))?;
    }
    for (port, family) in [OPEN, ECHO].into_iter().flat_map(|port| Family::BOTH.map(|family| (port, family)))
    {
        world.ask::<()>(&Question::Unlisten(address(&world, family, port)))?;
    }
    told(&mut world, &Question::Show { answers: closed == "closed", page: page.clone() }, &mut checks)?;
    steps.next("unload");
    println!("  after {} packets from the host", world.recorder()?.count(Way::FromHost, |_| true));
    told(&mut world, &Question::Unload, &mut checks)?;
    let capture = setup::state().join("demo.pcap");
    world.recorder()?.write_pcap(std::fs::File::create(&capture)?)?;
    end(world, "with the driver", &mut checks)?;
    println!("  every packet is in {}", Path::new(&capture).display());
    println!("  every connection's layers are drawn in {}", page.display());
    steps.end();
    assert_eq!(steps.begun, Steps::ALL);
    println!("\n{checks}");
    Ok(checks.hold())
}

/// Prints what the driver's process tells, and adds its comparisons.
fn told(world: &mut Apart, question: &Question, checks: &mut Checks) -> Result<()> {
    let Told { text, checks: theirs } = world.ask(question)?;
    print!("{}", sandbox::shown(&text));
    for Check { what, expected, seen } in theirs {
        checks.note(what, expected, seen);
    }
    Ok(())
}

/// Ends a world, and notes how its process ended.
fn end(world: Apart, how: &str, checks: &mut Checks) -> Result<()> {
    let verdict = world.end()?;
    let seen = match &verdict.faults[..] {
        [] if verdict.well => "well".to_owned(),
        [] => "not well".to_owned(),
        faults => faults.join("; "),
    };
    checks.note(format!("the driver's process, {how}"), "well", seen);
    Ok(())
}

fn address(world: &impl Near, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.network().host_address(family), port)
}

fn near(world: &impl Near, family: Family) -> IpAddr {
    match family {
        Family::V4 => world.network().near.0.into(),
        Family::V6 => world.network().near.1.into(),
    }
}

/// Prints the steps of the demo.
#[derive(Default)]
struct Steps {
    begun: usize,
    since: Option<Instant>,
}

impl Steps {
    /// The number of steps.
    const ALL: usize = 7;

    /// Prints the time that the last step took, and the name of the next one.
    fn next(&mut self, what: &str) {
        self.end();
        self.begun += 1;
        println!("step {} of {}: {what}", self.begun, Self::ALL);
        self.since = Some(Instant::now());
    }

    fn end(&mut self) {
        if let Some(since) = self.since.take() {
            println!("  ({:.1} s)\n", since.elapsed().as_secs_f64());
        }
    }
}

/// Scans both families. `expected` is the state that nmap must report for closed
/// ports.
fn scans(world: &Apart, how: &str, expected: &str, checks: &mut Checks) -> Result<()> {
    for family in Family::BOTH {
        let before = world.recorder()?.resets(family);
        let states = scan::tcp(world, family, "-sS", PORTS)?;
        let resets = world.recorder()?.resets(family) - before;
        let others = states.iter().filter(|(port, _)| ![OPEN, ECHO].contains(port));
        let mut counted = BTreeMap::new();
        for (_, state) in others {
            *counted.entry(&**state).or_insert(0_usize) += 1;
        }
        let summary: Vec<_> = counted.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let summary = summary.join(", ");
        println!("  {family}: port {OPEN} {}, {summary}, {resets} RST on the wire", state(&states, OPEN));
        let what = format!("{family} {how} driver");
        checks.note(format!("{what}: closed ports"), format!("{CLOSED} {expected}"), &summary);
        checks.note(format!("{what}: port {OPEN}"), "open", state(&states, OPEN));
        // A closed port that answers sends one RST for each probe.
        let answered = match resets {
            0 => "no",
            _ if resets >= CLOSED => "each port",
            _ => "some ports",
        };
        let required = if expected == "closed" { "each port" } else { "no" };
        checks.note(format!("{what}: RST on the wire"), required, answered);
    }
    Ok(())
}

fn state(states: &States, port: u16) -> &str {
    states.get(&port).map_or("unknown", String::as_str)
}

fn fetch(world: &Apart, family: Family, checks: &mut Checks) -> Result<()> {
    let mut curl = Command::new("curl");
    let url = format!("http://{}/bytes/100000", address(world, family, OPEN));
    curl.args(["--silent", "--show-error", "--max-time", "10", &url]);
    let output = world.namespace().output(curl)?;
    println!("  {url}: {} bytes", output.stdout.len());
    if !output.status.success() {
        println!("  curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    checks.note(format!("{family} curl through port {OPEN}: bytes"), 100_000, output.stdout.len());
    Ok(())
}

fn connect(world: &mut Apart, family: Family, checks: &mut Checks) -> Result<()> {
    let near = near(world, family);
    let listener = world.namespace().run(move || TcpListener::bind((near, 0)))??;
    let address = listener.local_addr()?;
    let server = world.namespace().thread(move || serve_once(&listener))?;
    let outcome: Outcome = world.ask(&Question::Connect(address, b"from the host\n".to_vec()))?;
    let heard = server.join().ok().context("the server panicked")??;
    println!(
        "  to {address}: sent {:?}, received {:?}",
        heard.trim_end(),
        String::from_utf8_lossy(&outcome.received).trim_end()
    );
    let answer = format!("{}, {}", outcome.state, String::from_utf8_lossy(&outcome.received).trim_end());
    checks.note(format!("{family} connection out"), "Closed, heard: from the host", answer);
    Ok(())
}

/// Connects to a server that speaks first, so that the host sends the handshake's ACK
/// without data.
fn greet(world: &mut Apart, family: Family, checks: &mut Checks) -> Result<()> {
    let near = near(world, family);
    let listener = world.namespace().run(move || TcpListener::bind((near, 0)))??;
    let address = listener.local_addr()?;
    let server = world.namespace().thread(move || {
        let (mut stream, _) = listener.accept()?;
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"220 ready")
    })?;
    let outcome: Outcome = world.ask(&Question::Connect(address, Vec::new()))?;
    server.join().ok().context("the server panicked")??;
    let text = String::from_utf8_lossy(&outcome.received);
    println!("  to {address}: the server speaks first, received {text:?}");
    checks.note(format!("{family} connection out, server first"), "Closed, 220 ready", {
        format!("{}, {text}", outcome.state)
    });
    Ok(())
}

/// The host sends a datagram, gets the answer, and sends another one. Then it closes
/// its socket.
fn ask(world: &mut Apart, family: Family, checks: &mut Checks) -> Result<()> {
    let near = near(world, family);
    let server = world.namespace().run(move || datagram_socket(near))??;
    let address = server.local_addr()?;
    let local: SocketAddr = world.ask(&Question::SendDatagram(None, address, b"question".to_vec()))?;
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer)?;
    server.send_to(b"answer", from)?;
    settle(world)?;
    let more = Question::SendDatagram(Some(local), address, b", and another".to_vec());
    world.ask::<SocketAddr>(&more)?;
    let more = server.recv(&mut buffer[length..])?;
    world.ask::<()>(&Question::CloseDatagrams(local))?;
    let heard = String::from_utf8_lossy(&buffer[..length + more]).into_owned();
    println!("  to {address} by UDP: {heard:?}");
    checks.note(format!("{family} datagrams out"), "question, and another", heard);
    Ok(())
}

fn datagram_socket(near: std::net::IpAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((near, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

/// Answers one line and closes the connection.
fn serve_once(listener: &TcpListener) -> std::io::Result<String> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 256];
    let length = stream.read(&mut buffer)?;
    let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
    stream.write_all(format!("heard: {heard}").as_bytes())?;
    Ok(heard)
}

/// Adds a foreign filter twice while a connection is open, so that its next packet
/// is authorized again: one filter permits it, the other does not.
fn reauthorize(world: &mut Apart, family: Family) -> Result<()> {
    let address = address(world, family, ECHO);
    let mut client = world.namespace().run(move || client(address))??;
    let near = near(world, family);
    let datagrams = world.namespace().run(move || datagram_socket(near))??;
    datagrams.connect(address)?;
    echo(&mut client, b"before")?;
    for text in [b"first", b"later"] {
        datagrams.send(text)?;
        datagrams.recv(&mut [0; 16]).context("no echo of a datagram")?;
    }
    settle(world)?;
    let is_v6 = family == Family::V6;
    world.ask::<()>(&Question::Filter { is_v6, foreign: Foreign::Permit })?;
    echo(&mut client, b"permitted")?;
    datagrams.send(b"permitted")?;
    datagrams.recv(&mut [0; 16]).context("no echo of a permitted datagram")?;
    settle(world)?;
    world.ask::<()>(&Question::Filter { is_v6, foreign: Foreign::Block })?;
    client.write_all(b"blocked")?;
    datagrams.send(b"blocked")?;
    let mut nothing = [0; 16];
    let answered =
        client.read(&mut nothing).is_ok_and(|length| length > 0) || datagrams.recv(&mut nothing).is_ok();
    world.ask::<()>(&Question::Filter { is_v6, foreign: Foreign::Remove })?;
    if answered {
        bail!("{address} answers on a connection that a foreign filter blocks");
    }
    Ok(())
}

/// A client ends a connection with a RST, because it has not read what it was sent.
fn abort(world: &Apart, family: Family) -> Result<()> {
    let address = address(world, family, ECHO);
    let mut client = world.namespace().run(move || client(address))??;
    client.write_all(b"unread")?;
    client.peek(&mut [0; 16]).context("no echo")?;
    drop(client);
    settle(world)?;
    Ok(())
}

/// Sets `Mode` to 0 while the driver runs, so that it answers as Windows does,
/// until a closed port has sent its RST and its ICMP error, if Windows Firewall lets
/// them. Then sets `Mode` to 2 again.
fn answer_once(world: &mut Apart, family: Family, without: &str) -> Result<()> {
    use std::io::ErrorKind::{ConnectionRefused, TimedOut};
    let closed = address(world, family, OPEN + 1);
    let off = if without == "closed" { ConnectionRefused } else { TimedOut };
    for (mode, required) in [(0, off), (2, TimedOut)] {
        world.ask::<()>(&Question::Mode(mode))?;
        let connect = move || TcpStream::connect_timeout(&closed, Duration::from_millis(300));
        let end = Instant::now() + PATIENCE;
        while world.namespace().run(connect)?.map_or_else(|error| error.kind(), |_| std::io::ErrorKind::Other)
            != required
        {
            if Instant::now() > end {
                bail!("{closed} does not behave as Mode = {mode} requires");
            }
        }
        if mode == 0 {
            let near = near(world, family);
            let socket = world.namespace().run(move || datagram_socket(near))??;
            socket.connect(closed)?;
            socket.send(b"anybody?")?;
            let error = socket.recv(&mut [0; 16]).err().map(|error| error.kind());
            if (error == Some(ConnectionRefused)) != (off == ConnectionRefused) {
                bail!("{closed}/udp does not behave as Mode = 0 requires: {error:?}");
            }
        }
    }
    Ok(())
}

/// Waits until no packet is in flight, so that the next packet carries data and is
/// not an acknowledgement.
fn settle(world: &Apart) -> Result<()> {
    let packets = || -> Result<_> { Ok(world.recorder()?.packets().len()) };
    let mut before = packets()?;
    loop {
        std::thread::sleep(Duration::from_millis(120));
        match packets()? {
            now if now == before => return Ok(()),
            now => before = now,
        }
    }
}

fn client(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

fn echo(client: &mut TcpStream, text: &[u8]) -> Result<()> {
    client.write_all(text)?;
    let mut back = vec![0; text.len()];
    client
        .read_exact(&mut back)
        .with_context(|| format!("no echo of {:?}", String::from_utf8_lossy(text)))?;
    Ok(())
}
