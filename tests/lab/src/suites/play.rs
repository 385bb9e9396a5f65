//! Runs one test program from its start to its end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::limit::{Children, kill_with_descendants};
use super::places::{Place, THREADS};
use super::programs::Program;
use super::summary::{Ended, Summary, Verdict};
use super::{Limits, full_name, threads};
use crate::mutex::lock;

/// A line of a program's output.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Began(String),
    Ended(String, Verdict),
    /// Any other line; children of tests print, too.
    Other(String),
}

/// How a program's process ended.
enum End {
    /// It exited by itself.
    Exit,
    /// A test reached its limit.
    Hang,
    /// The whole run reached its limit.
    Over,
}

/// Runs the program's tests, in as many processes as needed.
pub(super) fn play(
    program: &Program,
    limits: &Limits,
    children: &Children,
    summary: &Mutex<Summary>,
    place: &Place<'_>,
) -> Result<()> {
    let notes = tempfile::tempdir()?;
    let mut left = program.tests.clone();
    while !left.is_empty() {
        let before = left.len();
        let end = Process::start(program, &left, notes.path(), place)?
            .follow(&mut left, limits, children, summary)?;
        if matches!(end, End::Over) {
            lock(summary).end(left.len());
            return Ok(());
        }
        // A process that exits by itself has run its tests or failed to.
        if left.len() == before {
            let text = "the program ended without a result for this test".to_owned();
            for test in left.drain(..) {
                let name = full_name(&program.name, &test);
                lock(summary).note(Ended {
                    name,
                    verdict: Verdict::Failed(text.clone()),
                    took: Default::default(),
                });
            }
        }
    }
    Ok(())
}

/// The process of a program.
struct Process<'a> {
    program: &'a Program,
    child: Child,
    output: Receiver<Line>,
    notes: &'a Path,
    place: &'a Place<'a>,
    running: BTreeMap<String, Instant>,
}

impl<'a> Process<'a> {
    fn start(program: &'a Program, tests: &[String], notes: &'a Path, place: &'a Place<'a>) -> Result<Self> {
        let mut command = program.command(Some(notes));
        // The JSON output is unstable; this variable enables it with a stable
        // compiler.
        command.env("RUSTC_BOOTSTRAP", "1").args(["-Z", "unstable-options", "--format", "json"]);
        command.arg("--exact").args(tests).stdout(Stdio::piped());
        command.env(THREADS, place.threads.to_string());
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", program.file.display()))?;
        let output = listen(child.stdout.take().context("a pipe was asked for")?);
        Ok(Self { program, child, output, notes, place, running: BTreeMap::new() })
    }

    /// Follows the process to its end. Tests that have ended are removed from
    /// `left`.
    fn follow(
        mut self,
        left: &mut Vec<String>,
        limits: &Limits,
        children: &Children,
        summary: &Mutex<Summary>,
    ) -> Result<End> {
        loop {
            let first = self.running.values().min().map(|began| *began + limits.test);
            let next = first.unwrap_or(children.end()).min(children.end());
            match self.output.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Line::Began(test)) => {
                    self.running.insert(test, Instant::now());
                }
                Ok(Line::Ended(test, verdict)) => self.ended(&test, verdict, left, summary),
                Ok(Line::Other(line)) => println!("{line}"),
                Err(RecvTimeoutError::Disconnected) => return self.exited(left, summary),
                Err(RecvTimeoutError::Timeout) if Instant::now() < next => {}
                Err(RecvTimeoutError::Timeout) => return self.hangs(left, limits, children, summary),
            }
        }
    }

    fn ended(&mut self, test: &str, verdict: Verdict, left: &mut Vec<String>, summary: &Mutex<Summary>) {
        let took = self.running.remove(test).map(|began| began.elapsed()).unwrap_or_default();
        left.retain(|other| other != test);
        self.place.keep(left.len());
        lock(summary).note(Ended { name: full_name(&self.program.name, test), verdict, took });
    }

    /// The process closed its output, so the tests that were running have died with
    /// it.
    fn exited(mut self, left: &mut Vec<String>, summary: &Mutex<Summary>) -> Result<End> {
        let status = self.child.wait()?;
        let running: Vec<String> = self.running.keys().cloned().collect();
        for test in &running {
            let others: Vec<_> = running.iter().filter(|other| *other != test).map(String::as_str).collect();
            let beside =
                if others.is_empty() { String::new() } else { format!(", beside {}", others.join(", ")) };
            let text = format!("the program ended ({status}) while this test ran{beside}");
            self.ended(test, Verdict::Failed(text), left, summary);
        }
        Ok(End::Exit)
    }

    /// A limit was reached: reports what each thread waits for, and kills the
    /// process.
    fn hangs(
        mut self,
        left: &mut Vec<String>,
        limits: &Limits,
        children: &Children,
        summary: &Mutex<Summary>,
    ) -> Result<End> {
        let what = threads::describe(self.child.id(), self.notes);
        kill_with_descendants(self.child.id());
        self.child.wait()?;
        let over = Instant::now() >= children.end();
        let running: Vec<(String, Instant)> = std::mem::take(&mut self.running).into_iter().collect();
        for (test, began) in running {
            let limit = match (over, began.elapsed() >= limits.test) {
                (_, true) => format!("the limit of {} s for a test", limits.test.as_secs()),
                (true, false) => format!("the limit of {} s for the whole run", children.limit().as_secs()),
                // It only ran next to a test that hangs, so it runs again.
                (false, false) => continue,
            };
            let text = format!("{limit} was reached; threads of the program and what they wait for:\n{what}");
            self.running.insert(test.clone(), began);
            self.ended(&test, Verdict::Failed(text), left, summary);
        }
        Ok(if over { End::Over } else { End::Hang })
    }
}

