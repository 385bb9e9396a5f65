//! The same classifies in the native build, counted by callgrind.
//!
//! A second way to the number that [`super::count`] steps through the image to
//! get: the same source, by another calling convention, counted by a program
//! that knows nothing of the lab.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use machine::exports;
use machine::nt::{Irql, Options};

use super::callgrind::Profile;
use super::cases::{cases, drivers, values};
use super::count::cost;
use super::figures::Figures;
use super::stage::Stage;
use crate::setup::{self, Need, native};

/// How often a classify is made in the second part; in the third twice as often.
pub const ROUNDS: u64 = 64;

/// What the program calls for each part; the profile is written behind it.
const PART: &str = "*count::part*";

/// Where the native build enters the driver, whatever callout is meant.
const ENTERS: &str = "kernel::wfp::callout::classify_thunk";

/// Instructions of each case, in the order of [`cases`].
///
/// # Errors
/// If valgrind cannot be installed, or the program fails.
pub fn instructions() -> Result<Vec<(String, f64)>> {
    setup::ensure(&[Need::VALGRIND])?;
    let program = native::counted()?.program;
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("profile");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.arg(format!("--dump-after={PART}"));
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(&program);
    setup::run(&mut valgrind)?;
    let mut part = 0;
    let mut next = || -> Result<u64> {
        part += 1;
        let path = format!("{}.{part}", out.display());
        let text = std::fs::read_to_string(&path).with_context(|| format!("part {part}"))?;
        let profile = Profile::parse(&text)?;
        Ok(profile.within(|name| name.contains(ENTERS), is_export))
    };
    let mut counted = Vec::new();
    for case in drivers().flat_map(cases) {
        // The first part is what led there and a few rounds that warm up.
        let [_, once, twice] = [next()?, next()?, next()?];
        ensure!(once > 0, "{}: callgrind has seen nothing of the driver", case.name);
        let more = twice.checked_sub(once).context("twice as often is more")?;
        counted.push((case.name, more as f64 / ROUNDS as f64));
    }
    Ok(counted)
}

/// Instructions of each case in the image, stepped, in the same order.
///
/// # Errors
/// If the driver cannot be built, or stops.
pub fn stepped() -> Result<Vec<(String, f64)>> {
    let mut counted = Vec::new();
    for driver @ (exempted, _) in drivers() {
        let stage = Stage::new(Options::default(), &values(exempted))?;
        for case in cases(driver) {
            let cost = cost(&stage, Irql::DISPATCH, &[&case.call(&stage)?])?;
            counted.push((case.name, cost.instructions as f64));
        }
    }
    Ok(counted)
}

/// Takes the figures of both.
pub(super) fn take(figures: &mut Figures) -> Result<()> {
    for (way, counted) in [("the image, stepped", stepped()?), ("native, under callgrind", instructions()?)] {
        for (name, count) in counted {
            figures.add(&format!("counted in both builds: {way}"), name, "instructions", count);
        }
    }
    Ok(())
}

/// Whether a function is one that the driver imports.
fn is_export(name: &str) -> bool {
    (0..exports::count()).any(|index| exports::name(index) == name)
}
