//! Every argument of every call that the driver makes is in a table.

mod expect;
mod life;
mod table;

use std::collections::BTreeSet;

use lab::setup::{self, Target};
use machine::image::{ImportName, PeFile};

use expect::differences;
pub use table::is_deciding;
use table::table;

#[test]
fn every_call_of_a_life_is_as_the_table_says() {
    let machine = life::Living::new();
    let engine = machine.engine();
    let life = expect::Life { calls: machine.live(), engine: &engine };
    let problems = differences(&life, table());
    assert!(
        problems.is_empty(),
        "{} of {} calls:\n{}",
        problems.len(),
        life.calls.len(),
        problems.join("\n")
    );
}

/// The life calls every import, so every import is checked.
#[test]
fn every_import_is_in_the_table() {
    let file = PeFile::read(&setup::build(Target::X64).unwrap().sys).unwrap();
    let imports = file.imports.iter().map(|import| match &import.name {
        ImportName::Name(name) => name.clone(),
        ImportName::Ordinal(number) => format!("#{number}"),
    });
    let imports: BTreeSet<String> = imports.collect();
    let known: BTreeSet<String> = table().map(|export| export.name.to_owned()).collect();
    assert_eq!(imports, known);
}
