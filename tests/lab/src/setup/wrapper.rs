//! Scripts that run rustc and the linker so that their output does not depend on the
//! machine.
//!
//! Cargo names crates by a hash of its flags and of the folders of path dependencies,
//! and rustc orders its output by these names. So with a path in a flag, two builds of
//! one source would differ. Flags that a script adds are not part of the hash. Crates for
//! the host have no `--target` and get no flags.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustc_version::VersionMeta;

use super::toolchain::{quoted, rustc};
use super::{Target, root, state};

/// The folder of the driver's build, as the PDB names it.
const BUILD: &str = "target/lab/driver";

/// The script for the driver's crates. With it they see no path of this machine.
pub(super) fn for_drivers(channel: &str, sysroot: Option<&Path>, library: Option<&Path>) -> Result<PathBuf> {
    let mut flags: Vec<String> =
        sysroot.into_iter().map(|sysroot| format!("--sysroot={}", sysroot.display())).collect();
    flags.extend(remaps(channel, library)?);
    let name = if sysroot.is_some() { "rustc-with-sysroot" } else { "rustc-remapped" };
    let text = format!("{ONLY_FOR_TARGETS}exec \"$@\" {}\n", words(&flags));
    let path = state().join(name);
    if std::fs::read_to_string(&path).is_ok_and(|written| written != text) {
        // Cargo does not know the script, and would take what the old one has built.
        for target in Target::ALL {
            let built = state().join("driver").join(target.triple());
            if built.is_dir() {
                std::fs::remove_dir_all(&built)
                    .with_context(|| format!("cannot remove {}", built.display()))?;
            }
        }
    }
    write(path, &text)
}

/// The script for `core` and `alloc`. Their source is not in the workspace that cargo
/// builds them in, so cargo's hash would have its folder. The name of a crate takes its
/// place: there is one crate of a name.
pub(super) fn for_library(channel: &str, library: &Path) -> Result<PathBuf> {
    let flags = remaps(channel, Some(library))?;
    let text = format!("{ONLY_FOR_TARGETS}{NAMED_BY_NAME}exec \"$@\" {}\n", words(&flags));
    write(state().join("rustc-for-library"), &text)
}

/// The sysroot that [`for_library`] builds. Its number changes with the script.
pub(super) fn sysroot(channel: &str) -> PathBuf {
    state().join("sysroot").join(format!("{channel}-2"))
}

const ONLY_FOR_TARGETS: &str = r#"#!/bin/sh
case " $* " in
*" --target "*) ;;
*) exec "$@" ;;
esac
"#;

/// Cargo passes `--crate-name NAME` before `-C metadata=HASH`.
const NAMED_BY_NAME: &str = r#"name=
previous=
for argument do
    shift
    [ "$previous" != --crate-name ] || name=$argument
    previous=$argument
    case $argument in metadata=*) argument=metadata=$name ;; esac
    set -- "$@" "$argument"
done
"#;

/// Rustc and cargo give the objects of a crate a name with a hash of its folder. The PDB
/// has the names of those that are linked without LTO, so the hash becomes zeros. The
/// length of the names stays, and with it the archive's index.
pub(super) fn rename_objects(libraries: &Path) -> Result<()> {
    for entry in std::fs::read_dir(libraries)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some((name, hash)) = name.strip_prefix("lib").and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != "rlib") {
            continue;
        }
        let mut archive = std::fs::read(&path)?;
        let wanted = format!("{name}-{hash}.");
        let places: Vec<usize> = memchr::memmem::find_iter(&archive, wanted.as_bytes()).collect();
        for place in places {
            archive[place + name.len() + 1..][..hash.len()].fill(b'0');
        }
        std::fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The script that runs the linker. The PDB has the linker's command line and the paths of
/// all files in it, and its GUID is a hash of them. So the linker works in the lab's folder
/// and gets relative paths, without rustc's temporary folder, and without the hashes in
/// the names of the library's files.
pub(super) fn for_linker(linker: &Path) -> Result<PathBuf> {
    let folder = state();
    let text = LINK
        .replace("@STATE@", &quoted(&folder.display().to_string()))
        .replace("@LINKER@", &quoted(&linker.display().to_string()))
        .replace("@PREFIX@", &quoted(&format!("s#^(/[A-Z]+:)?{}/#\\1#", pattern(&folder))));
    // rustc knows by this name which options the linker has.
    write(folder.join("lld-link"), &text)
}

const LINK: &str = r#"#!/bin/sh
set -eu
export LC_ALL=C
cd @STATE@
mkdir -p linker library
ln -sf @LINKER@ linker/lld-link
for argument do
    case $argument in
    */lib*-*.rlib)
        name=${argument##*/}
        ln -sf "$argument" "library/${name%-*}.rlib"
        ;;
    *.lib | *.def)
        folder=$(printf '%s\n' "$argument" | sed -nE 's#^(/[A-Z]+:)?(/.*/rustc[[:alnum:]]{6})/.*#\2#p')
        [ -z "$folder" ] || ln -sfn "$folder" temporary
        ;;
    esac
done
printf '%s\n' "$@" | sed -E -e '/^-flavor$/{N;d;}' \
    -e 's#^(/[A-Z]+:)?/.*/rustc[[:alnum:]]{6}/#\1temporary/#' \
    -e 's#^/.*/(lib[^/]*)-[^-/]*\.rlib$#library/\1.rlib#' \
    -e @PREFIX@ \
    -e 's/[\\"]/\\&/g' -e 's/.*/"&"/' > link.rsp
exec linker/lld-link --rsp-quoting=posix /pdbsourcepath:/ @link.rsp
"#;

/// A path as a regular expression of sed (POSIX, extended) that `#` ends.
fn pattern(path: &Path) -> String {
    let mut pattern = String::new();
    for character in path.display().to_string().chars() {
        if r"\.[]{}()*+?^$|#".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Flags that replace the folders of this machine. The last one that fits a path counts.
fn remaps(channel: &str, library: Option<&Path>) -> Result<Vec<String>> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut folders: Vec<(PathBuf, String)> = Vec::new();
    folders.extend(cargo_home.map(|folder| (folder, "/cargo".to_owned())));
    folders.push((root().to_owned(), String::new()));
    folders.push((state().join("driver"), BUILD.to_owned()));
    if let Some(library) = library {
        // The distributed library has this path.
        let commit = VersionMeta::for_command(rustc(channel))?.commit_hash;
        let name = format!("/rustc/{}/library", commit.as_deref().unwrap_or(channel));
        folders.push((library.to_owned(), name.clone()));
        folders.extend(library.canonicalize().ok().map(|library| (library, name)));
    }
    let flag = |(from, to): (PathBuf, String)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(folders.into_iter().map(flag).collect())
}

fn words(flags: &[String]) -> String {
    flags.iter().map(|flag| quoted(flag)).collect::<Vec<_>>().join(" ")
}

/// Writes a script, if it has changed.
fn write(path: PathBuf, text: &str) -> Result<PathBuf> {
    if std::fs::read_to_string(&path).is_ok_and(|written| written == text) {
        return Ok(path);
    }
    std::fs::create_dir_all(state())?;
    // It is renamed, because another build may be running the existing script.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&fresh, &path)?;
    Ok(path)
}
