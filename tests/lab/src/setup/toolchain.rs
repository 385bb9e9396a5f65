//! Finds a compiler and linker that can build for Windows.
//!
//! If `rustup target add` works, the pinned toolchain is used. Otherwise `core` and
//! `alloc` are built from the library source that [`super::source`] finds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustc_build_sysroot::{BuildMode, SysrootBuilder, SysrootConfig, SysrootStatus};
use rustc_version::VersionMeta;

use super::{Target, clean_command, run, source, wrapper};

/// Variables, and beginnings of variables, with which a user sets C compilers, resource
/// compilers and their flags. The driver's build has its own.
const SETS_TOOLS: [&str; 9] =
    ["BINDGEN", "RC", "CC", "CFLAGS", "CPATH", "CPPFLAGS", "C_INCLUDE_PATH", "HOST_CC", "TARGET_CC"];

/// What cargo needs to build the driver.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The name of the rustup toolchain.
    pub channel: String,
    /// The sysroot with `core` and `alloc` for the Windows targets, if it is not
    /// the toolchain's own.
    pub sysroot: Option<PathBuf>,
    /// `rust-lld`, LLVM's linker for every format.
    pub linker: PathBuf,
    /// The library source that `core` and `alloc` are built from, if they are not the
    /// toolchain's own.
    pub library: Option<PathBuf>,
    /// A script that runs rustc with flags that depend on the checkout's location.
    wrapper: PathBuf,
    /// A script that runs the linker without paths of this machine.
    link: PathBuf,
}

impl Toolchain {
    /// Finds or creates a toolchain that builds for a target.
    pub fn ensure(target: Target) -> Result<Self> {
        let pinned = pinned()?;
        if !has_target(&pinned, target) && !add_target(&pinned, target) {
            return Self::from_source(target);
        }
        Self::new(pinned, None, None)
    }

    fn from_source(target: Target) -> Result<Self> {
        let source = source::find()?;
        let channel = source.channel;
        // By one path, however it was found, so that it counts as the same source.
        let library = source.library.canonicalize()?;
        let sysroot = wrapper::sysroot(&channel);
        build_sysroot(&channel, &library, &sysroot, target)?;
        Self::new(channel, Some(sysroot), Some(library))
    }

    fn new(channel: String, sysroot: Option<PathBuf>, library: Option<PathBuf>) -> Result<Self> {
        let wrapper = wrapper::for_drivers(&channel, sysroot.as_deref(), library.as_deref())?;
        let linker = linker(&channel)?;
        let link = wrapper::for_linker(&linker)?;
        Ok(Self { channel, sysroot, linker, library, wrapper, link })
    }

    /// A command of this toolchain that compiles and links for Windows.
    pub fn command(&self, program: &str) -> Command {
        let mut command = clean_command(program);
        command.env("RUSTUP_TOOLCHAIN", &self.channel);
        command.env("RUSTC_WRAPPER", &self.wrapper);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if SETS_TOOLS
                .iter()
                .any(|of| name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
            {
                command.env_remove(&*name);
            }
        }
        // No flags, whatever cargo's configuration files say.
        command.env("CARGO_ENCODED_RUSTFLAGS", "");
        for target in Target::ALL {
            let name = target.triple().replace('-', "_").to_uppercase();
            command.env(format!("CARGO_TARGET_{name}_LINKER"), &self.link);
        }
        command
    }
}

/// Quotes a text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The toolchain that rust-toolchain.toml names.
pub(super) fn pinned() -> Result<String> {
    let file = super::root().join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{}: expected a line channel = \"…\"", file.display()))
}

/// `rustc` of a toolchain.
pub(super) fn rustc(channel: &str) -> Command {
    let mut command = clean_command("rustc");
    command.env("RUSTUP_TOOLCHAIN", channel);
    command
}

/// The folder of a toolchain.
pub fn sysroot_of(channel: &str) -> Result<PathBuf> {
    Ok(run(rustc(channel).args(["--print", "sysroot"]))?.trim().into())
}

fn has_target(channel: &str, target: Target) -> bool {
    let print = run(rustc(channel).args(["--print", "target-libdir", "--target", target.triple()]));
    let entries = print.ok().and_then(|directory| std::fs::read_dir(directory.trim()).ok());
    entries
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn add_target(channel: &str, target: Target) -> bool {
    let mut command = clean_command("rustup");
    command.args(["target", "add", "--toolchain", channel, target.triple()]);
    run(&mut command).is_ok()
}

fn linker(channel: &str) -> Result<PathBuf> {
    let host = VersionMeta::for_command(rustc(channel))?.host;
    let linker = sysroot_of(channel)?.join("lib/rustlib").join(host).join("bin/rust-lld");
    if !linker.is_file() {
        bail!("toolchain {channel} has no rust-lld (expected {})", linker.display());
    }
    Ok(linker)
}

/// Builds the whole library for a host, each crate with `flag`.
pub(super) fn host_sysroot(source: &source::Source, sysroot: &Path, host: &str, flag: &str) -> Result<()> {
    let mut cargo = clean_command("cargo");
    cargo.env("RUSTUP_TOOLCHAIN", &source.channel).env("RUSTC_BOOTSTRAP", "1");
    let name = format!("{host} with {flag}");
    let label = name.clone();
    SysrootBuilder::new(sysroot, host)
        .build_mode(BuildMode::Build)
        .sysroot_config(SysrootConfig::WithStd { std_features: vec!["panic-unwind".into()] })
        .rustc_version(VersionMeta::for_command(rustc(&source.channel))?)
        .rustflag(flag)
        .cargo(cargo)
        .when_build_required(move || eprintln!("lab: building the library for {label}"))
        .build_from_source(&source.library)
        .with_context(|| format!("cannot build the library for {name} from {}", source.library.display()))?;
    Ok(())
}

fn build_sysroot(channel: &str, library: &Path, sysroot: &Path, target: Target) -> Result<()> {
    let mut cargo = clean_command("cargo");
    // The library uses unstable features, even with a stable compiler.
    cargo.env("RUSTUP_TOOLCHAIN", channel).env("RUSTC_BOOTSTRAP", "1");
    cargo.env("RUSTC_WRAPPER", wrapper::for_library(channel, library)?);
    let triple = target.triple();
    let status = SysrootBuilder::new(sysroot, triple)
        .build_mode(BuildMode::Build)
        .sysroot_config(SysrootConfig::NoStd)
        .rustc_version(VersionMeta::for_command(rustc(channel))?)
        .rustflag("-Cpanic=abort")
        // The driver is linked with LTO through core, as with the distributed
        // library.
        .rustflag("-Cembed-bitcode=yes")
        .cargo(cargo)
        .when_build_required(move || eprintln!("lab: building core and alloc for {triple}"))
        .build_from_source(library)
        .with_context(|| format!("cannot build core and alloc for {triple} from {}", library.display()))?;
    if status == SysrootStatus::SysrootBuilt {
        wrapper::rename_objects(&sysroot.join("lib/rustlib").join(triple).join("lib"))?;
    }
    Ok(())
}
