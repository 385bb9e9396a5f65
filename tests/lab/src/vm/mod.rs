//! A Windows machine under QEMU: installed, tested, and gone.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | what a run is made of, its limits, and the folder that has all of it |
//! | [`images`] | the images of an installation medium |
//! | [`answer`] | the answer file of an unattended installation |
//! | [`media`] | the disks and media, and the results on them |
//! | [`accelerator`] | whether this computer runs machines on its processor |
//! | [`machine`] | QEMU's command line, and its process |
//! | [`network`] | the network with the machine, and the scan over it |
//! | [`line`] | the lines on the machine's serial port |
//! | [`qmp`] | QEMU's machine protocol |
//! | [`serial`] | the serial port, in the order of QEMU's events |
//! | [`progress`] | where a run is, and what this side has checked |
//! | [`run`] | a run from the first line to the last: phases, limits, crashes |
//! | [`verdict`] | whether to believe what the machine says |
//! | [`display`] | what a person sees meanwhile |
//!
//! The machine's side is tests/vm/Start-TestMachine.ps1. Nothing of this has run on
//! Windows; a Linux guest plays its side in the tests.
#![forbid(unsafe_code)]

pub mod accelerator;
pub mod answer;
pub mod config;
pub mod display;
pub mod images;
pub mod line;
pub mod machine;
pub mod media;
pub mod network;
pub mod progress;
pub mod qmp;
pub mod run;
pub mod serial;
pub mod verdict;
