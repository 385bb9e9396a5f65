//! Reads from callgrind's output what it counted for the driver alone.
//!
//! The format ("Callgrind Format Specification", Valgrind's manual) lists the
//! instructions of each function itself, and those of each call including
//! everything that it called. The driver's share is what entered it, minus its
//! calls to functions outside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

/// A function, and the file that contains it.
type Function = (String, String);

/// A call record of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallRecord {
    from: Function,
    to: Function,
    instructions: u64,
}

/// The calls of a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    calls: Vec<CallRecord>,
}

impl Profile {
    /// Reads a profile without name compression.
    ///
    /// # Errors
    /// If it counts anything but instructions, or is no profile.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut profile, mut object, mut function) = (Self::default(), String::new(), String::new());
        let (mut called_object, mut called) = (None, None);
        let mut lines = text.lines();
        let mut counts = false;
        while let Some(line) = lines.next() {
            match line.split_once('=') {
                Some(("ob", name)) => name.clone_into(&mut object),
                Some(("fn", name)) => function = once(name),
                Some(("cob", name)) => called_object = Some(name.to_owned()),
                Some(("cfn", name)) => called = Some(once(name)),
                Some(("calls", _)) => {
                    // The next line has the position of the call and its cost.
                    let cost = lines.next().and_then(|line| line.split(' ').nth(1));
                    let instructions = cost.map_or(Ok(0), str::parse).context("a call's cost")?;
                    let to = (
                        called_object.take().unwrap_or_else(|| object.clone()),
                        called.take().context("cfn")?,
                    );
                    let from = (object.clone(), function.clone());
                    profile.calls.push(CallRecord { from, to, instructions });
                }
                _ => counts |= line == "events: Ir",
            }
        }
        ensure!(counts, "no profile of instructions");
        Ok(profile)
    }

    /// The instructions of everything that begins with a function that `enters`
    /// accepts, without calls to functions outside: in another file, or with a name
    /// that `leaves` accepts.
    pub fn within(&self, enters: impl Fn(&str) -> bool, leaves: impl Fn(&str) -> bool) -> u64 {
        let outside = |call: &CallRecord| call.to.0 != call.from.0 || leaves(&call.to.1);
        let mut calls: BTreeMap<&Function, Vec<&CallRecord>> = BTreeMap::new();
        let mut entered = 0;
        let mut waiting = Vec::new();
        for call in &self.calls {
            calls.entry(&call.from).or_default().push(call);
            // A call between two functions of the driver is no entry.
            if enters(&call.to.1) && !enters(&call.from.1) {
                entered += call.instructions;
                waiting.push(&call.to);
            }
        }
        let (mut seen, mut left) = (BTreeSet::new(), 0);
        while let Some(function) = waiting.pop() {
            if !seen.insert(function) {
                continue;
            }
            for call in calls.get(function).into_iter().flatten() {
                match outside(call) {
                    true => left += call.instructions,
                    false => waiting.push(&call.to),
                }
            }
        }
        entered.saturating_sub(left)
    }
}

/// The name of a function without its recursion level.
fn once(name: &str) -> String {
    name.rsplit_once('\'').map_or(name, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
version: 1
events: Ir
fl=loop.rs
ob=program
fn=spin
10 30
cfi=driver.rs
cfn=driver::thunk
calls=2 5
11 1000
fl=driver.rs
fn=driver::thunk
5 100
cfn=driver::decide
calls=2 9
6 900
fn=driver::decide
9 300
cob=libc
cfn=copy
calls=2 1
9 50
cfi=lab.rs
cfn=KeGetCurrentIrql
calls=2 7
10 550
fl=lab.rs
fn=KeGetCurrentIrql
7 350
cob=libc
cfn=copy
calls=4 1
8 200
fn=thread
1 1
cfn=KeGetCurrentIrql
calls=9 7
2 9000
";

    #[test]
    fn only_the_drivers_own_instructions_count() {
        let profile = Profile::parse(TEXT).unwrap();
        let within = profile.within(|name| name == "driver::thunk", |name| name.starts_with("Ke"));
        // It counts the functions' own 100 and 300. It leaves out the exports' 550,
        // their copying, and its own copying.
        assert_eq!(within, 400);
    }

    #[test]
    fn a_text_that_is_no_profile_is_an_error() {
        for text in ["", "events: Cycles\n", "events: Ir\nfn=a\ncfn=b\ncalls=1 1\n1 x\n"] {
            assert!(Profile::parse(text).is_err(), "{text:?}");
        }
    }
}
