//! `cargo lab demo`: shows the driver at work, from a first scan to the unload.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use machine::etw::{Enable, Event as DriverEvent, Value as Field};
use machine::host::documented::FLOWS;
use machine::host::{Application, Event, LIFECYCLES, Options, Outcome, State};
use machine::image::KERNEL_STACK_SIZE;
use machine::wfp::{ActionType, DisplayData, Filter, Guid, Session, Value};
use machine::wire::{Family, Way};

use super::as_root;
use crate::counters::Counters;
use crate::explain::Firewall;
use crate::flows::{CourseText, Watched, flows, lifecycles};
use crate::hushport::EVENT_PROVIDER;
use crate::report::{Checks, Page};
use crate::scan::{self, States};
use crate::setup::{self, Need, Target};
use crate::trace::{Account, Limits};
use crate::world::{Plan, World};

const OPEN: u16 = 80;
const ECHO: u16 = 7;
/// The scanned ports: two that listen, 98 that do not.
const PORTS: &str = "1-100";
const CLOSED: usize = 98;
const PATIENCE: Duration = Duration::from_secs(10);

/// Documented events that the demo does not play. Linux sends the handshake's ACK
/// alone; no driver here pends a connect; and the demo needs no `ping`.
const NOT_PLAYED: [Event; 5] = [
    Event::AckInWithData,
    Event::CompletionPasses,
    Event::CompletionFails,
    Event::EchoRequestIn,
    Event::EchoReplyOut,
];

/// What stands beside the driver.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Add Windows Firewall with its stock filters: in stealth for every profile, for
    /// none, or for these; the host's network is public
    #[arg(long, value_name = "on|off|PROFILES", value_parser = str::parse::<Firewall>)]
    firewall: Option<Firewall>,
}

