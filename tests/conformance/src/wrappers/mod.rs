//! SAFE WRAPPERS: what this driver needs of the kernel and hushport does not.
#![allow(unsafe_code, reason = "calls into the kernel and reads what it passes")]

pub mod callout;
pub mod filters;
pub mod packet;
pub mod processors;
pub mod records;
pub mod report_key;
