//! `cargo lab explain`: files of the form that Windows writes, and damaged ones.

mod engine;
mod file;
mod packet;
mod report;
mod written;