/// Runs the demo. Returns whether everything was as expected.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let firewall = &arguments.firewall;
    let public = Options::default().profile;
    // Windows Firewall's stealth silences what the driver lets pass.
    let closed = match firewall {
        Some(firewall) if firewall.is_stealthy(public) => "filtered",
        _ => "closed",
    };
    setup::ensure(&[Need::Libclang, Need::NMAP, Need::IP, Need::CURL])?;
    let mut steps = Steps::default();
    steps.next("build hushport.sys");
    let driver = setup::build(Target::X64)?;
    println!("  {}", driver.sys.display());
    as_root()?;
    let mut checks = Checks::default();
    let listen = vec![(OPEN, Application::Http), (ECHO, Application::Echo)];
    let plan = Plan { listen, datagrams: vec![ECHO], firewall: firewall.clone(), ..Plan::default() };
    let without = World::start(&plan)?;
    steps.next("nmap -sS, without the driver");
    scans(&without, "without", closed, &mut checks)?;
    without.host.stop()?;

    let mut world = World::start(&Plan { driver: Some(&driver.sys), ..plan })?;
    steps.next("nmap -sS, with the driver");
    let session = world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    scans(&world, "with", "filtered", &mut checks)?;
    silenced(&session.take(), &mut checks);
    steps.next("curl through the open port");
    for family in Family::BOTH {
        fetch(&world, family, &mut checks)?;
    }
    steps.next("connections and datagrams out of the host, to a server in the namespace");
    for family in Family::BOTH {
        connect(&world, family, &mut checks)?;
        greet(&world, family, &mut checks)?;
        ask(&world, family, &mut checks)?;
    }
    steps.next("the layers of each flow, as the driver's callouts saw them");
    for family in Family::BOTH {
        reauthorize(&world, family)?;
        abort(&world, family)?;
        answer_once(&world, family, closed)?;
        world.host.close_datagrams(world.address(family, ECHO))??;
    }
    for (port, family) in [OPEN, ECHO].into_iter().flat_map(|port| Family::BOTH.map(|family| (port, family)))
    {
        world.host.unlisten(world.address(family, port))??;
    }
    show_flows(&world, closed, &mut checks)?;
    policies(&session.events(), &mut checks);
    let page = write_page(&world)?;
    steps.next("unload");
    unload(&mut world, &mut checks);
    let last = session.take().pop().map(|event| event.name);
    checks.note("the driver's last event", "Stopped", last.unwrap_or_default());
    checks.note("events lost by the session", 0, session.lost());
    drop(session);
    let capture = setup::state().join("demo.pcap");
    world.recorder.write_pcap(std::fs::File::create(&capture)?)?;
    world.host.stop()?;
    println!("  every packet is in {}", Path::new(&capture).display());
    println!("  every connection's layers are drawn in {}", page.display());
    steps.end();
    assert_eq!(steps.begun, Steps::ALL);
    println!("\n{checks}");
    Ok(checks.hold())
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
fn scans(world: &World, how: &str, expected: &str, checks: &mut Checks) -> Result<()> {
    for family in Family::BOTH {
        let before = world.recorder.resets(family);
        let states = scan::tcp(world, family, "-sS", PORTS)?;
        let resets = world.recorder.resets(family) - before;
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

/// The ports that the driver's events report as silenced, by family and technique.
fn silenced(events: &[DriverEvent], checks: &mut Checks) {
    let mut ports: BTreeMap<(Family, String), BTreeSet<u16>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.name == "Silenced") {
        if let Some(Field::Socket(local)) = event.field("Local") {
            let family = if local.is_ipv4() { Family::V4 } else { Family::V6 };
            let technique = event.text("Technique").to_owned();
            ports.entry((family, technique)).or_default().insert(local.port());
        }
    }
    for ((family, technique), ports) in &ports {
        println!("  {family}: the driver reports {} ports silent to {technique} probes", ports.len());
    }
    for family in Family::BOTH {
        let asked = ports.get(&(family, "Syn".to_owned())).map_or(0, BTreeSet::len);
        checks.note(format!("{family} with driver: ports that its events report silenced"), CLOSED, asked);
    }
    let dropped: u64 = events.iter().map(|event| event.number("Dropped")).sum();
    println!("  {dropped} more events were suppressed");
}

/// The modes that the driver's events report as applied.
fn policies(events: &[DriverEvent], checks: &mut Checks) {
    let applied = events.iter().filter(|event| event.name == "PolicyApplied");
    let changed = applied.filter(|event| event.text("Occasion") == "Change");
    let mut modes: Vec<_> = changed.map(|event| event.number("Mode").to_string()).collect();
    // The driver reports each reading of the registry, even if nothing has changed.
    modes.dedup();
    let modes = modes.join(", ");
    println!("  the driver reports that Mode became {modes}");
    checks.note("Mode by the driver's events", "0, 2, 0, 2", modes);
}

fn state(states: &States, port: u16) -> &str {
    states.get(&port).map_or("unknown", String::as_str)
}

fn fetch(world: &World, family: Family, checks: &mut Checks) -> Result<()> {
    let mut curl = Command::new("curl");
    let url = format!("http://{}/bytes/100000", world.address(family, OPEN));
    curl.args(["--silent", "--show-error", "--max-time", "10", &url]);
    let output = world.namespace.output(curl)?;
    println!("  {url}: {} bytes", output.stdout.len());
    if !output.status.success() {
        println!("  curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    checks.note(format!("{family} curl through port {OPEN}: bytes"), 100_000, output.stdout.len());
    Ok(())
}

fn connect(world: &World, family: Family, checks: &mut Checks) -> Result<()> {
    let near = world.near(family);
    let listener = world.namespace.run(move || TcpListener::bind((near, 0)))??;
    let address = listener.local_addr()?;
    let server = world.namespace.thread(move || serve_once(&listener))?;
    let outcome = outcome(world, address, b"from the host\n")?;
    let heard = server.join().ok().context("the server panicked")??;
    println!(
        "  to {address}: sent {:?}, received {:?}",
        heard.trim_end(),
        String::from_utf8_lossy(&outcome.received).trim_end()
    );
    let answer = format!("{:?}, {}", outcome.state, String::from_utf8_lossy(&outcome.received).trim_end());
    checks.note(format!("{family} connection out"), "Closed, heard: from the host", answer);
    Ok(())
}

/// Connects to a server that speaks first, so that the host sends the handshake's ACK
/// without data.
fn greet(world: &World, family: Family, checks: &mut Checks) -> Result<()> {
    let near = world.near(family);
    let listener = world.namespace.run(move || TcpListener::bind((near, 0)))??;
    let address = listener.local_addr()?;
    let server = world.namespace.thread(move || {
        let (mut stream, _) = listener.accept()?;
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"220 ready")
    })?;
    let outcome = outcome(world, address, b"")?;
    server.join().ok().context("the server panicked")??;
    let text = String::from_utf8_lossy(&outcome.received);
    println!("  to {address}: the server speaks first, received {text:?}");
    checks.note(format!("{family} connection out, server first"), "Closed, 220 ready", {
        format!("{:?}, {text}", outcome.state)
    });
    Ok(())
}

/// Connects, sends the request, and waits until the connection ends.
fn outcome(world: &World, address: SocketAddr, request: &[u8]) -> Result<Outcome> {
    let connection = world.host.connect(address, request.to_vec())??;
    let end = Instant::now() + PATIENCE;
    loop {
        match world.host.outcome(connection)? {
            Some(outcome) if [State::Closed, State::Aborted].contains(&outcome.state) => return Ok(outcome),
            _ if Instant::now() > end => bail!("the connection to {address} does not end in time"),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The host sends a datagram, gets the answer, and sends another one. Then it closes
/// its socket.
fn ask(world: &World, family: Family, checks: &mut Checks) -> Result<()> {
    let near = world.near(family);
    let server = world.namespace.run(move || datagram_socket(near))??;
    let address = server.local_addr()?;
    let local = world.host.send_datagram(address, b"question".to_vec())??;
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer)?;
    server.send_to(b"answer", from)?;
    settle(world);
    world.host.send_datagram_from(local, address, b", and another".to_vec())??;
    let more = server.recv(&mut buffer[length..])?;
    world.host.close_datagrams(local)??;
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
fn reauthorize(world: &World, family: Family) -> Result<()> {
    let address = world.address(family, ECHO);
    let mut client = world.namespace.run(move || client(address))??;
    let near = world.near(family);
    let datagrams = world.namespace.run(move || datagram_socket(near))??;
    datagrams.connect(address)?;
    echo(&mut client, b"before")?;
    for text in [b"first", b"later"] {
        datagrams.send(text)?;
        datagrams.recv(&mut [0; 16]).context("no echo of a datagram")?;
    }
    settle(world);
    let engine = world.machine.engine();
    let layer = engine.layer_by_name(&format!("ALE_AUTH_RECV_ACCEPT_{family:?}"));
    let layer = layer.context("the engine lacks a layer")?.key;
    let name = DisplayData { name: Some("an administrator's".into()), description: None };
    let session = engine.open(Session { display: name.clone(), flags: DYNAMIC, ..Session::default() })?;
    let filter = |action, weight| Filter {
        key: Guid::nil(),
        display: name.clone(),
        flags: 0,
        provider: None,
        layer,
        sublayer: Guid::nil(),
        weight: Value::Uint8(weight),
        conditions: Vec::new(),
        action,
        callout: None,
        raw_context: 0,
    };
    engine.filter_add(session, filter(ActionType::PERMIT, 1))?;
    echo(&mut client, b"permitted")?;
    datagrams.send(b"permitted")?;
    datagrams.recv(&mut [0; 16]).context("no echo of a permitted datagram")?;
    settle(world);
    engine.filter_add(session, filter(ActionType::BLOCK, 2))?;
    client.write_all(b"blocked")?;
    datagrams.send(b"blocked")?;
    let mut nothing = [0; 16];
    let answered =
        client.read(&mut nothing).is_ok_and(|length| length > 0) || datagrams.recv(&mut nothing).is_ok();
    engine.close(session).to_result()?;
    if answered {
        bail!("{address} answers on a connection that a foreign filter blocks");
    }
    Ok(())
}

/// A client ends a connection with a RST, because it has not read what it was sent.
fn abort(world: &World, family: Family) -> Result<()> {
    let address = world.address(family, ECHO);
    let mut client = world.namespace.run(move || client(address))??;
    client.write_all(b"unread")?;
    client.peek(&mut [0; 16]).context("no echo")?;
    drop(client);
    settle(world);
    Ok(())
}

/// Sets `Mode` to 0 while the driver runs, so that it answers as Windows does,
/// until a closed port has sent its RST and its ICMP error, if Windows Firewall lets
/// them. Then sets `Mode` to 2 again.
fn answer_once(world: &World, family: Family, without: &str) -> Result<()> {
    use std::io::ErrorKind::{ConnectionRefused, TimedOut};
    let closed = world.address(family, OPEN + 1);
    let off = if without == "closed" { ConnectionRefused } else { TimedOut };
    for (mode, required) in [(0, off), (2, TimedOut)] {
        world.machine.set("Mode", mode);
        let connect = move || TcpStream::connect_timeout(&closed, Duration::from_millis(300));
        let end = Instant::now() + PATIENCE;
        while world.namespace.run(connect)?.map_or_else(|error| error.kind(), |_| std::io::ErrorKind::Other)
            != required
        {
            if Instant::now() > end {
                bail!("{closed} does not behave as Mode = {mode} requires");
            }
        }
        if mode == 0 {
            let near = world.near(family);
            let socket = world.namespace.run(move || datagram_socket(near))??;
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
fn settle(world: &World) {
    let packets = || world.recorder.packets().len();
    let mut before = packets();
    loop {
        std::thread::sleep(Duration::from_millis(120));
        match packets() {
            now if now == before => return,
            now => before = now,
        }
    }
}

/// `FWPM_SESSION_FLAG_DYNAMIC`.
const DYNAMIC: u32 = 1;

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

fn show_flows(world: &World, without: &str, checks: &mut Checks) -> Result<()> {
    let report = world.host.report()?;
    let watched = Watched::of(world.machine.engine());
    let flows = flows(&report.log, &watched);
    let may_be_absent = |event: Event| {
        let is_answer = matches!(event, Event::RstOut | Event::IcmpErrorOut);
        NOT_PLAYED.contains(&event) || is_answer && without != "closed"
    };
    for flow in &flows {
        println!("{flow}");
        let families: Vec<_> = flow.families.iter().map(Family::to_string).collect();
        let in_any_family = may_be_absent(flow.event);
        let expected = if in_any_family { "match" } else { "match, IPv4 and IPv6" };
        let seen = match &flow.deviation {
            Some(deviation) => deviation.clone(),
            None if in_any_family => "match".to_owned(),
            None => format!("match, {}", families.join(" and ")),
        };
        checks.note(format!("layers of: {}", flow.event), expected, seen);
    }
    for event in FLOWS.iter().map(|documented| documented.event) {
        if !may_be_absent(event) && !flows.iter().any(|flow| flow.event == event) {
            checks.note(format!("layers of: {event}"), "match", "never met");
        }
    }
    println!("\n  the events of each connection, in order");
    let courses = lifecycles(&report.log).courses();
    for (lifecycle, course) in &courses {
        println!("{}", CourseText(lifecycle, course));
    }
    for lifecycle in &LIFECYCLES {
        let course = courses.iter().find(|(other, _)| other.name == lifecycle.name);
        let seen = match course {
            Some((_, course)) if course.complete > 0 => course.deviation.as_deref().unwrap_or("match"),
            _ => "never complete",
        };
        checks.note(format!("order of events: {}", lifecycle.name), "match", seen);
    }
    let counters = Counters::read(world.machine.kernel(), world.machine.engine())?;
    let invoked = watched.invocations(&report.log);
    let asked: BTreeMap<_, _> = invoked.keys().map(|key| (*key, counters.asked(*key))).collect();
    let total: u64 = asked.values().sum();
    println!("  the driver reports {total} indications at {} layers", asked.len());
    let agree = if asked == invoked { "the engine's" } else { "different" };
    checks.note("the driver's own counters", "the engine's", agree);
    let forgotten = report.log.forgotten();
    checks.note("events lost by the log", 0, forgotten);
    Ok(())
}

/// Writes a page of all events, as `cargo lab trace` does for a capture.
fn write_page(world: &World) -> Result<PathBuf> {
    let log = world.host.report()?.log;
    let length = log.records().last().map_or(Duration::ZERO, |record| record.at);
    let mut account = Account::new(Watched::of(world.machine.engine()), true, Limits::default(), length);
    for record in log.records() {
        // The demo's own checks compare the records.
        let _ = account.note(record);
    }
    let hosts = Family::BOTH.map(|family| world.network.host_address(family).to_string());
    let facts = vec![
        ("host", hosts.join(", ")),
        ("packets", world.recorder.packets().len().to_string()),
        ("events", account.records.to_string()),
        ("silenced", account.silenced.to_string()),
        ("deviations", account.deviations.to_string()),
    ];
    let path = setup::state().join("demo.html");
    Page::new("cargo lab demo", facts, &account, &[]).write_to(&path)?;
    Ok(path)
}

fn unload(world: &mut World, checks: &mut Checks) {
    let sent = world.recorder.count(Way::FromHost, |_| true);
    println!("  after {sent} packets from the host");
    let left = match world.machine.stop() {
        Ok(left) if left.is_empty() => "nothing".to_owned(),
        Ok(left) => left.to_string(),
        Err(stop) => stop.to_string(),
    };
    println!("  pool, handles and WFP objects left: {left}");
    checks.note("left behind by the driver", "nothing", left);
    let marks = world.machine.kernel().stack_marks();
    let marks: Vec<_> = marks.iter().map(|(what, bytes)| format!("{what} {bytes}")).collect();
    println!("  kernel stack used, at most, in bytes of {KERNEL_STACK_SIZE}: {}", marks.join(", "));
}
