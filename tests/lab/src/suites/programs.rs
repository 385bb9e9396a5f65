//! Builds the test programs of the workspace and lists their tests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use machine::notes;
use serde_json::Value;

use super::limit::Children;
use crate::setup;

/// A test program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Package and target: `hushport-lab/driver`.
    pub name: String,
    /// The path of the program.
    pub file: PathBuf,
    /// The package's folder, where cargo runs its tests.
    pub folder: PathBuf,
    /// The names of its tests, in their order.
    pub tests: Vec<String>,
    /// Environment variables in addition to those of this process.
    pub environment: Vec<(OsString, OsString)>,
}

/// Builds and lists all tests of these packages; of all packages if none is named.
pub fn build(packages: &[&str], children: &Children) -> Result<Vec<Program>> {
    let mut cargo = setup::workspace_cargo("test");
    if packages.is_empty() {
        cargo.arg("--workspace");
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
    // Doc tests are not programs. Everything else is what `cargo test` runs.
    cargo.args(["--lib", "--bins", "--tests", "--no-run", "--message-format=json-render-diagnostics"]);
    let (status, output) = children.output(&mut cargo)?;
    if !status.success() {
        bail!("the tests do not build");
    }
    let messages = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs: Vec<Program> = messages.filter_map(|message| program(&message)).collect();
    for program in &mut programs {
        program.tests = list(program)?;
    }
    programs.retain(|program| !program.tests.is_empty());
    Ok(programs)
}

fn program(message: &Value) -> Option<Program> {
    let of_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let file = message["executable"].as_str().filter(|_| of_test)?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let package = package_name(message["package_id"].as_str()?);
    let name = format!("{package}/{}", message["target"]["name"].as_str()?);
    Some(Program {
        name,
        file: file.into(),
        folder: folder.to_path_buf(),
        tests: Vec::new(),
        environment: Vec::new(),
    })
}

/// The name in a package id: `path+file:///a/b#name@1.0.0`, or `…/name#1.0.0` if
/// the folder has the package's name.
fn package_name(id: &str) -> &str {
    let (place, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    }
}

fn list(program: &Program) -> Result<Vec<String>> {
    let mut command = program.command(None);
    let output = command.args(["--list", "--format", "terse"]).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", program.file.display()))?;
    if !output.status.success() {
        bail!("{} does not list its tests: {}", program.name, output.status);
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(lines.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

impl Program {
    /// A command for the program, with the environment that cargo gives to tests.
    /// It writes notes to the folder `notes`.
    pub(super) fn command(&self, notes: Option<&Path>) -> Command {
        let mut command = Command::new(&self.file);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder).stdin(Stdio::null());
        command.envs(self.environment.iter().cloned());
        command.envs(notes.map(|folder| (notes::FOLDER, folder)));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_as_in_their_manifests() {
        for (id, name) in [
            ("path+file:///c/tests/lab#hushport-lab@0.1.0", "hushport-lab"),
            ("path+file:///c/hushport#0.1.0", "hushport"),
            ("path+file:///c/a%20%23/x#hushport@0.1.0", "hushport"),
        ] {
            assert_eq!(package_name(id), name, "{id}");
        }
    }
}
