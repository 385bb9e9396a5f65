//! A world with a running driver and real traffic, and what its events say.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::ops::Deref;
use std::time::{Duration, Instant};

use lab::hushport::EVENT_PROVIDER;
use lab::setup::{self, Target};
use lab::world::{Near, Plan, World};
use machine::etw::{Enable, Event};
use machine::host::Application;
use machine::nt::Trace;
use machine::nt::registry::RegistryValue;
use machine::wire::{Family, Namespace, Network};

const OPEN: u16 = 80;
pub const ECHO: u16 = 7;

pub fn plan(values: &[(&str, u32)]) -> Plan<'static> {
    let values = values.iter().map(|(name, number)| ((*name).to_owned(), RegistryValue::dword(*number)));
    Plan {
        driver: Some(&setup::build(Target::X64).unwrap().sys),
        values: values.collect(),
        listen: vec![(OPEN, Application::Http), (ECHO, Application::Echo)],
        datagrams: vec![ECHO],
        ..Plan::default()
    }
}

/// A world, and a session for the events of its driver.
pub struct Watched {
    pub world: World,
    pub session: Trace,
}

impl Deref for Watched {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Near for Watched {
    fn namespace(&self) -> &Namespace {
        self.world.namespace()
    }

    fn network(&self) -> &Network {
        self.world.network()
    }
}

pub fn start(plan: &Plan<'_>) -> Watched {
    let world = World::start(plan).unwrap();
    lab::order::settle(&world.machine).unwrap();
    let session = world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    Watched { world, session }
}

/// Sums over the driver's events.
#[derive(Debug)]
pub struct Noticed {
    pub flows_ended: usize,
    /// Flows whose order was checked and kept.
    pub flows_in_order: usize,
    /// Outbound, inbound.
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub deviations: Vec<Event>,
    pub scans: Vec<Event>,
}

pub fn noticed(world: &Watched) -> Noticed {
    let events = world.session.events();
    let named = |name: &str| events.iter().filter(|event| event.name == name).cloned().collect::<Vec<_>>();
    let ended = named("FlowEnded");
    let sum = |fields: [&str; 2]| fields.map(|field| ended.iter().map(|event| event.number(field)).sum());
    assert_eq!(world.session.lost(), 0);
    Noticed {
        flows_ended: ended.len(),
        flows_in_order: ended.iter().filter(|event| event.text("Order") == "Kept").count(),
        packets: sum(["PacketsOut", "PacketsIn"]),
        bytes: sum(["BytesOut", "BytesIn"]),
        deviations: named("OrderDeviation"),
        scans: named("ScanDetected"),
    }
}

pub fn eventually(what: &str, world: &Watched, holds: impl Fn(&Noticed) -> bool) -> Noticed {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = noticed(world);
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends and receives `bytes` bytes `count` times, then closes.
pub fn exchange(world: &World, family: Family, bytes: usize, count: usize) {
    let address = world.address(family, ECHO);
    let exchanged = world.namespace.run(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        for _ in 0..count {
            stream.write_all(&vec![7; bytes])?;
            stream.read_exact(&mut vec![0; bytes])?;
        }
        Ok(())
    });
    exchanged.unwrap().unwrap();
}

pub fn datagrams(world: &World, family: Family, count: usize) {
    let (near, address) = (world.near(family), world.address(family, ECHO));
    let exchanged = world.namespace.run(move || -> std::io::Result<()> {
        let socket = UdpSocket::bind((near, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        for _ in 0..count {
            // A datagram may be lost on a busy machine.
            let mut answers = (0..5).map(|_| {
                socket.send_to(b"hello", address)?;
                socket.recv(&mut [0; 16])
            });
            answers.find(Result::is_ok).unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))?;
        }
        Ok(())
    });
    if let Err(error) = exchanged.unwrap() {
        panic!("{family:?}: {error}: {:#?}", world.host.report());
    }
}

pub fn end(watched: Watched) {
    let Watched { mut world, session } = watched;
    drop(session);
    let advice = world.machine.kernel().verifier().advice();
    assert!(advice.is_empty(), "{advice:?}");
    let findings = world.machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    let left = world.machine.stop().unwrap();
    assert!(left.is_empty(), "{left}");
    world.host.stop().unwrap();
}
