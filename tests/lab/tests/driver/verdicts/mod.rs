//! Every decision with every exemption has the expected verdict and counter.
//!
//! An oracle gives the expected verdict. Many packets pass between two readings of the
//! counters. Packets of different verdicts pass in different numbers, so that two
//! exchanged verdicts show in the sums.

mod cases;
mod indication;
mod oracle;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::counters::Counters;
use lab::hushport::{self, EVENT_PROVIDER, LOOK};
use lab::setup::{self, Target};
use lab::traffic::{Family, Indication};
use lab::world::stronger;
use machine::Machine;
use machine::etw::{Enable, Filter, Value, ZeroKeyword};
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, NblLayout, Options, Trace};
use machine::wfp::{ActionType, Engine};

use cases::{Case, Compartment, Origin, Spot, UDP};
pub use cases::{Decision, Kind};
use oracle::{EXEMPT_PROFILE, LISTS, PolicyValues, is_permitted, verdict};

/// A packet from a remote to a port without endpoint.
pub fn packet_to(engine: &Engine, decision: Decision, kind: Kind, remote: IpAddr, port: u16) -> Indication {
    packet_between(engine, decision, kind, (remote, 40_000), port)
}

/// A packet from a remote's port to a port without endpoint.
pub fn packet_between(
    engine: &Engine,
    decision: Decision,
    kind: Kind,
    (remote, remote_port): (IpAddr, u16),
    port: u16,
) -> Indication {
    let discard = match decision {
        Decision::TransportDiscard => Some((1, 4)),
        Decision::PacketDiscard => Some((0, if kind.protocol == UDP { 4 } else { 3 })),
        Decision::IcmpError | Decision::EchoRequest => None,
    };
    let family = if remote.is_ipv4() { Family::V4 } else { Family::V6 };
    let origin = Origin { discard, flow: false, endpoint: false };
    let spot = Spot {
        port,
        remote_port,
        remote,
        interface: Some(1),
        profile: Some(1),
        address_type: Some(cases::UNICAST),
        compartment: Compartment::OWN,
    };
    indication::of(&Case { decision, family, kind, origin, flags: 0, spot }, engine)
}

const DECISIONS: [Decision; 4] =
    [Decision::TransportDiscard, Decision::PacketDiscard, Decision::IcmpError, Decision::EchoRequest];

/// Verdicts of docs/EVENTS.md, and how often a packet of that verdict is shown.
/// Verdicts that exclude each other may share a number.
const VERDICTS: [(&str, u64); 19] = [
    ("Silenced", 1),
    ("Audited", 1),
    ("Off", 1),
    ("Overruled", 1),
    ("AlreadyBlocked", 1),
    ("OtherKind", 2),
    ("Observed", 3),
    ("FilterDrop", 4),
    ("Endpoint", 5),
    ("NoAnswer", 6),
    ("ExemptPort", 7),
    ("ExemptPrefix", 8),
    ("ExemptInterface", 9),
    ("Loopback", 10),
    ("IpsecSecured", 11),
    ("ExemptProfile", 12),
    ("Deferred", 13),
    ("NotUnicast", 14),
    ("ExemptCompartment", 15),
];

/// A running driver, and the packets of both families at every deciding layer.
struct Bench {
    machine: Machine,
    /// Gets only policy events, so that the driver writes no verdicts.
    policies: Trace,
    policy: PolicyValues,
    /// `CheckOrder`.
    is_watched: bool,
    packets: Vec<(Case, Indication)>,
    /// What a filter in a heavier sublayer does, which has taken the right.
    heavier: Option<ActionType>,
}

