//! Real programs against a host whose every packet a handle reads and sends back.
//!
//! Needs root, or `unshare --user --map-root-user`.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::setup::{Need, ensure};
use lab::world::{Plan, Service, World};
use machine::host::{Application, State};
use machine::wire::{Family, Parsed, TcpFlags, Way};

use super::client::{Divert, Layer, NO_DATA, bit, parameter, shutdown};
use super::world::SOON;
use super::{sys, text};

/// The packets that are read and sent at once.
const AT_ONCE: usize = 16;
const HTTP: u16 = 80;
const SINK: u16 = 9;
const CLOSED: u16 = 81;
/// The longest time without a byte.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a handle has read of each direction, in order.
#[derive(Default)]
struct Passed {
    to_host: Vec<u64>,
    from_host: Vec<u64>,
}

/// A handle that reads everything and sends it back.
struct Passer {
    handle: Arc<Divert>,
    thread: JoinHandle<Passed>,
}

fn hash(packet: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    packet.hash(&mut hasher);
    hasher.finish()
}

impl Passer {
    fn start(world: &World) -> Self {
        let handle = Divert::open(world.machine.kernel(), Layer::Network, 0, 0);
        let handle = Arc::new(handle.unwrap_or_else(|error| panic!("{error}")));
        // "Packets/events are not queued indefinitely, and if not handled in a timely
        // manner, data may be lost."
        handle.set_parameter(parameter::QUEUE_TIME, 16_000).unwrap();
        handle.set_parameter(parameter::QUEUE_LENGTH, 16_384).unwrap();
        let own = Arc::clone(&handle);
        Self { handle, thread: std::thread::spawn(move || pass(&own)) }
    }

    /// Ends the handle when nothing comes any more.
    fn stop(self) -> Passed {
        assert_eq!(self.handle.shutdown(shutdown::RECV), Ok(()));
        let passed = self.thread.join().unwrap();
        Arc::into_inner(self.handle).expect("the thread has ended").close();
        passed
    }
}

