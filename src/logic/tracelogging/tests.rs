//! Tests the layout of metadata and payload, byte by byte.

use super::*;

fn bytes<V: FieldValue>(value: &V) -> Vec<u8> {
    let mut room = [0xcc; 64];
    let mut payload = Payload::new(&mut room);
    value.put(&mut payload);
    payload.bytes().unwrap().to_vec()
}

#[test]
fn values_are_little_endian_and_texts_counted() {
    assert_eq!(bytes(&0x0102_0304_u32), [4, 3, 2, 1]);
    assert_eq!(bytes(&true), [1]);
    assert_eq!(bytes(&"ab"), [2, 0, b'a', b'b']);
    assert_eq!(bytes(&Text(["a", "", "bc"])), [3, 0, b'a', b'b', b'c']);
    assert_eq!(bytes(&Process(4)), [4, 0, 0, 0]);
    assert_eq!(bytes(&Hex(1)), [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn socket_addresses_have_the_layout_of_windows() {
    let v4 = Socket::new(Some([192, 0, 2, 1].into()), Some(80));
    assert_eq!(bytes(&v4), [16, 0, 2, 0, 0, 80, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let v6 = bytes(&Socket::new(Some("2001:db8::1".parse().unwrap()), Some(0x0102)));
    assert_eq!(v6[..10], [28, 0, 23, 0, 1, 2, 0, 0, 0, 0]);
    assert_eq!(v6[10..14], [0x20, 0x01, 0x0d, 0xb8]);
    assert_eq!(v6.len(), 30);
    assert_eq!(bytes(&Socket::default()), [0, 0]);
}

#[test]
fn a_value_that_does_not_fit_is_not_written_in_part() {
    let mut room = [0; 5];
    let mut payload = Payload::new(&mut room);
    1_u32.put(&mut payload);
    assert!(payload.bytes().is_some());
    2_u32.put(&mut payload);
    3_u8.put(&mut payload);
    assert_eq!(payload.bytes(), None);
}

#[test]
fn metadata_contain_name_and_fields() {
    const FIELDS: &[Field] = &[Field::of::<u32>("A"), Field::of::<bool>("Bc")];
    let bytes = metadata::<{ metadata_size("Ev", FIELDS) }>("Ev", FIELDS);
    assert_eq!(bytes, [14, 0, 0, b'E', b'v', 0, b'A', 0, 8, b'B', b'c', 0, 0x84, 3]);
    assert_eq!(traits::<5>("Ab"), [5, 0, b'A', b'b', 0]);
}

#[test]
fn sessions_choose_by_level_and_keyword() {
    let event = Description { name: "", level: 4, keyword: 6, per_second: None, fields: &[], metadata: &[] };
    for (level, any, all, wanted) in [
        (4, 2, 0, true),
        (5, u64::MAX, 0, true),
        (3, u64::MAX, 0, false),
        (0, u64::MAX, 0, true),
        (4, 1, 0, false),
        (4, 2, 6, true),
        (4, 2, 7, false),
        (4, 0, 0, true),
    ] {
        assert_eq!(event.is_wanted(level, any, all), wanted, "{level} {any} {all}");
    }
}
