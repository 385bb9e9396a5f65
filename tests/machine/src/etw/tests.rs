//! Tests of the decoder, with hand-made bytes.

use std::net::SocketAddr;

use super::event::utc;
use super::schema::{Count, In, out, schema, traits};
use super::value::values;
use super::*;
use crate::driver::Origin;
use crate::wfp::Guid;

/// Metadata, with this text after the tag.
fn metadata(tail: &[u8]) -> Vec<u8> {
    let length = u16::try_from(tail.len() + 3).unwrap();
    [&length.to_le_bytes()[..], &[0], tail].concat()
}

fn decode(fields: &[u8], payload: &[u8]) -> Result<Vec<(String, Value)>> {
    values(&schema(&metadata(&[b"Ev\0", fields].concat()))?.fields, payload)
}

fn one(fields: &[u8], payload: &[u8]) -> Value {
    decode(fields, payload).unwrap().remove(0).1
}

#[test]
fn every_kind_of_number_is_read() {
    for (field, payload, value) in [
        (&b"A\0\x03"[..], &[0xff][..], Value::Signed(-1)),
        (b"A\0\x04", &[200], Value::Unsigned(200)),
        (b"A\0\x84\x04", &[200], Value::Hex(200)),
        (b"A\0\x84\x03", &[1], Value::Bool(true)),
        (b"A\0\x86\x07", &[0, 80], Value::Unsigned(80)),
        (b"A\0\x88\x05", &[4, 0, 0, 0], Value::Unsigned(4)),
        (b"A\0\x88\x08", &[192, 0, 2, 1], Value::Ipv4([192, 0, 2, 1].into())),
        (b"A\0\x88\x0e", &[5, 0, 0, 0xc0], Value::Hex(0xc000_0005)),
        (b"A\0\x0a", &[1, 0, 0, 0, 0, 0, 0, 0x80], Value::Unsigned(0x8000_0000_0000_0001)),
        (b"A\0\x0d", &[1, 0, 0, 0], Value::Bool(true)),
        (b"A\0\x15", &[16, 0, 0, 0, 0, 0, 0, 0], Value::Hex(16)),
        (b"A\0\x0c", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], Value::Float(1.0)),
        (b"A\0\x11", &[1, 0, 0, 0, 0, 0, 0, 0], Value::Time(1)),
    ] {
        assert_eq!(one(field, payload), value, "{field:?}");
    }
}

