//! Rare, wrong or hostile capture files are read or named.

use std::io::Write;

use lab::report::{Page, trace_text};
use lab::trace::{Played, feed};

use super::captures::*;
use super::formats::{Blocks, bytes_of, hear};

fn packets() -> Vec<Vec<u8>> {
    closed(at(HOST[0], 22), at(PEER[0], 4000))
}

/// The text output.
fn text(played: &Played) -> String {
    let mut text = Vec::new();
    let notes: Vec<_> = played.tally.damage.iter().chain(&played.tally.warnings).cloned().collect();
    trace_text(&mut text, played, &notes).unwrap();
    String::from_utf8(text).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A pcap file with a magic number, a byte order, a version and an order of lengths.
fn old(magic: u32, order: fn(u32) -> [u8; 4], version: (u16, u16), extra: usize, swapped: bool) -> Vec<u8> {
    let half = |half: u16| if order(1)[0] == 1 { half.to_le_bytes() } else { half.to_be_bytes() };
    let mut file = [&order(magic)[..], &half(version.0), &half(version.1)].concat();
    file.extend([0, 0, 65_535, 101].into_iter().flat_map(order));
    for packet in packets() {
        let (captured, original) = (packet.len() as u32, packet.len() as u32 + 7);
        let lengths = if swapped { [original, captured] } else { [captured, original] };
        file.extend([1_700_000_000, 5, lengths[0], lengths[1]].into_iter().flat_map(order));
        file.extend(vec![0xee; extra]);
        file.extend(packet);
    }
    file
}

#[test]
fn old_and_modified_pcap() {
    for order in [u32::to_le_bytes as fn(u32) -> [u8; 4], u32::to_be_bytes] {
        for (magic, version, extra, swapped, format) in [
            (0xa1b2_cd34, (2, 4), 8, false, "modified pcap"),
            (0xa1b2_c3d4, (2, 2), 0, true, "pcap"),
            (0xa1b2_c3d4, (2, 3), 0, true, "pcap"),
            (0xa1b2_c3d4, (2, 3), 0, false, "pcap"),
            (0xa1b2_c3d4, (543, 0), 0, true, "pcap"),
        ] {
            let (tally, heard) = hear(&old(magic, order, version, extra, swapped));
            assert_eq!((tally.damage, tally.format), (None, format));
            assert_eq!(bytes_of(&heard), packets(), "{magic:x} {version:?}");
            assert_eq!((heard.0[0].0, tally.cut), (1_700_000_000_000_005_000, 2));
        }
    }
}

#[test]
fn gzip_is_read() {
    let plain = pcap(&packets());
    let file = gzip(&plain);
    let (tally, heard) = hear(&file);
    assert_eq!((tally.damage, tally.format, bytes_of(&heard)), (None, "pcap in gzip", packets()));
    assert_eq!((tally.bytes, tally.file_bytes), (plain.len() as u64, file.len() as u64));
    // Packets before the damage count. The error is reported, too.
    let many: Vec<_> = (0..5000).flat_map(|_| exchange(at(HOST[0], 80), at(PEER[0], 4000))).collect();
    let many = gzip(&pcap(&many));
    let (tally, heard) = hear(&many[..many.len() / 2]);
    assert!(tally.damage.unwrap().contains("gzip: ") && !heard.0.is_empty());
}

#[test]
fn other_formats_are_named_with_what_to_do() {
    let zstd: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0, 0];
    for (file, said) in [
        (zstd, "compressed with zstd; decompress it first"),
        (&b"PK\x03\x04...."[..], "compressed with zip; decompress it first"),
        (&b"snoop\0\0\0"[..], "editcap -F pcapng"),
        (&b"[package]"[..], "expected pcap, pcapng or gzip"),
        (&b""[..], "the file is empty"),
        (&b"\xd4\xc3"[..], "ends within a record"),
    ] {
        let damage = hear(file).0.damage.unwrap();
        assert!(damage.contains(said), "{damage}");
    }
}

#[test]
fn an_empty_capture_is_reported_as_empty() {
    let section = Blocks::begin(false, None).1;
    for file in [pcap(&[]), section, gzip(&pcap(&[]))] {
        let played = play(&file, &plan(), &[]);
        let text = text(&played);
        assert!(text.contains("empty: it holds no packet"), "{text}");
        assert!(text.contains("none: no IP packet shows one"), "{text}");
        assert_eq!(played.tally.damage, None);
    }
}

#[test]
fn an_option_that_cannot_be_used_is_named() {
    let packets = packets();
    for (code, value, name) in [
        (9, &[20][..], "if_tsresol"),
        (9, &[0xff][..], "if_tsresol"),
        (9, &[6, 6][..], "if_tsresol"),
        (9, &[][..], "if_tsresol"),
        (14, &[1, 2, 3][..], "if_tsoffset"),
    ] {
        let mut blocks = Blocks::begin(false, None);
        let interface = [&[101, 0, 0, 0, 0, 0, 0, 0][..], &blocks.option(code, value)].concat();
        blocks.block(1, interface);
        blocks.enhanced(1, 5, &packets[0], &[]);
        let (tally, heard) = hear(&blocks.1);
        assert_eq!((tally.damage, bytes_of(&heard)), (None, packets[..1].to_vec()));
        assert!(tally.warnings.len() == 1 && tally.warnings[0].contains(name), "{:?}", tally.warnings);
        assert_eq!(tally.untimed, u64::from(code == 9), "{value:?}");
    }
    let mut blocks = Blocks::begin(false, None);
    let flags = blocks.option(2, &[1]);
    blocks.enhanced(0, 5, &packets[0], &flags);
    let (tally, heard) = hear(&blocks.1);
    assert!(tally.warnings[0].contains("epb_flags") && heard.0.len() == 1, "{:?}", tally.warnings);
}

