//! `BUILDINFO.json`: what a build depends on, with versions and hashes.
//!
//! docs/BUILD.md says how to get each input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::source::Source;
use super::{sha256, sha256_of, sha256_of_all};
use crate::setup::{self, Driver, Target, Toolchain};

/// The file's name in a package.
pub const FILE: &str = "BUILDINFO.json";
/// The version of this format.
const FORMAT: u32 = 1;

/// What a build depends on, and what came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildInfo {
    /// The version of this format.
    pub format: u32,
    /// The driver's Rust target.
    pub target: String,
    /// The inputs, by the names in [`INPUTS`].
    pub inputs: BTreeMap<String, Input>,
    /// SHA-256 of the unsigned files, by name.
    pub outputs: BTreeMap<String, String>,
}

/// One input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its version, or its value.
    pub version: String,
    /// SHA-256 of its files, by name; none if the version says all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
    /// SHA-256 of what it has made and the driver is built from, by name. If these are
    /// equal, another version has made no difference.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made: BTreeMap<String, String>,
}

impl Input {
    fn of(version: impl Into<String>) -> Self {
        Self { version: version.into(), ..Self::default() }
    }

    fn files(mut self, paths: &[PathBuf]) -> Result<Self> {
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.sha256.insert(name, sha256_of(path)?);
        }
        Ok(self)
    }

    fn made(mut self, paths: &[PathBuf]) -> Result<Self> {
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.made.insert(name, sha256_of(path)?);
        }
        Ok(self)
    }

    /// Whether two builds may differ by this input.
    pub fn differs(&self, other: &Self) -> bool {
        if !self.made.is_empty() && !other.made.is_empty() {
            return self.made != other.made;
        }
        match self.sha256.is_empty() && other.sha256.is_empty() {
            true => self.version != other.version,
            false => self.sha256 != other.sha256,
        }
    }
}

/// What an input can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any file of the package.
    All,
    /// Anything in the image.
    Image,
    /// The resources of the image.
    Resources,
    /// The INF.
    Inf,
}

/// Every input: its name, and what it can change.
pub const INPUTS: [(&str, Reach); 10] = [
    ("source", Reach::All),
    ("Cargo.lock", Reach::All),
    ("compiler", Reach::Image),
    ("library", Reach::Image),
    ("profile", Reach::Image),
    ("linker", Reach::Image),
    ("libclang", Reach::Image),
    ("resource compiler", Reach::Resources),
    ("revision", Reach::Inf),
    ("time", Reach::Inf),
];

impl BuildInfo {
    /// The record of a driver that this process has built.
    ///
    /// # Errors
    /// If the driver was built elsewhere, or an input cannot be read.
    pub fn of(driver: &Driver, target: Target, time: u64, revision: u16, inf: &str) -> Result<Self> {
        let Some(out) = &driver.out else {
            bail!("{} was not built here, so nothing is known of its build", driver.sys.display())
        };
        let toolchain = setup::toolchain(target)?;
        let mut inputs = tools(toolchain, target)?;
        let source = Source::of_checkout()?;
        let commit = source.commit.as_deref().unwrap_or("no commit");
        let version = if source.is_modified { format!("{commit}, modified") } else { commit.to_owned() };
        let digests = [("src, inf, build.rs, *.toml".to_owned(), source.sha256)].into();
        inputs.insert("source".into(), Input { sha256: digests, ..Input::of(version) });
        inputs.insert("libclang".into(), libclang(out)?);
        let lock = setup::root().join("Cargo.lock");
        inputs.insert("Cargo.lock".into(), Input::of("the versions of all crates").files(&[lock])?);
        inputs.insert("resource compiler".into(), resource_compiler(out)?);
        inputs.insert("revision".into(), Input::of(revision.to_string()));
        inputs.insert("time".into(), Input::of(time.to_string()));
        let mut outputs = BTreeMap::new();
        for extension in ["sys", "pdb"] {
            let file = driver.sys.with_extension(extension);
            outputs.insert(format!("hushport.{extension}"), sha256_of(&file)?);
        }
        outputs.insert("hushport.inf".into(), sha256(inf.as_bytes()));
        Ok(Self { format: FORMAT, target: target.triple().to_owned(), inputs, outputs })
    }

