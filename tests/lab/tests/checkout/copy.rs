//! Copies of the checkout, and commands that run in them.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lab::provenance::compare;
use lab::setup::{self, Target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Files and folders of a clone.
const FILES: [&str; 11] = [
    ".cargo",
    "Cargo.lock",
    "Cargo.toml",
    "Makefile.toml",
    "README.md",
    "build.rs",
    "docs",
    "inf",
    "rust-toolchain.toml",
    "src",
    "tests",
];

/// Folders that a build of the driver may start from. Each checkout builds the rest.
const SHARED: [&str; 2] = ["driver", "sysroot"];

/// A copy of the checkout.
pub struct Copied {
    /// Its top.
    pub root: PathBuf,
    /// The folder in which its lab keeps files.
    state: PathBuf,
    /// Whether its lab runs from its own target directory.
    own_program: bool,
}

impl Copied {
    /// Copies the files with their times, and the folders in [`SHARED`].
    pub fn to(root: &Path) -> Self {
        // The folders that are copied must be complete.
        let built = setup::build(Target::X64).unwrap();
        assert!(built.sys.is_file());
        let copied = Self::empty_state(root);
        copied.seed();
        copied
    }

    /// Copies the files with the times of now, and of a build only what runs on this
    /// machine. The driver, the library and its source are made anew.
    pub fn from_nothing(root: &Path) -> Self {
        setup::build(Target::X64).unwrap();
        let mut copied = Self::empty_state(root);
        run(Command::new("find").arg(&copied.root).args(["-type", "f", "-exec", "touch", "{}", "+"]));
        copied.state = copied.root.join("target/lab");
        copied.own_program = true;
        std::fs::create_dir_all(copied.program().parent().unwrap()).unwrap();
        std::fs::copy(built_program(), copied.program()).unwrap();
        let driver = copied.state.join("driver");
        std::fs::create_dir_all(&driver).unwrap();
        let release = setup::state().join("driver/release");
        run(Command::new("cp").args(["--archive", "--reflink=auto", "--"]).arg(release).arg(driver));
        copied
    }

    /// Copies the files alone.
    pub fn empty_state(root: &Path) -> Self {
        std::fs::create_dir_all(root).unwrap();
        let mut command = Command::new("cp");
        command.args(["--archive", "--"]).args(FILES).arg(root).current_dir(setup::root());
        run(&mut command);
        let root = root.canonicalize().unwrap();
        let state = setup::state_of(&setup::target_directory(), &root);
        Self { root, state, own_program: false }
    }

    fn seed(&self) {
        std::fs::create_dir_all(&self.state).unwrap();
        for folder in SHARED.map(|name| setup::state().join(name)).iter().filter(|folder| folder.is_dir()) {
            run(Command::new("cp").args(["--archive", "--reflink=auto", "--"]).arg(folder).arg(&self.state));
        }
        let source = setup::state().join("rust-src");
        if source.is_dir() {
            std::os::unix::fs::symlink(source, self.state.join("rust-src")).unwrap();
        }
    }

    /// Gives the checkout its own target directory, with the lab in it.
    pub fn keep_program(&mut self) {
        let seeded = std::mem::replace(&mut self.state, self.root.join("target/lab"));
        self.own_program = true;
        std::fs::create_dir_all(self.program().parent().unwrap()).unwrap();
        std::fs::copy(built_program(), self.program()).unwrap();
        if seeded.is_dir() {
            std::fs::remove_dir_all(seeded).unwrap();
            self.seed();
        }
    }

    /// The lab in the checkout's own target directory.
    pub fn program(&self) -> PathBuf {
        self.root.join("target/x86_64-unknown-linux-gnu/lab/lab")
    }

    /// Moves the checkout with all that is in it.
    pub fn rename(&mut self, to: &Path) {
        std::fs::rename(&self.root, to).unwrap();
        self.root = to.canonicalize().unwrap();
        self.state = self.root.join("target/lab");
    }

    /// Removes the variables that cargo set for this test.
    pub fn environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let of_cargo = name.starts_with("CARGO") && name != "CARGO_HOME";
            if of_cargo || ["LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN", "RUSTC_BOOTSTRAP"].contains(&&*name) {
                command.env_remove(name);
            }
        }
        for (name, folder) in homes() {
            command.env(name, folder);
        }
        command.current_dir(&self.root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Asserts that the driver and its PDB do not depend on the place where they are made.
    pub fn assert_same_driver(&self, target: Target) {
        let ours = &setup::build(target).unwrap().sys;
        let theirs = self.state.join(target.name()).join("hushport.sys");
        let differences = compare::builds(ours, &theirs).unwrap();
        assert!(differences.is_empty(), "{}:\n{}", theirs.display(), differences.join("\n"));
    }

    /// Asserts that nothing was written beside the sources.
    pub fn assert_clean(&self) {
        let entries = std::fs::read_dir(&self.root).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "target").collect();
        names.sort();
        assert_eq!(names, FILES);
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if !self.own_program {
            // It is in the shared target directory.
            let _gone = std::fs::remove_dir_all(&self.state);
        }
    }
}

/// Folders of cargo and rustup, for programs without HOME.
fn homes() -> [(&'static str, PathBuf); 2] {
    [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")].map(|(name, folder)| {
        let home = || PathBuf::from(std::env::var_os("HOME").expect("the tests' own HOME")).join(folder);
        (name, std::env::var_os(name).map_or_else(home, PathBuf::from))
    })
}

/// Writes a configuration of cargo that applies to all checkouts in a folder.
pub fn configure(top: &Path, configuration: &str) {
    std::fs::create_dir_all(top.join(".cargo")).unwrap();
    std::fs::write(top.join(".cargo/config.toml"), configuration).unwrap();
}

/// The lab as cargo built it for this test.
pub fn built_program() -> PathBuf {
    setup::profile_directory().unwrap().join("lab")
}

/// An executable shell script.
pub fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running `cargo lab up`.
pub struct Up {
    child: Child,
    /// Prefix that runs a command in its network.
    pub enter: String,
    url: String,
}

impl Up {
    /// Starts it and reads what it announces.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let found = lines.find_map(|line| {
            let line = line.unwrap();
            let (enter, url) = line.split_once(" curl ")?;
            Some((enter.trim().to_owned(), url.to_owned()))
        });
        // The process must be able to write on.
        std::thread::spawn(move || lines.for_each(drop));
        let (enter, url) = found.expect("it prints how to reach the host");
        Self { child, enter, url }
    }

    /// The HTTP status that its web server answers.
    pub fn fetch(&self) -> String {
        let curl = format!(
            "{} curl --silent --max-time 20 --output /dev/null --write-out '%{{http_code}}' {}",
            self.enter, self.url
        );
        let output = Command::new("sh").args(["-c", &curl]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Interrupts it, as Ctrl-C does.
    pub fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
