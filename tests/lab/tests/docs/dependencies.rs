//! The table of direct dependencies in CONTRIBUTING.md, and the rules for all crates.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::read;

/// Every manifest of the workspace.
fn manifests() -> Vec<Table> {
    let workspace: Table = read("Cargo.toml").parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap().clone();
    let members = members.iter().map(|member| read(&format!("{}/Cargo.toml", member.as_str().unwrap())));
    std::iter::once(workspace).chain(members.map(|text| text.parse().unwrap())).collect()
}

/// The crates that a manifest names, but for those in a folder of this repository.
fn named(table: &Table, names: &mut BTreeSet<String>) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let crates = table.get(kind).and_then(Value::as_table).into_iter().flatten();
        names.extend(crates.filter(|(_, from)| from.get("path").is_none()).map(|(name, _)| name.clone()));
    }
    for (_, target) in table.get("target").and_then(Value::as_table).into_iter().flatten() {
        named(target.as_table().unwrap(), names);
    }
}

/// The rows of the section "Dependencies": the name of the crate, and the other cells.
fn rows(document: &str) -> Vec<(String, Vec<String>)> {
    let section = document.split_once("\n## Dependencies\n").expect("the section").1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.trim_end_matches(" |").split(" | ").collect();
        let name = cells[0].trim_end_matches('`').to_owned();
        Some((name, cells[1..].iter().map(|cell| (*cell).to_owned()).collect()))
    });
    rows.collect()
}

#[test]
fn every_direct_dependency_has_a_row() {
    let mut names = BTreeSet::new();
    manifests().iter().for_each(|manifest| named(manifest, &mut names));
    let rows = rows(&read("docs/CONTRIBUTING.md"));
    let listed: BTreeSet<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(listed.len(), rows.len(), "a crate has two rows");
    let lacking: Vec<_> = names.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&names).collect();
    assert!(lacking.is_empty() && gone.is_empty(), "without a row: {lacking:?}; not used: {gone:?}");
    for (name, cells) in rows {
        assert_eq!(cells.len(), 3, "{name}: what it is for, who keeps it, what there is without it");
        assert!(cells.iter().all(|cell| cell.len() > 2), "{name}: {cells:?}");
    }
    assert!(names.len() > 40 && names.contains("bindgen") && names.contains("wdk-sys"));
}

/// What cargo-deny allows as an exception is in Cargo.lock, and a comment or a text of the
/// file gives its reason.
#[test]
fn every_exception_has_a_reason() {
    let text = read(".cargo/deny.toml");
    let rules: Table = text.parse().unwrap();
    let lock: Table = read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let is_locked = |name: &str, version: &str| {
        packages.iter().any(|package| {
            package["name"].as_str() == Some(name)
                && package["version"].as_str().unwrap().starts_with(version)
        })
    };
    let lines: Vec<&str> = text.lines().collect();
    let licences = rules["licenses"]["exceptions"].as_array().unwrap();
    for exception in licences {
        let name = exception["crate"].as_str().unwrap();
        assert!(is_locked(name, ""), "{name} is not in Cargo.lock");
        let at = lines.iter().position(|line| line.contains(&format!("crate = \"{name}\""))).unwrap();
        // Crates of one reason stand together.
        let above = lines[..at].iter().rev().find(|line| !line.contains("{ crate = "));
        assert!(above.is_some_and(|line| line.trim().starts_with("# ")), "{name} has no reason");
    }
    let skipped = rules["bans"]["skip"].as_array().unwrap();
    for skip in skipped {
        let (name, version) = skip["crate"].as_str().unwrap().split_once('@').unwrap();
        assert!(is_locked(name, &format!("{version}.")), "{name} {version} is not in Cargo.lock");
        assert!(skip["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{name}");
    }
    assert!(licences.len() > 3 && skipped.len() > 3);
    for (section, key, expected) in [
        ("bans", "multiple-versions", "deny"),
        ("bans", "wildcards", "deny"),
        ("sources", "unknown-registry", "deny"),
        ("sources", "unknown-git", "deny"),
    ] {
        assert_eq!(rules[section][key].as_str(), Some(expected), "{section}: {key}");
    }
    assert!(rules["advisories"]["ignore"].as_array().unwrap().is_empty());
}

/// The workflow checks what the command checks, and advisories.
#[test]
fn the_workflow_checks_dependencies_and_advisories() {
    let workflow = read(".github/workflows/linux.yml");
    assert!(workflow.contains("- run: cargo deny --workspace check advisories licenses bans sources\n"));
}
