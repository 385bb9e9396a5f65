//! `cargo lab trace`: captures of every kind, and the page in a real browser.

mod any;
mod browser;
mod capture;
mod dissector;
mod formats;
mod hostile;
mod inferred;
mod live;
mod sequences;
mod verdicts;
mod write;
