//! Property test: the replay of any segments keeps the documented order.

use lab::trace::arbitrary::Player;
use proptest::prelude::*;

use super::captures::*;

/// Deviations in captures that are played one after another.
fn out_of_order(captures: &[Vec<u8>]) -> Vec<String> {
    let mut machine = machine(&[("CheckOrder", 1), ("FlowLimit", 64)]);
    let player = Player::new(machine.kernel(), machine.engine());
    let found = captures.iter().flat_map(|choices| player.play(choices).unwrap()).collect();
    drop(player);
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(machine.stop().unwrap().is_empty());
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// One driver plays several captures. One must not affect the next.
    #[test]
    fn arbitrary_segments_cause_no_deviation(captures in prop::collection::vec(choices(), 1..25)) {
        let found = out_of_order(&captures);
        prop_assert!(found.is_empty(), "{found:#?}");
    }
}

/// A side and segments. Half of the segments have one pair of ends, so that they belong
/// to a connection.
fn choices() -> impl Strategy<Value = Vec<u8>> {
    let what = prop_oneof![any::<u8>(), 0..2_u8];
    let how = prop_oneof![any::<u8>(), prop::sample::select(&[0_u8, 0x40, 0x80, 0xc0][..])];
    let moves = prop::collection::vec((what, any::<u8>(), how), 1..40);
    (any::<u8>(), moves).prop_map(|(side, moves)| {
        let moves = moves.into_iter().flat_map(|(what, flags, how)| [what, flags, how]);
        std::iter::once(side).chain(moves).collect()
    })
}
