//! Compiles the test drivers for Windows.

use std::path::{Path, PathBuf};

/// Compiles a driver from one source file.
pub fn build_test_driver(source: &Path) -> PathBuf {
    lab::setup::compile(source, &[]).unwrap_or_else(|error| panic!("{error:#}"))
}
