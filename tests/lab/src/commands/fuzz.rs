//! `cargo lab fuzz`: runs the driver's source under libFuzzer.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::setup::{self, native};

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// One target: classify, policies, registry, decision, order or replay
    /// [default: all]
    #[arg(long)]
    target: Option<String>,
    /// Seed of libFuzzer's mutations
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

/// The targets of `tests/native`, each with its maximum input length in bytes.
const TARGETS: [(&str, u32); 6] = [
    ("classify", 1024),
    ("policies", 1024),
    ("registry", 8192),
    ("decision", 128),
    ("order", 256),
    ("replay", 256),
];

/// Runs the fuzzer. Returns whether it found nothing.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let chosen = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, _)| chosen(name)).collect();
    if targets.is_empty() {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        anyhow::bail!("--target: expected one of {names}");
    }
    let fuzzer = native::fuzzer()?.program;
    let mut clean = true;
    for (name, longest) in targets {
        clean &= fuzz(&fuzzer, name, longest, arguments)?;
    }
    Ok(clean)
}

fn fuzz(fuzzer: &Path, name: &str, longest: u32, arguments: &Arguments) -> Result<bool> {
    let found = setup::state().join("fuzz").join(name);
    let corpus = found.join("corpus");
    std::fs::create_dir_all(&corpus)?;
    let mut command = native::command(fuzzer);
    // libFuzzer writes new inputs to the first folder. The second one holds the
    // inputs that are under version control.
    command
        .env("HUSHPORT_FUZZ", name)
        .arg(&corpus)
        .arg(setup::root().join("tests/native/inputs").join(name))
        .arg(format!("-max_total_time={}", arguments.seconds))
        .arg(format!("-seed={}", arguments.seed))
        .arg(format!("-max_len={longest}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=4096"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let stderr = child.stderr.take().context("the fuzzer has a standard error")?;
    let mut numbers = Numbers::default();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("cannot read the fuzzer's output")?;
        // Progress lines are dropped; findings are printed.
        let progress = ["#", "INFO:", "\t", "\"", "Done "].iter().any(|start| line.starts_with(start));
        if !numbers.read(&line) && !progress {
            eprintln!("{line}");
        }
    }
    let clean = child.wait()?.success();
    let Numbers { total, rate, features } = &numbers;
    println!("{name}: {total} executions, {rate} a second, {features} inputs with new coverage");
    if !clean {
        println!(
            "{name}: found a fault; commit the input to tests/native/inputs/{name} together with the fix"
        );
    }
    Ok(clean)
}

/// The statistics that libFuzzer prints at its end.
#[derive(Debug, Default)]
struct Numbers {
    total: String,
    rate: String,
    features: String,
}

impl Numbers {
    /// Reads one of the statistics. Returns whether the line is one.
    fn read(&mut self, line: &str) -> bool {
        let Some((key, value)) = line.strip_prefix("stat::").and_then(|rest| rest.split_once(':')) else {
            return false;
        };
        match key {
            "number_of_executed_units" => self.total = value.trim().to_owned(),
            "average_exec_per_sec" => self.rate = value.trim().to_owned(),
            "new_units_added" => self.features = value.trim().to_owned(),
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_run_are_numbers() {
        let mut numbers = Numbers::default();
        assert!(numbers.read("stat::number_of_executed_units: 4711"));
        assert!(numbers.read("stat::average_exec_per_sec:     12"));
        assert!(numbers.read("stat::peak_rss_mb: 1"));
        assert!(!numbers.read("==1==ERROR: AddressSanitizer: SEGV"));
        assert_eq!((&*numbers.total, &*numbers.rate), ("4711", "12"));
    }
}
