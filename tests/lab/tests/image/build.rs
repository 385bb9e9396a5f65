//! Compiles the test drivers for Windows.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What compiling a driver needs.
struct Toolchain {
    /// A sysroot with `core` for x86_64-pc-windows-msvc.
    sysroot: PathBuf,
    /// rust-lld.
    linker: PathBuf,
    /// The rustup toolchain that built the sysroot.
    rustc: String,
}

impl Toolchain {
    fn from_environment() -> Self {
        let variable = |name| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: the image tests compile a driver for Windows")
            })
        };
        Self {
            sysroot: variable("HUSHPORT_SYSROOT").into(),
            linker: variable("HUSHPORT_LLD").into(),
            rustc: variable("HUSHPORT_RUSTC_TOOLCHAIN"),
        }
    }
}

/// Compiles a driver from one source file into a folder of its own; the PDB
/// lies beside it.
pub fn build_test_driver(source: &Path) -> PathBuf {
    let toolchain = Toolchain::from_environment();
    let name = source.file_stem().expect("a source file");
    // Tests run at the same time as processes of several test programs.
    let folder = tempfile::Builder::new()
        .prefix(name)
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a folder for the driver")
        .keep();
    let driver = folder.join(name).with_extension("sys");
    let status = Command::new("rustc")
        .env("RUSTUP_TOOLCHAIN", &toolchain.rustc)
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "--target=x86_64-pc-windows-msvc",
        ])
        .args(["-O", "-g", "-Cpanic=abort", "-Clinker-flavor=lld-link"])
        .arg("--sysroot")
        .arg(&toolchain.sysroot)
        .arg(format!("-Clinker={}", toolchain.linker.display()))
        .args(
            [
                "/ENTRY:DriverEntry",
                "/NODEFAULTLIB",
                "/SUBSYSTEM:NATIVE",
                "/DRIVER:WDM",
                "/RELEASE",
            ]
            .map(|argument| format!("-Clink-arg={argument}")),
        )
        .arg("-o")
        .arg(&driver)
        .arg(source)
        .status()
        .expect("rustc starts");
    assert!(status.success(), "cannot compile {}", source.display());
    driver
}
