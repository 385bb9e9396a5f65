//! Scans by real nmap are reported once, with their technique.

use std::time::Duration;

use lab::hushport::EVENT_PROVIDER;
use lab::scan::Technique;
use lab::world::World;
use machine::etw::{Enable, Filter, Value, ZeroKeyword};
use machine::wire::Family;

use super::world::{Watched, end, eventually, noticed, plan, start};

#[test]
fn a_scan_is_reported_once_and_a_visitor_is_not() {
    is_a_scan_reported_once(start(&plan(&[])));
}

/// If no session wants each verdict, packets take the fast path.
#[test]
fn a_scan_is_reported_once_on_the_fast_path() {
    let world = World::start(&plan(&[])).unwrap();
    let filter = Filter { level: 0, any: SCANS | COUNTERS, all: 0 };
    let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::AsAll };
    let session = world.machine.kernel().trace(enable, None);
    is_a_scan_reported_once(Watched { world, session });
}

/// Keywords (docs/EVENTS.md).
const SCANS: u64 = 0x8;
const COUNTERS: u64 = 0x40;

fn is_a_scan_reported_once(world: Watched) {
    // Fewer ports than `ScanPorts`.
    for family in Family::BOTH {
        lab::scan::tcp(&world, family, "-sS", "90-99").unwrap();
    }
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(noticed(&world).scans.is_empty());
    for (scans, (family, technique, named)) in
        (1..).zip([(Family::V4, "-sS", "Syn"), (Family::V6, "-sX", "Xmas")])
    {
        lab::scan::tcp(&world, family, technique, "100-140").unwrap();
        let now = eventually(technique, &world, |now| now.scans.len() == scans);
        let scan = &now.scans[scans - 1];
        assert_eq!(scan.field("Remote"), Some(&Value::Socket((world.near(family), 0).into())));
        assert!(scan.text("Techniques").split(',').any(|technique| technique == named), "{scan:?}");
        assert_eq!(scan.number("WindowMs"), 10_000);
        // At least `ScanPorts`, at most the 51 ports that were probed. The estimate's
        // error is usually 10 %, seldom 30 %.
        assert!((16..=51 * 14 / 10).contains(&scan.number("Ports")), "{scan:?}");
        world.session.capture_state();
        let events = world.session.events();
        let counters = events.iter().rfind(|event| event.name == "Counters").unwrap();
        assert_eq!(counters.number("Scans"), scans as u64);
    }
    // Two more scan checks report nothing.
    std::thread::sleep(Duration::from_millis(2_600));
    assert_eq!(noticed(&world).scans.len(), 2);
    end(world);
}

/// A source port of a server does not hide a scan, unless it probes only dynamic ports.
#[test]
fn nmap_is_reported_from_a_well_known_port() {
    let cases = [
        (Family::V4, Technique::Udp, 53, "Udp"),
        (Family::V6, Technique::Udp, 53, "Udp"),
        (Family::V4, Technique::Ack, 443, "Ack"),
        (Family::V4, Technique::Fin, 443, "Fin"),
    ];
    std::thread::scope(|scope| {
        for (family, technique, source, name) in cases {
            scope.spawn(move || {
                let world = start(&plan(&[("ScanWindowMs", 8_000)]));
                lab::scan::from_port(&world, family, technique, source, "100-140").unwrap();
                let now = eventually(name, &world, |now| !now.scans.is_empty());
                assert_eq!(now.scans[0].text("Techniques"), name, "{family} {technique:?}");
                end(world);
            });
        }
    });
}

/// Each scan has its own world, so nothing else is reported.
#[test]
fn nmap_is_reported_with_its_technique() {
    let cases = [
        (Family::V4, Technique::Udp, "Udp"),
        (Family::V6, Technique::Udp, "Udp"),
        (Family::V6, Technique::Syn, "Syn"),
        (Family::V6, Technique::Null, "Null"),
        (Family::V6, Technique::Fin, "Fin"),
        (Family::V6, Technique::Ack, "Ack"),
        (Family::V6, Technique::Maimon, "Maimon"),
    ];
    // nmap mostly waits, so the scans run at once.
    std::thread::scope(|scope| {
        for (family, technique, name) in cases {
            scope.spawn(move || {
                let world = start(&plan(&[("ScanWindowMs", 8_000)]));
                lab::scan::states_by(&world, family, technique, "100-140").unwrap();
                let now = eventually(name, &world, |now| !now.scans.is_empty());
                let scan = &now.scans[0];
                assert_eq!(scan.field("Remote"), Some(&Value::Socket((world.near(family), 0).into())));
                assert_eq!(scan.text("Techniques"), name, "{family} {technique:?}");
                end(world);
            });
        }
    });
}
