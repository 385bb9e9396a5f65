//! hushport's lab, on Linux.
//!
//! It builds the shipping `.sys`, runs it in a [`machine`] and puts it between
//! real scanners and a TCP host.
//!
//! | module | guarantee |
//! |---|---|
//! | [`setup`] | what the lab needs on the machine, and the build of the driver |
//! | [`hushport`] | the driver's names and promises, which `machine` does not know |
//! | [`traffic`], [`storm`] | indications of every kind from a seed; and under them the driver comes and goes |
//! | [`world`] | machine, host and network namespace, running; [`scan`] is nmap in it |
//! | [`variants`] | the points that documents leave open, by name |
//! | [`policy`] | the driver's values and what it makes of them |
//! | [`remote_registry`] | the driver's values from outside, while a host is up |
//! | [`counters`] | what the driver counted |
//! | [`package`] | the driver package: INF, catalog, test signatures |
//! | [`bench`] | what a classify costs: time, instructions, what it locks and writes |
//! | [`mutate`] | changes of the driver, each of which a test must notice |
//! | [`trace`] | plays a capture file through the driver |
//! | [`flows`] | each documented flow as the driver's callouts saw it |
//! | [`printable`] | text from outside, safe for a terminal |
//! | [`report`] | what people read |
//! | [`suites`] | every test under a time limit |
//! | [`commands`] | `cargo lab …` |

pub mod bench;
pub mod commands;
pub mod counters;
pub mod flows;
pub mod hushport;
pub mod mutate;
pub mod package;
pub mod policy;
pub mod printable;
pub mod remote_registry;
pub mod report;
pub mod scan;
pub mod setup;
pub mod storm;
pub mod suites;
pub mod trace;
pub mod traffic;
pub mod variants;
pub mod world;
