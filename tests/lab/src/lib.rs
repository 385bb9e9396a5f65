//! A lab for a Windows Filtering Platform driver, on Linux.
//!
//! It loads the shipping `.sys`, gives it an NT kernel and a filter engine, and
//! puts it between real scanners and a TCP host.
//!
//! | module | guarantee |
//! |---|---|
//! | [`setup`] | what the lab needs on the machine, and the build of the driver |
//! | [`image`] | maps the unchanged PE, names its code from the PDB; raw memory |
//! | [`nt`] | ntoskrnl, fwpkclnt and ndis as the driver imports them; raw memory |
//! | [`etw`] | events as a consumer decodes them |
//! | [`exports`] | one table of everything a driver can import |
//! | [`faults`] | lets calls of the driver fail, each in turn |
//! | [`schedule`] | simulated threads: who runs, who waits for what |
//! | [`verifier`] | Driver Verifier's rules, each with its bugcheck code |
//! | [`wfp`] | the filter engine, pure Rust without unsafe |
//! | [`host`] | a TCP host that walks the layers in the documented order |
//! | [`traffic`], [`storm`] | indications of every kind from a seed; and under them the driver comes and goes |
//! | [`wire`] | TUN device in a network namespace, packet recording |
//! | [`machine`], [`world`] | all of it put together, and running; [`scan`] is nmap in it, [`matrix`] every scan |
//! | [`variants`] | the points that documents leave open, by name |
//! | [`policy`] | the driver's values and what it makes of them |
//! | [`registry`] | the driver's values from outside, while a host is up |
//! | [`package`] | the driver package: INF, catalog, test signatures |
//! | [`bench`] | what a classify costs: time, instructions, what it locks and writes |
//! | [`mutate`] | changes of the driver, each of which a test must notice |
//! | [`trace`] | plays a capture file through the driver |
//! | [`report`] | what people read |
//! | [`suites`], [`notes`] | every test under a time limit; what a process says of itself if it hangs |
//! | [`commands`] | `cargo lab …` |

pub mod bench;
pub mod commands;
pub mod counters;
pub mod etw;
pub mod exports;
pub mod faults;
pub mod host;
pub mod image;
pub mod machine;
pub mod matrix;
pub mod mutate;
pub mod notes;
pub mod nt;
pub mod package;
pub mod policy;
pub mod registry;
pub mod report;
pub mod scan;
pub mod schedule;
pub mod setup;
pub mod status;
pub mod storm;
pub mod suites;
pub mod trace;
pub mod traffic;
pub mod variants;
pub mod verifier;
pub mod wfp;
pub mod wire;
pub mod world;
