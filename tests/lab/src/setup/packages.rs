//! Installs the Debian packages that the lab's commands use.

use std::path::Path;

use anyhow::{Result, bail};

use super::driver::lock_file;
use super::run;

/// A requirement of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// libclang, with which bindgen parses C.
    Libclang,
    /// A program on the PATH, and its package.
    Program(&'static str, &'static str),
    /// A module of [`DEBIAN_PYTHON`], and its package.
    PythonModule(&'static str, &'static str),
    /// A file, and its package.
    File(&'static str, &'static str),
}

impl Need {
    /// `nmap`.
    pub const NMAP: Self = Self::Program("nmap", "nmap");
    /// `ip`.
    pub const IP: Self = Self::Program("ip", "iproute2");
    /// `curl`.
    pub const CURL: Self = Self::Program("curl", "curl");
    /// `llvm-rc`, which compiles the driver's resources.
    pub const LLVM_RC: Self = Self::Program("llvm-rc", "llvm");
    /// `chromium`, in which pages are tested.
    pub const CHROMIUM: Self = Self::Program("chromium", "chromium");
    /// `g++`, which compiles libFuzzer.
    pub const CXX: Self = Self::Program("g++", "g++");
    /// `clang-19`, which compiles drivers in C with structured exception handling.
    pub const CLANG: Self = Self::Program("clang-19", "clang-19");
    /// `openssl`, which makes the test certificate.
    pub const OPENSSL: Self = Self::Program("openssl", "openssl");
    /// `osslsigncode`, which signs for Windows.
    pub const OSSLSIGNCODE: Self = Self::Program("osslsigncode", "osslsigncode");
    /// `python3`, for the scanner on the other side of a VM.
    pub const PYTHON: Self = Self::Program("python3", "python3");
    /// `pefile`, an independent reader of PE files.
    pub const PEFILE: Self = Self::PythonModule("pefile", "python3-pefile");
    /// `valgrind`, whose callgrind counts instructions.
    pub const VALGRIND: Self = Self::Program("valgrind", "valgrind");
    /// `qemu-system-x86_64`, which runs virtual machines.
    pub const QEMU: Self = Self::Program("qemu-system-x86_64", "qemu-system-x86");
    /// `qemu-img`, which makes their disks.
    pub const QEMU_IMG: Self = Self::Program("qemu-img", "qemu-utils");
    /// UEFI for virtual machines.
    pub const OVMF: Self = Self::File("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");
    /// `swtpm`, a TPM for virtual machines.
    pub const SWTPM: Self = Self::Program("swtpm", "swtpm");
    /// `wiminfo`, which lists the images of Windows' media.
    pub const WIMINFO: Self = Self::Program("wiminfo", "wimtools");
    /// `7z`, which reads Windows' media.
    pub const SEVEN_ZIP: Self = Self::Program("7z", "p7zip-full");
    /// `xorriso`, which makes media.
    pub const XORRISO: Self = Self::Program("xorriso", "xorriso");
    /// `mformat` and its like, for FAT.
    pub const MTOOLS: Self = Self::Program("mformat", "mtools");
    /// `xz`, for a library source given as `.tar.xz`.
    pub const XZ: Self = Self::Program("xz", "xz-utils");

    fn package(self) -> &'static str {
        match self {
            Self::Libclang => "libclang-dev",
            Self::Program(_, package) | Self::PythonModule(_, package) | Self::File(_, package) => package,
        }
    }

    fn present(self) -> bool {
        match self {
            Self::Libclang => libclang_present(),
            Self::Program(program, _) => is_present(program),
            Self::PythonModule(module, _) => python_has(module),
            Self::File(file, _) => Path::new(file).is_file(),
        }
    }
}

