//! The image and the native build have equal verdicts, counters and packets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use machine::host::{Application, Host, OpenPoints, Options as HostOptions};
use machine::nt::{Irql, MdlMapping, NblLayout, Options};
use machine::wire::compose;
use machine::wire::{Family, Network};
use native::builds::Machine;
use native::counters;
use native::input::{Input, Random};
use native::targets::classify::{Bench, policy, start};

const BUILDS: [fn(Options) -> Machine; 2] = [Machine::image, Machine::native];

/// One processor, so that there is one set of counters.
fn options() -> Options {
    Options { processors: 1, ..Options::default() }
}

/// Decision and counter changes of each indication.
fn answers(bench: &mut Bench, seed: u64, count: usize) -> Vec<String> {
    let mut random = Random::new(seed);
    let mut before = counters::read(bench.machine.kernel());
    let mut answers = Vec::new();
    for _ in 0..count {
        let bytes = random.bytes(512);
        let (callout, indication) = bench.choose(&mut Input::new(&bytes));
        let out = bench.ask(&callout, &indication);
        let after = counters::read(bench.machine.kernel());
        let rises = counters::rises(&before, &after);
        answers.push(format!("{} {indication:?}: {out:?}, {rises:?}", callout.layer.name));
        before = after;
    }
    answers
}

#[test]
fn the_same_indications_have_the_same_answers() {
    for number in 0..6 {
        let (values, _) = policy(number);
        let [image, native] = BUILDS.map(|build| {
            let mut bench = start(build(options()), values);
            let answers = answers(&mut bench, number as u64, 500);
            bench.end();
            answers
        });
        for (image, native) in image.iter().zip(&native) {
            assert_eq!(image, native, "policy {values:?}");
        }
        let counted = image.iter().filter(|answer| !answer.ends_with("[]")).count();
        assert!(counted > 200, "most indications are counted: {counted}");
    }
}

/// Records of a host, the packets that it sends, and the driver's counters.
fn walk(machine: Machine, family: Family, seed: u64) -> (Vec<String>, Vec<Vec<u8>>, Vec<u64>) {
    let bench = start(machine, &[]);
    let network = Network::default();
    let host_address = network.host_address(family);
    let peer = match family {
        Family::V4 => IpAddr::from(network.near.0),
        Family::V6 => network.near.1.into(),
    };
    let filter = Arc::clone(bench.machine.engine());
    let mut host =
        Host::new(filter, HostOptions { network, ..HostOptions::default() }, OpenPoints::default());
    host.listen(SocketAddr::new(host_address, 80), Application::Echo).expect("nothing blocks");
    let mut random = Random::new(seed);
    let mut sent = Vec::new();
    for tick in 0..300 {
        let now = Duration::from_millis(10 * tick);
        host.receive(&packet(&random.bytes(96), peer, host_address), now);
        host.poll(now);
        sent.extend(std::iter::from_fn(|| host.transmit()));
    }
    let records = host.log().records().map(|record| format!("{record:?}")).collect();
    drop(host);
    let counted = counters::read(bench.machine.kernel());
    bench.end();
    (records, sent, counted)
}

/// A segment to an open port or a closed one, with any flags.
fn packet(bytes: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut input = Input::new(bytes);
    let port = input.one_of(&[80, 81, 23]);
    let mut header = etherparse::TcpHeader::new(40_000 + u16::from(input.u8() % 4), port, input.u32(), 1024);
    header.acknowledgment_number = input.u32();
    let flags = if input.u8() < 128 { 0x02 } else { input.u8() };
    let bit = |n: u8| flags & (1 << n) != 0;
    (header.fin, header.syn, header.rst, header.psh) = (bit(0), bit(1), bit(2), bit(3));
    (header.ack, header.urg) = (bit(4), bit(5));
    let mut packet = Vec::new();
    compose::ip(from, to)
        .tcp_header(header)
        .write(&mut packet, &input.bytes(32))
        .expect("a vector takes everything");
    packet
}

#[test]
fn the_same_packets_walk_the_same() {
    let variants = [
        options(),
        Options { nbl_layout: NblLayout::Pieces(3), classify_irql: Irql::PASSIVE, ..options() },
        Options { nbl_layout: NblLayout::SplitAt(7), mdl_mapping: MdlMapping::Unmapped, ..options() },
    ];
    for (seed, options) in variants.into_iter().enumerate() {
        for family in Family::BOTH {
            let [image, native] = BUILDS.map(|build| walk(build(options.clone()), family, seed as u64));
            assert!(!image.1.is_empty() && image.0.iter().any(|record| record.contains("_DISCARD")));
            assert_eq!(image.0.len(), native.0.len());
            for (image, native) in image.0.iter().zip(&native.0) {
                assert_eq!(image, native, "{family:?} {options:?}");
            }
            assert_eq!(image.1, native.1, "packets: {family:?} {options:?}");
            assert_eq!(image.2, native.2, "counters: {family:?} {options:?}");
        }
    }
}