/// Reads events as they come.
fn listen(output: impl Read + Send + 'static) -> Receiver<Line> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = lines.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if parse(&text).into_iter().any(|line| sender.send(line).is_err()) {
                return;
            }
            line.clear();
        }
    });
    receiver
}

/// Parses a line of output. A child of a test may have printed text without an end
/// of line before the event.
fn parse(line: &str) -> Vec<Line> {
    let at = line.find("{ \"type\": ").unwrap_or(line.len());
    let (before, event) = line.split_at(at);
    let mut lines = Vec::new();
    if !before.trim().is_empty() {
        lines.push(Line::Other(before.to_owned()));
    }
    let Ok(event) = serde_json::from_str::<Value>(event) else {
        if !event.is_empty() {
            lines.push(Line::Other(event.to_owned()));
        }
        return lines;
    };
    let Some(name) = event["name"].as_str().filter(|_| event["type"] == "test").map(str::to_owned) else {
        return lines;
    };
    match event["event"].as_str() {
        Some("started") => lines.push(Line::Began(name)),
        Some("ok") => lines.push(Line::Ended(name, Verdict::Passed)),
        Some("ignored") => lines.push(Line::Ended(name, Verdict::Ignored)),
        // The harness reports a slow test.
        Some("timeout") => {}
        _ => {
            let text = [&event["stdout"], &event["message"]].map(|text| text.as_str().unwrap_or_default());
            lines.push(Line::Ended(name, Verdict::Failed(text.concat())));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_the_rest_is_passed_on() {
        for (line, expected) in [
            (r#"{ "type": "suite", "event": "started", "test_count": 2 }"#, vec![]),
            (r#"{ "type": "test", "event": "started", "name": "a::b" }"#, vec![Line::Began("a::b".into())]),
            (
                r#"{ "type": "test", "name": "a::b", "event": "ok" }"#,
                vec![Line::Ended("a::b".into(), Verdict::Passed)],
            ),
            (
                r#"half a line{ "type": "test", "name": "b", "event": "ignored" }"#,
                vec![Line::Other("half a line".into()), Line::Ended("b".into(), Verdict::Ignored)],
            ),
            (
                r#"{ "type": "test", "name": "b", "event": "failed", "stdout": "thread\n" }"#,
                vec![Line::Ended("b".into(), Verdict::Failed("thread\n".into()))],
            ),
            (r#"{ "type": "test", "event": "timeout", "name": "b" }"#, vec![]),
            ("what a child printed", vec![Line::Other("what a child printed".into())]),
            (r#"{ "type": broken"#, vec![Line::Other(r#"{ "type": broken"#.into())]),
            ("", vec![]),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
