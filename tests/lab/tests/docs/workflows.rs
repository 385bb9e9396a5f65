//! Workflows and the tasks of Makefile.toml run existing commands.

use lab::setup::Target;
use saphyr::{LoadableYamlNode, Yaml};
use toml::{Table, Value};

use super::powershell::Script;
use super::{files, read};

fn tasks() -> Table {
    let makefile: Table = read("Makefile.toml").parse().unwrap();
    makefile["tasks"].as_table().unwrap().clone()
}

/// Steps of a workflow, each with its shell.
fn steps<'a>(workflow: &'a Yaml<'a>) -> Vec<(&'a Yaml<'a>, Option<&'a str>)> {
    let mut steps = Vec::new();
    for (name, job) in workflow["jobs"].as_mapping().unwrap() {
        assert!(
            job["runs-on"].as_str().is_some() && job["timeout-minutes"].as_integer().is_some(),
            "{name:?}"
        );
        let defaults = job.as_mapping_get("defaults");
        let shell = defaults.and_then(|defaults| defaults["run"]["shell"].as_str());
        steps.extend(job["steps"].as_sequence().unwrap().iter().map(|step| (step, shell)));
    }
    steps
}

/// Checks that an action is pinned to a commit.
fn pinned(uses: &str) -> Result<(), String> {
    let (_, commit) = uses.split_once('@').ok_or(format!("{uses}: no commit"))?;
    let hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hash { Ok(()) } else { Err(format!("{uses}: not pinned to a commit")) }
}

