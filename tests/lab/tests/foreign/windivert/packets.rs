//! Packets of the NETWORK and FORWARD layers, in both families.

use std::net::SocketAddr;

use machine::host::{OpenPoints, Options};
use machine::wire::{Family, Parsed, compose};

use super::client::{Address, Layer, NO_DATA, bit, flag, shutdown};
use super::sys;
use super::world::{A_WHILE, INTERFACE, SOON, World, near, own, packet_for, ping, same_but_hops};

/// The layers with packets, in both families.
fn every(mut test: impl FnMut(Layer, Family)) {
    for layer in [Layer::Network, Layer::Forward] {
        for family in Family::BOTH {
            test(layer, family);
        }
    }
}

fn ipv6(family: Family) -> u8 {
    if family == Family::V6 { bit::IPV6 } else { 0 }
}

#[test]
fn a_ping_is_diverted_sent_back_and_answered_and_so_is_its_reply() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        let mut world = World::new(&sys);
        let handle = world.open(Layer::Network, 0, 0);
        let request = packet_for(Layer::Network, family, 1, b"ping");
        world.arrives(&request);
        assert_eq!(world.sends(A_WHILE), None, "the ping was not diverted");
        let (packet, address) = handle.receive(SOON).unwrap();
        assert_eq!(packet, request);
        assert_eq!(address.bits(), ipv6(family), "inbound");
        assert_eq!((address.layer(), address.event()), (0, 0), "a packet of the NETWORK layer");
        assert_eq!(address.interface(), (INTERFACE, 0));
        handle.send(&packet, &address).unwrap();
        // The echo reply leaves the host, and is diverted, too.
        let (answer, address) = world.diverted(&handle, SOON).expect("the host answers the injected ping");
        assert_eq!(world.sends(A_WHILE), None, "the reply was not diverted");
        assert_eq!(address.bits(), ipv6(family) | bit::OUTBOUND);
        handle.send(&answer, &address).unwrap();
        assert_eq!(world.sends(SOON).as_deref(), Some(&answer[..]));
        handle.close();
        world.end();
    }
}

#[test]
fn a_forwarded_packet_is_diverted_and_goes_on_when_it_is_sent_back() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        for again in [false, true] {
            let points = OpenPoints { injected_forward_indicated: again, ..OpenPoints::default() };
            let options = Options { forwards: true, ..Options::default() };
            let mut world = World::with(&sys, options, points);
            let handle = world.open(Layer::Forward, 0, 0);
            let request = packet_for(Layer::Forward, family, 1, b"ping");
            world.arrives(&request);
            assert_eq!(world.sends(A_WHILE), None, "the packet was not diverted");
            let (packet, address) = handle.receive(SOON).unwrap();
            assert_eq!(packet, request);
            assert_eq!(address.bits() & bit::IPV6, ipv6(family));
            assert_eq!(address.layer(), 1);
            handle.send(&packet, &address).unwrap();
            let onward = world.sends(SOON).expect("the packet goes on");
            assert!(same_but_hops(&onward, &request) && sums(&onward), "{onward:02x?}");
            // A packet for the host itself is not forwarded.
            world.arrives(&packet_for(Layer::Network, family, 2, b"ping"));
            assert!(world.sends(SOON).is_some() && handle.receive(A_WHILE).is_none());
            handle.close();
            world.end();
        }
    }
}

/// Whether all checksums of a packet are right.
fn sums(packet: &[u8]) -> bool {
    Parsed::new(packet).is_some_and(|parsed| parsed.header_checksum_valid() && parsed.checksum_valid())
}

/// Flags of a handle, whether a packet goes on at once, whether it can be read, and
/// whether others can be sent: "the original packet is not dropped-and-diverted (the
/// default) but copied-and-diverted"; "silently dropped"; "possible to block/capture … but
/// not inject". WINDIVERT_FLAG_SEND_ONLY is "possible to inject …, but not block/capture",
/// but the driver blocks what the filter of such a handle matches (docs/DRIVERS.md).
const MODES: [(u64, bool, bool, bool); 6] = [
    (0, false, true, true),
    (flag::SNIFF, true, true, true),
    (flag::DROP, false, false, true),
    (flag::RECV_ONLY, false, true, false),
    (flag::SNIFF | flag::RECV_ONLY, true, true, false),
    (flag::SEND_ONLY, false, false, true),
];

