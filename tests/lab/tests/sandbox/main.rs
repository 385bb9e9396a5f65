//! Drivers that attack the machine reach nothing, and each run with one has failed.
//!
//! The attacks are in `attacker/attacks.rs`. Each is played behind all walls; then
//! with walls left out, one after the other, until none is left that holds it back:
//! only then it succeeds.
#![allow(missing_docs, reason = "a test has no interface")]

mod attacks;
mod process;
mod run;

use std::net::TcpListener;

use lab::sandbox::Wall;

use attacks::{ATTACKS, Attack, Held};
use run::{Outcome, Run};

fn number(name: &str) -> usize {
    ATTACKS.iter().position(|attack| attack.name == name).unwrap_or_else(|| panic!("no attack {name}"))
}

/// A listener outside of the sandbox, for the attack that connects.
fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).unwrap()
}

/// What is wrong with a run behind all walls.
fn complaint(attack: &Attack, outcome: &Outcome) -> Option<String> {
    let is_named = outcome.text.contains(attack.report);
    (outcome.succeeded || !is_named).then(|| format!("{}: {outcome:?}", attack.name))
}

fn hold(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<_> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n\n"));
}

fn play(attack: &Attack, run: Run) -> Outcome {
    let listener = listener();
    let port = listener.local_addr().unwrap().port();
    run.set("Attack", number(attack.name)).set("Port", port).play()
}

#[test]
fn the_table_is_the_drivers() {
    let text = std::fs::read_to_string(run::source().with_file_name("attacker/attacks.rs")).unwrap();
    let table = text.split_once("fn(u16) -> Outcome] = &[\n").unwrap().1.split_once("\n];").unwrap().0;
    let names: Vec<_> = table.lines().map(|line| line.trim().trim_end_matches(',')).collect();
    assert_eq!(names, ATTACKS.iter().map(|attack| attack.name).collect::<Vec<_>>());
}

#[test]
fn a_driver_without_an_attack_runs() {
    let outcome = Run::new().play();
    assert!(outcome.succeeded, "{outcome:?}");
}

#[test]
fn no_attack_succeeds_and_each_is_named() {
    let attacks = ATTACKS.iter().filter(|attack| !matches!(attack.held, Held::Modelled));
    hold(attacks.filter_map(|attack| complaint(attack, &play(attack, Run::new()))));
}

#[test]
fn what_older_kits_write_to_cr8_raises_the_irql() {
    let outcome = play(&ATTACKS[number("raise_by_cr8")], Run::new());
    assert!(outcome.succeeded, "{outcome:?}");
}

/// An attacker that knows the lab switches off what catches its system calls. The
/// filter is behind it.
#[test]
fn the_filter_names_the_calls_of_an_informed_attacker() {
    let filtered = |attack: &&Attack| matches!(attack.held, Held::By([_, Wall::Filter, ..]));
    let informed = |attack: &Attack| complaint(attack, &play(attack, Run::new().set("Informed", 1)));
    hold(ATTACKS.iter().filter(filtered).filter_map(informed));
}

#[test]
fn each_wall_holds_an_attack_back_alone() {
    let mut complaints = Vec::new();
    for attack in ATTACKS {
        let Held::By(walls) = attack.held else { continue };
        for left in 1..=walls.len() {
            let without = &walls[..left];
            let outcome = play(attack, Run::new().without(without));
            if outcome.reached != (left == walls.len()) {
                complaints.push(format!("{} without {without:?}: {outcome:?}", attack.name));
            }
        }
    }
    hold(complaints);
}

#[test]
fn a_foreign_driver_needs_every_wall() {
    hold(Wall::ALL.into_iter().filter_map(|wall| {
        let outcome = Run::new().without_flag().without(&[wall]).play();
        let is_told = outcome.text.contains(wall.what()) && outcome.text.contains("--without-box");
        (outcome.succeeded || !is_told).then(|| format!("{wall:?}: {outcome:?}"))
    }));
}

/// What the run says of a spinning driver comes from the outer process.
#[test]
fn the_process_of_a_driver_has_nothing() {
    process::inspect();
}
