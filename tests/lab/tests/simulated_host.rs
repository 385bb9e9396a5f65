//! The simulated host on a real TUN device, against real nmap and curl.
//!
//! Needs root, or `unshare --user --map-root-user`; else it fails and says so.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use machine::host::documented::{Comparison, compare};
use machine::host::{
    Application, Event, Filter, Host, HostHandle, Layer, OpenPoints, Options, State, definition, spawn,
};
use machine::wfp::{ActionType, Decision, FlowHandle, LayerId, Request};
use machine::wire::{Family, Namespace, Network, Recorder, Recording};

/// A filter that blocks at the given layers and permits all else.
#[derive(Default)]
struct Blocking {
    layers: Vec<LayerId>,
    flows: AtomicU64,
}

impl Blocking {
    /// At INBOUND_TRANSPORT_DISCARD and INBOUND_IPPACKET_DISCARD.
    fn discards() -> Self {
        let mut layers = Vec::new();
        for layer in [Layer::InboundTransport, Layer::InboundIppacket] {
            for family in Family::BOTH {
                layers.extend(definition(layer, family).discard.map(|(id, _)| id));
            }
        }
        Self { layers, ..Self::default() }
    }
}

impl Filter for Blocking {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let blocked = self.layers.contains(&request.layer);
        Decision {
            action: if blocked { ActionType::BLOCK } else { ActionType::PERMIT },
            hard: blocked,
            absorbed: false,
            filter_id: blocked.then_some(1),
            invocations: Vec::new(),
        }
    }

    fn generation(&self, _: LayerId) -> u64 {
        0
    }

    fn flow_create(&self) -> FlowHandle {
        FlowHandle(self.flows.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn flow_end(&self, _: FlowHandle) {}
}

/// A host on a TUN device. Port 80 serves HTTP, port 22 holds connections open.
struct Bench {
    host: HostHandle,
    namespace: Namespace,
    recorder: Arc<Recorder>,
    network: Network,
}

impl Bench {
    fn new(filter: Blocking) -> Self {
        let network = Network::default();
        let namespace = Namespace::new().unwrap();
        let tun = namespace.tun(&network).unwrap();
        let recorder = Recorder::new(64 << 20);
        let wire = Recording::new(tun, recorder.clone());
        let host = Host::new(Arc::new(filter), Options::default(), OpenPoints::default());
        let host = spawn(host, wire).unwrap();
        for family in Family::BOTH {
            let at = |port| (network.host_address(family), port).into();
            host.listen(at(80), Application::Http).unwrap().unwrap();
            host.listen(at(22), Application::Hold).unwrap().unwrap();
        }
        Self { host, namespace, recorder, network }
    }

    /// Runs a command inside and returns what it printed.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments);
        let output = self.namespace.output(command).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {text}{errors}");
        text
    }

    fn nmap(&self, family: Family, technique: &str, ports: &str) -> String {
        let target = self.network.host_address(family).to_string();
        let mut arguments = vec![technique, "-Pn", "-n", "--send-ip", "-p", ports];
        arguments.extend(["--max-retries", "1", "-T4", "-oG", "-"]);
        if family == Family::V6 {
            arguments.push("-6");
        }
        arguments.push(&target);
        self.run("nmap", &arguments)
    }

    /// Stops the host. Each documented event must have passed the documented layers.
    fn finish(self, wanted: &[Event]) {
        let report = self.host.stop().unwrap();
        let mut seen = Vec::new();
        for record in report.log.records() {
            match compare(record.event, record.layers(), record.stopped(), |_| true) {
                Comparison::Match => seen.push(record.event),
                Comparison::Undocumented => {}
                deviation @ Comparison::Deviation { .. } => panic!("{record}\n{deviation}"),
            }
        }
        for event in wanted {
            assert!(seen.contains(event), "no {event}");
        }
    }
}

#[test]
fn without_a_filter_closed_ports_answer() {
    let bench = Bench::new(Blocking::default());
    for family in Family::BOTH {
        let report = bench.nmap(family, "-sS", "22,80,81-90");
        assert!(report.contains("22/open/tcp"), "{report}");
        assert!(report.contains("80/open/tcp"), "{report}");
        assert!(report.contains("81/closed/tcp"), "{report}");
        assert!(!report.contains("filtered"), "{report}");
        assert!(bench.recorder.resets(family) >= 10);
    }
    bench.finish(&[Event::SynNobodyListening, Event::RstOut, Event::SynAckOut]);
}

