//! `cargo lab vm`: takes Windows from an installation image to one verdict line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::as_root;
use crate::package::Plan;
use crate::package::signing::Certificate;
use crate::provenance::source;
use crate::setup::{self, Need, Target};
use crate::vm::accelerator::Accelerator;
use crate::vm::config::{self, Config, Folder, Kernel, Kind, Limits, Saved, Source};
use crate::vm::display::duration;
use crate::vm::line::Counts;
use crate::vm::progress::Progress;
use crate::vm::run::{self, End, Event, Run};
use crate::vm::verdict::{self, Check, Results};
use crate::vm::{images, machine, media, qmp};

/// The machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C saves the machine and ends everything; `cargo lab vm --resume` continues it. While it runs, \
`cargo lab vm --screen FILE.png` takes a picture. docs/VM.md says more.")]
pub struct Arguments {
    /// Install Windows from this image: Windows 10, 11 or Server, also for evaluation
    #[arg(long, value_name = "FILE.iso", group = "source")]
    iso: Option<PathBuf>,
    /// Use a disk with an installed Windows instead; it is not changed
    #[arg(long, value_name = "FILE.vhdx|qcow2", group = "source")]
    disk: Option<PathBuf>,
    /// Continue a run that was interrupted
    #[arg(long, group = "source")]
    resume: bool,
    /// Take a picture of the screen of the machine that runs
    #[arg(long, value_name = "FILE.png", group = "source")]
    screen: Option<PathBuf>,

    /// The image to install, by its number or name [default: the only one, as for an
    /// empty text]
    #[arg(long, value_name = "N|NAME", requires = "iso")]
    image: Option<String>,
    /// The language of Windows, such as en-US [default: the image's]
    #[arg(long)]
    language: Option<String>,
    /// The keyboard, such as de-DE or 0407:00000407 [default: the language's]
    #[arg(long)]
    keyboard: Option<String>,
    /// A product key; evaluation images need none
    #[arg(long, value_name = "KEY", requires = "iso")]
    product_key: Option<String>,

    /// Turn Secure Boot on, with a TPM. Needs a package with a signature that Windows
    /// accepts
    #[arg(long, requires = "package", conflicts_with_all = ["bios", "resume"])]
    secure_boot: bool,
    /// Start the disk from a BIOS instead of UEFI
    #[arg(long, requires = "disk", conflicts_with = "iso")]
    bios: bool,
    /// The driver package [default: one is built, with the conformance driver]
    #[arg(long, value_name = "DIR")]
    package: Option<PathBuf>,
    /// Memory in MB
    #[arg(long, value_name = "MB", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(256..))]
    memory: u64,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    processors: u32,
    /// The size of the disk in GB; it is sparse
    #[arg(long, value_name = "GB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(20..=2000))]
    disk_size: u64,
    /// The size of the disk for results in GB; it is sparse
    #[arg(long, value_name = "GB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    results_size: u64,
    /// Emulate the processor even where KVM works
    #[arg(long)]
    emulate: bool,
    /// The processor that the machine sees, as QEMU names it
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// How often the driver is loaded and unloaded in each of the three cycles
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cycles: u32,
    /// Leave out the scan from outside
    #[arg(long)]
    no_scan: bool,
    /// The limit of a phase, such as step=90m; may be repeated. Phases: start, setup,
    /// boot, step, results, whole
    #[arg(long, value_name = "PHASE=TIME", value_parser = config::limit)]
    limit: Vec<(Kind, Duration)>,

    /// The folder for the results, which must be empty [default: target/lab/vm/results]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// The folder of the machine [default: target/lab/vm/machine]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Keep the machine at the end
    #[arg(long)]
    keep: bool,

    /// Boot this kernel instead of Windows, for another guest that speaks the protocol
    #[arg(long, value_name = "FILE", requires = "initrd", help_heading = "Other guests")]
    kernel: Option<PathBuf>,
    /// Its initial file system
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Other guests")]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "", help_heading = "Other guests")]
    append: String,
}

/// About what an installation takes, in GB.
const SPACE: u64 = 30;

