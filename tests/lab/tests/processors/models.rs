//! The models of concurrent structures, in every interleaving.

use lab::setup::native;

#[test]
fn every_interleaving_of_the_models_is_right() {
    assert!(native::model_checked().unwrap());
}
