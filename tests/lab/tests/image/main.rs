//! Loader, calls, fault reports and lint, with real driver files.

mod calls;
mod exports;
mod fault_reports;
mod harness;
mod lint;
mod load;
mod patch;
