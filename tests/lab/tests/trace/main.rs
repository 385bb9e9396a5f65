//! `cargo lab trace`: captures of every kind, and the page in a real browser.

mod browser;
mod capture;
mod hostile;
mod live;
mod verdicts;
mod write;