#[test]
fn with_a_block_closed_ports_are_silent_and_open_ones_serve() {
    let bench = Bench::new(Blocking::discards());
    for family in Family::BOTH {
        let report = bench.nmap(family, "-sS", "22,80,81-90");
        assert!(report.contains("22/open/tcp"), "{report}");
        assert!(report.contains("80/open/tcp"), "{report}");
        assert!(report.contains("81/filtered/tcp"), "{report}");
        assert!(!report.contains("closed"), "{report}");
        assert_eq!(bench.recorder.resets(family), 0);
        assert!(bench.recorder.syn_acks(family) >= 2);

        let host = SocketAddr::from((bench.network.host_address(family), 80));
        let url = format!("http://{host}/bytes/100000");
        let arguments = ["--silent", "--show-error", "--fail", "--max-time", "20", &url];
        assert_eq!(bench.run("curl", &arguments).len(), 100_000);
    }
    bench.finish(&[
        Event::SynNobodyListening,
        Event::SynIn,
        Event::SynAckOut,
        Event::AckIn,
        Event::DataReceived,
        Event::DataSent,
        Event::EndpointClosed,
    ]);
}

/// Technique, and nmap's state of a port with a listener (22) and of one without
/// (81): first without a filter, then with the discard layers blocking.
///
/// Like Windows, the host answers FIN, NULL, Xmas and Maimon probes with a RST even
/// at a port with a listener, so these probes cannot tell the ports apart (nmap's
/// manual, Port Scanning Techniques).
const TECHNIQUES: &[(&str, [&str; 2], [&str; 2])] = &[
    ("-sT", ["open", "closed"], ["open", "filtered"]),
    ("-sA", ["unfiltered", "unfiltered"], ["filtered", "filtered"]),
    ("-sW", ["closed", "closed"], ["filtered", "filtered"]),
    ("-sF", ["closed", "closed"], ["open|filtered", "open|filtered"]),
    ("-sN", ["closed", "closed"], ["open|filtered", "open|filtered"]),
    ("-sX", ["closed", "closed"], ["open|filtered", "open|filtered"]),
    ("-sM", ["closed", "closed"], ["open|filtered", "open|filtered"]),
    ("-sU", ["closed", "closed"], ["open|filtered", "open|filtered"]),
];

fn scan_by_every_technique(silent: bool) {
    let bench = Bench::new(match silent {
        false => Blocking::default(),
        true => Blocking::discards(),
    });
    for (technique, answering, silenced) in TECHNIQUES {
        let expected = if silent { silenced } else { answering };
        for family in Family::BOTH {
            let report = bench.nmap(family, technique, "22,81");
            for (port, state) in [22, 81].iter().zip(expected) {
                let wanted = format!("{port}/{state}/");
                // nmap only counts ports if all have one state.
                let summary = format!("Ignored State: {state} (2)");
                assert!(
                    report.contains(&wanted) || report.contains(&summary),
                    "{technique} {family:?}: no {wanted} in {report}"
                );
            }
            if silent {
                assert_eq!(bench.recorder.resets(family), 0, "{technique}");
            }
        }
    }
    bench.finish(&[Event::SynNobodyListening, Event::EndpointlessDatagram]);
}

#[test]
fn every_technique_is_answered_without_a_filter() {
    scan_by_every_technique(false);
}

#[test]
fn no_technique_is_answered_with_a_block() {
    scan_by_every_technique(true);
}

#[test]
fn the_host_connects_to_a_server_in_the_namespace() {
    let bench = Bench::new(Blocking::default());
    for family in Family::BOTH {
        let near = match family {
            Family::V4 => SocketAddr::from((bench.network.near.0, 7777)),
            Family::V6 => SocketAddr::from((bench.network.near.1, 7777)),
        };
        let listener = bench.namespace.run(move || std::net::TcpListener::bind(near));
        let listener = listener.unwrap().unwrap();
        let server = bench.namespace.thread(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 8];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
        });
        let id = bench.host.connect(near, b"question".to_vec());
        let id = id.unwrap().unwrap();
        server.unwrap().join().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let outcome = bench.host.outcome(id).unwrap().unwrap();
            if outcome.state == State::Closed {
                assert_eq!(outcome.received, b"question");
                break;
            }
            assert!(Instant::now() < deadline, "{outcome:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    bench.finish(&[Event::Connect, Event::SynOut, Event::SynAckIn, Event::PortFreed]);
}
