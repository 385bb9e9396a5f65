//! `cargo lab vm`, without Windows: a stand-in guest under emulation, media, and the
//! answer file.

mod answer_file;
mod guest;
mod medium;
mod requirements;
mod scenes;
