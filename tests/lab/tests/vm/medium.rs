//! Installation media: the list of images, and what is no medium.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::vm::answer::Version;
use lab::vm::{images, machine};

/// A medium like Windows' own: UDF, with a list of these images (name and build). `None`,
/// with a notice, if a program is missing.
pub fn windows(folder: &Path, list: &[(&str, &str)]) -> Option<PathBuf> {
    let ready = machine::qemu().and_then(|_| lab::setup::ensure(&machine::TEST_NEEDS));
    ready.map_err(|reason| println!("skipped: {reason:#}")).ok()?;
    let tree = folder.join("medium");
    let contents = folder.join("contents");
    std::fs::create_dir_all(tree.join("sources")).unwrap();
    std::fs::create_dir_all(&contents).unwrap();
    std::fs::write(contents.join("x"), "x").unwrap();
    let wim = tree.join("sources/install.wim");
    for (index, (name, build)) in list.iter().enumerate() {
        let program = if index == 0 { "wimcapture" } else { "wimappend" };
        run(Command::new(program).arg(&contents).arg(&wim).arg(name).arg("--quiet"));
        let server = if name.contains("Server") { "ServerNT" } else { "WinNT" };
        let properties = [
            ("WINDOWS/ARCH", "9"),
            ("WINDOWS/PRODUCTTYPE", server),
            ("WINDOWS/VERSION/BUILD", build),
            ("WINDOWS/LANGUAGES/LANGUAGE", "en-US"),
            ("WINDOWS/LANGUAGES/DEFAULT", "en-US"),
        ];
        for (path, value) in properties {
            let number = (index + 1).to_string();
            run(Command::new("wiminfo")
                .arg(&wim)
                .arg(number)
                .arg("--image-property")
                .arg(format!("{path}={value}")));
        }
    }
    let iso = folder.join("windows.iso");
    // As on Windows' media, only the part in UDF has the files that matter.
    run(Command::new("genisoimage").args(["-quiet", "-udf", "-hide", "sources", "-o"]).arg(&iso).arg(&tree));
    Some(iso)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_images_of_a_medium_are_those_of_its_list() {
    let folder = tempfile::tempdir().unwrap();
    let list = [("Windows 10 Pro", "19045"), ("Windows Server 2025 Standard", "26100"), ("Old", "10240")];
    let Some(iso) = windows(folder.path(), &list) else { return };
    let images = images::of_medium(&iso, folder.path()).unwrap();
    let found: Vec<_> = images.iter().map(|image| (image.index, &*image.name, image.version)).collect();
    assert_eq!(
        found,
        [(1, "Windows 10 Pro", Version::Windows10), (2, "Windows Server 2025 Standard", Version::Server2025)]
    );
    assert_eq!(images[0].languages, ["en-US"]);
    assert!(!folder.path().join("install.wim").exists());
}

#[test]
fn what_is_no_medium_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let Some(iso) = windows(folder.path(), &[("Old", "10240")]) else { return };
    let fault = |file: &Path| format!("{:#}", images::of_medium(file, folder.path()).unwrap_err());
    let old = fault(&iso);
    assert!(old.contains("image 1 (Old): build 10240 is older than Windows 10 2004"), "{old}");
    let text = folder.path().join("text.iso");
    std::fs::write(&text, "no image").unwrap();
    let no_image = fault(&text);
    assert!(no_image.contains("text.iso: cannot read it as a disk image"), "{no_image}");
    let other = folder.path().join("other.iso");
    run(Command::new("genisoimage")
        .args(["-quiet", "-udf", "-o"])
        .arg(&other)
        .arg(folder.path().join("contents")));
    let no_windows = fault(&other);
    assert!(
        no_windows.contains("other.iso: it has no sources/install.wim and no sources/install.esd"),
        "{no_windows}"
    );
    let tree = folder.path().join("broken/sources");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("install.wim"), vec![7; 9999]).unwrap();
    run(Command::new("genisoimage")
        .args(["-quiet", "-udf", "-o"])
        .arg(&other)
        .arg(folder.path().join("broken")));
    let broken = fault(&other);
    assert!(broken.contains("its list of images"), "{broken}");
}
