//! Handles that open and close at random, with traffic on four processors.
//!
//! All rules of Driver Verifier apply. Everything is drawn from a seed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lab::storm::{self, Placed, Restless};
use machine::Machine;
use machine::host::{self, Application, Host, OpenPoints};
use machine::nt::{Kernel, Options};
use machine::schedule::{self, Random, Scheduling, Thread};
use machine::verifier::{Rule, rules};
use machine::wfp::Engine;
use machine::wire::{Network, compose};

use super::client::{self, Divert, Layer, flag};
use super::{start_with, sys};

/// How many handles each program opens.
const HANDLES: usize = 3;
const PROGRAMS: usize = 2;
const OPEN: u16 = 80;

/// What the driver does wrong (docs/DRIVERS.md), and what is left then.
const KNOWN: [&Rule; 2] = [&rules::CALLOUT_DEADLOCK, &rules::CALL_IRQL];
const LEFT: [&Rule; 3] = [&rules::CALLOUTS_LEFT, &rules::FILTER_OBJECT_LEFT, &rules::FLOW_CONTEXT_LEFT];

struct Stage {
    kernel: Arc<Kernel>,
    engine: Arc<Engine>,
    /// Programs that have not ended.
    programs: AtomicUsize,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.programs.load(Ordering::SeqCst) == 0 || self.kernel.stopped().is_some()
    }

    /// A host on a processor, until the programs have ended.
    fn traffic(&self, processor: u32, seed: u64) {
        let (mut random, mut now) = (Random::new(seed), Duration::ZERO);
        let (kernel, engine) = (Arc::clone(&self.kernel), Arc::clone(&self.engine));
        let placed = Arc::new(Placed { kernel, engine, processor });
        let mut host = Host::new(placed, host::Options::default(), OpenPoints::default());
        let network = Network::default();
        for local in [IpAddr::from(network.host.0), network.host.1.into()] {
            host.listen(SocketAddr::new(local, OPEN), Application::Http).unwrap();
        }
        while !self.is_over() {
            now += Duration::from_millis(1);
            let packet = packet(&network, &mut random);
            host.receive(&packet, now);
            host.poll(now);
            while host.transmit().is_some() {}
            schedule::note("packet", packet.len() as u64);
            // A thread that waits for a spin lock has its turn only when others wait, too.
            if !self.is_over() {
                schedule::pause(&|| "the next packet".to_owned());
            }
        }
    }

    /// Opens handles, uses them and closes them.
    fn program(&self, seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..HANDLES {
            self.handle(&mut random);
        }
        self.programs.fetch_sub(1, Ordering::SeqCst);
    }

    fn handle(&self, random: &mut Random) {
        let layer = Layer::ALL[random.below(Layer::ALL.len())];
        let extra = match layer {
            Layer::Network | Layer::Forward => [0, 0, flag::SNIFF, flag::DROP][random.below(4)],
            _ => 0,
        };
        let priority = random.below(5) as i16 - 2;
        let handle = Divert::open(&self.kernel, layer, priority, layer.flags() | extra).expect("a handle");
        let mut reads = Vec::new();
        for _ in 0..random.below(8) {
            match random.below(6) {
                // A handle that was shut down refuses.
                0 => {
                    let length = 32 + random.below(64) as u64;
                    let _set = handle.set_parameter(client::parameter::QUEUE_LENGTH, length);
                }
                1 => {
                    let _length = handle.parameter(client::parameter::QUEUE_SIZE);
                }
                2 if random.once_in(3) => {
                    let _shut = handle.shutdown(client::shutdown::RECV);
                }
                // A read stays: the driver writes into its memory.
                _ => reads.push(handle.start_receive(2000)),
            }
            rest(random.below(8));
            let Some(read) = reads.last() else { continue };
            let Some(read) = read.reply(Some(Duration::ZERO)) else { continue };
            if read.status.is_success() && matches!(layer, Layer::Network) && extra == 0 && !random.once_in(4)
            {
                // A handle that was shut down sends nothing.
                let _sent = handle.send(&read.packets, &read.addresses[0]);
            }
            reads.pop();
        }
        handle.close();
        for read in reads {
            assert!(read.reply(None).is_some(), "a read ends with its handle");
        }
    }
}

