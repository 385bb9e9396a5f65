//! Counts the classifies of the native build under callgrind, and measures what grows
//! with the number of processors.
//!
//! This checks the numbers that [`super::count`] gets by stepping through the
//! image: the same source, with another calling convention, counted by an
//! independent program.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use machine::exports;
use machine::nt::{Irql, Options};

use super::callgrind::Profile;
use super::cases::{cases, drivers, values};
use super::count::cost;
use super::figures::Figures;
use super::stage::Stage;
use crate::setup::{self, Need, native};

/// The number of classifies in the second part; the third part has twice as many.
pub const ROUNDS: u64 = 64;

/// The function that the program calls for each part; callgrind writes a profile
/// after it.
const PART: &str = "*count::part*";

/// The function through which the native build enters the driver, for every
/// callout.
const ENTERS: &str = "kernel::wfp::callout::classify_thunk";

/// The instructions of each case, in the order of [`cases`].
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
        // The first part is the setup and a few warm-up rounds.
        let [_, once, twice] = [next()?, next()?, next()?];
        ensure!(once > 0, "{}: callgrind has counted no instruction of the driver", case.name);
        let more =
            twice.checked_sub(once).context("the third part has fewer instructions than the second")?;
        counted.push((case.name, more as f64 / ROUNDS as f64));
    }
    Ok(counted)
}

/// The instructions of each case in the stepped image, in the same order.
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

/// Adds the figures of both.
pub(super) fn take(figures: &mut Figures) -> Result<()> {
    for (way, counted) in [("the image, stepped", stepped()?), ("native, under callgrind", instructions()?)] {
        for (name, count) in counted {
            figures.add(&format!("counted in both builds: {way}"), name, "instructions", count);
        }
    }
    Ok(())
}

/// Adds what grows with the number of active processors: the sweep and the end of a
/// flow. The simulated machine has at most 64 processors, so the native build's own
/// structures are measured.
pub(super) fn take_processors(figures: &mut Figures) -> Result<()> {
    let output = Command::new(native::measured()?.program).output().context("cannot start the program")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8(output.stdout)?.lines() {
        let [what, processors, time] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("{line:?}: expected what, processors and nanoseconds");
        };
        let group = match what {
            "sweep" => "a sweep with full tables, by active processors",
            _ => "the end of a flow, by active processors",
        };
        figures.add(group, processors, "ns", time.parse().with_context(|| format!("{line:?}: no number"))?);
    }
    Ok(())
}

/// Whether the driver imports a function.
fn is_export(name: &str) -> bool {
    (0..exports::count()).any(|index| exports::name(index) == name)
}