#[test]
fn flags_decide_whether_a_packet_goes_on_can_be_read_and_can_be_sent() {
    let Some(sys) = sys() else { return };
    every(|layer, family| {
        for (flags, goes_on, read, sent) in MODES {
            let what = format!("{layer:?}, {family}, flags {flags}");
            let mut world = World::of(&sys, layer);
            let handle = world.open(layer, 0, flags);
            let request = packet_for(layer, family, 1, b"ping");
            world.arrives(&request);
            assert_eq!(world.sends(if goes_on { SOON } else { A_WHILE }).is_some(), goes_on, "{what}");
            let received = match flags & flag::SEND_ONLY {
                0 => handle.receive(if read { SOON } else { A_WHILE }),
                // "effectively disables WinDivertRecv()".
                _ => {
                    let reply = handle.start_receive(1500).reply(Some(SOON)).expect("an answer");
                    assert!(!reply.status.is_success(), "{what}");
                    None
                }
            };
            assert_eq!(received.is_some(), read, "{what}");
            if let Some((packet, address)) = received {
                assert_eq!(packet, request, "{what}");
                let sniffed = if goes_on { bit::SNIFFED } else { 0 };
                assert_eq!(address.bits() & (bit::SNIFFED | bit::IPV6), sniffed | ipv6(family), "{what}");
            }
            let (new, outbound) = match layer {
                Layer::Forward => (request, 0),
                _ => (ping(own(family, 0).ip(), near(family, 0).ip(), 2, b"new"), bit::OUTBOUND),
            };
            let injected = handle.send(&new, &Address::of_packet(outbound | ipv6(family), INTERFACE));
            assert_eq!(injected.is_ok(), sent, "{what}");
            let leaves = world.sends(if sent { SOON } else { A_WHILE });
            assert_eq!(leaves.as_deref().map(sums), sent.then_some(true), "{what}");
            handle.close();
            world.end();
        }
    });
}

/// No document says what a close does with packets that wait. Each goes on once or is
/// dropped, and nothing of them is left.
#[test]
fn packets_that_wait_in_a_closed_handle_do_not_come_twice() {
    let Some(sys) = sys() else { return };
    every(|layer, family| {
        let mut world = World::of(&sys, layer);
        let handle = world.open(layer, 0, 0);
        for number in 0..20 {
            world.arrives(&packet_for(layer, family, number, &[number as u8; 9]));
        }
        // One is injected just before the handle is closed.
        let (packet, address) = handle.receive(SOON).unwrap();
        handle.send(&packet, &address).unwrap();
        handle.close();
        assert!(world.machine.kernel().work().drain(SOON));
        let mut left: Vec<u8> = Vec::new();
        while let Some(packet) = world.sends(A_WHILE) {
            left.push(*packet.last().unwrap());
        }
        left.sort_unstable();
        let count = left.len();
        left.dedup();
        assert_eq!(left.len(), count, "{layer:?}, {family}: {left:?}");
        assert!(left.contains(&packet[packet.len() - 1]), "{layer:?}, {family}: {left:?}");
        // Without the handle, packets pass.
        world.arrives(&packet_for(layer, family, 21, b"ping"));
        assert!(world.sends(SOON).is_some());
        world.end();
    });
}

/// "Note that previously queued packets can still be received after
/// WINDIVERT_SHUTDOWN_RECV. When the packet queue is empty, WinDivertRecv() will fail with
/// ERROR_NO_DATA." "Stop new packets being injected via WinDivertSend()."
#[test]
fn a_shutdown_ends_reads_and_sends() {
    let Some(sys) = sys() else { return };
    every(|layer, family| {
        for (how, reads, sends) in
            [(shutdown::RECV, false, true), (shutdown::SEND, true, false), (shutdown::BOTH, false, false)]
        {
            let what = format!("{layer:?}, {family}, shutdown {how}");
            let mut world = World::of(&sys, layer);
            let handle = world.open(layer, 0, 0);
            world.arrives(&packet_for(layer, family, 1, b"queued"));
            assert_eq!(handle.shutdown(how), Ok(()));
            let (packet, address) = handle.receive(SOON).expect("queued packets can still be received");
            assert_eq!(handle.send(&packet, &address).is_ok(), sends, "{what}");
            world.arrives(&packet_for(layer, family, 2, b"new"));
            let read = handle.start_receive(1500);
            let status = read.reply(Some(if reads { SOON } else { A_WHILE })).expect("an answer").status;
            match reads {
                true => assert!(status.is_success(), "{what}: {status}"),
                false => assert_eq!(status, NO_DATA, "{what}"),
            }
            handle.close();
            world.end();
        }
    });
}