/// Checks a command line; each `${{ … }}` is one word.
fn command(line: &str, shell: Option<&str>) -> Result<(), String> {
    let line = expanded(line);
    if shell == Some("pwsh")
        && let Some(finding) = Script::parse(&line).syntax().first()
    {
        return Err(format!("{line}: {finding:?}"));
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match &words[..] {
        ["cargo", "lab", words @ ..] => lab::commands::accepts(words).map_err(|error| error.to_string()),
        // From wdk-build's makefile, which Makefile.toml extends.
        ["cargo", "make", "package-driver-flow", ..] => Ok(()),
        ["cargo", "make", task, ..] if tasks().contains_key(*task) => Ok(()),
        ["cargo", "make", task, ..] => Err(format!("there is no task {task}")),
        ["cargo", "build" | "fmt" | "test" | "install", ..] => Ok(()),
        ["rustup", "target", "add", target] if Target::ALL.iter().any(|known| known.triple() == *target) => {
            Ok(())
        }
        ["sudo", "apt-get" | "sysctl", ..] | ["winget", "install", ..] => Ok(()),
        ["powershell.exe" | "pwsh.exe" | "pwsh", words @ ..] => match words.strip_prefix(&RUN_FILE) {
            Some([file, arguments @ ..]) => script(file, arguments),
            _ => Err(format!("{line}: expected the options {RUN_FILE:?}")),
        },
        ["Install-Module" | "Invoke-ScriptAnalyzer" | "Get-Content", ..] if shell == Some("pwsh") => Ok(()),
        _ => Err(format!("unknown command: {line}")),
    }
}

/// Options that run a script under any execution policy.
const RUN_FILE: [&str; 4] = ["-NoProfile", "-ExecutionPolicy", "Bypass", "-File"];

/// Checks the arguments of a script of this repository.
fn script(file: &str, arguments: &[&str]) -> Result<(), String> {
    if !lab::setup::root().join(file).is_file() {
        return Err(format!("there is no {file}"));
    }
    let text = read(file);
    let unknown = arguments
        .iter()
        .filter_map(|word| word.strip_prefix('-'))
        .find(|name| !text.contains(&format!("] ${name} =")) && !text.contains(&format!("[switch] ${name}")));
    unknown.map_or(Ok(()), |name| Err(format!("{file} has no -{name}")))
}

fn expanded(line: &str) -> String {
    line.replace("${{ matrix.arch }}", "x64").replace("${{ matrix.target }}", Target::X64.triple())
}

#[test]
fn workflows_do_what_can_be_done() {
    let workflows = files(".github/workflows", "yml");
    assert_eq!(workflows.len(), 3);
    for path in workflows {
        let text = std::fs::read_to_string(&path).unwrap();
        let documents = Yaml::load_from_str(&text).unwrap();
        let workflow = &documents[0];
        assert_eq!(workflow["permissions"]["contents"].as_str(), Some("read"), "{}", path.display());
        let (mut actions, mut commands) = (0, 0);
        for (step, shell) in steps(workflow) {
            let (uses, run) = (step.as_mapping_get("uses"), step.as_mapping_get("run"));
            match (uses.and_then(Yaml::as_str), run.and_then(Yaml::as_str)) {
                (Some(uses), None) => {
                    assert_eq!(pinned(uses), Ok(()), "{}", path.display());
                    // The version stands in a comment behind the commit.
                    assert!(text.contains(&format!("uses: {uses} # v")), "{uses}");
                    actions += 1;
                }
                (None, Some(run)) => {
                    run.lines()
                        .for_each(|line| assert_eq!(command(line, shell), Ok(()), "{}", path.display()));
                    commands += 1;
                }
                step => panic!("{}: {step:?}", path.display()),
            }
        }
        assert!(actions >= 2 && commands >= 5, "{}: {actions}, {commands}", path.display());
    }
}

#[test]
fn both_processors_are_built() {
    let text = read(".github/workflows/windows.yml");
    for target in Target::ALL {
        assert!(text.contains(&format!(
            "- arch: {}\n            target: {}\n",
            target.name(),
            target.triple()
        )));
    }
}

/// Tests run on each image with test signing, in both PowerShells.
#[test]
fn windows_is_asked_on_every_image_in_both_shells() {
    let text = read(".github/workflows/hosted.yml");
    for (image, arch) in [("windows-2022", "x64"), ("windows-2025", "x64"), ("windows-11-arm", "arm64")] {
        assert!(text.contains(&format!("- image: {image}\n            arch: {arch}\n")), "{image}");
    }
    for shell in ["powershell.exe", "pwsh.exe"] {
        let run = format!("- run: {shell} {} tests/vm/Test-Hushport.ps1 -Hosted ", RUN_FILE.join(" "));
        assert!(text.contains(&run), "{shell}");
    }
}

#[test]
fn faults_of_a_step_are_found() {
    assert_eq!(pinned("actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"), Ok(()));
    for uses in ["actions/checkout", "actions/checkout@v7", "actions/checkout@3d3c42e"] {
        assert!(pinned(uses).is_err(), "{uses}");
    }
    for (line, shell) in [
        ("cargo lab packed", None),
        ("cargo make instal", None),
        ("rustup target add ${{ matrix.arch }}", None),
        ("curl https://example.org/x | sh", None),
        ("cargo fmt --all | | x", Some("pwsh")),
        ("powershell.exe -File tests/vm/Test-Hushport.ps1", None),
        ("pwsh.exe -NoProfile -ExecutionPolicy Bypass -File tests/vm/Test-Hushport.ps1 -Hostd", None),
        ("pwsh -NoProfile -ExecutionPolicy Bypass -File tests/vm/Test-It.ps1", Some("pwsh")),
    ] {
        assert!(command(line, shell).is_err(), "{line}");
    }
}

#[test]
fn tasks_hold_together() {
    let tasks = tasks();
    for name in
        ["default", "install", "uninstall", "start", "stop", "verify", "demo", "test", "copy-inx-to-output"]
    {
        assert!(tasks.contains_key(name), "{name}");
    }
    for (name, task) in &tasks {
        // Without this, cargo-make merges the task with one of its own.
        assert_eq!(task["clear"], Value::Boolean(true), "{name}");
        for alias in ["linux_alias", "windows_alias"] {
            if let Some(other) = task.get(alias).and_then(Value::as_str) {
                assert!(tasks.contains_key(other) || other == "package-driver-flow", "{name}: {other}");
            }
        }
        let words: Vec<&str> = task
            .get("args")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if let ["lab", words @ ..] = &words[..] {
            assert_eq!(task["command"].as_str(), Some("cargo"), "{name}");
            lab::commands::accepts(words).unwrap();
        }
        if task.get("script_runner").and_then(Value::as_str) == Some("powershell") {
            let text = task["script"].as_str().unwrap();
            let findings = Script::parse(text).findings(&Default::default());
            assert!(findings.is_empty(), "{name}: {findings:#?}");
            // The default execution policy of Windows clients allows no scripts.
            let arguments = task.get("script_runner_args").and_then(Value::as_array);
            let arguments: Vec<_> = arguments.into_iter().flatten().filter_map(Value::as_str).collect();
            assert_eq!(arguments, RUN_FILE, "{name}");
        }
        let command = task.get("command").and_then(Value::as_str).unwrap_or_default();
        assert!(!command.contains("powershell") && !command.contains("pwsh"), "{name}: use script_runner");
    }
    // The tasks belong to the version of wdk-build that builds the driver.
    let manifest: Table = read("Cargo.toml").parse().unwrap();
    let version = &manifest["target"]["cfg(windows)"]["build-dependencies"]["wdk-build"]["version"];
    assert!(read("Makefile.toml").contains(&format!("//! wdk-build = {version}\n")), "{version}");
    let copied = tasks["copy-inx-to-output"]["script"].as_str().unwrap();
    assert!(copied.contains(&format!("cp {} ", lab::package::INX)));
}
