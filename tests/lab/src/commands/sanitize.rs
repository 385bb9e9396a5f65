//! `cargo lab sanitize`: runs the native tests under the sanitizers.

use std::process::Stdio;

use anyhow::{Context, Result};

use crate::setup::native::{self, Sanitizer};

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this sanitizer [default: both]
    #[arg(long)]
    with: Option<Sanitizer>,
    /// Number of seeds for each storm
    #[arg(long, default_value_t = 4)]
    seeds: u64,
    /// Instead, check that the sanitizers find the faults planted for them
    #[arg(long)]
    planted: bool,
    /// Instead, check that flows are counted correctly in every interleaving of
    /// processors (loom)
    #[arg(long, conflicts_with = "planted")]
    model: bool,
}

/// The native tests that each sanitizer runs: AddressSanitizer runs all.
/// ThreadSanitizer is slower, so it runs only the storm with all threads at once.
fn tests(sanitizer: Sanitizer) -> &'static [&'static str] {
    match sanitizer {
        Sanitizer::Address => &["--nocapture"],
        Sanitizer::Thread => &["storms::all_at_once", "--exact", "--nocapture"],
    }
}

/// The planted fault that each sanitizer must find, and what its report must
/// contain.
fn planted(sanitizer: Sanitizer) -> (&'static str, [&'static str; 2]) {
    match sanitizer {
        Sanitizer::Address => ("overrun", ["stack-buffer-overflow", "src/kernel/wfp/net_buffer.rs"]),
        Sanitizer::Thread => ("race", ["ThreadSanitizer: data race", "src/driver/policy.rs"]),
    }
}

/// Runs the tests. Returns whether the result is as expected.
pub fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.model {
        return native::model_checked();
    }
    let mut good = true;
    for sanitizer in [Sanitizer::Address, Sanitizer::Thread] {
        if arguments.with.is_some_and(|with| with != sanitizer) {
            continue;
        }
        let (fault, report) = planted(sanitizer);
        let tests_program = native::sanitized_tests(sanitizer, arguments.planted.then_some(fault))?.program;
        let mut command = native::command(&tests_program);
        command.args(tests(sanitizer)).env("HUSHPORT_LAB_SEEDS", arguments.seeds.to_string());
        if !arguments.planted {
            let passed = command.status().context("cannot start the tests")?.success();
            println!("{sanitizer:?}: {}", if passed { "nothing found" } else { "found a fault" });
            good &= passed;
            continue;
        }
        let output = command.stdout(Stdio::null()).output().context("cannot start the tests")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let found = !output.status.success() && report.iter().all(|part| stderr.contains(part));
        if !found {
            eprintln!("{stderr}");
        }
        println!("{sanitizer:?}: {fault:?} {}", if found { "found" } else { "not found" });
        good &= found;
    }
    Ok(good)
}