/// Verdicts by layer and name.
type Counts = BTreeMap<(String, &'static str), u64>;

impl Bench {
    fn new(nbl_layout: NblLayout, heavier: Option<ActionType>) -> Self {
        let options = Options { classify_irql: Irql::PASSIVE, nbl_layout, ..Options::default() };
        let mut machine = hushport::machine(options);
        machine.set("SilenceEcho", 1);
        // No remote probes enough ports to be reported as a scan.
        machine.set("ScanPorts", 65_536);
        if let Some(action) = heavier {
            stronger::add(machine.engine(), action).unwrap();
        }
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        // Level and keyword of PolicyApplied (docs/EVENTS.md).
        let filter = Filter { level: 4, any: 2, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        let policies = machine.kernel().trace(enable, None);
        let families = [Family::V4, Family::V6];
        let every = DECISIONS.into_iter().flat_map(|decision| families.map(|family| (decision, family)));
        let cases = every.flat_map(|(decision, family)| cases::all(decision, family));
        let packets = cases.map(|case| (case, indication::of(&case, machine.engine()))).collect();
        let policy = PolicyValues::USUAL;
        let bench = Self { machine, policies, policy, is_watched: false, packets, heavier };
        bench.wait();
        bench
    }

    /// Sets another policy, and waits until it is in force.
    fn set_policy(&mut self, policy: PolicyValues) {
        let before = std::mem::replace(&mut self.policy, policy);
        let flags = |policy: &PolicyValues| {
            [
                ("Mode", policy.mode),
                ("SilenceTcp", policy.tcp.into()),
                ("SilenceUdp", policy.udp.into()),
                ("SilenceProtocols", policy.protocols.into()),
                ("SilenceEcho", policy.echo.into()),
                ("ExemptLoopback", policy.exempt_loopback.into()),
                ("ExemptIpsec", policy.exempt_ipsec.into()),
                ("ExemptCompartments", policy.exempt_compartments.into()),
                ("AnswerExempt", policy.answer.into()),
            ]
        };
        let mut changed = false;
        for ((name, number), (_, before)) in flags(&policy).into_iter().zip(flags(&before)) {
            if number != before {
                self.machine.set(name, number);
                changed = true;
            }
        }
        if policy.lists != before.lists {
            for (name, entries) in LISTS {
                let entries = if policy.lists { entries } else { &[] };
                self.machine.set_value(name, RegistryValue::multi_sz(entries));
            }
            changed = true;
        }
        if policy.profiles != before.profiles {
            let profiles = policy.profiles.then_some(EXEMPT_PROFILE.0);
            self.machine.set_value("ExemptProfiles", RegistryValue::multi_sz(profiles));
            changed = true;
        }
        // Without a change no policy is applied, so there is no event to wait for.
        if changed {
            self.wait();
        }
    }

    fn watch(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
        self.machine.set("CheckOrder", is_watched.into());
        self.wait();
    }

    /// Waits until the policy that was set is in force.
    fn wait(&self) {
        self.machine.kernel().pass(LOOK);
        let policy = &self.policy;
        let holds = || {
            let events = self.policies.events();
            let last = events.iter().rfind(|event| event.name == "PolicyApplied");
            last.is_some_and(|event| {
                let flag = |name, is_set| event.field(name) == Some(&Value::Bool(is_set));
                event.number("Mode") == u64::from(policy.mode)
                    && flag("SilenceTcp", policy.tcp)
                    && flag("SilenceUdp", policy.udp)
                    && flag("SilenceProtocols", policy.protocols)
                    && flag("SilenceEcho", policy.echo)
                    && flag("ExemptLoopback", policy.exempt_loopback)
                    && flag("ExemptIpsec", policy.exempt_ipsec)
                    && flag("ExemptCompartments", policy.exempt_compartments)
                    && flag("AnswerExempt", policy.answer)
                    && (event.number("ExemptProfiles") > 0) == policy.profiles
                    && flag("CheckOrder", self.is_watched)
                    && ["ExemptPorts", "ExemptPrefixes", "ExemptInterfaces"]
                        .iter()
                        .all(|list| (event.number(list) > 0) == policy.lists)
            })
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < end, "{policy:?} is not in force");
            std::thread::sleep(Duration::from_micros(200));
        }
        self.policies.take();
    }

    fn expected(&self, case: &Case) -> &'static str {
        match verdict(case, &self.policy) {
            verdict @ ("Silenced" | "Audited") => match self.heavier {
                Some(ActionType::BLOCK) => "AlreadyBlocked",
                Some(_) => "Overruled",
                None => verdict,
            },
            verdict => verdict,
        }
    }

    /// Shows every packet at an IRQL. Compares each decision, and the counters, with the
    /// oracle.
    fn hold(&self, irql: Irql) {
        let (mut expected, before) = (self.counts(), self.total());
        let engine = self.machine.engine();
        let mut shown = 0;
        self.machine.kernel().on_processor(1, irql, |_| {
            for (case, indication) in &self.packets {
                let verdict = self.expected(case);
                let (_, times) = VERDICTS.into_iter().find(|(known, _)| *known == verdict).unwrap();
                for _ in 0..times {
                    let decision = engine.classify(&indication.request());
                    // Without the driver's permit the engine's own end is soft.
                    let permitted = decision.action == ActionType::PERMIT && decision.hard;
                    let is_blocked = verdict == "Silenced" || self.heavier == Some(ActionType::BLOCK);
                    let is_permitted = match self.heavier {
                        Some(heavier) => heavier == ActionType::PERMIT,
                        None => is_permitted(case, &self.policy),
                    };
                    let expected = (is_blocked, is_permitted);
                    assert_eq!(
                        (decision.blocked(), permitted),
                        expected,
                        "{verdict} at {irql}: {case:?} {:?}",
                        self.policy
                    );
                }
                let place = (cases::layer(case.decision, case.family), verdict);
                *expected.entry(place).or_default() += times;
                shown += times;
            }
        });
        assert_eq!(self.counts(), expected, "at {irql}: {:?}", self.policy);
        assert_eq!(self.total() - before, shown, "no other callout counts");
    }

    fn counts(&self) -> Counts {
        let engine = self.machine.engine();
        let counters = Counters::read(self.machine.kernel(), engine).unwrap();
        let mut counts = Counts::new();
        for decision in DECISIONS {
            for family in [Family::V4, Family::V6] {
                let layer = cases::layer(decision, family);
                for (verdict, count) in counters.at(&layer, engine) {
                    let known = VERDICTS.into_iter().find(|(known, _)| *known == verdict);
                    let (known, _) = known.unwrap_or_else(|| panic!("{verdict} at {layer}"));
                    counts.insert((layer.clone(), known), count);
                }
            }
        }
        counts
    }

    /// The sum of the counters of all callouts.
    fn total(&self) -> u64 {
        let engine = self.machine.engine();
        let counters = Counters::read(self.machine.kernel(), engine).unwrap();
        let layers = machine::wfp::layers().iter();
        layers.flat_map(|layer| counters.at(layer.name, engine).into_values()).sum()
    }

    fn end(mut self) {
        let findings = self.machine.kernel().verifier().findings();
        assert!(findings.is_empty(), "{findings:?}");
        drop(self.policies);
        assert!(self.machine.stop().unwrap().is_empty());
    }
}