    /// The text of the file.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads the file of a package from elsewhere.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let info: Self = serde_json::from_slice(bytes).with_context(|| format!("{FILE} is not valid"))?;
        ensure!(info.format == FORMAT, "{FILE} has format {}, expected {FORMAT}", info.format);
        Ok(info)
    }

    /// The inputs by which this build and another may differ, with what they can change.
    pub fn different<'a>(&'a self, other: &'a Self) -> Vec<(&'static str, Reach, &'a Input, &'a Input)> {
        static NONE: OnceLock<Input> = OnceLock::new();
        let none = NONE.get_or_init(|| Input::of("not recorded"));
        let pairs = INPUTS.iter().map(|&(name, reach)| {
            let [ours, theirs] = [self, other].map(|info| info.inputs.get(name).unwrap_or(none));
            (name, reach, ours, theirs)
        });
        pairs.filter(|(_, _, ours, theirs)| ours.differs(theirs)).collect()
    }
}

/// The inputs that are programs or come with them. They are large, and are read once per
/// process.
fn tools(toolchain: &Toolchain, target: Target) -> Result<BTreeMap<String, Input>> {
    static READ: [OnceLock<Result<BTreeMap<String, Input>, String>>; 2] = [const { OnceLock::new() }; 2];
    let read = READ[target as usize]
        .get_or_init(|| read_tools(toolchain, target).map_err(|error| format!("{error:#}")));
    read.clone().map_err(|error| anyhow::anyhow!("{error}"))
}

fn read_tools(toolchain: &Toolchain, target: Target) -> Result<BTreeMap<String, Input>> {
    let sysroot = setup::sysroot_of(&toolchain.channel)?;
    let version = setup::run(toolchain.command("rustc").env_remove("RUSTC_WRAPPER").arg("-vV"))?;
    let version = version.lines().filter(|line| !line.starts_with("binary: "));
    let mut files = files_in(&sysroot.join("lib"), |name| name.contains(".so"))?;
    files.push(sysroot.join("bin/rustc"));
    let compiler = Input::of(version.collect::<Vec<_>>().join("; ")).files(&files)?;
    let linker = setup::run(Command::new(&toolchain.linker).args(["-flavor", "link", "--version"]))?;
    let linker = Input::of(linker.trim()).files(std::slice::from_ref(&toolchain.linker))?;
    let profile = setup::profile::release();
    let profile: Vec<String> = profile.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let library = match &toolchain.library {
        Some(library) => {
            let names = ["alloc", "compiler-builtins", "core", "portable-simd", "stdarch"];
            let names: Vec<_> = names.into_iter().filter(|name| library.join(name).is_dir()).collect();
            let sha256 = [("library".to_owned(), sha256_of_all(library, &names)?)].into();
            Input { sha256, ..Input::of("built from source") }
        }
        None => {
            let folder = sysroot.join("lib/rustlib").join(target.triple()).join("lib");
            let wanted = ["libcore-", "libcompiler_builtins-"];
            let files = files_in(&folder, |name| wanted.iter().any(|start| name.starts_with(start)))?;
            Input::of("distributed with the compiler").files(&files)?
        }
    };
    let inputs = [
        ("compiler", compiler),
        ("library", library),
        ("linker", linker),
        ("profile", Input::of(profile.join(" "))),
    ];
    Ok(inputs.map(|(name, input)| (name.to_owned(), input)).into())
}

fn files_in(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.is_file() && path.file_name().is_some_and(|name| wanted(&name.to_string_lossy()))
    });
    Ok(paths.collect())
}

/// What the build script has recorded (`record_libclang` in build.rs).
fn libclang(out: &Path) -> Result<Input> {
    let record = std::fs::read_to_string(out.join("libclang.txt")).context("the build script's record")?;
    let (version, file) = record.trim().split_once('\n').context("the build script's record")?;
    let file = Path::new(file).canonicalize()?;
    Input::of(version).files(&[file])?.made(&[out.join("bindings.rs")])
}

/// llvm-rc, and the C compiler that preprocesses the script of resources.
fn resource_compiler(out: &Path) -> Result<Input> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| {
        let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
        places.find(|file| file.is_file()).and_then(|file| file.canonicalize().ok())
    };
    let compiler = found("llvm-rc").context("there is no llvm-rc")?;
    // llvm-rc does not print its version. Debian's folder has it.
    let parts: Vec<_> = compiler.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let version = parts.iter().find(|part| part.starts_with("llvm-") && *part != "llvm-rc");
    let preprocessor = setup::run(Command::new("cc").arg("--version"))?;
    let preprocessor = preprocessor.lines().next().unwrap_or_default().to_owned();
    let version = format!("{}; {preprocessor}", version.map_or("llvm-rc", String::as_str));
    Input::of(version).files(&[compiler])?.made(&[out.join("hushport.lib")])
}
