//! Workflows and the tasks of Makefile.toml run existing commands.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

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
        if let Some(uses) = job.as_mapping_get("uses").and_then(Yaml::as_str) {
            let other = read(uses.strip_prefix("./").expect("a workflow of this repository"));
            assert!(other.contains("\n  workflow_call:\n"), "{uses}");
            continue;
        }
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
        ["cargo", "cyclonedx", ..] => Ok(()),
        ["cargo", "deny", "--workspace", "check", ..] => Ok(()),
        ["rustup", "target", "add", target] if Target::ALL.iter().any(|known| known.triple() == *target) => {
            Ok(())
        }
        ["sudo", "apt-get" | "sysctl" | "rm", ..] | ["winget", "install", ..] => Ok(()),
        ["sudo", file, ..] | [file, ..] if file.starts_with(".github/scripts/") => shell_script(file),
        ["powershell.exe" | "pwsh.exe" | "pwsh", words @ ..] => match words.strip_prefix(&RUN_FILE) {
            Some([file, arguments @ ..]) => script(file, arguments),
            _ => Err(format!("{line}: expected the options {RUN_FILE:?}")),
        },
        ["Copy-Item" | "Install-Module" | "Invoke-ScriptAnalyzer" | "Get-Content", ..]
            if shell == Some("pwsh") =>
        {
            Ok(())
        }
        _ => Err(format!("unknown command: {line}")),
    }
}

/// Checks a shell script of the workflows.
fn shell_script(file: &str) -> Result<(), String> {
    let path = lab::setup::root().join(file);
    let metadata = path.metadata().map_err(|error| format!("{file}: {error}"))?;
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("{file} is not executable"));
    }
    let parsed = Command::new("sh").arg("-n").arg(&path).output().map_err(|error| error.to_string())?;
    let text = read(file);
    if !parsed.status.success() || !text.starts_with("#!/bin/sh\n") || !text.contains("\nset -eu\n") {
        return Err(format!("{file}: {}", String::from_utf8_lossy(&parsed.stderr)));
    }
    Ok(())
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
    assert_eq!(workflows.len(), 5);
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