/// Policies that silence all kinds, all but one, and none.
fn silences(usual: PolicyValues) -> Vec<PolicyValues> {
    let none = PolicyValues { tcp: false, udp: false, protocols: false, echo: false, ..usual };
    vec![
        usual,
        PolicyValues { tcp: false, ..usual },
        PolicyValues { udp: false, ..usual },
        PolicyValues { protocols: false, ..usual },
        PolicyValues { echo: false, ..usual },
        none,
    ]
}

/// Checks every kind of silence and every exemption in some modes, at PASSIVE_LEVEL
/// and at DISPATCH_LEVEL.
fn hold_all(modes: &[u32]) {
    let mut bench = Bench::new(NblLayout::Contiguous, None);
    for &mode in modes {
        for lists in [false, true] {
            for policy in silences(PolicyValues { mode, lists, ..PolicyValues::USUAL }) {
                for (exempt_loopback, exempt_ipsec, exempt_compartments) in
                    [(true, true, true), (false, true, false), (true, false, true), (false, false, false)]
                {
                    bench.set_policy(PolicyValues {
                        exempt_loopback,
                        exempt_ipsec,
                        exempt_compartments,
                        ..policy
                    });
                    bench.hold(Irql::DISPATCH);
                    bench.hold(Irql::PASSIVE);
                }
            }
        }
    }
    bench.end();
}

