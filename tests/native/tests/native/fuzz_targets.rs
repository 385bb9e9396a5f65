//! Fuzz targets run over inputs from a seed and over kept inputs.

use native::input::Random;
use native::targets::{self, TARGETS, Target};

/// The most bytes of an input.
const LONGEST: usize = 1024;

fn over_inputs_from_a_seed(name: &str, count: usize) {
    let target = targets::named(name).unwrap();
    let mut random = Random::new(0x68_7573_6870_6f72);
    for _ in 0..count {
        let bytes = random.bytes(LONGEST);
        if let Err(found) = std::panic::catch_unwind(|| (target.run)(&bytes)) {
            // Keep it with the fix.
            let input = lab::setup::state().join(format!("found-{name}"));
            std::fs::write(&input, &bytes).unwrap();
            eprintln!("the input is in {}", input.display());
            std::panic::resume_unwind(found);
        }
    }
    targets::finish();
}

#[test]
fn classify_over_inputs_from_a_seed() {
    over_inputs_from_a_seed("classify", 20_000);
}

#[test]
fn policies_over_inputs_from_a_seed() {
    over_inputs_from_a_seed("policies", 100);
}

#[test]
fn registry_over_inputs_from_a_seed() {
    over_inputs_from_a_seed("registry", 100);
}

#[test]
fn decision_over_inputs_from_a_seed() {
    over_inputs_from_a_seed("decision", 100_000);
}

#[test]
fn order_over_inputs_from_a_seed() {
    over_inputs_from_a_seed("order", 20_000);
}

#[test]
fn replay_over_inputs_from_a_seed() {
    over_inputs_from_a_seed("replay", 1_000);
}

/// Inputs that once found a fault, and inputs that reach much code.
#[test]
fn kept_inputs() {
    for Target { name, run } in TARGETS {
        let folder = lab::setup::root().join("tests/native/inputs").join(name);
        let mut paths: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty", folder.display());
        for path in paths {
            eprintln!("{}", path.display());
            run(&std::fs::read(&path).unwrap());
        }
        targets::finish();
    }
}
