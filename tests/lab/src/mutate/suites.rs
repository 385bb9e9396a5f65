//! The test suites that can notice a change of the driver, fastest first.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::watched::{self, End};
use crate::setup::clean_command;

/// A test suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// The arguments of cargo that select it.
    arguments: &'static [&'static str],
    /// Whether the changed source is compiled into the program. Then a compile
    /// check comes first.
    compiles_source: bool,
}

const fn of_lab(name: &'static str, arguments: &'static [&'static str]) -> Suite {
    Suite { name, arguments, compiles_source: false }
}

/// The driver's unit tests. They come first, because only they need no linked
/// driver.
pub const UNIT: Suite = Suite {
    name: "unit",
    arguments: &["--package", "hushport", "--lib", "--no-default-features"],
    compiles_source: true,
};

/// A single test that links the driver.
const LINKS: Suite = of_lab("link", &["--package", "hushport-lab", "--test", "driver"]);
const LINK_TEST: &str = "linked_image::the_driver_links";

/// The other suites: every program of the lab's tests that runs the driver. They
/// run in the order of their duration.
pub const SUITES: [Suite; 15] = [
    of_lab("driver", &["--package", "hushport-lab", "--test", "driver"]),
    Suite {
        name: "native",
        arguments: &["--package", "hushport-native", "--test", "native"],
        compiles_source: true,
    },
    of_lab("imports", &["--package", "hushport-lab", "--test", "imports"]),
    of_lab("declarations", &["--package", "hushport-lab", "--test", "declarations"]),
    of_lab("cost", &["--package", "hushport-lab", "--test", "cost"]),
    of_lab("trace", &["--package", "hushport-lab", "--test", "trace"]),
    of_lab("package", &["--package", "hushport-lab", "--test", "package"]),
    of_lab("order", &["--package", "hushport-lab", "--test", "order"]),
    of_lab("explain", &["--package", "hushport-lab", "--test", "explain"]),
    of_lab("policy_commands", &["--package", "hushport-lab", "--test", "policy_commands"]),
    of_lab("simulated_host", &["--package", "hushport-lab", "--test", "simulated_host"]),
    of_lab("conformance", &["--package", "hushport-lab", "--test", "conformance"]),
    of_lab("processors", &["--package", "hushport-lab", "--test", "processors"]),
    of_lab("scan_matrix", &["--package", "hushport-lab", "--test", "scan_matrix"]),
    of_lab("fault_sweep", &["--package", "hushport-lab", "--test", "fault_sweep"]),
];

/// The time limit of a suite without changes, including the build.
const LONGEST: Duration = Duration::from_secs(45 * 60);

/// The duration of each suite without changes, in seconds.
pub type Times = BTreeMap<String, f64>;

/// The result of a mutation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It does not compile or link, so it is not counted.
    Unviable,
    /// A test failed.
    #[allow(missing_docs, reason = "the fields say it")]
    Noticed { suite: String, test: String },
    /// A suite did not end.
    #[allow(missing_docs, reason = "the fields say it")]
    Hung { suite: String, tests: Vec<String> },
    /// No suite noticed it.
    Survived,
    /// The user interrupted it.
    Interrupted,
}

/// Finds a suite by its name.
///
/// # Errors
/// If there is none.
pub fn named(name: &str) -> Result<Suite, String> {
    let all = || std::iter::once(UNIT).chain(SUITES);
    let names = || all().map(|suite| suite.name).collect::<Vec<_>>().join(", ");
    all().find(|suite| suite.name == name).ok_or_else(|| format!("{name:?}: expected one of {}", names()))
}

/// Where suites run, and how long each may take.
#[derive(Debug)]
pub struct Runner<'a> {
    root: &'a Path,
    /// The unit tests first, then the fastest ones.
    suites: Vec<Suite>,
    times: Times,
    /// The time that a suite may take beyond its duration without changes.
    patience: Duration,
}

impl<'a> Runner<'a> {
    /// Runs suites in a copy of the checkout; all of them if none is named. Suites
    /// that are missing in `times` are run to measure them.
    ///
    /// # Errors
    /// If a suite fails without changes, because then it cannot notice any.
    pub fn new(root: &'a Path, suites: &[Suite], times: Times, patience: Duration) -> Result<Self> {
        let all: Vec<_> = std::iter::once(UNIT).chain(SUITES).collect();
        let suites = if suites.is_empty() { &all[..] } else { suites };
        let mut runner = Self { root, suites: suites.to_vec(), times, patience: LONGEST };
        let needs_link = suites.iter().any(|suite| *suite != UNIT);
        for suite in needs_link.then_some(&LINKS).into_iter().chain(suites) {
            if !runner.times.contains_key(suite.name) {
                runner.measure(suite)?;
            }
        }
        let Self { times, suites, .. } = &mut runner;
        let time =
            |suite: &Suite| if *suite == UNIT { 0.0 } else { times.get(suite.name).copied().unwrap_or(0.0) };
        suites.sort_by(|one, other| time(one).total_cmp(&time(other)));
        runner.patience = patience;
        Ok(runner)
    }