/// The permissions that a job has beyond those of its workflow.
fn writes(workflow: &Yaml<'_>, job: &str) -> Vec<String> {
    let permissions = workflow["jobs"][job].as_mapping_get("permissions");
    let pairs = permissions.and_then(Yaml::as_mapping).into_iter().flatten();
    let pairs = pairs.filter(|(_, value)| value.as_str() != Some("read"));
    let mut names: Vec<String> = pairs.map(|(name, _)| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Only the job that makes the draft may write, and only what the draft and the
/// attestation need. No workflow but that of the virtual machine reads a secret.
#[test]
fn tokens_have_the_least_rights() {
    for path in files(".github/workflows", "yml") {
        let text = std::fs::read_to_string(&path).unwrap();
        let documents = Yaml::load_from_str(&text).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for (job, _) in documents[0]["jobs"].as_mapping().unwrap() {
            let job = job.as_str().unwrap();
            let expected: &[&str] = match (name, job) {
                ("release.yml", "draft") => &["attestations", "contents", "id-token"],
                _ => &[],
            };
            assert_eq!(writes(&documents[0], job), expected, "{name}: {job}");
        }
        assert_eq!(text.contains("secrets."), name == "vm.yml", "{name}");
        let (checkouts, kept) = ("uses: actions/checkout@", "persist-credentials: false");
        assert_eq!(text.matches(checkouts).count(), text.matches(kept).count(), "{name}");
    }
}

/// A second machine verifies the build on Linux for each processor before the draft is
/// made, and every file of the draft is attested.
#[test]
fn a_release_is_verified_and_attested() {
    let text = read(".github/workflows/release.yml");
    let documents = Yaml::load_from_str(&text).unwrap();
    let jobs = &documents[0]["jobs"];
    let needs = |job: &str| match jobs[job]["needs"].as_str() {
        Some(one) => vec![one.to_owned()],
        None => {
            let several = jobs[job]["needs"].as_sequence().unwrap();
            several.iter().map(|need| need.as_str().unwrap().to_owned()).collect()
        }
    };
    assert_eq!(needs("verify"), ["linux"]);
    assert_eq!(needs("draft"), ["verify", "windows"]);
    for job in ["linux", "verify"] {
        let arches = jobs[job]["strategy"]["matrix"]["arch"].as_sequence().unwrap();
        let arches: Vec<_> = arches.iter().map(|arch| arch.as_str().unwrap()).collect();
        assert_eq!(arches, Target::ALL.map(Target::name), "{job}");
    }
    assert!(text.contains("tags: [\"v*\"]") && !text.contains("pull_request"));
    let runs = |job: &str, word: &str| {
        let steps = jobs[job]["steps"].as_sequence().unwrap();
        steps.iter().position(|step| {
            let run = step.as_mapping_get("run").or_else(|| step.as_mapping_get("uses"));
            run.and_then(Yaml::as_str).is_some_and(|run| run.contains(word))
        })
    };
    assert!(runs("verify", "cargo lab verify").is_some());
    let order = ["release-files.sh", "actions/attest-build-provenance@", "draft.sh"];
    let order = order.map(|word| runs("draft", word).unwrap());
    assert!(order.is_sorted(), "{order:?}");
    assert!(text.contains("subject-path: target/release/*\n"));
    assert!(read(".github/scripts/draft.sh").contains(" --draft "));
}

/// Runs the scripts of the release as it does, but for the draft itself.
#[test]
fn the_scripts_of_the_release_do_their_part() {
    let check = |tag: &str| {
        let mut command = Command::new(lab::setup::root().join(".github/scripts/check-tag.sh"));
        command.current_dir(lab::setup::root()).env("GITHUB_REF_NAME", tag);
        command.output().unwrap().status.success()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert!(check(&format!("v{version}")));
    assert!(!check(version) && !check(&format!("v{version}.1")));

    let folder = tempfile::tempdir().unwrap();
    let files = ["BUILDINFO.json", "hushport.cdx.json", "hushport.sys", "en-US/hushport.adml"];
    for package in ["hushport-x64", "hushport-x64-linux"] {
        for name in files {
            let file = folder.path().join("packages").join(package).join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, format!("{package} {name}")).unwrap();
        }
    }
    let run = || {
        let mut command = Command::new(lab::setup::root().join(".github/scripts/release-files.sh"));
        command.args(["packages", "release"]).current_dir(folder.path()).output().unwrap().status.success()
    };
    assert!(run());
    let release = folder.path().join("release");
    let mut sums = Command::new("sha256sum");
    assert!(
        sums.args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(&release)
            .output()
            .unwrap()
            .status
            .success()
    );
    let listed = std::fs::read_to_string(release.join("SHA256SUMS")).unwrap();
    assert_eq!(listed.lines().count(), 6, "{listed}");
    let mut list = Command::new("python3");
    let list =
        list.args(["-m", "zipfile", "-l"]).arg(release.join("hushport-x64-linux.zip")).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(files.iter().all(|name| list.contains(name)), "{list}");
    // A package without a record is no release.
    std::fs::remove_file(folder.path().join("packages/hushport-x64/BUILDINFO.json")).unwrap();
    std::fs::remove_dir_all(&release).unwrap();
    assert!(!run());
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

/// The workflow of the virtual machine reads its secret from the environment only, opens
/// KVM, installs every package that a run needs, and keeps the results of a failed run.
#[test]
fn the_virtual_machine_has_what_it_needs() {
    let text = read(".github/workflows/vm.yml");
    assert_eq!(text.matches("secrets.").count(), 1);
    assert!(text.contains("      ISO_URL: ${{ inputs.iso_url || secrets.WINDOWS_ISO_URL }}\n"));
    assert!(!text.contains("pull_request"), "a change by anybody would see the secret");
    for package in [
        "qemu-system-x86",
        "qemu-utils",
        "ovmf",
        "p7zip-full",
        "wimtools",
        "xorriso",
        "mtools",
        "nmap",
        "iproute2",
    ] {
        assert!(text.contains(&format!(" {package} ")), "{package}");
    }
    assert!(read(".github/scripts/open-kvm.sh").contains(r#"KERNEL=="kvm", GROUP="kvm", MODE="0666""#));
    let upload = text.split_once("actions/upload-artifact").unwrap().1;
    assert!(upload.contains("if: ${{ !cancelled() &&"));
}

/// Runs the scripts of the workflow as it does.
#[test]
fn the_scripts_of_the_virtual_machine_do_their_part() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let run = |script: &str, arguments: &[&str], url: &str| {
        let mut command = Command::new(lab::setup::root().join(".github/scripts").join(script));
        command.args(arguments).current_dir(folder.path()).env("ISO_URL", url);
        command.env("GITHUB_OUTPUT", at("output")).env("GITHUB_STEP_SUMMARY", at("summary"));
        command.output().unwrap().status.success()
    };
    let text = |name: &str| std::fs::read_to_string(at(name)).unwrap_or_default();
    assert!(run("iso-key.sh", &[], ""));
    assert_eq!((text("output").as_str(), text("summary").starts_with("no image")), ("", true));
    assert!(run("iso-key.sh", &[], "https://example.org/a secret"));
    assert!(text("output").starts_with("key=") && !text("output").contains("secret"), "{}", text("output"));
    std::fs::write(at("source"), "image").unwrap();
    let url = format!("file://{}", at("source").display());
    assert!(run("get-iso.sh", &["target/windows.iso"], &url));
    assert_eq!(text("target/windows.iso"), "image");
    assert!(run("get-iso.sh", &["target/windows.iso"], "file:///none"), "it is there already");
    assert!(!run("get-iso.sh", &["target/other.iso"], "file:///none"));
    assert!(!at("target/other.iso").exists());
    std::fs::write(at("verdict.txt"), "3 passed, 1 failed\n").unwrap();
    std::fs::write(
        at("host-checks.jsonl"),
        "{\"Name\":\"a\",\"Failure\":\"\"}\n{\"Name\":\"b\",\"Failure\":\"x\"}\n",
    )
    .unwrap();
    assert!(run("summary.sh", &["."], ""));
    assert!(
        text("summary").ends_with("3 passed, 1 failed\n{\"Name\":\"b\",\"Failure\":\"x\"}\n"),
        "{}",
        text("summary")
    );
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
        (".github/scripts/none.sh", None),
        ("cargo lab vm --iso x --disk y", None),
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
