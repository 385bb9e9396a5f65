//! Real Linux TCP and curl over a lossy wire have no deviation.
//!
//! The wire loses 35 % of the packets in each direction.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lab::hushport::EVENT_PROVIDER;
use lab::setup::{self, Target};
use lab::world::{Plan, World};
use machine::etw::Enable;
use machine::host::Application;
use machine::nt::registry::RegistryValue;
use machine::wire::{Family, Loss};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use super::network::{ECHO, HOLD, HTTP};

/// Environment variable: for how many seconds clients open connections. Give more
/// than the default for a longer search.
const SECONDS: &str = "HUSHPORT_LAB_LOSSY_SECONDS";
const DEFAULT_SECONDS: u64 = 12;
/// Concurrent clients. In the default time they make 480 client-seconds of
/// traffic.
const CLIENTS: usize = 40;
/// The timeout of one connection.
const PATIENCE: Duration = Duration::from_secs(6);
/// The port of the servers on the Linux side.
const SERVERS: u16 = 5_000;

/// What clients and servers have done.
#[derive(Debug, Default)]
struct Done {
    begun: AtomicU64,
    answered: AtomicU64,
}

impl Done {
    fn count(&self, answered: bool) {
        self.begun.fetch_add(1, Relaxed);
        self.answered.fetch_add(answered.into(), Relaxed);
    }
}

#[test]
fn a_third_of_everything_lost_is_no_deviation() {
    let asked = std::env::var(SECONDS).ok();
    let seconds = asked.map_or(DEFAULT_SECONDS, |text| {
        text.parse().unwrap_or_else(|_| panic!("{SECONDS}={text:?}: a number of seconds"))
    });
    let loss = Loss { lost: 35, repeated: 8, reordered: 8, seed: 1794 };
    println!("{loss:?}, {seconds} s");
    let plan = Plan {
        driver: Some(&setup::build(Target::X64).unwrap().sys),
        values: vec![("CheckOrder".into(), RegistryValue::dword(1))],
        listen: vec![(HTTP, Application::Http), (ECHO, Application::Echo), (HOLD, Application::Hold)],
        loss,
        ..Plan::default()
    };
    let mut world = World::start(&plan).unwrap();
    lab::order::settle(&world.machine).unwrap();
    let trace = world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let (done, end) = (Arc::new(Done::default()), Instant::now() + Duration::from_secs(seconds));
    let mut threads = Vec::new();
    for number in 0..CLIENTS {
        let done = Arc::clone(&done);
        let family = Family::BOTH[number % 2];
        let addresses = [HTTP, ECHO, HOLD].map(|port| world.address(family, port));
        let client = move || {
            while Instant::now() < end {
                done.count(talk(number / 2, addresses).is_ok());
            }
        };
        threads.push(world.namespace.thread(client).unwrap());
    }
    for family in Family::BOTH {
        let near = SocketAddr::new(world.near(family), SERVERS);
        let server = move || serve(near, end);
        threads.push(world.namespace.thread(server).unwrap());
    }
    // The host is a client too. Some of its requests are empty.
    while Instant::now() < end {
        for family in Family::BOTH {
            let near = SocketAddr::new(world.near(family), SERVERS);
            let bytes = [0, 1, 4_000][done.begun.load(Relaxed) as usize % 3];
            world.host.connect(near, vec![b'x'; bytes]).unwrap().unwrap();
            done.count(false);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let events = trace.events();
    assert_eq!(trace.lost(), 0);
    let named = |name: &str| events.iter().filter(|event| event.name == name).collect::<Vec<_>>();
    let flows = named("FlowEnded").len();
    println!("{done:?}, {flows} flows ended, {}", world.host.report().unwrap().counters);
    let deviations = named("OrderDeviation");
    assert!(deviations.is_empty(), "{} of {flows} flows: {deviations:#?}", deviations.len());
    assert!(flows >= 60 && done.answered.load(Relaxed) >= 30, "{flows} flows, {done:?}");
    drop(trace);
    assert!(world.machine.kernel().verifier().findings().is_empty());
    let left = world.machine.stop().unwrap();
    assert!(left.is_empty(), "{left}");
    world.host.stop().unwrap();
}

/// One connection of a client's, of the kind with this number.
fn talk(kind: usize, [http, echo, hold]: [SocketAddr; 3]) -> std::io::Result<()> {
    let connect = |to: SocketAddr| {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    match kind % 6 {
        0 => curl(http),
        // A FIN, or a reset, may be the first to follow the SYN.
        1 => connect(hold)?.shutdown(Shutdown::Write),
        2 => {
            let stream = connect(hold)?;
            Ok(setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
        }
        // Data and a FIN at once.
        3 => {
            let mut stream = connect(echo)?;
            stream.write_all(&[7; 2_000])?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        // Here and there.
        4 => {
            let mut stream = connect(echo)?;
            for _ in 0..4 {
                stream.write_all(&[7; 300])?;
                stream.read_exact(&mut [0; 300])?;
            }
            Ok(())
        }
        // The host closes first.
        _ => {
            let mut stream = connect(http)?;
            stream.write_all(b"GET /bytes/9000 HTTP/1.0\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
    }
}

fn curl(http: SocketAddr) -> std::io::Result<()> {
    let patience = PATIENCE.as_secs().to_string();
    let output = Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--max-time", &patience])
        .arg(format!("http://{http}/bytes/5000"))
        .output()?;
    output.status.success().then_some(()).ok_or(std::io::ErrorKind::TimedOut.into())
}

/// Accepts connections until `end`; sends some bytes on each, and closes it.
fn serve(at: SocketAddr, end: Instant) {
    let listener = TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut closing = Vec::new();
    while Instant::now() < end {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // Whether it gets there is the client's concern.
                let _said = stream.write_all(&[b'y'; 3_000]);
                let _closed = stream.shutdown(Shutdown::Write);
                closing.push(stream);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        // The oldest are dropped: with a reset, where something was not read.
        if closing.len() > 16 {
            closing.remove(0);
        }
    }
}
