//! Port states that real nmap reports, and RSTs on the wire.

use lab::scan::{self, Technique};
use lab::setup::{self, Target};
use lab::variants::Variant;
use lab::world::{Plan, World};
use machine::host::{Application, OpenPoints};
use machine::nt::registry::RegistryValue;
use machine::wire::Family;

use super::world::{end, plan, start};

const OPEN: u16 = 80;
const PORTS: &str = "70-90";

fn world(driver: bool, values: &[(&str, u32)], open_points: OpenPoints) -> World {
    let driver = driver.then(|| &*setup::build(Target::X64).unwrap().sys);
    let values =
        values.iter().map(|(name, number)| ((*name).to_owned(), RegistryValue::dword(*number))).collect();
    let listen = vec![(OPEN, Application::Http)];
    World::start(&Plan { driver, values, listen, open_points, ..Plan::default() }).unwrap()
}

/// Scans both families and checks the state of closed ports, and RSTs on the wire.
fn expect(mut world: World, closed: &str, answers: bool) {
    for family in Family::BOTH {
        let states = scan::tcp(&world, family, "-sS", PORTS).unwrap();
        assert_eq!(states.len(), 21);
        for (port, state) in &states {
            assert_eq!(state, if *port == OPEN { "open" } else { closed }, "{family} port {port}");
        }
        assert_eq!(world.recorder.resets(family) > 0, answers, "{family}: RST on the wire");
        assert!(world.recorder.syn_acks(family) > 0, "{family}: the open port answers");
    }
    assert_eq!(world.recorder.forgotten(), 0);
    if world.machine.image().is_some() {
        assert!(world.machine.stop().unwrap().is_empty());
    }
    world.host.stop().unwrap();
}

#[test]
fn without_the_driver_closed_ports_answer() {
    expect(world(false, &[], OpenPoints::default()), "closed", true);
}

#[test]
fn with_the_driver_closed_ports_are_silent() {
    expect(world(true, &[], OpenPoints::default()), "filtered", false);
}

#[test]
fn ports_are_silent_if_inbound_transport_comes_before_its_discard_layer() {
    let open_points = OpenPoints { transport_before_discard: true, ..OpenPoints::default() };
    expect(world(true, &[], open_points), "filtered", false);
}

#[test]
fn mode_0_and_audit_answer_as_usual() {
    for mode in [0, 1] {
        expect(world(true, &[("Mode", mode)], OpenPoints::default()), "closed", true);
    }
}

/// The stack may discard UDP at several layers. The driver finds the port in the
/// packet, or in the packet that the ICMP error quotes.
#[test]
fn an_exempt_udp_port_answers_wherever_it_is_discarded() {
    let names = [
        "udp-at-transport-discard",
        "udp-at-ippacket-discard",
        "reason-absent",
        "nbl-at-ip-header",
        "nbl-at-payload",
    ];
    let variants = names.map(|name| Variant::named(name).unwrap_or_else(|| panic!("{name}")));
    for variant in [None].into_iter().chain(variants.map(Some)) {
        let mut plan = plan(&[]);
        plan.values.push(("ExemptPorts".into(), RegistryValue::multi_sz(["53/udp"])));
        if let Some(variant) = variant {
            variant.turn(&mut plan);
        }
        let world = start(&plan);
        for family in Family::BOTH {
            let states = scan::states_by(&world, family, Technique::Udp, "52-54").unwrap();
            let states: Vec<_> = states.values().map(String::as_str).collect();
            let name = variant.map_or("as documented", |variant| variant.name);
            assert_eq!(states, ["open|filtered", "closed", "open|filtered"], "{family} {name}");
        }
        end(world);
    }
}
