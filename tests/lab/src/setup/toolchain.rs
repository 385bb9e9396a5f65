//! Finds a compiler and linker that can build for Windows.
//!
//! If `rustup target add` works, the pinned toolchain is used. Otherwise `core` and
//! `alloc` are built from the library source that [`super::source`] finds.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustc_build_sysroot::{BuildMode, SysrootBuilder, SysrootConfig};
use rustc_version::VersionMeta;

use super::{Target, clean_command, run, source, state};

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
    /// A script that runs rustc with flags that depend on the checkout's location.
    wrapper: PathBuf,
}

impl Toolchain {
    /// Finds or creates a toolchain that builds for a target.
    pub fn ensure(target: Target) -> Result<Self> {
        let pinned = pinned()?;
        if !has_target(&pinned, target) && !add_target(&pinned, target) {
            return Self::from_source(target);
        }
        Self::new(pinned, None)
    }

    fn from_source(target: Target) -> Result<Self> {
        let source = source::find()?;
        let channel = source.channel;
        let sysroot = state().join("sysroot").join(&channel);
        build_sysroot(&channel, &source.library, &sysroot, target)?;
        Self::new(channel, Some(sysroot))
    }

    fn new(channel: String, sysroot: Option<PathBuf>) -> Result<Self> {
        let wrapper = wrapper(sysroot.as_deref())?;
        Ok(Self { linker: linker(&channel)?, channel, sysroot, wrapper })
    }

    /// A command of this toolchain that compiles and links for Windows.
    pub fn command(&self, program: &str) -> Command {
        let mut command = clean_command(program);
        command.env("RUSTUP_TOOLCHAIN", &self.channel);
        command.env("RUSTC_WRAPPER", &self.wrapper);
        // No flags, whatever cargo's configuration files say.
        command.env("CARGO_ENCODED_RUSTFLAGS", "");
        for target in Target::ALL {
            let name = target.triple().replace('-', "_").to_uppercase();
            command.env(format!("CARGO_TARGET_{name}_LINKER"), &self.linker);
        }
        command
    }
}

/// Writes the script that runs instead of rustc.
///
/// Cargo names crates by a hash of its flags, and rustc orders its output by these
/// names. So with a path in a flag, two builds of one source would differ. Flags
/// that the script adds are not part of the hash. Crates for the host have no
/// `--target` and get no flags.
fn wrapper(sysroot: Option<&Path>) -> Result<PathBuf> {
    let sysroot = sysroot.map(|sysroot| format!("--sysroot={}", sysroot.display()));
    // No path of this machine appears in the image or in the PDB.
    let remap = format!("--remap-path-prefix={}=", super::root().display());
    let flags: Vec<String> = sysroot.into_iter().chain([remap]).map(|flag| quoted(&flag)).collect();
    let flags = flags.join(" ");
    let name = if flags.contains("--sysroot") { "rustc-with-sysroot" } else { "rustc-remapped" };
    let path = state().join(name);
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" --target \"*) exec \"$@\" {flags} ;;\n*) exec \"$@\" ;;\nesac\n"
    );
    if std::fs::read_to_string(&path).is_ok_and(|written| written == text) {
        return Ok(path);
    }
    // It is renamed, because another build may be running the existing script.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&fresh, &path)?;
    Ok(path)
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

pub(super) fn sysroot_of(channel: &str) -> Result<PathBuf> {
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
    let triple = target.triple();
    SysrootBuilder::new(sysroot, triple)
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
    Ok(())
}
