//! `cargo lab sanitize`: the native tests under the sanitizers.

use std::process::Stdio;

use anyhow::{Context, Result};

use crate::setup::native::{self, Sanitizer};

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// One of them; both without
    #[arg(long)]
    with: Option<Sanitizer>,
    /// Seeds of each storm
    #[arg(long, default_value_t = 4)]
    seeds: u64,
    /// Instead, whether the sanitizers find what is planted for them
    #[arg(long)]
    planted: bool,
    /// Instead, whether flows are counted right in every interleaving of processors
    /// (loom)
    #[arg(long, conflicts_with = "planted")]
    model: bool,
}

/// What of the native tests each runs: AddressSanitizer all of them,
/// ThreadSanitizer, which costs more, what has threads all at once.
fn tests(sanitizer: Sanitizer) -> &'static [&'static str] {
    match sanitizer {
        Sanitizer::Address => &["--nocapture"],
        Sanitizer::Thread => &["storms::all_at_once", "--exact", "--nocapture"],
    }
}

/// The fault in the copy that each has to find, how it says so, and where.
fn planted(sanitizer: Sanitizer) -> (&'static str, [&'static str; 2]) {
    match sanitizer {
        Sanitizer::Address => ("overrun", ["stack-buffer-overflow", "src/kernel/wfp/net_buffer.rs"]),
        Sanitizer::Thread => ("race", ["ThreadSanitizer: data race", "src/driver/policy.rs"]),
    }
}

/// Runs the tests; whether all is as it should be.
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
            println!("{sanitizer:?}: {}", if passed { "nothing found" } else { "found something" });
            good &= passed;
            continue;
        }
        let output = command.stdout(Stdio::null()).output().context("cannot start the tests")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let found = !output.status.success() && report.iter().all(|part| said.contains(part));
        if !found {
            eprintln!("{said}");
        }
        println!("{sanitizer:?}: {fault:?} {}", if found { "found" } else { "not found" });
        good &= found;
    }
    Ok(good)
}
