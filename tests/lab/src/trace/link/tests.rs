use super::*;

const PACKET: [u8; 4] = [0x45, 0, 0, 20];

fn framed(head: &[u8]) -> Vec<u8> {
    [head, &PACKET].concat()
}

/// An Ethernet header, continued from its type, with an IPv4 packet.
fn ethernet(destination: u8, from_type_on: &[u8]) -> Vec<u8> {
    framed(&[&[destination][..], &[0; 11], from_type_on].concat())
}

#[test]
fn every_encapsulation_is_removed() {
    let tag = |kind: u16| [&kind.to_be_bytes()[..], &[0, 7]].concat();
    let mut cases = vec![
        ("plain", vec![8, 0]),
        ("five tags", [tag(0x8100).repeat(5), vec![8, 0]].concat()),
        ("E-tag", vec![0x89, 0x3f, 0, 0, 0, 0, 0, 0, 8, 0]),
        ("VN-tag", vec![0x89, 0x26, 0, 0, 0, 0, 8, 0]),
        ("802.1ah", [&[0x88, 0xe7, 0, 0, 0, 1][..], &[0; 12], &[8, 0]].concat()),
        ("bridged Ethernet", [&[0x65, 0x58][..], &[0; 12], &[8, 0]].concat()),
        ("one label", vec![0x88, 0x47, 0, 1, 1, 64]),
        ("two labels", vec![0x88, 0x48, 0, 1, 0, 64, 0, 2, 1, 64]),
        ("pseudowire", [&[0x88, 0x47, 0, 1, 1, 64, 0, 0, 0, 0][..], &[0; 12], &[8, 0]].concat()),
        ("PPPoE", vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 6, 0, 0x21]),
        ("SNAP", vec![0, 12, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
        ("SNAP in a tag", [tag(0x8100), vec![0, 12, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat()),
        ("LLC", vec![0, 7, 6, 6, 3]),
    ];
    for kind in [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300] {
        cases.push(("one tag", [tag(kind), vec![8, 0]].concat()));
        cases.push(("two tags", [tag(kind), tag(0x8100), vec![8, 0]].concat()));
    }
    for (name, head) in &cases {
        let expected = Found { packet: &PACKET[..], way: None, cast: Cast::One };
        assert_eq!(ip(1, &ethernet(2, head)), Ok(expected), "{name}: {head:02x?}");
        // A truncated frame never causes a read beyond its end.
        for length in 0..ethernet(2, head).len() {
            let _ = ip(1, &ethernet(2, head)[..length]);
        }
    }
    assert_eq!(ip(1, &ethernet(0xff, &[8, 0])).map(|found| found.cast), Ok(Cast::Group));
}

#[test]
fn link_types() {
    let sll = |kind| [&[0, kind][..], &[0; 12], &[8, 0]].concat();
    let sll2 = |kind| [&[8, 0][..], &[0; 8], &[kind], &[0; 9]].concat();
    let (to, from) = (Some(Way::ToHost), Some(Way::FromHost));
    let wireless = |control: u8, flags: u8, size: usize| {
        let mut head = vec![0; size];
        (head[0], head[1]) = (control, flags);
        [head, vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat()
    };
    let cases = [
        (101, Vec::new(), None, Cast::Unknown),
        (0, vec![2, 0, 0, 0], None, Cast::Unknown),
        (113, sll(0), to, Cast::One),
        (113, sll(1), to, Cast::Group),
        (113, sll(2), to, Cast::Group),
        (113, sll(3), None, Cast::Elsewhere),
        (113, sll(4), from, Cast::Unknown),
        (276, sll2(0), to, Cast::One),
        (276, sll2(4), from, Cast::Unknown),
        (9, vec![0xff, 3, 0, 0x21], None, Cast::Unknown),
        (9, vec![0x21], None, Cast::Unknown),
        (50, vec![0xff, 3, 0, 0x21], None, Cast::Unknown),
        (51, vec![0x11, 0, 0, 1, 0, 6, 0, 0x21], None, Cast::Unknown),
        (104, vec![0x0f, 0, 8, 0], None, Cast::Unknown),
        (166, vec![1, 3, 0, 0x21], from, Cast::Unknown),
        (204, vec![0, 0xff, 3, 0, 0x21], to, Cast::Unknown),
        (105, wireless(0x08, 1, 24), None, Cast::One),
        (105, wireless(0x88, 2, 26), None, Cast::One),
        (105, wireless(0x88, 3, 32), None, Cast::One),
        (127, [vec![0, 0, 8, 0, 0, 0, 0, 0], wireless(0x08, 1, 24)].concat(), None, Cast::One),
    ];
    for (link, head, way, cast) in cases {
        let found = Found { packet: &PACKET[..], way, cast };
        assert_eq!(ip(link, &framed(&head)), Ok(found), "{link}: {head:02x?}");
        assert!(is_read(link));
    }
    assert_eq!(ip(147, &PACKET), Err(Skip::Link(147)));
    assert!(!is_read(147));
}

#[test]
fn frames_without_ip_are_named() {
    let named = |head: &[u8]| match ip(1, &ethernet(2, head)) {
        Err(Skip::Other(name)) => name.into_owned(),
        other => panic!("{head:02x?}: {other:?}"),
    };
    assert_eq!(named(&[0x88, 0xe5]), "MACsec");
    assert_eq!(named(&[0x81, 0, 0, 0, 0x88, 0xe5]), "MACsec");
    assert_eq!(named(&[8, 6]), "ARP");
    assert_eq!(named(&[0x88, 0x63]), "PPPoE discovery");
    assert_eq!(named(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 6, 0xc0, 0x21]), "PPP control");
    assert_eq!(named(&[0, 3, 0x42, 0x42, 3]), "STP");
    assert_eq!(named(&[0x12, 0x34]), "Ethernet type 0x1234");
    assert_eq!(named(&[0x81, 0, 0, 0].repeat(20)), "more headers than are taken off");
    assert_eq!(ip(1, &[0; 13]), Err(Skip::Other("less than a header".into())));
    assert_eq!(ip(105, &[0x08, 0x40]), Err(Skip::Other("802.11 data, encrypted".into())));
}

#[test]
fn a_missing_length_is_replaced_only_if_possible() {
    let mut packet = [0_u8; 40];
    packet[0] = 0x45;
    assert_eq!(whole(&packet, false)[2..4], [0, 40]);
    packet[3] = 60;
    assert_eq!(whole(&packet, false).len(), 40);
    assert_eq!(whole(&packet, true).len(), 60);
}
