//! The results of the tests.

use std::fmt;
use std::time::Duration;

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It is marked as ignored.
    Ignored,
    /// It failed, with this output.
    Failed(String),
}

/// A test that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// `package/program::module::test`.
    pub name: String,
    /// The result.
    pub verdict: Verdict,
    /// How long it ran.
    pub took: Duration,
}

/// The results of all tests.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The tests in the order in which they ended.
    pub ended: Vec<Ended>,
    /// The number of tests that did not run because of the limit for the whole run.
    pub not_run: usize,
    /// Whether the limit for the whole run was reached.
    over: bool,
}

/// The number of slowest tests that are named.
const SLOWEST: usize = 10;

impl Summary {
    /// Adds a test and prints a line about it.
    pub(super) fn note(&mut self, ended: Ended) {
        let word = match &ended.verdict {
            Verdict::Passed => "ok",
            Verdict::Ignored => "ignored",
            Verdict::Failed(_) => "FAILED",
        };
        println!("test {} ... {word} ({:.2} s)", ended.name, ended.took.as_secs_f64());
        if let Verdict::Failed(output) = &ended.verdict {
            println!("---- {} ----\n{}\n----", ended.name, output.trim_end());
        }
        self.ended.push(ended);
    }

    /// Records that the limit for the whole run was reached.
    pub(super) fn end(&mut self, not_run: usize) {
        self.over = true;
        self.not_run += not_run;
    }

    /// Whether the limit for the whole run was reached.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The tests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Ended> {
        self.ended.iter().filter(|ended| matches!(ended.verdict, Verdict::Failed(_)))
    }

    /// Whether every test ran and none failed.
    pub fn passed(&self) -> bool {
        !self.over && self.failed().next().is_none()
    }

    fn count(&self, verdict: &Verdict) -> usize {
        self.ended.iter().filter(|ended| ended.verdict == *verdict).count()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slowest: Vec<&Ended> = self.ended.iter().collect();
        slowest.sort_by_key(|ended| std::cmp::Reverse(ended.took));
        writeln!(f, "the slowest tests:")?;
        for ended in slowest.iter().take(SLOWEST) {
            writeln!(f, "  {:7.2} s  {}", ended.took.as_secs_f64(), ended.name)?;
        }
        if self.failed().next().is_some() {
            writeln!(f, "failed:")?;
        }
        for ended in self.failed() {
            writeln!(f, "  {}", ended.name)?;
        }
        if self.over {
            writeln!(f, "the limit for the whole run was reached; {} tests did not run", self.not_run)?;
        }
        write!(
            f,
            "test result: {}. {} passed; {} failed; {} ignored",
            if self.passed() { "ok" } else { "FAILED" },
            self.count(&Verdict::Passed),
            self.failed().count(),
            self.count(&Verdict::Ignored),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(name: &str, verdict: Verdict, seconds: u64) -> Ended {
        Ended { name: name.to_owned(), verdict, took: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_last_line_counts_and_the_slowest_come_first() {
        let mut summary = Summary::default();
        summary.note(ended("p/t::quick", Verdict::Passed, 1));
        summary.note(ended("p/t::slow", Verdict::Passed, 30));
        summary.note(ended("p/t::later", Verdict::Ignored, 0));
        assert!(summary.passed());
        let text = summary.to_string();
        assert!(text.contains("30.00 s  p/t::slow\n     1.00 s  p/t::quick\n"), "{text}");
        assert!(text.ends_with("\ntest result: ok. 2 passed; 0 failed; 1 ignored"), "{text}");
        summary.note(ended("p/t::bad", Verdict::Failed("why".into()), 2));
        assert!(!summary.passed());
        assert!(summary.to_string().ends_with("\ntest result: FAILED. 2 passed; 1 failed; 1 ignored"));
    }

    #[test]
    fn a_run_whose_time_is_over_has_failed() {
        let mut summary = Summary::default();
        summary.end(3);
        let text = summary.to_string();
        assert!(!summary.passed() && text.contains("3 tests did not run"), "{text}");
        assert!(text.ends_with("test result: FAILED. 0 passed; 0 failed; 0 ignored"), "{text}");
    }
}
