//! Tests with content roots as they occur in practice.

use super::*;

fn content_root(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    root
}

fn headers(version: &str) -> Vec<String> {
    WANTED.map(|header| format!("Include/{version}/{header}")).to_vec()
}

fn kit(files: &[String], version: Option<&str>) -> Result<Kit, String> {
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let root = content_root(&files);
    Kit::find(root.path(), version).map_err(|error| format!("{error:#}"))
}

#[test]
fn the_newest_version_is_taken_by_its_numbers() {
    let files = [headers("10.0.9.0"), headers("10.0.22621.0")].concat();
    assert_eq!(kit(&files, None).unwrap().version, "10.0.22621.0");
    assert_eq!(kit(&files, Some("10.0.9.0")).unwrap().version, "10.0.9.0");
    // An SDK without a WDK is skipped, and so is a WDK without ndis/nbl.h.
    let mut files = [headers("10.0.22621.0"), headers("10.0.22000.0")].concat();
    files.retain(|file| !file.contains("22621.0/km/fwpsk.h") && !file.contains("22000.0/km/ndis"));
    let error = kit(&files, None).unwrap_err();
    assert!(error.contains("10.0.22621.0 has no km/fwpsk.h"), "{error}");
    assert!(error.contains("10.0.22000.0 has no km/ndis/nbl.h"), "{error}");
    files.extend(headers("10.0.26100.0"));
    assert_eq!(kit(&files, None).unwrap().version, "10.0.26100.0");
}

#[test]
fn names_are_found_in_any_case() {
    let files = headers("10.0.22621.0").iter().map(|file| file.to_lowercase()).collect::<Vec<_>>();
    let root = content_root(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let found = Kit::find(root.path(), None).unwrap();
    assert_eq!(found.include, root.path().join("include/10.0.22621.0"));
    assert_eq!(found.libraries, None);
}

#[test]
fn libraries_are_used_where_there_are_some() {
    let mut files = headers("10.0.22621.0");
    files.push("Lib/10.0.22621.0/km/x64/fwpkclnt.lib".into());
    let root = content_root(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let found = Kit::find(root.path(), None).unwrap();
    assert_eq!(found.libraries, Some(root.path().join("Lib/10.0.22621.0/km")));
}

#[test]
fn an_error_names_what_is_missing_in_one_line() {
    for (files, version, expected) in [
        (vec!["readme.txt".to_owned()], None, "no folder Include"),
        (vec!["Include/notes.txt".to_owned()], None, "it is empty"),
        (headers("10.0.22621.0"), Some("10.0.1.0"), "10.0.1.0 has no km/fwpsk.h"),
    ] {
        let error = kit(&files, version).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn nothing_is_written_where_nothing_changes() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    assert!(write(&path, "a").unwrap());
    assert!(!write(&path, "a").unwrap());
    assert!(write(&path, "b").unwrap());
    for to in ["/a", "/b", "/b"] {
        link(Path::new(to), &path).unwrap();
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(to));
    }
}
