//! hushport and WinDivert in one machine, with a real scanner and real traffic.
//!
//! WinDivert's handle at NETWORK takes every packet, and the program sends it back
//! unchanged. So every packet passes hushport's callouts as another driver's injection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::hushport::{EVENT_PROVIDER, SERVICE};
use lab::scan::{self, Technique};
use lab::setup::{self, Target};
use lab::world::{Plan, World};
use machine::Driver;
use machine::etw::{Enable, Event};
use machine::host::Application;
use machine::nt::registry::RegistryValue;
use machine::nt::{Kernel, Trace};
use machine::wire::Family;

use super::text;
use super::windivert::client::{Divert, Layer, shutdown};
use super::windivert::sys;

const OPEN: u16 = 80;
const ECHO: u16 = 7;
const PORTS: &str = "78-82";

/// A program that sends back what its handle gets.
struct Reinjects {
    handle: Arc<Divert>,
    program: JoinHandle<()>,
    passed: Arc<AtomicU64>,
}

impl Reinjects {
    fn start(kernel: &Arc<Kernel>) -> Self {
        let handle = Arc::new(Divert::open(kernel, Layer::Network, 0, 0).expect("a handle"));
        let passed = Arc::<AtomicU64>::default();
        let (here, count) = (Arc::clone(&handle), Arc::clone(&passed));
        let program = std::thread::spawn(move || {
            loop {
                let read = here.start_receive(1 << 16);
                let read = read.reply(None).expect("a read without a limit ends");
                if !read.status.is_success() {
                    return;
                }
                here.send(&read.packets, &read.addresses[0]).expect("the packet goes back");
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { handle, program, passed }
    }

    /// Ends the program. Returns how many packets it has sent back.
    fn stop(self, kernel: &Kernel) -> u64 {
        self.handle.shutdown(shutdown::RECV).expect("the reads end");
        self.program.join().expect("the program ends");
        Arc::into_inner(self.handle).expect("only the program had it").close();
        assert!(kernel.work().drain(Duration::from_secs(10)), "WinDivert's worker goes on");
        self.passed.load(Ordering::SeqCst)
    }
}

struct Both {
    world: World,
    divert: Driver,
    session: Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Hushport,
    Divert,
}

fn start(first: First) -> Option<Both> {
    let divert = sys()?;
    let hushport = setup::build(Target::X64).unwrap();
    let plan = Plan {
        driver: (first == First::Hushport).then_some(&*hushport.sys),
        values: vec![("CheckOrder".to_owned(), RegistryValue::dword(1))],
        listen: vec![(OPEN, Application::Http), (ECHO, Application::Echo)],
        datagrams: vec![ECHO],
        ..Plan::default()
    };
    let mut world = World::start(&plan).unwrap();
    let mut beside = world.machine.driver("WinDivert");
    beside.start(&divert).unwrap_or_else(|error| panic!("{error}"));
    if first == First::Divert {
        world.machine.start(&hushport.sys).unwrap_or_else(|error| panic!("{error}"));
    }
    lab::order::settle(&world.machine).unwrap();
    let session = world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    Some(Both { world, divert: beside, session })
}

impl Both {
    fn kernel(&self) -> &Arc<Kernel> {
        self.world.machine.kernel()
    }

    fn events(&self, name: &str) -> Vec<Event> {
        assert_eq!(self.session.lost(), 0);
        self.session.events().into_iter().filter(|event| event.name == name).collect()
    }

    /// Bytes and datagrams there and back, on both families.
    fn exchange(&self) {
        for family in Family::BOTH {
            let (near, address) = (self.world.near(family), self.world.address(family, ECHO));
            let exchanged =
                self.world.namespace.run(move || tcp(address).and_then(|()| udp((near, 0).into(), address)));
            if let Err(error) = exchanged.unwrap() {
                panic!("{family}: {error}: {:#?}", self.world.host.report());
            }
        }
    }

    /// Scans both families: the open port answers, the others are silent, or not.
    fn scan(&self, silent: bool) {
        let closed = if silent { "filtered" } else { "closed" };
        for family in Family::BOTH {
            let before = self.world.recorder.resets(family);
            let states = scan::tcp(&self.world, family, "-sS", PORTS).unwrap();
            assert_eq!(states.len(), 5);
            for (port, state) in &states {
                assert_eq!(state, if *port == OPEN { "open" } else { closed }, "{family} port {port}");
            }
            // nmap's own kernel answers the open port's SYN-ACK with a reset.
            let resets = self.world.recorder.resets(family) - before;
            assert_eq!(resets > 0, !silent, "{family}: {resets} RSTs from the host");
            let states = scan::states_by(&self.world, family, Technique::Udp, "52-53").unwrap();
            let closed = if silent { "open|filtered" } else { "closed" };
            assert!(states.values().all(|state| state == closed), "{family}: {states:?}");
        }
    }

    fn quiet(&self) {
        let deviations = self.events("OrderDeviation");
        let lines: Vec<_> = deviations.iter().map(|event| format!("{event:?}")).collect();
        assert!(lines.is_empty(), "{} deviations:\n{}", lines.len(), lines.join("\n"));
    }

    /// Unloads what is loaded; nothing may be left.
    fn end(mut self) {
        drop(self.session);
        for driver in [&mut self.divert, &mut *self.world.machine] {
            if driver.image().is_some() {
                stop(driver);
            }
        }
        let kernel = self.world.machine.kernel();
        assert!(kernel.leak_report().is_empty(), "{}", kernel.leak_report());
        let findings = kernel.verifier().findings();
        assert!(findings.is_empty(), "{findings:?}");
        self.world.host.stop().unwrap();
    }
}

fn tcp(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    for _ in 0..8 {
        stream.write_all(&[7; 4000])?;
        let mut back = [0; 4000];
        stream.read_exact(&mut back)?;
        assert_eq!(back, [7; 4000]);
    }
    Ok(())
}

fn udp(near: SocketAddr, address: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(near)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    for _ in 0..8 {
        // A datagram may be lost on a busy machine.
        let mut answers = (0..5).map(|_| {
            socket.send_to(b"hello", address)?;
            socket.recv(&mut [0; 16])
        });
        answers.find(Result::is_ok).unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))?;
    }
    Ok(())
}

fn stop(driver: &mut Driver) {
    let left = driver.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
    assert!(left.is_empty(), "{}: {left}", driver.service());
}

#[test]
fn closed_ports_are_silent_and_open_ones_work_behind_a_handle_that_sends_everything_back() {
    for first in [First::Hushport, First::Divert] {
        let Some(both) = start(first) else { return };
        assert_eq!(both.kernel().loaded_services().len(), 2, "{first:?}");
        let program = Reinjects::start(both.kernel());
        both.scan(true);
        both.exchange();
        both.quiet();
        let passed = program.stop(both.kernel());
        assert!(passed > 100, "{first:?}: {passed} packets were sent back");
        // Without the handle it is the same.
        both.exchange();
        both.quiet();
        assert!(both.events("FlowEnded").iter().any(|flow| flow.text("Order") == "Kept"), "{first:?}");
        both.end();
    }
}

#[test]
fn windivert_is_unloaded_and_loaded_while_hushport_works() {
    let Some(divert) = sys() else { return };
    let Some(mut both) = start(First::Hushport) else { return };
    for _ in 0..3 {
        let program = Reinjects::start(both.kernel());
        both.exchange();
        program.stop(both.kernel());
        stop(&mut both.divert);
        both.exchange();
        both.divert.start(&divert).unwrap_or_else(|error| panic!("{error}"));
    }
    stop(&mut both.divert);
    both.scan(true);
    both.quiet();
    both.end();
}

#[test]
fn hushport_is_unloaded_and_loaded_while_windivert_works() {
    let Some(mut both) = start(First::Divert) else { return };
    let hushport = setup::build(Target::X64).unwrap();
    let program = Reinjects::start(both.kernel());
    both.exchange();
    stop(&mut both.world.machine);
    assert_eq!(both.kernel().loaded_services(), ["WinDivert"]);
    both.scan(false);
    both.exchange();
    both.world.machine.start(&hushport.sys).unwrap_or_else(|error| panic!("{error}"));
    lab::order::settle(&both.world.machine).unwrap();
    both.scan(true);
    both.exchange();
    both.quiet();
    assert_eq!(both.world.machine.service(), SERVICE);
    program.stop(both.kernel());
    both.end();
}