/// Lets packets come.
fn rest(steps: usize) {
    match schedule::now() {
        Some(_) => (0..steps).for_each(|step| schedule::note("the program rests", step as u64)),
        None => std::thread::sleep(Duration::from_micros(50) * steps as u32),
    }
}

/// A ping, a SYN or a datagram for the host.
fn packet(network: &Network, random: &mut Random) -> Vec<u8> {
    let (near, host): (IpAddr, IpAddr) = match random.once_in(2) {
        true => (network.near.1.into(), network.host.1.into()),
        false => (network.near.0.into(), network.host.0.into()),
    };
    let port = if random.once_in(3) { OPEN } else { 1000 + random.below(20) as u16 };
    let source = 40_000 + random.below(64) as u16;
    let (mut packet, header) = (Vec::new(), compose::ip(near, host));
    match random.below(3) {
        0 if near.is_ipv6() => header.icmpv6_echo_request(1, 1).write(&mut packet, b"ping").unwrap(),
        0 => header.icmpv4_echo_request(1, 1).write(&mut packet, b"ping").unwrap(),
        1 => header.udp(source, port).write(&mut packet, b"datagram").unwrap(),
        _ => {
            let syn = header.tcp(source, port, random.number() as u32, 1024).syn();
            syn.write(&mut packet, &[]).unwrap();
        }
    }
    packet
}

fn storm(sys: &std::path::Path, scheduling: Scheduling) {
    let (Scheduling::Deterministic { seed } | Scheduling::Parallel { seed }) = scheduling;
    let options = Options { processors: 4, ..storm::options(seed) };
    let mut machine: Machine = start_with(sys, options);
    for rule in KNOWN.iter().chain(&LEFT) {
        machine.kernel().verifier().tolerate(rule);
    }
    let stage = Stage {
        kernel: Arc::clone(machine.kernel()),
        engine: Arc::clone(machine.engine()),
        programs: AtomicUsize::new(PROGRAMS),
    };
    let stage = &stage;
    let mut threads = Vec::new();
    for number in 0..3 {
        let seed = seed.wrapping_mul(31) + u64::from(number);
        threads.push(Thread::new(format!("traffic {number}"), move || stage.traffic(number, seed)));
    }
    for number in 0..PROGRAMS as u64 {
        let seed = seed.wrapping_mul(37) + 1000 + number;
        threads.push(Thread::new(format!("program {number}"), move || stage.program(seed)));
    }
    threads.push(Thread::new("machine", move || Restless::new(seed).play(&stage.kernel, || stage.is_over())));
    machine.kernel().run_threads(scheduling, threads);
    if let Some(stop) = machine.kernel().stopped() {
        panic!("seed {seed}: {stop}");
    }
    let kernel = machine.kernel();
    assert!(kernel.work().drain(Duration::from_secs(10)), "seed {seed}: the driver's worker goes on");
    machine.stop().unwrap_or_else(|stop| panic!("seed {seed}: {stop}"));
    let rules: Vec<_> = machine.kernel().verifier().findings().iter().map(|it| it.violation.rule).collect();
    // What the engine has refused to unregister is left.
    let is_known = rules.iter().any(|rule| KNOWN.contains(rule));
    let is_expected = |rule: &&Rule| is_known && (KNOWN.contains(rule) || LEFT.contains(rule));
    assert!(rules.iter().all(is_expected), "seed {seed}: {rules:?}");
}

#[test]
fn handles_come_and_go_under_traffic_one_thread_at_a_time() {
    let Some(sys) = sys() else { return };
    for seed in 0..16 {
        storm(&sys, Scheduling::Deterministic { seed });
    }
}

#[test]
fn handles_come_and_go_under_traffic_all_at_once() {
    let Some(sys) = sys() else { return };
    for seed in 0..2 {
        storm(&sys, Scheduling::Parallel { seed });
    }
}
