//! A replayed capture of the simulated host has the events of the live host.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lab::flows::Watched;
use lab::setup::{self, Target};
use lab::trace::{Account, Limits};
use lab::world::{Plan, World};
use machine::host::{Application, Event};
use machine::wire::Family;

use super::captures::{met, plan, play_file};

/// Events of one packet, which is in the capture.
const EVENTS: [Event; 13] = [
    Event::SynIn,
    Event::SynAckOut,
    Event::AckIn,
    Event::SynOut,
    Event::SynAckIn,
    Event::SynNobodyListening,
    Event::DataReceived,
    Event::DatagramIn,
    Event::DatagramOut,
    Event::EndpointlessDatagram,
    Event::EchoRequestIn,
    Event::EchoReplyOut,
    Event::RstOut,
];

#[test]
fn a_played_capture_is_what_the_live_host_saw() {
    let plan_of_world = Plan {
        driver: Some(&setup::build(Target::X64).unwrap().sys),
        listen: vec![(80, Application::Http), (7, Application::Echo)],
        datagrams: vec![7],
        ..Plan::default()
    };
    let mut world = World::start(&plan_of_world).unwrap();
    for family in Family::BOTH {
        lab::scan::tcp(&world, family, "-sS", "70-90").unwrap();
        lab::scan::tcp(&world, family, "-sA", "90-95").unwrap();
        talk(&world, family);
    }
    std::thread::sleep(Duration::from_millis(300));
    let log = world.host.report().unwrap().log;
    let mut live = Account::new(Watched::of(world.machine.engine()), true, Limits::default(), Duration::ZERO);
    for record in log.records() {
        let _ = live.note(record);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.pcap");
    world.recorder.write_pcap(std::fs::File::create(&path).unwrap()).unwrap();
    assert!(world.machine.stop().unwrap().is_empty());
    world.host.stop().unwrap();

    let played = play_file(&path, &plan(), &[]);
    assert_eq!((live.deviations, played.account.deviations), (0, 0), "{:?}", played.account.deviating);
    for event in EVENTS {
        let live = live.flows.iter().find(|flow| flow.event == event).map_or(0, |flow| flow.met);
        assert_eq!(met(&played, event), live, "{event}");
    }
    assert!(met(&played, Event::SynNobodyListening) >= 80);
    assert_eq!(played.account.silenced, live.silenced);
    // At packet layers all verdicts are equal. Stream data may be split otherwise, and
    // no packet shows the end of a listener.
    let packets = |account: &Account| {
        let answers = account.answers.iter().map(|(layer, answers)| (*layer, *answers));
        let answers = answers.filter(|(layer, _)| {
            ["IPPACKET", "TRANSPORT", "DATAGRAM", "ICMP", "ALE_AUTH_RECV", "ALE_FLOW"]
                .iter()
                .any(|part| layer.contains(part))
        });
        answers.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(packets(&played.account), packets(&live));
}

/// A connection with data, a datagram with echo, and a datagram and a connection to
/// closed ports.
fn talk(world: &World, family: Family) {
    let address = |port| world.address(family, port);
    let (echo, nobody, near) = (address(7), address(99), world.near(family));
    let patience = Duration::from_secs(5);
    let talked = world.namespace.run(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&echo, patience)?;
        stream.set_read_timeout(Some(patience))?;
        for _ in 0..3 {
            stream.write_all(b"hello")?;
            stream.read_exact(&mut [0; 5])?;
        }
        drop(stream);
        let socket = UdpSocket::bind(SocketAddr::new(near, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(b"hello", echo)?;
        socket.recv(&mut [0; 16])?;
        socket.send_to(b"hello", nobody)?;
        let refused = TcpStream::connect_timeout(&nobody, Duration::from_millis(200));
        assert!(refused.is_err());
        Ok(())
    });
    talked.unwrap().unwrap();
}