/// Packages, and the release that they must come from if not from the usual one.
type Group = (Option<String>, Vec<&'static str>);

/// The arguments of apt for a group.
fn install_arguments((release, packages): &Group) -> Vec<&str> {
    let release = release.iter().flat_map(|release| ["-t", release]);
    ["install", "-y"].into_iter().chain(release).chain(packages.iter().copied()).collect()
}

/// QEMU's packages must have one version. If one of them comes from the backports, so
/// must the others.
fn groups(missing: &[&'static str], backports: Option<String>) -> Vec<Group> {
    let of_qemu = |package: &&&str| package.starts_with("qemu-");
    let qemu: Vec<_> = missing.iter().filter(of_qemu).copied().collect();
    let others: Vec<_> = missing.iter().filter(|package| !of_qemu(package)).copied().collect();
    if backports.is_none() {
        return vec![(None, missing.to_vec())];
    }
    [(None, others), (backports, qemu)].into_iter().filter(|(_, packages)| !packages.is_empty()).collect()
}

/// The release of the backports, if one of QEMU's installed packages comes from there.
/// `versions` has their versions, `release` is /etc/os-release.
fn backports_of_qemu(versions: &str, release: &str) -> Option<String> {
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    versions.contains("~bpo").then(|| format!("{}-backports", codename.trim_matches('"')))
}

fn backports() -> Option<String> {
    let mut query = std::process::Command::new("dpkg-query");
    let output = query.args(["-W", "-f", "${db:Status-Status} ${Version}\n", "qemu-*"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: String = text.lines().filter(|line| line.starts_with("installed ")).collect();
    backports_of_qemu(&installed, &std::fs::read_to_string("/etc/os-release").ok()?)
}

/// Installs every missing requirement with apt if root; otherwise fails with one
/// line that says what to install.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let mut missing: Vec<_> =
        needs.iter().filter(|need| !need.present()).map(|need| need.package()).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let of_qemu = missing.iter().any(|package| package.starts_with("qemu-"));
    let groups = groups(&missing, if of_qemu { backports() } else { None });
    let commands: Vec<_> =
        groups.iter().map(|group| format!("apt-get {}", install_arguments(group).join(" "))).collect();
    let install = commands.join(" && ");
    if !is_administrator() || !is_present("apt-get") {
        bail!("missing: {}; as root: {install}", missing.join(", "));
    }
    eprintln!("lab: {install}");
    // Two checkouts may be set up at the same time. This lock also orders the
    // reading of package lists, for which apt does not wait.
    let _turn = lock_file(Path::new("/run/lock/hushport-lab-apt"))?;
    let apt = |arguments: &[&str]| {
        // apt reads downloaded files as another user, so the umask must allow that.
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "umask 022; exec apt-get -o DPkg::Lock::Timeout=600 \"$@\"", "sh"]);
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    for group in &groups {
        let arguments = [&["--no-install-recommends"][..], &install_arguments(group)].concat();
        // A fresh machine has no package lists, an old one has stale lists.
        if apt(&arguments).is_err() {
            apt(&["update"])?;
            apt(&arguments)?;
        }
    }
    match needs.iter().find(|need| !need.present()) {
        Some(need) => bail!("{} is installed but {need:?} is still not found", need.package()),
        None => Ok(()),
    }
}

/// Whether this process may install packages. Root of a user namespace that maps a
/// single user may not.
fn is_administrator() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let users = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
    nix::unistd::geteuid().is_root() && users.fold(0_u32, u32::saturating_add) > 1
}

/// Debian's own Python, which has the modules of packages. Another one may be the first on
/// the PATH.
pub const DEBIAN_PYTHON: &str = "/usr/bin/python3";

fn python_has(module: &str) -> bool {
    let import = std::process::Command::new(DEBIAN_PYTHON).args(["-c", &format!("import {module}")]).output();
    import.is_ok_and(|output| output.status.success())
}

/// Whether a program is on the PATH.
pub fn is_present(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The administrator's directories are not on every user's PATH.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| directory.join(program).is_file())
}

/// Whether libclang is in one of the folders where clang-sys looks, as far as
/// Debian uses them.
fn libclang_present() -> bool {
    let named = std::env::var_os("LIBCLANG_PATH").map(std::path::PathBuf::from);
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let llvm = llvm.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"));
    llvm.map(|entry| entry.path().join("lib"))
        .chain(
            ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"]
                .map(Into::into),
        )
        .chain(named)
        .any(|directory| has_libclang(&directory))
}

fn has_libclang(directory: &Path) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        (name.starts_with("libclang.so") || name.starts_with("libclang-"))
            && name.contains(".so")
            && !name.starts_with("libclang-cpp")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_packages_come_from_one_release() {
        let release = "NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\n";
        let bpo = backports_of_qemu("installed 1:9.2.2+ds-1~bpo12+1", release);
        assert_eq!(bpo.as_deref(), Some("bookworm-backports"));
        assert_eq!(backports_of_qemu("installed 1:7.2+dfsg-7+deb12u18+b3", release), None);
        let missing = ["xorriso", "qemu-system-x86", "ovmf"];
        let texts = |groups: Vec<Group>| {
            groups.iter().map(|group| install_arguments(group).join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(texts(groups(&missing, None)), ["install -y xorriso qemu-system-x86 ovmf"]);
        assert_eq!(
            texts(groups(&missing, bpo.clone())),
            ["install -y xorriso ovmf", "install -y -t bookworm-backports qemu-system-x86"]
        );
        assert_eq!(texts(groups(&missing[1..2], bpo)), ["install -y -t bookworm-backports qemu-system-x86"]);
    }
}
