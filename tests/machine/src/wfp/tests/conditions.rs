//! Conditions: which ones are accepted, and what they match.

use super::super::condition::{Conditions, matches};
use super::*;

fn compile(layer: &str, list: &[Condition]) -> Result<Conditions, Status> {
    Conditions::compile(layer::layer_by_name(AleFields::Headers, layer).unwrap(), list)
}

fn refused(field: &str, match_type: MatchType, value: Value) -> Option<Status> {
    compile("INBOUND_TRANSPORT_V4", &[condition(field, match_type, value)]).err()
}

#[test]
fn a_field_of_another_layer_is_not_found() {
    let status = refused("ALE_APP_ID", MatchType::Equal, Value::Uint8(1));
    assert_eq!(status, Some(Status::FWP_CONDITION_NOT_FOUND));
}

#[test]
fn types_must_fit_the_field() {
    use MatchType as M;
    let mismatch = Some(Status::FWP_TYPE_MISMATCH);
    assert_eq!(refused("IP_LOCAL_PORT", M::Equal, Value::Uint16(1)), None);
    assert_eq!(refused("IP_LOCAL_PORT", M::Equal, Value::Uint32(1)), mismatch);
    assert_eq!(refused("IP_LOCAL_PORT", M::Equal, Value::Empty), mismatch);
    assert_eq!(refused("IP_LOCAL_ADDRESS", M::Equal, Value::ByteArray16([0; 16])), mismatch);
    assert_eq!(refused("IP_LOCAL_ADDRESS", M::Equal, Value::V6AddrMask([0; 16], 8)), mismatch);
    assert_eq!(refused("INTERFACE_INDEX", M::Equal, Value::V4AddrMask(0, 0)), mismatch);
    assert_eq!(refused("IP_LOCAL_ADDRESS", M::Equal, Value::V4AddrMask(0, !0xFF)), None);
    let range = |low, high| Value::Range(Box::new((Value::Uint16(low), Value::Uint16(high))));
    assert_eq!(refused("IP_LOCAL_PORT", M::Range, range(1, 2)), None);
    assert_eq!(refused("IP_PROTOCOL", M::Range, range(1, 2)), mismatch);
    let user = Value::TokenAccessInformation(Arc::from([0u8].as_slice()));
    let user = compile("ALE_AUTH_LISTEN_V4", &[condition("ALE_USER_ID", M::Equal, user)]);
    assert_eq!(user.err(), mismatch);
}

#[test]
fn match_types_must_fit_the_value() {
    use MatchType as M;
    let mismatch = Some(Status::FWP_MATCH_TYPE_MISMATCH);
    let range = |low, high| Value::Range(Box::new((Value::Uint16(low), Value::Uint16(high))));
    assert_eq!(refused("IP_LOCAL_PORT", M::Range, Value::Uint16(1)), mismatch);
    assert_eq!(refused("IP_LOCAL_PORT", M::Equal, range(1, 2)), mismatch);
    assert_eq!(refused("IP_LOCAL_PORT", M::Prefix, Value::Uint16(1)), mismatch);
    assert_eq!(refused("IP_LOCAL_PORT", M::EqualCaseInsensitive, Value::Uint16(1)), mismatch);
    let net = Value::V4AddrMask(0, !0xFF);
    assert_eq!(refused("IP_LOCAL_ADDRESS", M::Greater, net), mismatch);
    let v6 = [condition("IP_LOCAL_ADDRESS", M::FlagsAnySet, Value::ByteArray16([0; 16]))];
    assert_eq!(compile("INBOUND_TRANSPORT_V6", &v6).err(), mismatch);
    assert_eq!(refused("IP_LOCAL_PORT", M::Range, range(2, 1)), Some(Status::FWP_INVALID_RANGE));
    let mask = Some(Status::FWP_INVALID_NET_MASK);
    assert_eq!(refused("IP_LOCAL_ADDRESS", M::Equal, Value::V4AddrMask(0, 0xFF)), mask);
    let v6 = [condition("IP_LOCAL_ADDRESS", M::Equal, Value::V6AddrMask([0; 16], 129))];
    assert_eq!(compile("INBOUND_TRANSPORT_V6", &v6).err(), mask);
}

