//! Exemptions beside Windows Firewall, which drops what hushport lets pass, and beside
//! heavier sublayers.

use std::sync::Arc;

use lab::explain::Firewall;
use lab::scan::{self, Technique};
use lab::setup::{self, Target};
use lab::world::Plan;
use lab::world::product::Product;
use machine::host::{OpenPoints, UdpDiscard};
use machine::nt::Options;
use machine::nt::registry::RegistryValue;
use machine::status::Status;
use machine::wfp::{
    ActionType, CalloutDriver, ClassifyOut, Condition, Decision, Engine, FILTER_FLAG_CLEAR_ACTION_RIGHT,
    Filter, Guid, MatchType, RIGHT_ACTION_WRITE, Request, RuntimeFilter, SESSION_FLAG_DYNAMIC, Value,
    named_guid,
};
use machine::wire::Family;

use super::probe::{Bench, Probe};
use super::world::{Watched, end, start};

/// `FWP_CONDITION_FLAG_IS_LOOPBACK` (fwptypes.h).
const LOOPBACK: u32 = 1;

/// A callout that drops, or one that blocks and keeps the right to write.
struct Drops {
    clears_right: bool,
}

impl CalloutDriver for Drops {
    fn classify(&self, _: &Request<'_>, _: &RuntimeFilter, _: u64, out: &mut ClassifyOut) {
        if out.rights & RIGHT_ACTION_WRITE != 0 {
            out.action = ActionType::BLOCK;
            if self.clears_right {
                out.rights &= !RIGHT_ACTION_WRITE;
            }
        }
    }
}

/// A sublayer of a weight, with filters at some layers.
struct Other<'a> {
    engine: &'a Engine,
    product: Product<'a>,
    callouts: Vec<u32>,
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        assert_eq!(self.engine.close(self.product.session), Status::SUCCESS);
        for callout in &self.callouts {
            assert_eq!(self.engine.callout_unregister_by_id(*callout), Status::SUCCESS);
        }
    }
}

impl<'a> Other<'a> {
    fn new(engine: &'a Engine, weight: u16) -> Self {
        let key = Guid::from_u128(u128::from(weight) + 1);
        let product = Product::add(engine, "another product's", SESSION_FLAG_DYNAMIC, key, weight).unwrap();
        Self { engine, product, callouts: Vec::new() }
    }

    /// Adds a filter that drops packets without these flags, by a callout or by itself.
    fn drop_at(&mut self, layer: &str, none_of: u32, callout: Option<(Guid, bool)>) {
        if let Some((key, clears_right)) = callout {
            let drops = Arc::new(Drops { clears_right });
            self.callouts.push(self.product.callout(layer, key, drops).unwrap());
        }
        let condition = Condition {
            field: named_guid("FWPM_CONDITION_FLAGS").unwrap(),
            match_type: MatchType::FlagsNoneSet,
            value: Value::Uint32(none_of),
        };
        let (action, flags) = match callout {
            Some(_) => (ActionType::CALLOUT_TERMINATING, 0),
            None => (ActionType::BLOCK, FILTER_FLAG_CLEAR_ACTION_RIGHT),
        };
        let change = |filter: &mut Filter| {
            filter.flags = flags;
            filter.conditions.push(condition);
            filter.callout = callout.map(|(key, _)| key);
        };
        self.product.filter(layer, action, change).unwrap();
    }
}

fn world(
    values: &[(&str, RegistryValue)],
    driver: bool,
    firewall: Option<Firewall>,
    profile: u32,
    udp_discard: UdpDiscard,
) -> Watched {
    let plan = Plan {
        driver: driver.then(|| &*setup::build(Target::X64).unwrap().sys),
        values: values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        open_points: OpenPoints { udp_discard, ..OpenPoints::default() },
        firewall,
        profile: Some(profile),
        ..Plan::default()
    };
    start(&plan)
}

const PORTS: &str = "112-114";
const SILENT: [&str; 3] = ["filtered"; 3];
const SILENT_UDP: [&str; 3] = ["open|filtered"; 3];

/// Scans three ports over both families.
fn expect(world: &Watched, what: &str, tcp: [&str; 3], udp: [&str; 3]) {
    for family in Family::BOTH {
        for (technique, expected) in [(Technique::Syn, tcp), (Technique::Udp, udp)] {
            let states = scan::states_by(world, family, technique, PORTS).unwrap();
            let states: Vec<_> = states.values().map(String::as_str).collect();
            assert_eq!(states, expected, "{what}: {family} {technique:?}");
        }
    }
}