/// "If the pPacket buffer is too small, the packet will be truncated and the operation
/// will fail with the ERROR_INSUFFICIENT_BUFFER error code. This error can be ignored if
/// the application only intends to receive part of the packet".
#[test]
fn a_small_buffer_gets_the_begin_of_a_packet() {
    let Some(sys) = sys() else { return };
    every(|layer, family| {
        let mut world = World::of(&sys, layer);
        let handle = world.open(layer, 0, 0);
        let request = packet_for(layer, family, 1, &[7; 100]);
        world.arrives(&request);
        let read = handle.start_receive(24);
        let reply = read.reply(Some(SOON)).expect("an answer");
        // STATUS_BUFFER_TOO_SMALL becomes ERROR_INSUFFICIENT_BUFFER.
        assert_eq!(reply.status, machine::status::Status::BUFFER_TOO_SMALL);
        assert_eq!(reply.packets, request[..24]);
        handle.close();
        world.end();
    });
}

/// "The received packets are packed contiguously (i.e., no gaps)".
#[test]
fn several_packets_are_read_and_sent_at_once() {
    let Some(sys) = sys() else { return };
    every(|layer, family| {
        let mut world = World::of(&sys, layer);
        let handle = world.open(layer, 0, 0);
        let requests: Vec<_> = (0..5).map(|n| packet_for(layer, family, n, &[n as u8; 30])).collect();
        for request in &requests {
            world.arrives(request);
        }
        // The driver's worker takes them from the queue.
        assert!(world.machine.kernel().work().drain(SOON));
        let read = handle.start_batch(10 * 1500, 10);
        let reply = read.reply(Some(SOON)).expect("packets");
        assert_eq!(reply.addresses.len(), 5, "{layer:?}, {family}");
        assert_eq!(reply.packets, requests.concat());
        handle.send_batch(&requests.concat(), &reply.addresses).unwrap();
        for number in 0..5 {
            let sent = match layer {
                Layer::Network => {
                    let (reply, address) = world.diverted(&handle, SOON).expect("an answer");
                    handle.send(&reply, &address).unwrap();
                    world.sends(SOON)
                }
                _ => world.sends(SOON),
            };
            let sent = sent.unwrap_or_else(|| panic!("{layer:?}, {family}: packet {number} is lost"));
            assert!(sums(&sent) && sent.ends_with(&[number; 30]), "{layer:?}, {family}: order");
        }
        handle.close();
        world.end();
    });
}

/// "If set, the handle will capture inbound IP fragments, but not inbound reassembled IP
/// packets. Otherwise, … the handle will capture inbound reassembled IP packets, but not
/// inbound IP fragments." The driver passes over packets with IS_FRAGMENT, so it captures
/// fragments only if they are shown without the flag.
#[test]
fn a_handle_sees_fragments_or_the_whole_packet() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        for (flags, flagged) in [(0, true), (flag::FRAGMENTS, true), (flag::FRAGMENTS, false)] {
            let points = OpenPoints { fragments_flagged: flagged, ..OpenPoints::default() };
            let mut world = World::with(&sys, Options::default(), points);
            let handle = world.open(Layer::Network, 0, flags | flag::SNIFF);
            let whole = packet_for(Layer::Network, family, 1, &[3; 100]);
            let fragments = compose::fragments(&whole, 5, 48);
            for fragment in &fragments {
                world.arrives(fragment);
            }
            let reply = world.sends(SOON).expect("an answer");
            let mut seen = Vec::new();
            while let Some((packet, address)) = handle.receive(A_WHILE) {
                seen.extend((address.bits() & bit::OUTBOUND == 0).then_some(packet));
            }
            match (flags, flagged) {
                (0, _) => {
                    assert!(seen.len() == 1 && same_but_hops(&seen[0], &whole), "{family}: {seen:02x?}")
                }
                (_, true) => assert!(seen.is_empty(), "{family}: {seen:02x?}"),
                (_, false) => assert_eq!(seen, fragments, "{family}"),
            }
            assert!(sums(&reply));
            handle.close();
            world.end();
        }
    }
}

