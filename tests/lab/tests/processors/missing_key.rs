//! The driver's key is deleted and created: each change applies one policy.

use lab::hushport::{EVENT_PROVIDER, SERVICE};
use machine::etw::Enable;
use machine::nt::{Options, Trace, parameters_key};

use super::actors::{Play, play};
use super::stage::{file, seeds};

/// Policies that were applied since the last call.
fn applied(session: &Trace) -> usize {
    session.take().iter().filter(|event| event.name == "PolicyApplied").count()
}

/// Advances the clock by a minute. The driver looks for a missing key much more often.
fn a_minute_passes(play: &Play) {
    play.let_others_run(60_000);
}

#[test]
fn a_missing_key_is_one_change_of_the_policy() {
    for seed in seeds(6) {
        play(Options::default(), seed, 0, |mut machine, play| {
            let session = play.kernel.trace(Enable::all(EVENT_PROVIDER), None);
            machine.start_file(file()).unwrap();
            // The driver's thread reads the values when it begins.
            play.let_others_run(100);
            applied(&session);
            for round in 0..3 {
                play.kernel.delete_key(&parameters_key(SERVICE));
                a_minute_passes(play);
                assert_eq!(applied(&session), 1, "seed {seed}, round {round}: the key went");
                a_minute_passes(play);
                assert_eq!(applied(&session), 0, "seed {seed}, round {round}: nothing changed");
                machine.set("Mode", round);
                a_minute_passes(play);
                assert_eq!(applied(&session), 1, "seed {seed}, round {round}: the key came back");
                machine.set("Mode", (round + 1) % 3);
                a_minute_passes(play);
                assert_eq!(applied(&session), 1, "seed {seed}, round {round}: a value changed");
            }
            drop(session);
            assert!(machine.stop().unwrap().is_empty());
        });
    }
}
