//! Runs a test program until its first failure or its time limit.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How a test program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with success.
    Passed,
    /// A test failed.
    Failed(String),
    /// It died or exited with an error, without a failed test: how, and the end of
    /// its output.
    Died(String),
    /// It reached its time limit. The tests that libtest reported as slow.
    Hung(Vec<String>),
    /// The user interrupted it.
    Interrupted,
}

/// Set when the user interrupts.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The interval between two looks at [`INTERRUPTED`].
const LOOK: Duration = Duration::from_millis(100);

/// The number of lines of a program's errors that are stored.
const KEPT: usize = 40;

/// Runs a program with libtest's output.
///
/// # Errors
/// If it cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> Result<End> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // It has a process group of its own, so that all its children are killed with
    // it.
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = thread::spawn(move || last_lines(stderr));
    let lines = lines_of(stdout);
    let end = follow(&lines, Instant::now() + limit);
    if end.is_some() {
        // It may have exited already.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = wait(&mut child)?;
    let errors = errors.join().unwrap_or_default();
    Ok(match end {
        Some(end) => end,
        None if status.success() => End::Passed,
        None => End::Died(format!("{status}\n{errors}")),
    })
}

/// The last test that begins in a program that runs its tests one by one. libtest
/// prints the name of a test before it runs, without an end of line.
///
/// # Errors
/// If it cannot be started.
pub fn last_begun(command: &mut Command, limit: Duration) -> Result<Option<String>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (lines, deadline) = (lines_of(child.stdout.take()), Instant::now() + limit);
    let mut last = None;
    while Instant::now() < deadline && !INTERRUPTED.load(Ordering::SeqCst) {
        match lines.recv_timeout(LOOK) {
            Ok(line) => last = begun(&line).map(str::to_owned).or(last),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    // It may have exited already.
    let _ = killpg(group, Signal::SIGKILL);
    let status = wait(&mut child)?;
    Ok(last.filter(|_| !status.success()))
}

/// The test of a line that reports a start but no result.
fn begun(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ...")
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    child.wait().context("cannot wait for a test program")
}

/// Follows the output up to a reason to stop; `None` if it ends first.
fn follow(lines: &Receiver<String>, deadline: Instant) -> Option<End> {
    let mut slow = Vec::new();
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                if let Some(test) = failed(&line) {
                    return Some(End::Failed(test.to_owned()));
                }
                match running(&line) {
                    Some(Running::Long(test)) => slow.push(test.to_owned()),
                    Some(Running::Done(test)) => slow.retain(|other| other != test),
                    None => {}
                }
            }
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if INTERRUPTED.load(Ordering::SeqCst) {
            return Some(End::Interrupted);
        }
        if Instant::now() > deadline {
            return Some(End::Hung(slow));
        }
    }
}

/// The failed test, if the line is a failure.
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

enum Running<'a> {
    Long(&'a str),
    Done(&'a str),
}

fn running(line: &str) -> Option<Running<'_>> {
    let line = line.strip_prefix("test ")?;
    match line.split_once(" has been running for over ") {
        Some((test, _)) => Some(Running::Long(test)),
        None => line.split_once(" ... ").map(|(test, _)| Running::Done(test)),
    }
}

fn lines_of(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let Some(from) = from else { return };
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn last_lines(from: Option<impl Read>) -> String {
    let mut kept = std::collections::VecDeque::new();
    if let Some(from) = from {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            kept.push_back(String::from_utf8_lossy(&line).into_owned());
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
    }
    kept.into_iter().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> End {
        let mut command = Command::new("sh");
        run(command.args(["-c", script]), limit).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_failure_ends_the_program() {
        let end = shell("echo 'test a ... ok'; echo 'test b::c ... FAILED'; sleep 600", LONG);
        assert_eq!(end, End::Failed("b::c".into()));
        assert_eq!(shell("echo 'test a ... ok'", LONG), End::Passed);
    }

    #[test]
    fn a_crash_is_reported_with_its_signal() {
        let End::Died(how) = shell("echo gone >&2; kill -SEGV $$", LONG) else { panic!("it died") };
        assert!(how.contains("11") && how.contains("gone"), "{how}");
    }

    #[test]
    fn the_test_in_which_it_dies_is_the_last_that_begins() {
        let last = |script: &str| {
            let mut command = Command::new("sh");
            last_begun(command.args(["-c", script]), LONG).unwrap()
        };
        let died = last("echo 'test a ... ok'; printf 'test b ... '; kill -SEGV $$");
        assert_eq!(died.as_deref(), Some("b"));
        assert_eq!(last("printf 'test b ... '; echo ok"), None);
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_and_its_tests_named() {
        let long = "echo 'test a has been running for over 60 seconds'";
        let script = format!("{long}; {}; echo 'test b ... ok'; sleep 600 & wait", long.replace('a', "b"));
        let began = Instant::now();
        assert_eq!(shell(&script, Duration::from_millis(500)), End::Hung(vec!["a".into()]));
        assert!(began.elapsed() < LONG);
    }
}