/// "Captured packets are guaranteed to have correct checksums or have the corresponding
/// *Checksum flag unset." "Injected packets must have the correct checksums or have the
/// corresponding pAddr->*Checksum flag unset."
#[test]
fn checksums_are_right_or_not_claimed_and_made_on_the_way_out() {
    let Some(sys) = sys() else { return };
    let kinds = [(bit::TCP_CHECKSUM, 16), (bit::UDP_CHECKSUM, 6)];
    for family in Family::BOTH {
        for (claim, place) in kinds {
            let mut world = World::new(&sys);
            let handle = world.open(Layer::Network, 0, flag::SNIFF);
            let (from, to) = (own(family, 9), near(family, 10));
            let whole = transport_packet(claim, from, to);
            let ip_claim = if family == Family::V4 { bit::IP_CHECKSUM } else { 0 };
            // Inbound, and outbound: the host's answer.
            let header = if family == Family::V4 { 20 } else { 40 };
            world.arrives(&transport_packet(claim, near(family, 11), own(family, 12)));
            world.sends(SOON).expect("an answer");
            for _ in 0..2 {
                let (read, address) = handle.receive(SOON).unwrap();
                let parsed = Parsed::new(&read).unwrap();
                for (claimed, right) in [
                    (bit::IP_CHECKSUM, parsed.header_checksum_valid()),
                    (bit::TCP_CHECKSUM | bit::UDP_CHECKSUM, parsed.checksum_valid()),
                ] {
                    assert!(right || address.all_bits() & claimed == 0, "{family}: {read:02x?}");
                }
            }
            handle.close();

            // A packet whose checksums are not claimed gets them on its way.
            let handle = world.open(Layer::Network, 0, flag::SEND_ONLY);
            let mut bare = whole.clone();
            bare[header + place..header + place + 2].fill(0);
            if family == Family::V4 {
                bare[10..12].fill(0);
            }
            for (packet, claims) in [(&whole, claim | ip_claim), (&bare, 0)] {
                let address = Address::of_packet(bit::OUTBOUND | ipv6(family) | claims, 0);
                handle.send(packet, &address).unwrap();
                let sent = world.sends(SOON);
                assert_eq!(sent.as_ref(), Some(&whole), "{family}, {claim:#x}, claims {claims:#x}");
            }
            handle.close();
            world.end();
        }
    }
}

/// A packet of TCP or UDP with right checksums.
fn transport_packet(claim: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = compose::ip(from.ip(), to.ip());
    let payload = b"some payload";
    match claim {
        bit::TCP_CHECKSUM => header.tcp(from.port(), to.port(), 77, 512).write(&mut packet, payload),
        _ => header.udp(from.port(), to.port()).write(&mut packet, payload),
    }
    .unwrap();
    packet
}

/// "Windows considers any packet originating from, and destined to, the current machine to
/// be a loopback packet"; "WinDivert considers loopback packets to be outbound only, and
/// will not capture loopback packets on the inbound path".
#[test]
fn loopback_is_outbound_only() {
    let Some(sys) = sys() else { return };
    for family in Family::BOTH {
        for flags in [0, flag::SNIFF] {
            let mut world = World::new(&sys);
            world.host.echo_datagrams(own(family, 7)).unwrap();
            let handle = world.open(Layer::Network, 0, flags);
            let from = world.host.send_datagram(own(family, 7), b"to myself").unwrap();
            // The datagram, and its echo.
            for (source, destination) in [(from, own(family, 7)), (own(family, 7), from)] {
                let (packet, address) = world.diverted(&handle, SOON).expect("a packet");
                let parsed = Parsed::new(&packet).unwrap();
                assert_eq!((parsed.source, parsed.destination), (source, destination), "{family}");
                let sniffed = if flags == 0 { 0 } else { bit::SNIFFED };
                let expected = bit::OUTBOUND | bit::LOOPBACK | ipv6(family) | sniffed;
                assert_eq!(address.bits(), expected, "{family}");
                if flags == 0 {
                    assert_eq!(handle.receive(A_WHILE).map(|_| ()), None);
                    handle.send(&packet, &address).unwrap();
                }
            }
            assert!(world.diverted(&handle, A_WHILE).is_none(), "{family}: captured on the inbound path");
            assert_eq!(world.sends(A_WHILE), None, "nothing leaves");
            let arrived = world.host.log().records().filter(|record| {
                record.event == machine::host::Event::DatagramIn
                    || record.event == machine::host::Event::LaterDatagramIn
            });
            assert_eq!(arrived.count(), 2, "{family}");
            // A packet of the network is none.
            world.arrives(&ping(near(family, 0).ip(), own(family, 0).ip(), 1, b"ping"));
            let (_, address) = world.diverted(&handle, SOON).unwrap();
            assert_eq!(address.bits() & bit::LOOPBACK, 0);
            handle.close();
            world.end();
        }
    }
}
