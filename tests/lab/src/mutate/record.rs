//! Records the result of each mutation, so that a run can be continued.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::suites::Outcome;

/// A mutation and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The mutation's name.
    pub name: String,
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The duration in seconds.
    pub seconds: f64,
    /// The changed lines.
    pub diff: String,
}

/// A file of entries.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// The first line: the checkout that the entries belong to.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    tree: String,
}

impl Record {
    /// Creates an empty file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(path: &Path, tree: &str) -> Result<Self> {
        std::fs::write(path, line(&Head { tree: tree.to_owned() })?)?;
        Ok(Self { path: path.to_owned(), entries: BTreeMap::new() })
    }

    /// Continues an existing file.
    ///
    /// # Errors
    /// If there is none, or it belongs to another state of the checkout.
    pub fn resume(path: &Path, tree: &str) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: no interrupted run to continue", path.display()))?;
        let mut lines = text.lines();
        let head: Head = serde_json::from_str(lines.next().unwrap_or_default())?;
        ensure!(
            head.tree == tree,
            "the checkout has changed since the interrupted run; run without --resume"
        );
        // The last line may be incomplete.
        let entries = lines.filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let entries = entries.map(|entry| (entry.name.clone(), entry)).collect();
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The entry of a mutation, if there is one.
    pub fn of(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Adds an entry and writes it to the file at once.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, entry: Entry) -> Result<()> {
        let mut file = File::options().append(true).open(&self.path)?;
        file.write_all(line(&entry)?.as_bytes())?;
        self.entries.insert(entry.name.clone(), entry);
        Ok(())
    }
}

fn line(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// The results of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The number of noticed mutations: a test failed, or a suite did not end.
    pub noticed: usize,
    /// The number of mutations with which a suite did not end.
    pub hung: usize,
    /// The number of mutations that no suite noticed.
    pub survived: usize,
    /// The number of mutations that do not compile or link; they are not counted.
    pub unviable: usize,
    /// Every entry.
    pub mutations: Vec<Entry>,
}

impl Report {
    /// Adds an entry.
    pub fn add(&mut self, entry: Entry) {
        match &entry.outcome {
            Outcome::Noticed { .. } => self.noticed += 1,
            Outcome::Hung { .. } => (self.noticed, self.hung) = (self.noticed + 1, self.hung + 1),
            Outcome::Survived => self.survived += 1,
            Outcome::Unviable => self.unviable += 1,
            Outcome::Interrupted => return,
        }
        self.mutations.push(entry);
    }

    /// The number of mutations that are counted.
    pub fn viable(&self) -> usize {
        self.noticed + self.survived
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Noticed { suite, test } => write!(f, "noticed by {suite}: {test}")?,
            Outcome::Hung { suite, tests } if tests.is_empty() => write!(f, "{suite} does not end")?,
            Outcome::Hung { suite, tests } => write!(f, "{suite} does not end: {}", tests.join(", "))?,
            Outcome::Survived => write!(f, "SURVIVED")?,
            Outcome::Unviable => write!(f, "does not compile")?,
            Outcome::Interrupted => write!(f, "interrupted")?,
        }
        write!(f, " ({:.0} s)", self.seconds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |outcome: fn(&Outcome) -> bool| {
            self.mutations.iter().filter(move |entry| outcome(&entry.outcome))
        };
        for entry in of(|outcome| *outcome == Outcome::Unviable) {
            writeln!(f, "does not compile: {}", entry.name)?;
        }
        for entry in of(|outcome| *outcome == Outcome::Survived) {
            writeln!(f, "\nSURVIVED: {}\n{}", entry.name, entry.diff)?;
        }
        let (noticed, viable) = (self.noticed, self.viable());
        write!(f, "{noticed} of {viable} noticed, {} of them because a suite did not end", self.hung)?;
        write!(f, "; {} survived; {} do not compile", self.survived, self.unviable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, outcome: Outcome) -> Entry {
        Entry { name: name.into(), outcome, seconds: 1.0, diff: format!("-{name}\n+\n") }
    }

    #[test]
    fn a_run_is_continued_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        assert!(Record::resume(&path, "tree").unwrap_err().to_string().contains("no interrupted run"));
        let noticed = entry("a", Outcome::Noticed { suite: "unit".into(), test: "b::c".into() });
        Record::begin(&path, "tree").unwrap().add(noticed.clone()).unwrap();
        // An incomplete line.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(br#"{"name":"b","outc"#).unwrap();
        let resumed = Record::resume(&path, "tree").unwrap();
        assert_eq!((resumed.of("a"), resumed.of("b")), (Some(&noticed), None));
        assert!(Record::resume(&path, "other").unwrap_err().to_string().contains("changed"));
    }

    #[test]
    fn mutations_that_do_not_compile_are_not_counted() {
        let mut report = Report::default();
        let hung = Outcome::Hung { suite: "native".into(), tests: vec!["storms".into()] };
        let noticed = Outcome::Noticed { suite: "unit".into(), test: "a".into() };
        for (name, outcome) in [("noticed", noticed), ("hung", hung), ("bad", Outcome::Survived)] {
            report.add(entry(name, outcome));
        }
        report.add(entry("none", Outcome::Unviable));
        report.add(entry("cut", Outcome::Interrupted));
        assert_eq!((report.viable(), report.noticed, report.hung), (3, 2, 1));
        let text = report.to_string();
        assert!(
            text.contains("SURVIVED: bad\n-bad\n+\n") && text.contains("does not compile: none"),
            "{text}"
        );
        assert!(text.ends_with(
            "2 of 3 noticed, 1 of them because a suite did not end; 1 survived; 1 do not compile"
        ));
        assert!(serde_json::to_string(&report).unwrap().contains(r#""outcome":"hung""#));
    }
}