/// Runs the machine. Returns whether everything passed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let work = arguments.work.clone().unwrap_or_else(|| setup::state().join("vm/machine"));
    if let Some(file) = &arguments.screen {
        qmp::screen_of(&work.join(machine::SCREEN_SOCKET), file)?;
        println!("{}", file.display());
        return Ok(true);
    }
    ensure!(
        arguments.resume || arguments.iso.is_some() || arguments.disk.is_some(),
        "expected --iso FILE.iso, --disk FILE or --resume; `cargo lab vm --help` says more"
    );
    for file in arguments.iso.iter().chain(&arguments.disk).chain(&arguments.kernel).chain(&arguments.initrd)
    {
        ensure!(file.is_file(), "{}: there is no such file", file.display());
    }
    setup::ensure(&needs(arguments))?;
    if arguments.package.is_none() && !arguments.resume {
        setup::ensure(&[Need::Libclang, Need::OPENSSL, Need::OSSLSIGNCODE])?;
        setup::build(Target::X64)?;
    }
    as_root()?;
    let (sender, receiver) = run::events();
    let interrupt = sender.clone();
    ctrlc::set_handler(move || {
        let _over = interrupt.send(Event::Interrupt);
    })?;
    let folder = Folder::open(&work)?;
    let saved = match arguments.resume {
        true => folder.load()?,
        false => Saved { config: prepare(arguments, &folder)?, progress: Progress::default() },
    };
    ensure!(!saved.progress.ended, "the run in {} has ended; there is nothing to resume", work.display());
    let Saved { config, mut progress } = saved;
    machine::check_firmware(&config)?;
    if arguments.resume && !folder.file(machine::STATE).is_file() {
        println!("the machine was not saved: it starts again from its disk");
        progress.announced = true;
    }
    if arguments.resume && progress.checks.iter().any(|check| !check.failure.is_empty()) {
        println!("checks that failed before the interruption count");
    }
    let command =
        if arguments.work.is_some() { format!(" --work {}", work.display()) } else { String::new() };
    let (end, progress) = Run::start(&config, &folder, progress, (sender, receiver))
        .and_then(Run::watch)
        .with_context(|| format!("the machine is in {}", work.display()))?;
    if end == End::Interrupted {
        println!("nothing runs any more. To continue: cargo lab vm --resume{command}");
        println!("To drop it, delete {}", work.display());
        return Ok(false);
    }
    let well = conclude(&config, &folder, progress)?;
    if arguments.keep {
        println!("the machine is kept: cargo lab vm --resume{command} continues a run that did not end;");
        println!("its disk is {}", folder.file(media::DISK).display());
    } else {
        folder.clear()?;
    }
    println!("{}", well.counts);
    Ok(well.counts.failed == 0 && well.counts.passed > 0)
}

/// The packages that a run needs.
fn needs(arguments: &Arguments) -> Vec<Need> {
    let mut needs = vec![Need::QEMU, Need::QEMU_IMG, Need::XORRISO, Need::MTOOLS, Need::IP];
    if arguments.iso.is_some() {
        needs.extend(images::NEEDS);
    }
    if !arguments.bios && arguments.kernel.is_none() {
        needs.push(Need::OVMF);
    }
    if arguments.secure_boot {
        needs.push(Need::SWTPM);
    }
    if !arguments.no_scan {
        needs.extend([Need::PYTHON, Need::NMAP]);
    }
    needs
}

