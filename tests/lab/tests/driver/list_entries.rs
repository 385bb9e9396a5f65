//! List entries in the form of other tools are refused, and the lab advises.
//!
//! The driver accepts what the lab advises to write instead.

use lab::hushport::{self, LOOK, SERVICE};
use lab::policy::state::await_reading;
use lab::policy::{State, forms};
use machine::nt::registry::RegistryValue;
use machine::nt::{Options, parameters_key};

use super::probe::Bench;

/// List, refused entry, and what to write instead (commas separate entries).
const ENTRIES: &[(&str, &str, &str)] = &[
    ("ExemptPorts", "80:443", "80-443"),
    ("ExemptPorts", "80..443", "80-443"),
    ("ExemptPorts", "80 443", "80,443"),
    ("ExemptPorts", "80\u{2013}443", "80-443"),
    ("ExemptPorts", "443-80", "80-443"),
    ("ExemptPorts", "1024-", "1024-65535"),
    ("ExemptPorts", ">=1024", "1024-65535"),
    ("ExemptPorts", "<1024", "0-1023"),
    ("ExemptPorts", "tcp/80", "80/tcp"),
    ("ExemptPorts", "UDP:53", "53/udp"),
    ("ExemptPorts", "80:tcp", "80/tcp"),
    ("ExemptPorts", "tcp/80:443", "80-443/tcp"),
    ("ExemptPorts", "53/17", "53/udp"),
    ("ExemptPorts", "80/6", "80/tcp"),
    ("ExemptPorts", "80/any", "80"),
    ("ExemptPorts", "0x50", "80"),
    ("ExemptPorts", "*", "0-65535"),
    ("ExemptPorts", "any", "0-65535"),
    ("ExemptPorts", "All", "0-65535"),
    ("ExemptPorts", "80;443", "80,443"),
    ("ExemptPorts", "80|443/tcp", "80,443/tcp"),
    ("ExemptPrefixes", "10.0.0.0/255.0.0.0", "10.0.0.0/8"),
    ("ExemptPrefixes", "10.0.0.0 255.0.0.0", "10.0.0.0/8"),
    ("ExemptPrefixes", "10.0.0.0 mask 255.255.0.0", "10.0.0.0/16"),
    ("ExemptPrefixes", "192.168.1.0/0.0.0.255", "192.168.1.0/24"),
    ("ExemptPrefixes", "10/8", "10.0.0.0/8"),
    ("ExemptPrefixes", "192.168/16", "192.168.0.0/16"),
    ("ExemptPrefixes", "10.0.0.*", "10.0.0.0/24"),
    ("ExemptPrefixes", "10.*.*.*", "10.0.0.0/8"),
    ("ExemptPrefixes", "192.168.", "192.168.0.0/16"),
    ("ExemptPrefixes", "010.0.0.1", "10.0.0.1"),
    ("ExemptPrefixes", "[fd00::1]", "fd00::1"),
    ("ExemptPrefixes", "*", "0.0.0.0/0,::/0"),
    ("ExemptPrefixes", "Any", "0.0.0.0/0,::/0"),
    ("ExemptPrefixes", "10.0.0.0/8;fd00::/8", "10.0.0.0/8,fd00::/8"),
    ("ExemptProfiles", "work", "private"),
    ("ExemptProfiles", "2", "private"),
    ("ExemptProfiles", "DomainAuthenticated", "domain"),
    ("ExemptProfiles", "all", "domain,private,public"),
];

/// List, refused entry, and part of the advice.
const ADVICE: &[(&str, &str, &str)] = &[
    ("ExemptPorts", "ssh", "the port number, 22/tcp"),
    ("ExemptPorts", "https", "the port number, 443/tcp"),
    ("ExemptPrefixes", "10.1.2.3/8", "10.0.0.0/8 for the network, and 10.1.2.3 for one address"),
    ("ExemptPrefixes", "10.1.2.3/255.0.0.0", "10.0.0.0/8 for the network"),
    ("ExemptPrefixes", "fd00::1/8", "fd00::/8 for the network"),
    ("ExemptPrefixes", "10.0.0.0-10.0.0.9", "10.0.0.0/29,10.0.0.8/31"),
    ("ExemptPrefixes", "10.0.0.1..10.0.0.2", "10.0.0.1/32,10.0.0.2/32"),
    ("ExemptPrefixes", "LocalSubnet", "the prefix itself"),
    ("ExemptPrefixes", "DefaultGateway", "the prefix itself"),
    ("ExemptPrefixes", "fe80::1%12", "fe80::1, without the zone"),
    ("ExemptPrefixes", "10.0.0.1:80", "10.0.0.1 here"),
    ("ExemptPrefixes", "[fd00::1]:80", "fd00::1 here"),
    ("ExemptPrefixes", "example.org", "names are not resolved"),
    ("ExemptPrefixes", "localhost", "127.0.0.0/8,::1"),
    ("ExemptPrefixes", "0.0.0.0", "0.0.0.0/0 for every address"),
    ("ExemptPrefixes", "::", "::/0 for every address"),
    ("ExemptPrefixes", "::10.0.0.1", "10.0.0.1, the IPv4 address"),
    ("ExemptInterfaces", "300", "not an interface's index"),
    ("ExemptInterfaces", "Ethernet 2", "not an interface's name"),
    ("ExemptInterfaces", "00-15-5d-01-02-03", "not a MAC address"),
    ("ExemptInterfaces", "00:15:5d:01:02:03", "not a MAC address"),
    ("ExemptInterfaces", "{6b703f15-888e-524f-a16f-9e8d456e674a}", "not an interface's GUID"),
    ("ExemptInterfaces", "192.168.1.1", "not an address"),
];

