//! Any segments in any roles: the replay itself is never out of order, neither by
//! the documents nor by the driver's own watch.

use lab::trace::arbitrary::Player;
use proptest::prelude::*;

use super::write::*;

#[test]
fn no_segments_bring_about_a_deviation() {
    let mut machine = machine(&[("CheckOrder", 1), ("FlowLimit", 64)]);
    let player = Player::new(machine.kernel(), machine.engine());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    // Half of all are on one pair, so that segments meet a connection.
    let what = prop_oneof![any::<u8>(), 0..2_u8];
    let how = prop_oneof![any::<u8>(), prop::sample::select(&[0_u8, 0x40, 0x80, 0xc0][..])];
    let moves = prop::collection::vec((what, any::<u8>(), how), 1..40);
    let outcome = runner.run(&(any::<u8>(), moves), |(side, moves)| {
        let moves = moves.into_iter().flat_map(|(what, flags, how)| [what, flags, how]);
        let choices: Vec<u8> = std::iter::once(side).chain(moves).collect();
        let found = player.play(&choices).unwrap();
        prop_assert!(found.is_empty(), "{found:#?}");
        Ok(())
    });
    outcome.unwrap();
    drop(player);
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(machine.stop().unwrap().is_empty());
}