/// Reads and sends back until the handle is shut down.
fn pass(handle: &Divert) -> Passed {
    let mut passed = Passed::default();
    loop {
        let read = handle.start_batch(AT_ONCE * 1500, AT_ONCE);
        let read = read.reply(None).expect("a wait without limit ends");
        if read.status == NO_DATA {
            return passed;
        }
        assert!(read.status.is_success(), "{}", read.status);
        let mut rest = &read.packets[..];
        for address in &read.addresses {
            let packet = Parsed::new(rest).expect("a packet").bytes;
            match address.bits() & bit::OUTBOUND {
                0 => passed.to_host.push(hash(packet)),
                _ => passed.from_host.push(hash(packet)),
            }
            rest = &rest[packet.len()..];
        }
        assert!(rest.is_empty());
        handle.send_batch(&read.packets, &read.addresses).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn world(driver: Option<&Path>) -> World {
    ensure(&[Need::IP, Need::NMAP, Need::CURL]).unwrap();
    let listen = vec![(HTTP, Application::Http), (SINK, Application::Hold)];
    World::start(&Plan { driver, service: Service("WinDivert"), listen, ..Plan::default() }).unwrap()
}

/// Runs a program in the network and returns what it printed.
fn run(world: &World, program: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = world.namespace.output(command).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}

/// Waits for the last packets: of connections that end, and of the network itself.
fn let_the_wire_rest(world: &World) {
    let count = || world.recorder.packets().len();
    let mut before = count();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = count();
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
}

/// Ends everything. Every packet must have passed the handle once, and every packet that
/// left must have right checksums. Nothing may be left of the driver. "Simply running the
/// passthru.exe sample program can cause packets to become out-of-order. This is not a bug".
fn end(world: World, passer: Passer) {
    let_the_wire_rest(&world);
    let passed = passer.stop();
    assert!(world.machine.kernel().work().drain(SOON));
    world.host.stop().unwrap();
    assert_eq!(world.recorder.forgotten(), 0);
    for (way, read) in [(Way::ToHost, &passed.to_host), (Way::FromHost, &passed.from_host)] {
        let packets = world.recorder.packets().into_iter().filter(|packet| packet.way == way);
        let mut seen = Vec::new();
        for packet in packets {
            let Some(parsed) = Parsed::new(&packet.bytes) else { continue };
            let right = parsed.header_checksum_valid() && parsed.checksum_valid();
            assert!(right || way == Way::ToHost, "a wrong checksum: {:02x?}", packet.bytes);
            seen.push(hash(parsed.bytes));
        }
        let moved = seen.iter().zip(read).filter(|(seen, read)| seen != read).count();
        eprintln!("{way:?}: {} packets, {moved} out of order", seen.len());
        let sorted = |hashes: &[u64]| {
            let mut hashes = hashes.to_vec();
            hashes.sort_unstable();
            hashes
        };
        assert!(sorted(&seen) == sorted(read), "{way:?}: {} packets, {} read", seen.len(), read.len());
    }
    let mut machine = world.machine;
    let left = machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
    assert!(left.is_empty(), "{left}");
    assert!(machine.kernel().verifier().findings().is_empty());
}

/// The RSTs on the wire after this number of packets: whether they go to the host, and its
/// port.
fn resets(world: &World, after: usize) -> BTreeSet<(bool, u16)> {
    let packets = world.recorder.packets().into_iter().skip(after);
    let of = |way: Way, bytes: &[u8]| {
        let parsed = Parsed::new(bytes)?;
        let host = if way == Way::ToHost { parsed.destination } else { parsed.source };
        parsed.has_flags(TcpFlags::RST, TcpFlags::default()).then_some((way == Way::ToHost, host.port()))
    };
    packets.filter_map(|packet| of(packet.way, &packet.bytes)).collect()
}

#[test]
fn scans_see_the_same_ports_and_resets_as_without_the_driver() {
    let Some(sys) = sys() else { return };
    let scan = |world: &World, family: Family, technique: &str| {
        let before = world.recorder.packets().len();
        let target = world.network.host_address(family).to_string();
        let mut arguments = vec![technique, "-Pn", "-n", "--send-ip", "-p", "9,80,81-90", "-T4"];
        arguments.extend((family == Family::V6).then_some("-6"));
        arguments.extend(["-oG", "-", &target]);
        let report = String::from_utf8(run(world, "nmap", &arguments)).unwrap();
        let ports = report.lines().find_map(|line| line.split_once("Ports: ")).expect(&report).1;
        // A scanner ends before the last of its own resets is on the wire.
        let_the_wire_rest(world);
        (ports.to_owned(), resets(world, before))
    };
    let (plain, diverted) = (world(None), world(Some(&sys)));
    let passer = Passer::start(&diverted);
    for family in Family::BOTH {
        for technique in ["-sT", "-sS"] {
            let (expected, seen) = (scan(&plain, family, technique), scan(&diverted, family, technique));
            assert_eq!(seen, expected, "{technique}, {family}");
            assert!(seen.0.contains("80/open/tcp") && seen.1.contains(&(false, CLOSED)), "{seen:?}");
        }
    }
    end(diverted, passer);
}

#[test]
fn pages_are_read_in_both_directions() {
    let Some(sys) = sys() else { return };
    let world = world(Some(&sys));
    let passer = Passer::start(&world);
    for family in Family::BOTH {
        let url = format!("http://{}/", world.address(family, HTTP));
        let arguments = ["--silent", "--show-error", "--fail", "--globoff", "--max-time", "60", &url];
        let page = run(&world, "curl", &arguments);
        assert!(String::from_utf8_lossy(&page).contains("This port is open."), "{family}");

        // The host asks a server of the network.
        let near = SocketAddr::new(world.near(family), 7777);
        let listener = world.namespace.run(move || std::net::TcpListener::bind(near)).unwrap().unwrap();
        let server = world.namespace.thread(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 8];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
        });
        let id = world.host.connect(near, b"question".to_vec()).unwrap().unwrap();
        server.unwrap().join().unwrap();
        let end = Instant::now() + SOON;
        loop {
            let outcome = world.host.outcome(id).unwrap().unwrap();
            if outcome.state == State::Closed {
                assert_eq!(outcome.received, b"question");
                break;
            }
            assert!(Instant::now() < end, "{family}: {outcome:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(resets(&world, 0), BTreeSet::new());
    end(world, passer);
}

/// 100 MB from the host over IPv4, and less over IPv6 and to the host. Prints the
/// throughput.
#[test]
fn a_hundred_megabytes_pass_without_loss() {
    const UPLOAD: usize = 10_000_000;
    let Some(sys) = sys() else { return };
    for (family, bytes, driver) in [
        (Family::V4, 100_000_000, None),
        (Family::V4, 100_000_000, Some(&*sys)),
        (Family::V6, 10_000_000, Some(&*sys)),
    ] {
        let world = world(driver);
        let passer = driver.map(|_| Passer::start(&world));
        let (http, sink) = (world.address(family, HTTP), world.address(family, SINK));
        let client = world.namespace.thread(move || {
            let download = Instant::now();
            let mut stream = TcpStream::connect(http).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET /bytes/{bytes} HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let download = download.elapsed();
            let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            assert!(answer[head..].len() == bytes && answer[head..].iter().all(|byte| *byte == b'.'));
            drop(answer);
            let upload = Instant::now();
            let mut stream = TcpStream::connect(sink).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![b'.'; UPLOAD]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // The host closes when it has everything.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            [download, upload.elapsed()]
        });
        let times = client.unwrap().join().unwrap();
        let rate = |bytes: usize, time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        let [down, up] = [rate(bytes, times[0]), rate(UPLOAD, times[1])];
        let how = if driver.is_some() { "through a handle" } else { "without the driver" };
        eprintln!("{family}, {how}: {down:.1} MB/s from the host, {up:.1} MB/s to it");
        assert_eq!(resets(&world, 0), BTreeSet::new());
        match passer {
            Some(passer) => end(world, passer),
            None => drop(world.host.stop().unwrap()),
        }
    }
}