/// For other entries the advice names the accepted form.
const OTHERS: &[(&str, &str)] = &[
    ("ExemptPorts", "70000"),
    ("ExemptPorts", "53/sctp"),
    ("ExemptPorts", "RPC"),
    ("ExemptPrefixes", "10.0.0.0/33"),
    ("ExemptPrefixes", "224.0.0.1"),
    ("ExemptPrefixes", "10.0.0.0/255.0.255.0"),
    ("ExemptInterfaces", "0"),
    ("ExemptProfiles", "office"),
    ("ExemptInterfaces", "0x6008000000001"),
];

struct Running(Bench);

impl Running {
    /// Sets a list. Returns reason and advice of each refused entry.
    fn refused(&self, list: &str, entries: &str) -> Vec<(String, String)> {
        let (kernel, key) = (self.0.machine.kernel(), parameters_key(SERVICE));
        kernel.set_value(&key, list, RegistryValue::multi_sz(entries.split(',')));
        kernel.pass(LOOK);
        await_reading(kernel, list, kernel.registry().changes()).unwrap();
        let values = kernel.registry().values(&key);
        let state = State::read(kernel).unwrap();
        let refused = state.refused.iter().map(|refusal| (refusal.reason.clone(), refusal.text(&values)));
        let refused = refused.collect();
        kernel.delete_value(&key, list);
        kernel.pass(LOOK);
        await_reading(kernel, list, kernel.registry().changes()).unwrap();
        refused
    }
}

#[test]
fn the_entry_that_an_error_suggests_is_accepted() {
    let machine = hushport::machine(Options::default());
    machine.set("Mode", 2);
    let running = Running(Bench::start(machine));
    for (list, entry, written) in ENTRIES {
        let refused = running.refused(list, entry);
        assert_eq!(refused.len(), 1, "{list} {entry}");
        let text = &refused[0].1;
        assert!(text.contains("entry 1") && text.contains(entry) && text.contains(written), "{text}");
        let instead = forms::instead(list, entry).unwrap();
        assert!(instead == *written || instead.ends_with(written), "{entry}: {instead}");
        assert_eq!(running.refused(list, written), [], "{list} {entry}");
    }
    for (list, entry, part) in ADVICE {
        let refused = running.refused(list, entry);
        let [(reason, text)] = &refused[..] else { panic!("{list} {entry}: {refused:?}") };
        assert!(text.contains(part) && text.contains(reason), "{entry}: {text}");
    }
    for (list, entry) in OTHERS {
        let refused = running.refused(list, entry);
        let [(reason, text)] = &refused[..] else { panic!("{list} {entry}: {refused:?}") };
        assert!(text.contains(&forms::accepted(list)) && text.contains(reason), "{entry}: {text}");
    }
    running.0.end();
}

/// The driver accepts correct entries.
#[test]
fn entries_that_are_good_are_taken() {
    let machine = hushport::machine(Options::default());
    machine.set("Mode", 2);
    let running = Running(Bench::start(machine));
    for (list, entries) in [
        ("ExemptPorts", "80,443,8000-8100,53/UDP,0"),
        ("ExemptPrefixes", "0.0.0.0/0,::/0,::1,127.0.0.1,10.0.0.0/8,::ffff:10.0.0.0/104"),
        ("ExemptInterfaces", "1689399632855040,0x18000000000000,tunnel,PPP,53"),
        ("ExemptProfiles", "domain,Private,PUBLIC"),
    ] {
        assert_eq!(running.refused(list, entries), [], "{list}");
    }
    running.0.end();
}