#[test]
fn off_and_audit_count_what_each_packet_is() {
    hold_all(&[0, 1]);
}

#[test]
fn enforced_each_packet_is_silenced_or_left_alone_as_documented() {
    hold_all(&[2]);
}

/// `ExemptProfiles` and `AnswerExempt`, with and without the other lists.
#[test]
fn profiles_are_exempt_and_what_is_exempt_is_permitted_as_documented() {
    let mut bench = Bench::new(NblLayout::Contiguous, None);
    for mode in [2, 1, 0] {
        for (lists, profiles, answer) in [
            (false, true, false),
            (true, true, false),
            (false, false, true),
            (false, true, true),
            (true, false, true),
            (true, true, true),
        ] {
            for policy in silences(PolicyValues { mode, lists, profiles, answer, ..PolicyValues::USUAL }) {
                bench.set_policy(policy);
                bench.hold(Irql::DISPATCH);
            }
        }
    }
    bench.watch(true);
    bench.hold(Irql::PASSIVE);
    bench.end();
}

/// APC_LEVEL, `CheckOrder`, and events of verdicts take other paths through the driver.
/// The verdicts are equal.
#[test]
fn the_verdict_depends_on_nothing_else() {
    let mut bench = Bench::new(NblLayout::Pieces(7), None);
    for mode in [2, 1, 0] {
        for lists in [false, true] {
            bench.set_policy(PolicyValues { mode, lists, ..PolicyValues::USUAL });
            bench.hold(Irql::APC);
            bench.watch(true);
            bench.hold(Irql::DISPATCH);
            let session = bench.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
            bench.hold(Irql::PASSIVE);
            bench.hold(Irql::DISPATCH);
            drop(session);
            bench.watch(false);
            let session = bench.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
            bench.hold(Irql::DISPATCH);
            drop(session);
        }
    }
    bench.end();
}

/// A filter in a heavier sublayer has cleared the right. Silenced and Audited become
/// Overruled or AlreadyBlocked; other verdicts stay.
#[test]
fn without_the_right_what_would_be_silenced_is_overruled_or_already_blocked() {
    for heavier in [ActionType::PERMIT, ActionType::BLOCK] {
        let mut bench = Bench::new(NblLayout::Contiguous, Some(heavier));
        for mode in [2, 1, 0] {
            for (lists, answer) in [(false, false), (true, false), (true, true)] {
                bench.set_policy(PolicyValues { mode, lists, answer, ..PolicyValues::USUAL });
                bench.hold(Irql::DISPATCH);
                bench.hold(Irql::PASSIVE);
            }
        }
        bench.end();
    }
}

/// The oracle gives each verdict for some case, so each counter is tested.
#[test]
fn the_cases_come_to_every_verdict() {
    let mut seen = std::collections::BTreeSet::new();
    for mode in [0, 1, 2] {
        for family in [Family::V4, Family::V6] {
            for decision in DECISIONS {
                let policy = PolicyValues { mode, lists: true, profiles: true, ..PolicyValues::USUAL };
                let usual = PolicyValues { profiles: false, ..policy };
                seen.extend(cases::all(decision, family).iter().map(|case| verdict(case, &usual)));
                seen.extend(cases::all(decision, family).iter().map(|case| verdict(case, &policy)));
            }
        }
    }
    let of_others = ["Overruled", "AlreadyBlocked"];
    let listed = VERDICTS.map(|(verdict, _)| verdict).into_iter();
    let listed = listed.filter(|verdict| !of_others.contains(verdict));
    assert_eq!(seen, listed.collect());
}
