//! Changes of the driver, one at a time, each of which a test must notice.
//!
//! | module | what it does |
//! |---|---|
//! | [`listed`] | the mutations that cargo-mutants lists |
//! | [`written`] | hand-written mutations, and those that are left out, from data files |
//! | [`tree`] | a copy of the checkout, in which one mutation at a time is applied |
//! | [`suites`] | the test suites, fastest first, until one notices |
//! | [`watched`] | runs a program until its first failed test or its time limit |
//! | [`record`] | the result of each mutation, so that a run can be continued |
//!
//! The list, the names and the spans are cargo-mutants' own. It does not run
//! anything, because most mutations are noticed by the lab, which links the driver
//! and runs the image, and not by a `cargo test` of the changed crate.

pub mod listed;
pub mod record;
pub mod suites;
pub mod tree;
pub mod watched;
pub mod written;

use std::ops::Range;

use anyhow::{Context, Result};

/// A change of one source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Its name: position and change.
    pub name: String,
    /// The file, relative to the checkout.
    pub file: String,
    /// The bytes that are replaced.
    pub range: Range<usize>,
    /// The replacement.
    pub text: String,
    /// Whether it is hand-written.
    pub written: bool,
}

impl Mutation {
    /// The text of the file with the change.
    ///
    /// # Errors
    /// If the text is shorter than the file that the change was made for.
    pub fn apply(&self, source: &str) -> Result<String> {
        let Range { start, end } = self.range;
        let (before, after) = source
            .get(..start)
            .zip(source.get(end..))
            .with_context(|| format!("{}: {} has no bytes {start}..{end}", self.name, self.file))?;
        Ok([before, &self.text, after].concat())
    }

    /// The changed lines, before and after.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn diff(&self, source: &str) -> Result<String> {
        let changed = self.apply(source)?;
        let first = source[..self.range.start].rfind('\n').map_or(0, |at| at + 1);
        let rest = source.len() - self.range.end;
        let lines = |text: &str, sign: char| {
            let end = text.len() - rest;
            let end = text[end..].find('\n').map_or(text.len(), |at| end + at);
            text[first..end].lines().map(|line| format!("{sign}{line}\n")).collect::<String>()
        };
        let line = source[..first].lines().count() + 1;
        Ok(format!("{}:{line}\n{}{}", self.file, lines(source, '-'), lines(&changed, '+')))
    }

    /// The line on which the change begins, without its indentation.
    pub fn line<'a>(&self, source: &'a str) -> &'a str {
        let first = source[..self.range.start].rfind('\n').map_or(0, |at| at + 1);
        source[first..].lines().next().unwrap_or_default().trim()
    }

    /// The name without the position, which moves with every edit of the file.
    pub fn change(&self) -> &str {
        let mut parts = self.name.splitn(4, ':');
        match (self.written, parts.nth(3)) {
            (false, Some(change)) => change.trim(),
            _ => &self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_applied_and_shown_by_whole_lines() {
        let source = "one\n    two + 2\nthree\n";
        let plus = source.find('+').unwrap();
        let mutation = Mutation {
            name: "src/a.rs:2:9: replace + with -".into(),
            file: "src/a.rs".into(),
            range: plus..plus + 1,
            text: "-".into(),
            written: false,
        };
        assert_eq!(mutation.apply(source).unwrap(), "one\n    two - 2\nthree\n");
        assert_eq!(mutation.diff(source).unwrap(), "src/a.rs:2\n-    two + 2\n+    two - 2\n");
        assert_eq!((mutation.line(source), mutation.change()), ("two + 2", "replace + with -"));
        let gone = Mutation { range: 4..16, text: String::new(), ..mutation.clone() };
        assert_eq!(gone.diff(source).unwrap(), "src/a.rs:2\n-    two + 2\n-three\n+three\n");
        let beyond = Mutation { range: 90..91, ..mutation };
        assert!(beyond.apply(source).unwrap_err().to_string().contains("90..91"));
    }
}