    /// The durations of the suites without changes.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// Builds a suite and measures it.
    fn measure(&mut self, suite: &Suite) -> Result<()> {
        eprintln!("lab: {} without changes", suite.name);
        for arguments in [&["--no-run"][..], &[]] {
            let began = Instant::now();
            match watched::run(&mut self.command(suite, arguments), LONGEST)? {
                End::Passed => {}
                End::Interrupted => bail!("interrupted"),
                end => bail!("{} fails without changes: {end:?}", suite.name),
            }
            // Only the second run is measured.
            self.times.insert(suite.name.to_owned(), began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Runs one suite after the other until one notices.
    ///
    /// # Errors
    /// If cargo cannot be started.
    pub fn outcome(&self) -> Result<Outcome> {
        let mut links = false;
        for suite in &self.suites {
            // If the driver does not link, every suite of the lab would fail for
            // that reason.
            if *suite != UNIT && !links {
                match watched::run(&mut self.command(&LINKS, &[]), self.limit(&LINKS))? {
                    End::Passed => links = true,
                    End::Interrupted => return Ok(Outcome::Interrupted),
                    _ => return Ok(Outcome::Unviable),
                }
            }
            if let Some(outcome) = self.run(suite)? {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Survived)
    }

    /// Runs a suite. Returns `None` if it passes.
    fn run(&self, suite: &Suite) -> Result<Option<Outcome>> {
        let limit = self.limit(suite);
        if suite.compiles_source {
            match watched::run(&mut self.command(suite, &["--no-run"]), limit)? {
                End::Passed => {}
                End::Interrupted => return Ok(Some(Outcome::Interrupted)),
                _ => return Ok(Some(Outcome::Unviable)),
            }
        }
        let name = || suite.name.to_owned();
        Ok(match watched::run(&mut self.command(suite, &[]), limit)? {
            End::Passed => None,
            End::Interrupted => Some(Outcome::Interrupted),
            End::Failed(test) => Some(Outcome::Noticed { suite: name(), test }),
            End::Hung(tests) => Some(Outcome::Hung { suite: name(), tests }),
            End::Died(how) => {
                Some(Outcome::Noticed { suite: name(), test: self.died_in(suite, &how, limit)? })
            }
        })
    }

    /// The test in which a suite dies: the last one that begins if they run one by
    /// one. If the suite passes that way, how it died before.
    fn died_in(&self, suite: &Suite, how: &str, limit: Duration) -> Result<String> {
        let mut command = self.command(suite, &["--", "--test-threads", "1"]);
        let test = watched::last_begun(&mut command, limit)?;
        let first = how.lines().next().unwrap_or_default();
        Ok(test.map_or_else(|| format!("(died: {first})"), |test| format!("{test} (died: {first})")))
    }

    fn limit(&self, suite: &Suite) -> Duration {
        let unchanged = self.times.get(suite.name).copied().unwrap_or(0.0);
        Duration::from_secs_f64(unchanged * 3.0) + self.patience
    }

    fn command(&self, suite: &Suite, arguments: &[&str]) -> Command {
        let mut command = clean_command("cargo");
        command.current_dir(self.root).args(["test", "--locked", "--profile", "lab"]);
        command.args(suite.arguments).args(arguments);
        if *suite == LINKS && arguments.is_empty() {
            command.args(["--", "--exact", LINK_TEST]);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;

    /// The programs that test the lab, other drivers or the checkout, so that a change of
    /// the driver means nothing to them.
    const OTHERS: [&str; 10] = [
        "checkout",
        "docs",
        "foreign",
        "image",
        "planted_faults",
        "run_any",
        "sandbox",
        "time_limits",
        "vm",
        "wdk",
    ];

    #[test]
    fn each_program_that_runs_the_driver_is_a_suite() {
        for (package, folder) in [("hushport-lab", "lab"), ("hushport-native", "native")] {
            let mut expected = programs_of(folder);
            expected.retain(|program| !OTHERS.contains(&program.as_str()));
            expected.sort();
            let of_package = SUITES.iter().filter(|suite| suite.arguments.contains(&package));
            let mut suites: Vec<&str> =
                of_package.filter_map(|suite| suite.arguments.last().copied()).collect();
            suites.sort_unstable();
            assert_eq!(suites, expected, "{package}");
        }
    }

    /// The test programs that cargo finds by the names of files and folders.
    fn programs_of(folder: &str) -> Vec<String> {
        let folder = setup::root().join("tests").join(folder).join("tests");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let programs = entries.filter(|path| path.is_file() || path.join("main.rs").exists());
        programs.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    }
}
