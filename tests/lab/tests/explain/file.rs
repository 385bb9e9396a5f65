//! Reading: encodings, repairs, damage.

use lab::explain::{Configuration, Report, State};
use machine::wfp::{ActionType, MatchType, Value};

use super::written::*;

fn sizes(state: &State) -> [usize; 3] {
    [state.sublayers.len(), state.callouts.len(), state.filters.len()]
}

#[test]
fn every_encoding_is_read() {
    let text = Written::new().firewall().text();
    let units: Vec<u16> = text.encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for bytes in [text.as_bytes(), text.trim_start_matches('\u{feff}').as_bytes(), &little, &big] {
        let state = State::read(bytes);
        assert_eq!((sizes(&state), &state.problems[..]), ([2, 1, 3], &[][..]));
    }
    let mut broken = text.replace("filter 2", "filter #").into_bytes();
    let at = broken.iter().position(|&byte| byte == b'#').unwrap();
    broken[at] = 0xff;
    let state = State::read(&broken);
    assert_eq!(sizes(&state), [0, 1, 1], "what came before is read");
    assert_eq!(state.problems[0].line, 1 + broken[..at].iter().filter(|&&byte| byte == b'\n').count());
    assert!(state.problems[0].text.contains("not UTF-8"), "{:?}", state.problems);
}

#[test]
fn bare_characters_of_names_are_repaired() {
    let hostile = "a & b &amp; c < d &nbsp; &#65;\u{1}";
    let state = Written::new().sublayer(OTHER, hostile, 7).state();
    assert_eq!(state.sublayers[2].name, "a & b & c < d &nbsp; A");
}

#[test]
fn values_of_conditions_have_their_types() {
    let v6 = "<v6AddrMask><addr>fe80::</addr><prefixLength>10</prefixLength></v6AddrMask>";
    let v4 = "<v4AddrMask><addr>192.0.2.0</addr><mask>255.255.255.0</mask></v4AddrMask>";
    let range = "<rangeValue><valueLow><type>FWP_UINT16</type><uint16>1</uint16></valueLow>\
                 <valueHigh><type>FWP_UINT16</type><uint16>9</uint16></valueHigh></rangeValue>";
    let mut fe80 = [0; 16];
    fe80[..2].copy_from_slice(&[0xfe, 0x80]);
    let expected = [
        ("FWP_UINT8", "<uint8>6</uint8>", Some(Value::Uint8(6))),
        ("FWP_UINT16", "<uint16>80</uint16>", Some(Value::Uint16(80))),
        ("FWP_UINT32", "<uint32>7</uint32>", Some(Value::Uint32(7))),
        ("FWP_UINT32", "<uint32>192.0.2.1</uint32>", Some(Value::Uint32(0xc000_0201))),
        ("FWP_UINT64", "<uint64>18446744073709551615</uint64>", Some(Value::Uint64(u64::MAX))),
        ("FWP_BYTE_ARRAY16_TYPE", "<byteArray16>fe80::</byteArray16>", Some(Value::ByteArray16(fe80))),
        ("FWP_V6_ADDR_MASK", v6, Some(Value::V6AddrMask(fe80, 10))),
        ("FWP_V4_ADDR_MASK", v4, Some(Value::V4AddrMask(0xc000_0200, 0xffff_ff00))),
        (
            "FWP_BYTE_BLOB_TYPE",
            "<byteBlob><data>5C\n00</data></byteBlob>",
            Some(Value::ByteBlob([0x5c, 0].into())),
        ),
        ("FWP_RANGE_TYPE", range, Some(Value::Range(Box::new((Value::Uint16(1), Value::Uint16(9)))))),
        ("FWP_SECURITY_DESCRIPTOR_TYPE", "<sd>O:LSD:(A;;CC;;;S-1-5-80-1)</sd>", None),
        ("FWP_NEW_TYPE", "<new>1</new>", None),
    ];
    let conditions = expected.clone().map(|(kind, value, _)| ("IP_LOCAL_PORT", "NOT_EQUAL", kind, value));
    let state = Written::new().filter(TRANSPORT_DISCARD, FIREWALL, ("BLOCK", "", ""), &conditions).state();
    let filter = &state.filters[0];
    assert_eq!(filter.action, ActionType::BLOCK);
    for (condition, (kind, _, value)) in filter.conditions.iter().zip(expected) {
        assert_eq!(condition.match_type, Some(MatchType::NotEqual));
        assert_eq!(condition.value, value, "{kind}");
    }
}

