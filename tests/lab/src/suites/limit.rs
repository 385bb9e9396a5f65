//! Runs child processes under a time limit, and kills them with descendants.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};

use crate::mutex::lock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts child processes that end before a deadline.
#[derive(Clone, Debug)]
pub struct Children {
    end: Instant,
    limit: Duration,
    /// The current step.
    step: Arc<Mutex<String>>,
}

impl Children {
    /// The time limit starts now.
    pub fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, limit, step: Arc::default() }
    }

    /// Starts a thread that fails this process at the deadline, whatever step it is
    /// in, and kills its children. Steps that check the time themselves report
    /// more, so they get a little longer.
    pub fn guard(&self) {
        const LONGER: Duration = Duration::from_secs(60);
        let children = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep((children.end + LONGER).saturating_duration_since(Instant::now()));
            println!("lab: {}", children.overdue());
            println!("test result: FAILED. 0 passed; 1 failed; 0 ignored");
            for child in self::children().remove(&std::process::id()).unwrap_or_default() {
                kill_with_descendants(child);
            }
            std::process::exit(1);
        });
    }

    fn overdue(&self) -> String {
        let step = lock(&self.step);
        format!("the limit of {} s for the whole run was reached in the step: {step}", self.limit.as_secs())
    }

    /// The deadline.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    /// The time limit.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Prints the next step.
    pub fn step(&self, what: &str) {
        println!("== {what}");
        what.clone_into(&mut lock(&self.step));
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started, or is still running at the deadline; then it is
    /// killed with all its descendants.
    pub fn status(&self, command: &mut Command) -> Result<ExitStatus> {
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        self.wait(child)
    }

    /// Runs a command to its end. Returns its standard output as text.
    ///
    /// # Errors
    /// As for [`Children::status`].
    pub fn output(&self, command: &mut Command) -> Result<(ExitStatus, String)> {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut stdout = child.stdout.take().context("a pipe was asked for")?;
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
        });
        let status = self.wait(child)?;
        let output = reader.join().map_err(|_| anyhow::anyhow!("the reader of {command:?} panicked"))??;
        Ok((status, output))
    }

    fn wait(&self, mut child: Child) -> Result<ExitStatus> {
        let process = child.id();
        let (ended, end) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let _nobody_asks = ended.send(child.wait());
        });
        let outcome = end.recv_timeout(self.end.saturating_duration_since(Instant::now()));
        if matches!(outcome, Err(RecvTimeoutError::Timeout)) {
            kill_with_descendants(process);
        }
        let _ended = waiting.join();
        match outcome {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{}", self.overdue()),
        }
    }
}

/// Kills a process and its descendants, whatever they are doing.
pub(super) fn kill_with_descendants(process: u32) {
    // They are stopped first, so that none starts another process meanwhile.
    let mut stopped = Vec::new();
    let mut found = vec![process];
    while let Some(process) = found.pop() {
        let _gone = kill(Pid::from_raw(process.cast_signed()), Signal::SIGSTOP);
        stopped.push(process);
        found.extend(children().remove(&process).unwrap_or_default());
    }
    for process in stopped {
        let _gone = kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL);
    }
}

/// The children of every process.
fn children() -> BTreeMap<u32, Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name is in parentheses and may contain anything.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if let Some(parent) = after_name.split(' ').nth(1).and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_runs_too_long_is_killed_with_its_descendants() {
        let children = Children::new(Duration::from_millis(300));
        let began = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let script =
            format!("sh -c 'echo $$ > \"{0}/inner\"; sleep 600; true' & wait", folder.path().display());
        let error = children.status(Command::new("sh").args(["-c", &script])).unwrap_err().to_string();
        assert!(error.contains("limit"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
        let inner = std::fs::read_to_string(folder.path().join("inner")).unwrap();
        let stat =
            |process: &str| std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // It is gone, or a zombie until its parent waits for it.
        for _ in 0..200 {
            let state = stat(inner.trim());
            if state.is_empty() || state.contains(") Z ") || state.contains(") X ") {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} is still running: {}", inner.trim(), stat(inner.trim()));
    }

    #[test]
    fn output_comes_back_with_the_status() {
        let children = Children::new(Duration::from_secs(60));
        let (status, output) = children.output(Command::new("sh").args(["-c", "echo hi; exit 3"])).unwrap();
        assert_eq!((status.code(), &*output), (Some(3), "hi\n"));
    }
}
