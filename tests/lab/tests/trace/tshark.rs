//! The lab counts packets as tshark does, if tshark is installed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use lab::trace::Played;

use super::captures::*;
use super::formats::pcapng;

/// Number of frames, and of packets by protocol and destination.
type Dissected = (u64, BTreeMap<(String, String), u64>);

/// Frames and IP packets that tshark counts. `None` if it is not installed.
fn dissected(path: &Path) -> Option<Dissected> {
    let mut command = Command::new("tshark");
    // Without reassembly, each line is a packet.
    command.args(["-o", "ip.defragment:FALSE", "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    for field in ["ip.dst", "ipv6.dst", "ip.proto", "tcp.dstport", "udp.dstport"] {
        command.args(["-e", field]);
    }
    let output = match command.arg("-r").arg(path).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: tshark is not here to compare with ({error}); apt-get install tshark");
            return None;
        }
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let mut packets = BTreeMap::new();
    let mut frames = 0;
    for line in text.lines() {
        frames += 1;
        let [v4, v6, _, tcp, udp] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        let protocol = if !tcp.is_empty() {
            "tcp"
        } else if !udp.is_empty() {
            "udp"
        } else {
            "other"
        };
        if !(v4.is_empty() && v6.is_empty()) {
            *packets.entry((format!("{v4}{v6}"), protocol.to_owned())).or_default() += 1;
        }
    }
    Some((frames, packets))
}

fn compare(name: &str, file: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, file).unwrap();
    let Some((frames, packets)) = dissected(&path) else { return };
    let played: Played = play_file(&path, &plan(), &[]);
    assert_eq!(played.tally.frames, frames, "{name}");
    assert_eq!(played.tally.packets, packets.values().sum::<u64>(), "{name}");
    let to_host = |wanted: &str| {
        let of = packets.iter().filter(|((address, protocol), _)| {
            protocol == wanted && played.roles.is_local(address.parse().unwrap())
        });
        of.map(|(_, count)| count).sum::<u64>()
    };
    let received = played.traffic.received;
    assert_eq!((received.tcp, received.udp), (to_host("tcp"), to_host("udp")), "{name}");
}

#[test]
fn another_dissector_counts_the_same() {
    let mut packets = Vec::new();
    for family in [0, 1] {
        let (host, peer) = (HOST[family], PEER[family]);
        packets.extend(exchange(at(host, 80), at(peer, 4000)));
        packets.extend(closed(at(host, 81), at(peer, 4001)));
        packets.push(udp(at(peer, 5000), at(host, 9), b"x"));
    }
    let tagged: Vec<_> = packets
        .iter()
        .map(|packet| {
            let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            [&[2; 12][..], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2], &kind, packet].concat()
        })
        .collect();
    compare("raw.pcap", &pcap(&packets));
    compare("tagged.pcap", &pcap_of(1, &tagged));
    compare("blocks.pcapng", &pcapng(&packets));
}
