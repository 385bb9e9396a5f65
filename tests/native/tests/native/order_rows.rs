//! The driver's rows of documented layers are those of the lab's table.

use std::collections::BTreeSet;

use hushport_native_driver::logic::order::{Basis, LayerIndex, ROWS};
use machine::host::documented::{Expected, FLOWS, Page};

/// The layers of a row, without family.
fn names(layers: &[LayerIndex]) -> Vec<String> {
    let name = |layer: &LayerIndex| {
        let row = layer.layer().expect("a layer of the table");
        format!("{}{}", row.name, if layer.is_discard() { "_DISCARD" } else { "" })
    };
    layers.iter().map(name).collect()
}

/// The sequences of a documented flow, with and without what may or may not come.
fn sequences(flow: &[Expected]) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    for expected in flow {
        let choices: Vec<Vec<&str>> = match expected {
            Expected::Layer(name) => vec![vec![name]],
            Expected::Open(name) => vec![vec![name], Vec::new()],
            Expected::Segments(names) => vec![names.to_vec()],
            Expected::SomeOf(names) => names.iter().map(|name| vec![*name]).chain([names.to_vec()]).collect(),
        };
        let with = |choice: &Vec<&str>| {
            let longer = |one: &Vec<String>| {
                let mut one = one.clone();
                one.extend(choice.iter().map(|&name| name.to_owned()));
                one
            };
            all.iter().map(longer).collect::<Vec<_>>()
        };
        all = choices.iter().flat_map(with).collect();
    }
    all.retain(|one| !one.is_empty());
    all
}

#[test]
fn the_drivers_documented_rows_are_those_of_the_table() {
    let table: BTreeSet<_> = FLOWS.iter().flat_map(|flow| sequences(flow.layers)).collect();
    for row in ROWS.iter().filter(|row| row.standing == Basis::Documented) {
        assert!(table.contains(&names(row.layers)), "{}: {:?}", row.name, names(row.layers));
    }
    let rows: BTreeSet<_> = ROWS.iter().map(|row| names(row.layers)).collect();
    // A completed connect is the last layer of a connect. A FIN that is sent is two
    // walks: the call, then the segment.
    for flow in FLOWS.iter().filter(|flow| flow.page != Page::Reauthorization) {
        for sequence in sequences(flow.layers) {
            assert!(rows.contains(&sequence), "{}: {sequence:?}", flow.event);
        }
    }
}