#[test]
fn a_packet_without_a_time_takes_its_neighbours() {
    let packet = packets().swap_remove(0);
    let simple = |blocks: &mut Blocks| {
        blocks.block(3, [&(packet.len() as u32).to_le_bytes()[..], &packet].concat());
    };
    let mut blocks = Blocks::begin(false, None);
    simple(&mut blocks);
    blocks.enhanced(0, 1_700_000_000_000_000, &packet, &[]);
    simple(&mut blocks);
    blocks.enhanced(0, 1_700_000_000_002_000, &packet, &[]);
    simple(&mut blocks);
    let played = play(&blocks.1, &plan(), &[]);
    assert_eq!(played.account.timeline.length(), std::time::Duration::from_millis(2));
    assert_eq!(played.tally.untimed, 3);
    let rows = &played.account.conversations[0].rows;
    let times: Vec<_> = rows.iter().map(|row| row.at.as_millis()).collect();
    assert_eq!(times, [0, 0, 0, 2, 2]);
    // A file without times has length 0.
    let mut blocks = Blocks::begin(false, None);
    simple(&mut blocks);
    simple(&mut blocks);
    let played = play(&blocks.1, &plan(), &[]);
    assert_eq!((played.account.timeline.length(), played.account.silenced), (std::time::Duration::ZERO, 2));
}

#[test]
fn a_simple_block_keeps_what_its_interface_does() {
    let packet = udp(at(PEER[0], 5), at(HOST[0], 6), &[7; 100]);
    let mut blocks = Blocks(false, Blocks::begin(false, None).1[..40].to_vec());
    blocks.block(1, vec![101, 0, 0, 0, 61, 0, 0, 0]);
    blocks.block(3, [&(packet.len() as u32).to_le_bytes()[..], &packet[..61]].concat());
    let (tally, heard) = hear(&blocks.1);
    assert_eq!((tally.damage, tally.cut), (None, 1));
    assert_eq!(heard.0[0].2.len(), packet.len());
    assert_eq!(heard.0[0].2[..61], packet[..61]);
    assert!(heard.0[0].2[61..].iter().all(|byte| *byte == 0), "padding is not part of the packet");
}

#[test]
fn frames_of_other_links_are_skipped_whatever_their_size() {
    let mut file = pcap_of(189, &[vec![0; 300_000], vec![0; 3]]);
    let (tally, _) = hear(&file);
    assert_eq!((tally.damage, tally.frames), (None, 2));
    assert_eq!(tally.unread_links.of("USB (link type 189)"), 2);
    file[20] = 1;
    assert!(hear(&file).0.damage.unwrap().contains("a frame of 300000 bytes"));
}

/// Characters that control a terminal or change the direction of text.
const HOSTILE: &str = "eth\u{1b}[2J\u{202e}gpj\u{2066}\u{9b}\r\n\u{0}\u{feff}";

#[test]
fn no_text_of_a_capture_acts_on_what_shows_it() {
    let mut blocks = Blocks(false, Vec::new());
    let option = blocks.option(4, HOSTILE.as_bytes());
    let header = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &[0xff; 8], &option].concat();
    blocks.block(0x0a0d_0d0a, header);
    let names = [blocks.option(2, HOSTILE.as_bytes()), blocks.option(3, b"\xff\xfe\x1b")].concat();
    blocks.block(1, [&[101, 0, 0, 0, 0, 0, 0, 0][..], &names].concat());
    for packet in packets() {
        let comment = blocks.option(1, HOSTILE.as_bytes());
        blocks.enhanced(0, 5, &packet, &comment);
    }
    let mut bytes = blocks.1;
    // The path of the capture contains them, too.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a\u{202e}\u{1b}[31m.pcapng");
    std::fs::write(&path, &bytes).unwrap();
    let played = play_file(&path, &plan(), &[]);
    let title = path.file_name().unwrap().to_string_lossy();
    let json = serde_json::to_string(&lab::trace::Summary::of(&played)).unwrap();
    let html = Page::of_capture(&title, &played, &[]).html();
    for (what, shown) in [("text", text(&played)), ("json", json), ("page", html)] {
        for character in HOSTILE.chars().filter(|character| !character.is_ascii_graphic()) {
            let shows = shown.contains(character) && character != '\n';
            assert!(!shows, "{what} shows {character:?}");
        }
        assert!(shown.contains("202e"), "{what}: the character is escaped, not dropped");
    }
    // An error that names the file escapes them, too.
    bytes.truncate(2);
    std::fs::write(&path, &bytes).unwrap();
    let machine = lab::hushport::machine(machine::nt::Options::default());
    let (progress, listener) = (std::sync::Arc::new(|_| ()), Box::new(|_: &lab::trace::Entry<'_>| Ok(true)));
    let refused = lab::trace::play(&path, &plan(), machine.kernel(), progress, listener);
    let refused = format!("{:?}", refused.err().unwrap());
    assert!(!refused.contains(['\u{202e}', '\u{1b}']) && refused.contains("\\u{202e}"), "{refused}");
}

/// Reading stops at a limit; see `trace::source`.
#[test]
fn memory_and_time_are_in_proportion_to_the_file() {
    // A section, and an unused block of 64 MB, in 64 KB of gzip.
    let mut file = Blocks::begin(false, None).1;
    let length = (64_u32 << 20) + 12;
    file.extend([0x0bad_u32, length].into_iter().flat_map(u32::to_le_bytes));
    file.extend(vec![0; 64 << 20]);
    file.extend(length.to_le_bytes());
    let tally = feed(&gzip(&file)[..], false, &mut lab::trace::Survey::default()).unwrap();
    assert_eq!((tally.damage, tally.frames, tally.bytes), (None, 0, file.len() as u64));
}
