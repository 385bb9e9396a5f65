//! A machine for any Windows Filtering Platform driver, on Linux.
//!
//! The crate has an NT kernel, a filter engine with Driver Verifier's rules, and a
//! host. A program loads the `.sys` as it ships, starts it, passes packets to it
//! and unloads it. The crate knows no particular driver: the caller gives service
//! name, registry values and events.
//!
//! A module imports only modules above it in this table.
//!
//! | module | guarantee |
//! |---|---|
//! | [`status`] | NTSTATUS values by their names in `ntstatus.h` |
//! | [`driver`] | tells the drivers of a machine apart |
//! | [`notes`] | shows other processes what a hanging process waits for |
//! | [`schedule`] | simulated threads run one at a time, in an order that a seed fixes |
//! | [`verifier`] | Driver Verifier's rules, each with its bugcheck code |
//! | [`wfp`] | the filter engine, pure Rust without unsafe |
//! | [`etw`] | events as a consumer decodes them |
//! | [`wire`] | TUN device in a network namespace, packet recording |
//! | [`host`] | a TCP host that walks the layers in the documented order |
//! | [`image`] | maps the unchanged PE, names its code from the PDB; raw memory |
//! | [`irql`] | interrupt request levels |
//! | [`exports`] | one table of everything a driver can import |
//! | [`nt`] | ntoskrnl, fwpkclnt and ndis as a driver imports them; raw memory |
//! | [`faults`] | makes chosen calls of a driver fail, each with a status it can have |
//! | [`assembly`] | assembles kernel, filter engine and image |
//! | [`sweep`] | makes every call of a driver fail in turn |

pub mod assembly;
pub mod driver;
pub mod etw;
#[macro_use]
pub mod exports;
pub mod faults;
pub mod host;
pub mod image;
pub mod irql;
pub mod notes;
pub mod nt;
pub mod schedule;
pub mod status;
pub mod sweep;
pub mod verifier;
pub mod wfp;
pub mod wire;

pub use assembly::{Driver, Machine, StartError};
pub use driver::DriverId;
