//! What a person sees during a run: the phase, its duration, and the guest's last line.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::printable::printable;

/// How often a log, which is no terminal, gets a line about a phase that goes on.
const INTERVAL: Duration = Duration::from_secs(60);

/// The display.
pub struct Display {
    bar: Option<ProgressBar>,
    printed: Instant,
    last: String,
}

impl Default for Display {
    fn default() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Self { bar, printed: Instant::now(), last: String::new() }
    }
}

impl Display {
    /// Prints a line that stays.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// Says that a phase has ended, and how long it took.
    pub fn ended(&mut self, phase: &str, took: Duration) {
        self.say(&format!("{:>12}  {phase}", duration(took)));
        self.printed = Instant::now();
        self.last.clear();
    }

    /// Takes the guest's last line.
    pub fn line(&mut self, text: &str) {
        self.last = printable(text);
    }

    /// Shows the phase.
    pub fn tick(&mut self, phase: &str, took: Duration) {
        let text = format!("{:>10}  {phase}: {}", duration(took), self.last);
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else if self.printed.elapsed() >= INTERVAL {
            println!("{:>12}  {phase}, going on: {}", duration(took), self.last);
            self.printed = Instant::now();
        }
    }

    /// Ends the display.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration in words.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let texts = [0, 59, 60, 3599, 3600, 90_061].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(texts, ["0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 01 min"]);
    }
}