/// Makes everything for a new run.
fn prepare(arguments: &Arguments, folder: &Folder) -> Result<Config> {
    if folder.has_run() && folder.file(machine::STATE).is_file() {
        bail!(
            "{} has a machine that was interrupted: --resume continues it; delete the folder to drop it",
            folder.path().display()
        );
    }
    // A machine that was kept may be the source of another run.
    for file in arguments.iso.iter().chain(&arguments.disk) {
        let inside = file.canonicalize()?.starts_with(folder.path());
        ensure!(!inside, "{}: this folder is cleared first; --work DIR uses another one", file.display());
    }
    folder.clear()?;
    let results = results_folder(arguments.results.as_deref())?;
    let keyboard = |language: &str| arguments.keyboard.clone().unwrap_or_else(|| language.to_owned());
    let source = match (&arguments.iso, &arguments.disk) {
        (Some(iso), _) => {
            let list = images::of_medium(iso, folder.path())?;
            let image = images::chosen(&list, arguments.image.as_deref().filter(|image| !image.is_empty()))?;
            let language = images::language(&image, arguments.language.as_deref())?;
            println!("image {}: {}, {language}", image.index, image.name);
            Source::Medium {
                iso: iso.canonicalize()?,
                keyboard: keyboard(&language),
                image,
                language,
                product_key: arguments.product_key.clone(),
            }
        }
        (None, Some(file)) => {
            media::format_of(file)?;
            let language = arguments.language.clone().unwrap_or_else(|| "en-US".to_owned());
            println!(
                "a machine that is installed already: if nothing starts by itself, run in it, elevated:"
            );
            println!(
                "  powershell.exe -ExecutionPolicy Bypass -File D:\\vm\\Start-TestMachine.ps1 (D: is the CD)"
            );
            Source::Disk { file: file.canonicalize()?, keyboard: keyboard(&language), language }
        }
        (None, None) => bail!("expected --iso or --disk"),
    };
    let accelerator =
        if arguments.emulate { Accelerator::Emulation } else { Accelerator::probe(&machine::qemu()?)? };
    if let Some(notice) = accelerator.notice().filter(|_| !arguments.emulate) {
        println!("{notice}");
    }
    let kernel = match (&arguments.kernel, &arguments.initrd) {
        (Some(kernel), Some(initrd)) => Some(Kernel {
            kernel: kernel.canonicalize()?,
            initrd: initrd.canonicalize()?,
            append: arguments.append.clone(),
        }),
        _ => None,
    };
    let package = match &arguments.package {
        Some(package) => {
            package.canonicalize().with_context(|| format!("--package {}", package.display()))?
        }
        None => {
            let mut plan = Plan::new(Target::X64, setup::state().join("vm/package"), source::time()?);
            plan.conformance = true;
            plan.make(&Certificate::of_checkout()?)?.folder
        }
    };
    let config = Config {
        source,
        kernel,
        package,
        signed: arguments.secure_boot,
        memory: arguments.memory,
        processors: arguments.processors,
        disk: arguments.disk_size,
        results_disk: arguments.results_size,
        secure_boot: arguments.secure_boot,
        bios: arguments.bios,
        accelerator,
        processor: arguments.cpu.clone(),
        scan: !arguments.no_scan,
        cycles: arguments.cycles,
        limits: Limits::new(accelerator, &arguments.limit),
        results,
    };
    media::make(&config, folder)?;
    let free = nix::sys::statvfs::statvfs(folder.path())?;
    let free = (free.blocks_available() * free.fragment_size()) >> 30;
    if arguments.iso.is_some() && free < SPACE {
        println!("warning: {free} GB are free at {}; a run takes about {SPACE} GB", folder.path().display());
    }
    Ok(config)
}

/// The folder for the results. Only the usual one is cleared.
fn results_folder(wanted: Option<&Path>) -> Result<PathBuf> {
    let usual = setup::state().join("vm/results");
    if wanted.is_none() && usual.exists() {
        std::fs::remove_dir_all(&usual)?;
    }
    let results = wanted.unwrap_or(&usual);
    std::fs::create_dir_all(results).with_context(|| format!("--results {}", results.display()))?;
    let is_empty = std::fs::read_dir(results)?.next().is_none();
    ensure!(is_empty, "--results {}: the folder is not empty", results.display());
    Ok(results.canonicalize()?)
}

/// The end of a run.
struct Conclusion {
    counts: Counts,
}

/// Copies the results, judges them, and prints what failed.
fn conclude(config: &Config, folder: &Folder, mut progress: Progress) -> Result<Conclusion> {
    if let Err(error) = media::collect(&folder.file(media::RESULTS), &config.results) {
        progress.lose(format!("{error:#}"));
    }
    for log in ["serial.log", "qemu.log"] {
        // QEMU's is empty in most runs, and the copy is for people only.
        let _missing = std::fs::copy(folder.file(log), config.results.join(log));
    }
    let results = Results::read(&config.results);
    let mut checks = verdict::judge(progress.verdict, &progress.steps, &results, config.scan);
    checks.extend(progress.verdicts());
    let mut file = std::fs::File::create(config.results.join("host-checks.jsonl"))?;
    for Check { name, failure } in &checks {
        let line = serde_json::json!({ "Step": "host", "Name": name, "Failure": failure });
        writeln!(file, "{line}")?;
    }
    let failures = std::fs::read(config.results.join("failures.txt")).unwrap_or_default();
    for line in String::from_utf8_lossy(&failures).lines() {
        println!("FAILED {}", crate::printable::printable(line));
    }
    for Check { name, failure } in checks.iter().filter(|check| !check.failure.is_empty()) {
        println!("FAILED {name}: {failure}");
    }
    let failed = checks.iter().filter(|check| !check.failure.is_empty()).count();
    let own = results.counts();
    println!("the run took {}", duration(progress.whole));
    println!("results: {}", config.results.display());
    Ok(Conclusion {
        counts: Counts { passed: own.passed + checks.len() - failed, failed: own.failed + failed },
    })
}