/// Wherever the file breaks off, the line is named and whole objects are read.
#[test]
fn a_file_that_breaks_off_says_where() {
    let text = Written::new().firewall().text();
    let end = text.find("</wfpstate>").unwrap();
    let (mut most, mut seen) = (0, std::collections::BTreeSet::new());
    for cut in (0..end).filter(|&cut| text.is_char_boundary(cut)) {
        let state = State::read(&text.as_bytes()[..cut]);
        let lines = text[..cut].trim_end().matches('\n').count() + 1;
        assert_eq!(state.problems.len(), 1, "{cut}: {:?}", state.problems);
        if cut > text.find("<layers").unwrap() {
            assert_eq!(state.problems[0].line, lines, "{cut}");
        }
        assert!(state.filters.len() >= most, "an object that was whole is whole in a longer file: {cut}");
        most = state.filters.len();
        seen.insert(sizes(&state));
        Report::new(&state, None, &Configuration::default());
    }
    assert!(seen.contains(&[0, 1, 2]) && seen.contains(&[1, 1, 3]), "{seen:?}");
}

#[test]
fn damage_is_named_and_the_rest_is_read() {
    let good = Written::new().firewall().text();
    for (from, to, said) in [
        ("<filterId>2</filterId>", "<filterId>two</filterId>", "filterId"),
        ("<filterId>2</filterId>", "", "filterId"),
        ("FWP_ACTION_PERMIT", "FWP_ACTION_DANCE", "FWP_ACTION_DANCE"),
        ("<uint32>2</uint32>", "<uint32>-2</uint32>", "-2"),
        ("<weight>2</weight>", "<weight>65536</weight>", "65536"),
        ("<filters numItems=\"3\">", "<filters numItems=\"4\">", "says 4"),
        ("</filters>", "</filtres>", "filtres"),
        ("<wfpstate>", "<!DOCTYPE x [<!ENTITY a \"b\">]><wfpstate>", ""),
    ] {
        assert!(good.contains(from), "{from}");
        let state = State::read(good.replacen(from, to, 1).as_bytes());
        if said.is_empty() {
            // Nothing before the element is looked at.
            assert_eq!(state.problems, []);
            continue;
        }
        let line = good[..good.find(from).unwrap()].matches('\n').count() + 1;
        let [problem] = &state.problems[..] else { panic!("{to}: {:?}", state.problems) };
        assert!(problem.text.contains(said), "{to}: {problem:?}");
        // An item is named by its first line.
        assert!(problem.line <= line && line < problem.line + 12, "{to}: {problem:?}, not {line}");
        assert!(state.filters.len() >= 2, "{to}: {:?}", sizes(&state));
    }
    for nothing in ["", "hello", "<wfpstat", "<a><wfpstates/></a>"] {
        assert!(!State::read(nothing.as_bytes()).problems.is_empty(), "{nothing}");
    }
}

#[test]
fn a_hostile_file_ends_in_an_error() {
    let deep = format!("<wfpstate>{}</wfpstate>", "<layers>".repeat(200_000));
    let entities = "<wfpstate><!DOCTYPE a [<!ENTITY b \"c\">]>&b;</wfpstate>";
    for text in [&*deep, entities] {
        let state = State::read(text.as_bytes());
        assert!(!state.problems.is_empty());
        assert_eq!(sizes(&state), [0; 3]);
    }
    let escape = Written::new().sublayer(OTHER, "\u{202e}evil\u{9b}2J", 9).filter(
        TRANSPORT_DISCARD,
        OTHER,
        ("PERMIT", "", ""),
        &[],
    );
    let mut text = Vec::new();
    lab::explain::write(&mut text, &Report::new(&escape.state(), None, &Configuration::default())).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("evil") && !text.contains(['\u{202e}', '\u{9b}']), "{text}");
}