/// Windows' stock filters, among them that of its SILENT_DROP callout, are in a lighter
/// sublayer.
#[test]
fn beside_a_firewall_an_exempt_port_answers_only_with_answer_exempt() {
    let on = || Some(Firewall::on());
    let alone = world(&[], false, on(), 1, UdpDiscard::Both);
    expect(&alone, "the firewall alone", SILENT, SILENT_UDP);
    alone.world.host.stop().unwrap();
    for (answer, udp_discard, firewall) in [
        (0, UdpDiscard::Both, on()),
        (1, UdpDiscard::Both, on()),
        (1, UdpDiscard::IpPacket, on()),
        (1, UdpDiscard::Transport, on()),
        // Without the firewall the exemption is enough.
        (0, UdpDiscard::Both, None),
        (1, UdpDiscard::Both, None),
    ] {
        let what = format!("AnswerExempt {answer}, {udp_discard:?}, {firewall:?}");
        let is_answered = answer == 1 || firewall.is_none();
        let of = |silent| if is_answered { [silent, "closed", silent] } else { [silent; 3] };
        let values = [
            ("ExemptPorts", RegistryValue::multi_sz(["113"])),
            ("AnswerExempt", RegistryValue::dword(answer)),
        ];
        let world = world(&values, true, firewall, 1, udp_discard);
        expect(&world, &what, of("filtered"), of("open|filtered"));
        end(world);
    }
}

#[test]
fn a_profile_is_exempt_on_its_networks_only() {
    let values = [
        ("ExemptProfiles", RegistryValue::multi_sz(["private", "domain"])),
        ("AnswerExempt", RegistryValue::dword(1)),
    ];
    for (profile, udp_discard, firewall) in [
        (1, UdpDiscard::Both, None),
        (0, UdpDiscard::IpPacket, None),
        (2, UdpDiscard::Both, None),
        (3, UdpDiscard::IpPacket, None),
        (2, UdpDiscard::Both, Some(Firewall::on())),
        (1, UdpDiscard::Both, Some(Firewall::on())),
    ] {
        let what = format!("profile {profile}, {udp_discard:?}, {firewall:?}");
        let of = |silent| if profile >= 2 { ["closed"; 3] } else { [silent; 3] };
        let world = world(&values, true, firewall, profile, udp_discard);
        expect(&world, &what, of("filtered"), of("open|filtered"));
        end(world);
    }
}

/// Every UDP scan is reported, although INBOUND_IPPACKET_DISCARD leaves the decision to
/// the error; on an exempt network nothing is.
#[test]
fn with_profiles_a_udp_scan_is_still_reported() {
    for (profile, reported) in [(1, true), (2, false)] {
        let values = [
            ("ExemptProfiles", RegistryValue::multi_sz(["private"])),
            ("ScanWindowMs", RegistryValue::dword(8_000)),
        ];
        let world = world(&values, true, None, profile, UdpDiscard::IpPacket);
        scan::states_by(&world, Family::V4, Technique::Udp, "100-140").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2_100));
        let scans = super::world::noticed(&world).scans;
        assert_eq!(scans.iter().any(|scan| scan.text("Techniques") == "Udp"), reported, "{profile}");
        end(world);
    }
}

/// The decision about a SYN to an exempt port under a filter in another sublayer.
fn decided(weight: u16, callout: Option<bool>, answer: u32) -> Decision {
    let machine = lab::hushport::machine(Options::default());
    machine.set("AnswerExempt", answer);
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["23"]));
    let bench = Bench::start(machine);
    let mut other = Other::new(bench.machine.engine(), weight);
    let callout = callout.map(|clears_right| (Guid::from_u128(77), clears_right));
    other.drop_at("INBOUND_TRANSPORT_V4_DISCARD", LOOPBACK, callout);
    let (decision, verdict) = bench.ask(&Probe::syn("V4"));
    assert_eq!(verdict, "ExemptPort");
    assert!(bench.machine.engine().take_violations().is_empty());
    drop(other);
    bench.end();
    decision
}

#[test]
fn a_heavier_sublayers_block_stands() {
    const HEAVIER: u16 = 0xfff0;
    const LIGHTER: u16 = 2;
    // Also one that leaves the right to write: classifyOut shows it on entry.
    assert!(decided(HEAVIER, Some(false), 1).blocked());
    for callout in [None, Some(true)] {
        for answer in [0, 1] {
            assert!(decided(HEAVIER, callout, answer).blocked(), "{callout:?} {answer}");
            assert_eq!(decided(LIGHTER, callout, answer).blocked(), answer == 0, "{callout:?} {answer}");
        }
    }
    // A lighter sublayer's soft block is one that it could have made hard.
    assert!(!decided(LIGHTER, Some(false), 1).blocked());
}