#[test]
fn only_consecutive_conditions_on_a_field_are_joined() {
    let port = |port| condition("IP_LOCAL_PORT", MatchType::Equal, Value::Uint16(port));
    let tcp = condition("IP_PROTOCOL", MatchType::Equal, Value::Uint8(6));
    let list = [port(80), port(443), tcp.clone()];
    let conditions = compile(LAYER, &list).unwrap();
    let hold = |port, protocol| {
        let known = [("IP_LOCAL_PORT", Value::Uint16(port)), ("IP_PROTOCOL", Value::Uint8(protocol))];
        conditions.hold(&values(LAYER, &known))
    };
    assert!(hold(80, 6) && hold(443, 6));
    assert!(!hold(81, 6) && !hold(80, 17));
    assert!(!conditions.hold(&values(LAYER, &[("IP_LOCAL_PORT", Value::Uint16(80))])));

    let duplicate = Some(Status::FWP_DUPLICATE_CONDITION);
    assert_eq!(compile(LAYER, &[port(80), tcp, port(443)]).err(), duplicate);
    assert_eq!(compile(LAYER, &[port(80), port(80)]).err(), duplicate);
}

#[test]
fn every_match_type_tests_what_it_says() {
    use MatchType as M;
    let port = Value::Uint16(80);
    let test = |match_type, wanted| matches(match_type, &port, &Value::Uint16(wanted));
    assert!(test(M::Equal, 80) && !test(M::Equal, 81));
    assert!(test(M::NotEqual, 81) && !test(M::NotEqual, 80));
    assert!(test(M::Greater, 79) && !test(M::Greater, 80));
    assert!(test(M::Less, 81) && !test(M::Less, 80));
    assert!(test(M::GreaterOrEqual, 80) && !test(M::GreaterOrEqual, 81));
    assert!(test(M::LessOrEqual, 80) && !test(M::LessOrEqual, 79));
    // 80 is 0x50.
    assert!(test(M::FlagsAllSet, 0x40) && !test(M::FlagsAllSet, 0x60));
    assert!(test(M::FlagsAnySet, 0x60) && !test(M::FlagsAnySet, 0x2F));
    assert!(test(M::FlagsNoneSet, 0x2F) && !test(M::FlagsNoneSet, 0x60));
    let range = |low, high| Value::Range(Box::new((Value::Uint16(low), Value::Uint16(high))));
    assert!(matches(M::Range, &port, &range(80, 80)));
    assert!(!matches(M::Range, &port, &range(81, 90)) && !matches(M::Range, &port, &range(1, 79)));
}

#[test]
fn masks_and_blobs_match_by_prefix() {
    use MatchType as M;
    let address = Value::Uint32(0xC0A8_0107);
    let net = |bits: u32| Value::V4AddrMask(0xC0A8_0100, !(u32::MAX >> bits));
    assert!(matches(M::Equal, &address, &net(24)));
    assert!(!matches(M::Equal, &address, &net(30)));
    assert!(matches(M::NotEqual, &address, &net(30)));

    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    let v6 = Value::ByteArray16(bytes);
    bytes[3] = 0xb9;
    for (length, equal) in [(0, true), (31, true), (32, false), (128, false)] {
        assert_eq!(matches(M::Equal, &v6, &Value::V6AddrMask(bytes, length)), equal, "/{length}");
    }
    assert!(matches(M::Less, &v6, &Value::ByteArray16(bytes)));

    let blob = |bytes: &[u8]| Value::ByteBlob(Arc::from(bytes));
    assert!(matches(M::Prefix, &blob(b"abc"), &blob(b"ab")));
    assert!(!matches(M::Prefix, &blob(b"abc"), &blob(b"bc")));
    assert!(matches(M::NotPrefix, &blob(b"abc"), &blob(b"bc")));
}

#[test]
fn an_unknown_value_matches_nothing() {
    use MatchType as M;
    for match_type in [M::Equal, M::NotEqual, M::Less, M::FlagsNoneSet, M::NotPrefix] {
        assert!(!matches(match_type, &Value::Empty, &Value::Uint16(0)), "{match_type:?}");
    }
}
