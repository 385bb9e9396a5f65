//! Fuzz target: the decision and the header parser, with any input.

use hushport_native_driver::logic::layers::Decision;
use hushport_native_driver::logic::policy::values::ValueKind;
use hushport_native_driver::logic::policy::{Policy, VALUES};
use hushport_native_driver::logic::protocol::{TCP, UDP};
use hushport_native_driver::logic::stealth::{Discard, Module, Packet, Rules, Verdict, decide};
use hushport_native_driver::logic::tcp::TcpFlags;
use hushport_native_driver::logic::transport::{self, Header, Ports};

use crate::input::Input;

/// The target.
///
/// # Panics
/// If a packet is silenced that must not be.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut policy = Policy::DEFAULT;
    let mut numbers = [2, 1, 1, 1, 1, 1];
    for value in &VALUES {
        let ValueKind::Number { min, max, set, .. } = value.kind else { continue };
        let number = if input.rarely() { u32::from(input.u8()) } else { max };
        if !(min..=max).contains(&number) {
            continue;
        }
        set(&mut policy, number);
        let names =
            ["Mode", "SilenceTcp", "SilenceUdp", "ExemptLoopback", "ExemptIpsec", "ExemptCompartments"];
        if let Some(index) = names.iter().position(|name| *name == value.name) {
            numbers[index] = number;
        }
    }
    let packet = packet(&mut input);
    let verdict = decide(Decision::TransportDiscard, &packet, Rules::new(&policy, false), None).verdict;
    let [mode, silence_tcp, silence_udp, exempt_loopback, exempt_ipsec, exempt_compartments] = numbers;
    let silence = match packet.protocol {
        Some(TCP) => silence_tcp == 1,
        Some(UDP) => silence_udp == 1,
        _ => false,
    };
    let must_pass = mode == 0
        || !silence
        || (packet.loopback && exempt_loopback == 1)
        || (packet.ipsec_secured && exempt_ipsec == 1)
        || (packet.compartment.is_some_and(|it| it > 1) && exempt_compartments == 1)
        || packet.for_several
        || packet.flow
        || packet.discard.is_some_and(|discard| discard.module == Module::General)
        || packet.tcp_flags.is_some_and(|flags| flags.0 & 0x04 != 0);
    let silenced = matches!(verdict, Verdict::Silenced | Verdict::Audited);
    assert!(!(must_pass && silenced), "{packet:?} {policy:?} {verdict:?}");
    assert!(mode == 2 || verdict != Verdict::Silenced, "{packet:?} {policy:?} {verdict:?}");
    assert!(mode == 1 || verdict != Verdict::Audited, "{packet:?} {policy:?} {verdict:?}");
    assert_eq!(
        decide(Decision::TransportDiscard, &packet, Rules::new(&policy, false), None).verdict,
        verdict,
        "the same again"
    );
}

fn packet(input: &mut Input<'_>) -> Packet {
    let bits = input.u8();
    let bit = |index: u8| bits & (1 << index) != 0;
    Packet {
        protocol: (!bit(0)).then(|| if input.rarely() { input.u8() } else { TCP }),
        loopback: bit(1),
        ipsec_secured: bit(2),
        flow: bit(3),
        endpoint: input.rarely(),
        compartment: input.rarely().then(|| input.u8().into()),
        for_several: input.rarely(),
        discard: bit(4).then(|| Discard {
            module: input.one_of(&[Module::Transport, Module::Network, Module::General, Module::Other]),
            reason: if bit(5) { input.u32() } else { input.u8().into() },
        }),
        tcp_flags: if bit(6) { header(input) } else { bit(7).then(|| TcpFlags(input.u8())) },
        ..Packet::default()
    }
}

/// The flags of any header.
fn header(input: &mut Input<'_>) -> Option<TcpFlags> {
    let bytes: [u8; transport::LONGEST] = std::array::from_fn(|_| input.u8());
    let header = Header::read(TCP, &bytes)?;
    let [s0, s1, d0, d1, ..] = bytes;
    let ports = Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) };
    assert_eq!(header.ports, Some(ports));
    Some(header.segment?.flags)
}