#[test]
fn texts_blobs_and_addresses_are_read() {
    assert_eq!(one(b"A\0\x97\x23", "\u{5}\0häh?".as_bytes()), Value::Text("häh?".into()));
    assert_eq!(one(b"A\0\x16", b"\x04\0h\0i\0"), Value::Text("hi".into()));
    assert_eq!(one(b"A\0\x01", b"h\0i\0\0\0"), Value::Text("hi".into()));
    assert_eq!(one(b"A\0\x02", b"hi\0"), Value::Text("hi".into()));
    assert_eq!(one(b"A\0\x0e", &[2, 0, 7, 8]), Value::Bytes(vec![7, 8]));
    let socket = |text: &str| Value::Socket(text.parse::<SocketAddr>().unwrap());
    let v4 = [16, 0, 2, 0, 0, 80, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(one(b"A\0\x8e\x0a", &v4), socket("192.0.2.1:80"));
    let mut v6 = vec![28, 0, 23, 0, 1, 0];
    v6.extend([0; 4].iter().chain(&[0; 15]).chain(&[1]).chain(&[0; 4]));
    assert_eq!(one(b"A\0\x8e\x0a", &v6), socket("[::1]:256"));
    assert_eq!(one(b"A\0\x8e\x0a", &[0, 0]), Value::Nowhere);
}

#[test]
fn arrays_structures_and_tags_are_read() {
    assert_eq!(one(b"A\0\x44", &[2, 0, 7, 8]), Value::Array(vec![Value::Unsigned(7), Value::Unsigned(8)]));
    assert_eq!(one(b"A\0\x24\x02\0", &[7, 8]), Value::Array(vec![Value::Unsigned(7), Value::Unsigned(8)]));
    let inner = Value::Structure(vec![("B".into(), Value::Unsigned(7)), ("C".into(), Value::Bool(false))]);
    assert_eq!(one(b"A\0\x98\x02B\0\x04C\0\x84\x03", &[7, 0]), inner);
    let bytes = metadata(b"Ev\0A\0\x84\x84\x81\x01");
    let tagged = &schema(&bytes).unwrap().fields[0];
    assert_eq!((tagged.input, tagged.output, tagged.count), (In::UInt8, out::HEX, Count::One));
    assert_eq!(tagged.tag, 1 << 21 | 1 << 14);
    let group = [&[24, 0][..], b"Hi\0", &[19, 0, 1], &[7; 16]].concat();
    let group = traits(&group).unwrap();
    assert_eq!((&*group.name, group.group), ("Hi", Some(Guid::from_bytes_le([7; 16]))));
}

/// Each case differs in one point from valid metadata.
#[test]
fn invalid_metadata_is_refused() {
    for (fields, payload, complaint) in [
        (&b"A\0\x04"[..], &[][..], "expected 1 bytes"),
        (b"A\0\x04", &[7, 8], "1 bytes after the last field"),
        (b"A\0\x00", &[7], "in-type 0"),
        (b"A\0\x10", &[7], "in-type 16"),
        (b"A\0\x1a", &[7], "in-type 26"),
        (b"A\0\x84\x05", &[7], "out-type 5"),
        (b"A\0\x84\x7f", &[7], "out-type 127"),
        (b"A\0\x84", &[7], "expected 1 bytes"),
        (b"A\0\x64", &[7], "a custom serializer"),
        (b"A\0\x24\0\0", &[], "an empty array"),
        (b"A\0\x4e", &[0, 0], "an array of TlgInBINARY"),
        (b"A\0\x84\x03", &[2], "expected true or false"),
        (b"A\0\x98\0", &[], "a structure without fields"),
        (b"A\0\x98\x02B\0\x04", &[7], "a name without an end"),
        (b"A\0\x04A\0\x04", &[7, 8], "two fields of one name"),
        (b"\0\x04", &[7], "an empty name"),
        (b"A", &[7], "a name without an end"),
        (b"\xff\0\x04", &[7], "not UTF-8"),
        (b"A\0\x97\x23", &[1, 0, 0xff], "not UTF-8"),
        (b"A\0\x17", &[1, 0, 0xff], "code page"),
        (b"A\0\x97\x23", &[2, 0, b'a'], "expected 2 bytes"),
        (b"A\0\x97\x0c", &[1, 0, b'{'], "not JSON"),
        (b"A\0\x16", &[1, 0, b'a'], "an incomplete character"),
        (b"A\0\x8e\x0a", &[4, 0, 2, 0, 0, 80], "family 2 in 4 bytes"),
        (b"A\0\x8e\x09", &[1, 0, 0], "not an IPv6 address"),
        (b"A\0\x84\x84\x80\x80\x80\x80", &[7], "28 bits"),
    ] {
        let Malformed(text) = decode(fields, payload).unwrap_err();
        assert!(text.contains(complaint), "{fields:?}: {text}");
    }
    let mut wrong = metadata(b"Ev\0");
    wrong[0] += 1;
    assert!(schema(&wrong).unwrap_err().0.contains("whose length says"));
    assert!(
        schema(&metadata(&b"Ev\0".iter().chain(&b"A\0\x04".repeat(129)).copied().collect::<Vec<_>>()))
            .is_err()
    );
}

/// A whole event, in a session, and as a line of JSON.
#[test]
fn events_reach_the_sessions_that_want_them() {
    let (provider, tracing) = (Guid::from_u128(1), Tracing::default());
    let handle = tracing.register(provider, 0, 0, Origin::default());
    let traits = b"\x05\0Hi\0";
    assert_eq!(tracing.set_traits(handle, traits), Ok(Ok(())));
    let filter = |level, any, all| Enable { filter: Filter { level, any, all }, ..Enable::all(provider) };
    let [all, warnings, others] =
        [filter(0, 0, 0), filter(3, 0, 0), filter(5, 2, 0)].map(|enable| tracing.open(enable, None));
    let raw = Raw {
        channel: 11,
        level: 4,
        opcode: 0,
        keyword: 1,
        parts: vec![(2, traits.to_vec()), (1, metadata(b"Ev\0A\0\x04")), (0, vec![7])],
    };
    assert_eq!(tracing.write(handle, &raw, 0), Ok(Ok(())));
    let [all, warnings, others] = [all, warnings, others].map(|session| tracing.events(session));
    assert!(warnings.is_empty() && others.is_empty());
    let line = r#"{"time":"1601-01-01T00:00:00.0000000Z","provider":"Hi","event":"Ev","level":4,"keyword":"0x1","fields":{"A":7}}"#;
    assert_eq!(all[0].json(), line);
    assert_eq!((all[0].number("A"), all[0].number("B"), all[0].text("A")), (7, 0, ""));
    for (change, complaint) in [
        (Raw { channel: 0, ..raw.clone() }, "channel 0"),
        (Raw { parts: raw.parts[1..].to_vec(), ..raw.clone() }, "parts of types [1, 0]"),
        (
            Raw { parts: vec![(2, b"\x05\0Ho\0".to_vec()), raw.parts[1].clone()], ..raw.clone() },
            "traits other",
        ),
        (Raw { parts: [&raw.parts[..], &raw.parts[1..2]].concat(), ..raw.clone() }, "type 1 among the data"),
    ] {
        let Malformed(text) = tracing.write(handle, &change, 0).unwrap().unwrap_err();
        assert!(text.contains(complaint), "{text}");
    }
    assert_eq!(tracing.unregister(handle, true), Ok(true));
    assert_eq!(tracing.unregister(handle, true), Err(Misuse::Unregistered));
    assert_eq!(tracing.write(handle, &raw, 0), Err(Misuse::Unregistered));
    assert_eq!(tracing.write(1, &raw, 0), Err(Misuse::Unknown));
}

#[test]
fn times_are_utc() {
    // FILETIMEs of known dates: the Unix epoch, and 29 February 2024.
    assert_eq!(utc(116_444_736_000_000_000), "1970-01-01T00:00:00.0000000Z");
    assert_eq!(utc(116_444_736_000_000_000 + 17_092_100_961_234_567), "2024-02-29T12:34:56.1234567Z");
}
