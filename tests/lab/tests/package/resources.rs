//! The resources of hushport.sys, as a reader sees them that others wrote.

use std::collections::BTreeMap;
use std::process::Command;

use lab::setup::{self, Need, Target};
use machine::image::Messages;
use serde_json::Value;

/// Prints version and messages of a file as JSON. pefile finds the resources; the
/// layout of a message table is read here.
const READER: &str = r#"
import json, pefile, struct, sys
pe = pefile.PE(sys.argv[1])
fixed, strings, messages = pe.VS_FIXEDFILEINFO[0], {}, {}
for info in pe.FileInfo[0]:
    for table in getattr(info, 'StringTable', []):
        strings.update((key.decode(), value.decode()) for key, value in table.entries.items())
for kind in pe.DIRECTORY_ENTRY_RESOURCE.entries:
    if kind.id != pefile.RESOURCE_TYPE['RT_MESSAGETABLE']:
        continue
    for name in kind.directory.entries:
        for language in name.directory.entries:
            data = pe.get_data(language.data.struct.OffsetToData, language.data.struct.Size)
            for block in range(struct.unpack_from('<I', data)[0]):
                low, high, at = struct.unpack_from('<III', data, 4 + 12 * block)
                for identifier in range(low, high + 1):
                    length, flags = struct.unpack_from('<HH', data, at)
                    text = data[at + 4:at + length].decode('utf-16-le' if flags & 1 else 'latin-1')
                    messages[identifier] = text.rstrip('\0')
                    at += length
print(json.dumps({
    'file': [fixed.FileVersionMS >> 16, fixed.FileVersionMS & 0xffff, fixed.FileVersionLS >> 16, fixed.FileVersionLS & 0xffff],
    'product': [fixed.ProductVersionMS >> 16, fixed.ProductVersionMS & 0xffff, fixed.ProductVersionLS >> 16, fixed.ProductVersionLS & 0xffff],
    'type': [fixed.FileOS, fixed.FileType, fixed.FileSubtype],
    'strings': strings,
    'messages': messages,
    'warnings': pe.get_warnings(),
}))
"#;

fn read(path: &std::path::Path) -> Value {
    setup::ensure(&[Need::PYTHON, Need::PEFILE]).unwrap();
    let output = Command::new(setup::DEBIAN_PYTHON).args(["-c", READER]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn another_reader_shows_the_version_of_the_workspace_and_every_message() {
    let manifest = std::fs::read_to_string(setup::root().join("Cargo.toml")).unwrap();
    let of_manifest = |key: &str| {
        let line = manifest.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
        line.unwrap().trim_end_matches('"').to_owned()
    };
    let (version, description) = (of_manifest("version"), of_manifest("description"));
    let mut numbers: Vec<u16> = version.split('.').map(|part| part.parse().unwrap()).collect();
    numbers.push(0);
    for target in Target::ALL {
        let sys = &setup::build(target).unwrap().sys;
        let resources = read(sys);
        assert_eq!(resources["warnings"], serde_json::json!([]), "{target:?}");
        assert_eq!(resources["file"], serde_json::json!(numbers));
        assert_eq!(resources["product"], serde_json::json!(numbers));
        // VOS_NT_WINDOWS32, VFT_DRV, VFT2_DRV_NETWORK (verrsrc.h).
        assert_eq!(resources["type"], serde_json::json!([0x40004, 3, 6]));
        let strings = &resources["strings"];
        for (key, expected) in [
            ("FileVersion", &*format!("{version}.0")),
            ("ProductVersion", &*format!("{version}.0")),
            ("FileDescription", &*description),
            ("OriginalFilename", "hushport.sys"),
            ("InternalName", "hushport"),
            ("ProductName", "hushport"),
        ] {
            assert_eq!(strings[key], expected, "{target:?}: {key}");
        }
        assert!(strings["LegalCopyright"].as_str().unwrap().contains("MIT OR Apache-2.0"));

        let messages: BTreeMap<u32, String> = serde_json::from_value(resources["messages"].clone()).unwrap();
        let document = std::fs::read_to_string(setup::root().join("docs/EVENTS.md")).unwrap();
        let (categories, entries): (Vec<_>, Vec<_>) = messages.iter().partition(|(code, _)| **code < 0x100);
        for (code, text) in &entries {
            let (severity, text) =
                (["", "Information", "Warning", "Error"][(**code >> 30) as usize], text.trim_end());
            let row = format!("| {} | {severity} | ", **code & 0xffff);
            let documented =
                document.lines().any(|line| line.starts_with(&row) && line.contains(&format!("| {text} |")));
            assert!(documented, "docs/EVENTS.md has no row {row} {text}");
            assert!(messages[code].ends_with("\r\n"), "{text}");
        }
        assert_eq!(entries.len(), 10);
        let categories: Vec<_> = categories.iter().map(|(code, name)| (**code, name.trim_end())).collect();
        assert_eq!(categories, [(1, "Service"), (2, "Policy"), (3, "Protection"), (4, "Network")]);

        // The lab's own reader finds the same.
        let bytes = std::fs::read(sys).unwrap();
        let ours = Messages::of_file(&bytes).unwrap();
        assert!(ours.identifiers().eq(messages.keys().copied()));
        assert!(messages.iter().all(|(code, text)| ours.text(*code) == Some(text.trim_end())));
    }
}

/// INF and file are of one version, and the INF counts the categories of the file.
#[test]
fn the_inf_has_the_version_and_the_categories_of_the_file() {
    let inf = lab::package::Plan::new(Target::X64, "unused".into(), 0).stamp().unwrap();
    let resources = read(&setup::build(Target::X64).unwrap().sys);
    let version = resources["strings"]["FileVersion"].as_str().unwrap();
    let line = inf.lines().find(|line| line.starts_with("DriverVer")).unwrap();
    assert!(line.ends_with(&format!(",{version}")), "{line}");
    let categories = resources["messages"].as_object().unwrap().keys();
    let categories = categories.filter(|code| code.parse::<u32>().unwrap() < 0x100).count();
    let line = inf.lines().find(|line| line.starts_with("HKR,, CategoryCount")).unwrap();
    assert!(line.ends_with(&format!(" {categories}")), "{line}");
}

/// Damaged resources give an error or fewer messages, and never a panic.
#[test]
fn hostile_resources_are_refused() {
    let sys = std::fs::read(&setup::build(Target::X64).unwrap().sys).unwrap();
    let whole = Messages::of_file(&sys).unwrap();
    let (mut refused, mut other) = (0, 0);
    let marks: [u8; 12] = *b"V\0S\0_\0V\0E\0R\0";
    let from = sys.windows(marks.len()).position(|bytes| bytes == marks).unwrap() - 0x400;
    for at in (from..from + 0xa00).filter(|at| at % 3 == 0) {
        let mut damaged = sys.clone();
        damaged[at] ^= 0xff;
        match Messages::of_file(&damaged) {
            Err(_) => refused += 1,
            Ok(messages) => other += u32::from(messages != whole),
        }
    }
    assert!(refused > 5 && other > 5, "{refused} {other}");
}
