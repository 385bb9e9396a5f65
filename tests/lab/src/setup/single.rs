//! Builds drivers of a single crate without dependencies, for tests.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::driver::{lock, toolchain};
use super::{Need, Target, ensure, root, run, state};

/// How a driver is linked.
const LINK: [&str; 5] =
    ["/ENTRY:DriverEntry", "/NODEFAULTLIB", "/SUBSYSTEM:NATIVE", "/DRIVER:WDM", "/RELEASE"];

/// Where a driver is kept; its folder is its own. `hash`: of all that it is made from.
fn place(name: &OsStr, hash: u64) -> PathBuf {
    let folder = format!("{}-{hash:016x}", name.to_string_lossy());
    state().join("single").join(folder).join(name).with_extension("sys")
}

fn folder_of(driver: &Path) -> &Path {
    driver.parent().expect("a driver's folder")
}

/// Compiles and links a driver for x64 from a file in C, with clang. `imports`: the
/// functions of ntoskrnl that it imports. The code has no library; structured exception
/// handling is on, for faults of any instruction.
pub fn compile_c(source: &Path, imports: &[&str]) -> Result<PathBuf> {
    const COMPILE: [&str; 10] = [
        "--target=x86_64-pc-windows-msvc",
        "-ffreestanding",
        "-fms-extensions",
        "-fasync-exceptions",
        "-fshort-wchar",
        "-O1",
        "-g",
        "-gcodeview",
        "-Wall",
        "-Werror",
    ];
    ensure(&[Need::CLANG])?;
    let toolchain = toolchain(Target::X64)?;
    let text = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let name = source.file_stem().with_context(|| format!("{} is no source file", source.display()))?;
    let mut hasher = DefaultHasher::new();
    (&text, imports, COMPILE, LINK, &toolchain.channel).hash(&mut hasher);
    let driver = place(name, hasher.finish());
    let _guard = lock()?;
    if driver.is_file() {
        return Ok(driver);
    }
    let folder = folder_of(&driver);
    std::fs::create_dir_all(folder)?;
    let [definitions, library, object, fresh] =
        ["ntoskrnl.def", "ntoskrnl.lib", "driver.obj", "fresh.sys"].map(|file| folder.join(file));
    std::fs::write(&definitions, format!("NAME ntoskrnl.exe\nEXPORTS\n{}\n", imports.join("\n")))?;
    let link = || {
        let mut command = Command::new(&toolchain.linker);
        command.args(["-flavor", "link"]);
        command
    };
    run(link()
        .args(["/lib", "/machine:x64"])
        .args([format!("/def:{}", definitions.display()), format!("/out:{}", library.display())]))?;
    run(Command::new("clang-19").args(COMPILE).arg("-c").arg(source).arg("-o").arg(&object))?;
    run(link().args(["/DLL", "/DEBUG"]).args(LINK).args([&object, &library]).args([
        format!("/OUT:{}", fresh.display()),
        format!("/PDB:{}", driver.with_extension("pdb").display()),
    ]))?;
    // The driver's file is always complete.
    std::fs::rename(&fresh, &driver)?;
    Ok(driver)
}

/// Compiles and links a driver for x64 from a source file and its modules, which
/// are in a folder with the file's name. The PDB is written next to the driver. An
/// unchanged driver is not compiled again. A driver includes `DRIVER_NT` for the declarations
/// that it needs of the kernel, and `DRIVER_RUNTIME` for a panic handler.
pub fn compile(source: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let toolchain = toolchain(Target::X64)?;
    let text = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let name = source.file_stem().with_context(|| format!("{} is no source file", source.display()))?;
    let mut modules = modules(&source.with_extension(""))?;
    modules.sort();
    let mut hasher = DefaultHasher::new();
    let included = [include_str!("driver_nt.rs"), include_str!("driver_runtime.rs")];
    (&text, &modules, included, arguments, &toolchain.channel).hash(&mut hasher);
    let driver = place(name, hasher.finish());
    let folder = folder_of(&driver);
    let _guard = lock()?;
    if driver.is_file() {
        return Ok(driver);
    }
    std::fs::create_dir_all(folder)?;
    // It is renamed at the end, so that the file is always complete.
    let fresh = folder.join("fresh.dll");
    let mut rustc = toolchain.command("rustc");
    for (name, file) in [("DRIVER_NT", "driver_nt.rs"), ("DRIVER_RUNTIME", "driver_runtime.rs")] {
        rustc.env(name, root().join("tests/lab/src/setup").join(file));
    }
    rustc.args(["--edition=2024", "--crate-type=cdylib", "-O", "-g", "-Cpanic=abort"]);
    rustc.args(["--target", Target::X64.triple(), "-Clinker-flavor=lld-link"]);
    rustc.arg(format!("-Clinker={}", toolchain.linker.display()));
    if let Some(sysroot) = &toolchain.sysroot {
        rustc.arg("--sysroot").arg(sysroot);
    }
    for argument in LINK {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    rustc.arg(format!("-Clink-arg=/PDB:{}", driver.with_extension("pdb").display()));
    let output =
        rustc.args(arguments).arg("-o").arg(&fresh).arg(source).output().context("cannot start rustc")?;
    if !output.status.success() {
        bail!("cannot compile {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&fresh, &driver)?;
    Ok(driver)
}

/// The paths and texts of the files in a folder; none if it does not exist.
fn modules(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut modules = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        modules.push((path, text));
    }
    Ok(modules)
}
