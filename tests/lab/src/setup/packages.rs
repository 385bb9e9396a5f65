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
}

impl Need {
    /// `nmap`.
    pub const NMAP: Self = Self::Program("nmap", "nmap");
    /// `ip`.
    pub const IP: Self = Self::Program("ip", "iproute2");
    /// `curl`.
    pub const CURL: Self = Self::Program("curl", "curl");
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
    /// `valgrind`, whose callgrind counts instructions.
    pub const VALGRIND: Self = Self::Program("valgrind", "valgrind");
    /// `xz`, for a library source given as `.tar.xz`.
    pub const XZ: Self = Self::Program("xz", "xz-utils");

    fn package(self) -> &'static str {
        match self {
            Self::Libclang => "libclang-dev",
            Self::Program(_, package) => package,
        }
    }

    fn present(self) -> bool {
        match self {
            Self::Libclang => libclang_present(),
            Self::Program(program, _) => program_present(program),
        }
    }
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
    let install = format!("apt-get install -y {}", missing.join(" "));
    if !is_administrator() || !program_present("apt-get") {
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
    let arguments: Vec<_> =
        ["install", "-y", "--no-install-recommends"].into_iter().chain(missing.iter().copied()).collect();
    // A fresh machine has no package lists, an old one has stale lists.
    if apt(&arguments).is_err() {
        apt(&["update"])?;
        apt(&arguments)?;
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

fn program_present(program: &str) -> bool {
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
