//! What `CheckOrder` tells of the documented flows when a step is missing, doubled or
//! exchanged with the next one.

use lab::order::{Outcome, changes, outcome, unchanged};
use lab::setup::{self, Target};
use machine::host::documented::Page;
use machine::host::{Event, Fault};
use machine::wire::Family;

#[test]
fn most_omissions_and_every_exchange_are_told() {
    let sys = &setup::build(Target::X64).unwrap().sys;
    for family in Family::BOTH {
        assert_eq!(unchanged(sys, family).unwrap(), [], "{family}: told without a change");
        let changes = changes(sys, family).unwrap();
        let outcomes: Vec<Outcome> = changes.iter().map(|change| outcome(sys, change).unwrap()).collect();
        for outcome in &outcomes {
            let explained = outcome.reason().is_some();
            assert_ne!(outcome.told.is_some(), explained, "told, or a reason: {outcome}");
        }
        let count = |fault, of: fn(&Outcome) -> bool| {
            let all: Vec<_> = outcomes.iter().filter(|o| o.change.fault == fault && of(o)).collect();
            (all.iter().filter(|outcome| outcome.told.is_some()).count(), all.len())
        };
        // The page of TCP, and how flows of UDP are established: 55 steps, of which the
        // bind is in the play once for each page.
        let page = |outcome: &Outcome| {
            let flow = outcome.change.flow;
            flow.page == Page::Tcp
                || [Event::Bind, Event::FirstDatagramOut, Event::DatagramIn].contains(&flow.event)
        };
        let binds = count(Fault::Dropped, |outcome| outcome.change.flow.event == Event::Bind);
        let (told, all) = count(Fault::Dropped, page);
        assert_eq!(all + binds.1, 55, "{family}");
        assert!(told + binds.0 >= 45, "{family}: {told} of {all}, {binds:?}");
        assert_eq!(count(Fault::Dropped, |_| true), (55, 64), "{family}");
        assert_eq!(count(Fault::Doubled, |_| true), (59, 64), "{family}");
        assert_eq!(count(Fault::Exchanged, |_| true), (42, 42), "{family}");
    }
}
