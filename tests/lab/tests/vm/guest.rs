//! The stand-in guest: Debian's kernel and busybox in an initial file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cpio::newc;
use lab::vm::machine;
use object::{Object, ObjectSection};

/// What the guest loads: its disks and media, their file systems, and the network card.
const MODULES: [&str; 8] = ["ahci", "sd_mod", "sr_mod", "isofs", "vfat", "nls_cp437", "nls_ascii", "e1000e"];

/// A kernel and its initial file system.
#[derive(Clone, Debug)]
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// The guest; an error says why there is none on this computer.
pub fn guest() -> Result<Guest, String> {
    static GUEST: OnceLock<Result<Guest, String>> = OnceLock::new();
    GUEST.get_or_init(make).clone()
}

fn make() -> Result<Guest, String> {
    machine::qemu()
        .and_then(|_| lab::setup::ensure(&machine::TEST_NEEDS))
        .map_err(|reason| format!("{reason:#}"))?;
    if !Path::new("/dev/net/tun").exists() {
        return Err("there is no /dev/net/tun".to_owned());
    }
    let folder = lab::setup::state().join("vm/stand-in");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (kernel, tree) = kernel(&folder)?;
    let busybox = package(&folder, "busybox-static", "bin/busybox", "usr/bin/busybox")?;
    let initrd = folder.join("initrd");
    write_initrd(&initrd, &tree, &busybox)?;
    Ok(Guest { kernel, initrd })
}

/// A kernel and the folder of its modules, from Debian's package.
fn kernel(folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    let found = |root: &Path| {
        let images = std::fs::read_dir(root.join("boot")).ok()?.flatten().map(|entry| entry.path());
        let image = images.into_iter().find(|path| path.to_string_lossy().contains("vmlinuz-"))?;
        let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        let libraries = ["lib/modules", "usr/lib/modules"].map(|library| root.join(library).join(&version));
        let tree = libraries.into_iter().find(|tree| tree.join("kernel").is_dir())?;
        Some((image, tree))
    };
    let own = folder.join("kernel");
    if let Some(found) = found(&own) {
        return Ok(found);
    }
    // The package depends on the one of the present version.
    let output = Command::new("apt-cache").args(["depends", "linux-image-amd64"]).output();
    let output = output.map_err(|_| "there is no apt-cache, for Debian's kernel".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned));
    let name = name.ok_or("apt knows no linux-image-amd64")?;
    download(folder, &name, &own)?;
    found(&own).ok_or(format!("{name} has no kernel with modules"))
}

/// A file of a package.
fn package(folder: &Path, name: &str, file: &str, other: &str) -> Result<PathBuf, String> {
    let own = folder.join(name);
    let find = || [file, other].map(|file| own.join(file)).into_iter().find(|file| file.is_file());
    if let Some(file) = find() {
        return Ok(file);
    }
    download(folder, name, &own)?;
    find().ok_or(format!("{name} has no {file}"))
}

/// Downloads a package and unpacks it.
fn download(folder: &Path, name: &str, to: &Path) -> Result<(), String> {
    let work = tempfile::tempdir_in(folder).map_err(|error| error.to_string())?;
    let mut apt = Command::new("apt-get");
    // As root, apt downloads as another user unless it is told not to.
    apt.args(["-o", "APT::Sandbox::User=root", "download", name]).current_dir(work.path());
    let output = apt.output().map_err(|error| format!("apt-get: {error}"))?;
    let file =
        std::fs::read_dir(work.path()).into_iter().flatten().flatten().map(|entry| entry.path()).next();
    let Some(file) = file.filter(|_| output.status.success()) else {
        return Err(format!("apt-get cannot download {name}"));
    };
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(file).arg(to).status();
    match unpacked {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("dpkg-deb cannot unpack {name}")),
    }
}

/// The files of modules by name, with `_` for `-`.
fn modules(folder: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            modules(&path, found);
        } else if let Some((name, _)) = path.file_name().and_then(|name| name.to_str()?.split_once(".ko")) {
            found.insert(name.replace('-', "_"), path);
        }
    }
}

/// The bytes of a module, which may be compressed.
fn read_module(path: &Path) -> Result<Vec<u8>, String> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return std::fs::read(path).map_err(|error| error.to_string()),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    output.map(|output| output.stdout).map_err(|error| format!("{program}: {error}"))
}

/// Adds a module after those that it depends on. One that is not a file is built in.
fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), String> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let bytes = read_module(path)?;
    let information = object::File::parse(&*bytes).map_err(|error| format!("{name}: {error}"))?;
    let section = information.section_by_name(".modinfo").ok_or(format!("{name} has no .modinfo"))?;
    let text = String::from_utf8_lossy(section.data().unwrap_or_default()).into_owned();
    let depends = text.split('\0').find_map(|entry| entry.strip_prefix("depends=")).unwrap_or_default();
    for other in depends.split(',').filter(|other| !other.is_empty()) {
        add_module(&other.replace('-', "_"), files, order)?;
    }
    order.push((name.to_owned(), bytes));
    Ok(())
}

fn write_initrd(file: &Path, tree: &Path, busybox: &Path) -> Result<(), String> {
    let (mut files, mut order) = (BTreeMap::new(), Vec::new());
    modules(&tree.join("kernel"), &mut files);
    for name in MODULES {
        add_module(name, &files, &mut order)?;
    }
    let names: String = order.iter().map(|(name, _)| format!("{name}.ko\n")).collect();
    let program = std::fs::read(busybox).map_err(|error| error.to_string())?;
    let script = include_bytes!("init.sh").to_vec();
    let mut entries: Vec<(String, u32, Vec<u8>)> = Vec::new();
    for folder in ["bin", "modules", "dev"] {
        entries.push((folder.to_owned(), 0o40_755, Vec::new()));
    }
    entries.push(("bin/busybox".into(), 0o100_755, program));
    entries.push(("init".into(), 0o100_755, script));
    entries.push(("modules/order".into(), 0o100_644, names.into_bytes()));
    for (name, bytes) in order {
        entries.push((format!("modules/{name}.ko"), 0o100_644, bytes));
    }
    let inputs = entries.into_iter().enumerate().map(|(index, (name, mode, bytes))| {
        (newc::Builder::new(&name).ino(index as u32 + 1).mode(mode), Cursor::new(bytes))
    });
    let archive = cpio::write_cpio(inputs, Vec::new()).map_err(|error| error.to_string())?;
    // Other test processes may read the file meanwhile.
    let fresh = file.with_extension(std::process::id().to_string());
    let written = File::create(&fresh).and_then(|mut file| file.write_all(&archive));
    written.and_then(|()| std::fs::rename(&fresh, file)).map_err(|error| error.to_string())
}
