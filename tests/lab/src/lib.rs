//! hushport's lab: builds the driver, runs it on Linux, and tests it.
//!
//! It runs the shipping `.sys` in a [`machine`], between real scanners and a TCP
//! host.
//!
//! | module | guarantee |
//! |---|---|
//! | [`setup`] | the lab's requirements are on the machine, and the driver is built |
//! | [`hushport`] | the driver's names and promises, which `machine` does not know |
//! | [`traffic`], [`storm`] | indications of every kind from a seed; the driver starts and stops under them |
//! | [`world`] | machine, host and network namespace, running; [`scan`] runs nmap in it |
//! | [`sandbox`] | the process that runs a driver for a command, and the walls around it |
//! | [`variants`] | the points that the documents leave open, by name |
//! | [`conformance`] | a driver that measures such points, in the lab's worlds; its reports from Windows |
//! | [`policy`] | the driver's values, and which of them are in force |
//! | [`remote_registry`] | the driver's values from another process, while a host is up |
//! | [`anydriver`] | any driver in the lab: what it registers, and what was wrong with its run |
//! | [`divert`] | a handle of WinDivert, as its library opens one |
//! | [`programs`] | programs outside that open devices of a loaded driver |
//! | [`registry_file`] | what `reg export` writes, for the keys of a service |
//! | [`counters`] | the driver's own counters |
//! | [`package`] | the driver package: INF, catalog, test signatures |
//! | [`provenance`] | what the driver is made from, and whether a file from elsewhere is the same |
//! | [`mod@bench`] | what a classify costs: time, instructions, locks and writes |
//! | [`order`] | changes of the documented flows, and what the driver tells of each |
//! | [`mutate`] | changes of the driver, each of which a test must notice |
//! | [`trace`] | plays a capture file through the driver |
//! | [`explain`] | who decides on a machine, from what `netsh wfp show state` wrote there |
//! | [`flows`] | the layers of each documented flow, as the driver's callouts saw them |
//! | [`printable`] | escapes text from elsewhere, so that it is safe to print |
//! | [`report`] | reports for people |
//! | [`suites`] | every test under a time limit |
//! | [`vm`] | a Windows machine under QEMU: installed, tested, and gone |
//! | [`commands`] | `cargo lab …` |

pub mod anydriver;
pub mod bench;
pub mod commands;
pub mod conformance;
pub mod counters;
pub mod divert;
pub mod explain;
pub mod flows;
pub mod hushport;
pub mod mutate;
mod mutex;
pub mod order;
pub mod package;
pub mod policy;
pub mod printable;
pub mod programs;
pub mod provenance;
pub mod registry_file;
pub mod remote_registry;
pub mod report;
pub mod sandbox;
pub mod scan;
pub mod setup;
pub mod storm;
pub mod suites;
pub mod trace;
pub mod traffic;
pub mod variants;
pub mod vm;
pub mod world;
