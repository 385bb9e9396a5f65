//! Finds Rust's library source, from which `core` and `alloc` are built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustc_version::VersionMeta;

use super::toolchain::{rustc, sysroot_of};
use super::{Need, clean_command, ensure, run, state};

/// A library source and the toolchain that can compile it.
pub struct Source {
    /// The name of the rustup toolchain.
    pub channel: String,
    /// The folder `library`.
    pub library: PathBuf,
}

/// Finds a library source. The order is: `HUSHPORT_RUST_SRC` (a folder or a
/// `.tar.xz`), which the user has set on purpose; the component `rust-src` of an
/// installed toolchain, which rustup adds if it can; Debian's package of the
/// nightly's version 1.x.
pub fn find() -> Result<Source> {
    let nightly = nightly();
    if let Some(path) = std::env::var_os("HUSHPORT_RUST_SRC").map(PathBuf::from) {
        let (channel, _) =
            nightly.context("HUSHPORT_RUST_SRC is set but no nightly toolchain is installed")?;
        return Ok(Source { channel, library: given(&path)? });
    }
    let Some((channel, minor)) = nightly else {
        bail!(
            "no way to build for Windows: `rustup target add` fails, and then a nightly toolchain and its library source are needed"
        );
    };
    if let Some(library) = component(&channel) {
        return Ok(Source { channel, library });
    }
    let library = debian(minor).with_context(|| {
        format!("no library source for Rust 1.{minor} ({channel}): rustup cannot add rust-src and Debian's package is not available; set HUSHPORT_RUST_SRC to a folder `library` or a .tar.xz of it")
    })?;
    Ok(Source { channel, library })
}

/// An installed nightly, and the x of its version 1.x.
fn nightly() -> Option<(String, u64)> {
    let list = run(clean_command("rustup").args(["toolchain", "list"])).ok()?;
    let name = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| name.starts_with("nightly"))?;
    let version = VersionMeta::for_command(rustc(name)).ok()?;
    Some((name.to_owned(), version.semver.minor))
}

fn component(channel: &str) -> Option<PathBuf> {
    let library = sysroot_of(channel).ok()?.join("lib/rustlib/src/rust/library");
    if !is_library(&library) {
        // Fails silently without a network.
        run(clean_command("rustup").args(["component", "add", "rust-src", "--toolchain", channel])).ok()?;
    }
    is_library(&library).then_some(library)
}

fn is_library(path: &Path) -> bool {
    path.join("core/Cargo.toml").is_file() && path.join("std/Cargo.toml").is_file()
}

/// The folder that `HUSHPORT_RUST_SRC` names; an archive is unpacked.
fn given(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        let inner = path.join("library");
        return match (is_library(path), is_library(&inner)) {
            (true, _) => Ok(path.to_path_buf()),
            (_, true) => Ok(inner),
            _ => bail!("HUSHPORT_RUST_SRC={}: expected a folder with core/ and std/", path.display()),
        };
    }
    let stem =
        path.file_name().with_context(|| format!("HUSHPORT_RUST_SRC={}: no such file", path.display()))?;
    let into = state().join("rust-src").join(stem);
    if !is_library(&into.join("library")) {
        ensure(&[Need::XZ])?;
        std::fs::create_dir_all(&into)?;
        run(clean_command("tar").arg("-xJf").arg(path).arg("-C").arg(&into))
            .with_context(|| format!("HUSHPORT_RUST_SRC={}", path.display()))?;
    }
    if !is_library(&into.join("library")) {
        bail!("HUSHPORT_RUST_SRC={}: expected an archive with library/core and library/std", path.display());
    }
    Ok(into.join("library"))
}

/// Debian's `rust-src` of 1.`minor`. The lab uses its own package lists, so the
/// machine's apt does not change.
fn debian(minor: u64) -> Result<PathBuf> {
    let place = state().join("rust-src").join(format!("debian-1.{minor}"));
    if let Some(library) = unpacked(&place) {
        return Ok(library);
    }
    std::fs::create_dir_all(place.join("lists/partial"))?;
    std::fs::create_dir_all(place.join("cache/archives/partial"))?;
    let place = place.canonicalize()?;
    let list = place.join("sources.list");
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let suites = ["trixie", "forky", "sid"];
    let lines =
        suites.map(|suite| format!("deb [signed-by={keyring}] http://deb.debian.org/debian {suite} main\n"));
    std::fs::write(&list, lines.concat())?;
    let apt = |program: &str| {
        let mut command = clean_command(program);
        command.current_dir(&place);
        for (option, value) in [
            ("Dir::Etc::sourcelist", list.display().to_string()),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::State::lists", place.join("lists").display().to_string()),
            ("Dir::Cache", place.join("cache").display().to_string()),
            ("Acquire::Languages", "none".into()),
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    };
    eprintln!("lab: fetching the library source of Rust 1.{minor} from Debian");
    run(apt("apt-get").arg("update"))?;
    let offered = run(apt("apt-cache").args(["madison", "rust-src"]))?;
    let wanted = format!("1.{minor}.");
    let version = offered
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| version.starts_with(&wanted))
        .with_context(|| format!("Debian offers no rust-src {wanted}x, only:\n{offered}"))?;
    run(apt("apt-get").arg("download").arg(format!("rust-src={version}")))?;
    let package = std::fs::read_dir(&place)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    run(clean_command("dpkg-deb").arg("-x").arg(&package).arg(place.join("unpacked")))?;
    unpacked(&place).with_context(|| format!("{} holds no library source", package.display()))
}

fn unpacked(place: &Path) -> Option<PathBuf> {
    let sources = std::fs::read_dir(place.join("unpacked/usr/src")).ok()?;
    sources.flatten().map(|entry| entry.path().join("library")).find(|library| is_library(library))
}
