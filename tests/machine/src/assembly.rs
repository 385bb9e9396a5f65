//! Assembles kernel, filter engine and driver image into one machine.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::faults::{self, Faults};
use crate::image::lint::{self, code_integrity};
use crate::image::{self, Export, Image, LoadError, Messages, MissingImport, PeFile, Section};
use crate::nt::mapped::Mapped;
use crate::nt::memory::Guarded;
use crate::nt::registry::RegistryValue;
use crate::nt::{self, DriverImage, Kernel, LeakReport, Options, Stop, parameters_key};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};
use crate::wfp::{self, Engine};

/// Arguments that the x64 calling convention passes in registers.
const REGISTERS: usize = 4;

/// Why the driver does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The image or `DriverEntry` broke a rule.
    #[error("loading the driver stopped the machine: {0}")]
    Stopped(Stop),
    /// `DriverEntry` returned an error.
    #[error("DriverEntry returned {0}")]
    Refused(Status),
}

/// One simulated machine. It can have several drivers. What concerns a driver is in
/// [`Driver`]; a machine stands for its first one, so a machine with one driver needs no
/// other value.
pub struct Machine {
    first: Driver,
}

/// A driver of a machine: its service, its image while it is loaded, and the calls of it
/// that fail.
pub struct Driver {
    kernel: Arc<Kernel>,
    faults: Arc<Faults>,
    service: String,
    image: Option<Image>,
    direct: Direct,
    /// Whether it is loaded although it imports functions that the lab lacks.
    lenient: bool,
    missing: Vec<MissingImport>,
    /// Images of loaded drivers whose values were dropped. They stay mapped as long as
    /// the machine has a value.
    abandoned: Arc<Mutex<Vec<Image>>>,
    /// File names in reports about images.
    names: Vec<Guarded>,
}

/// Gives, by name, the functions to which a driver's imports are bound directly.
pub type Direct = fn(&str) -> Option<*const c_void>;

impl Machine {
    /// Makes a machine that runs only BFE, for the driver of `service`.
    pub fn new(service: &str, options: Options) -> Self {
        Self::with(service, options, wfp::Options::default())
    }

    /// Makes a machine with the given options for kernel and filter engine.
    pub fn with(service: &str, options: Options, engine: wfp::Options) -> Self {
        let kernel = Kernel::new(Arc::new(Mapped), options);
        kernel.set_engine(Engine::with_options(engine));
        kernel.set_linker(Box::new(|module, name, export| {
            let bound = image::bind(module, name, link(name, export));
            bound.expect("the host has memory for an import") as usize
        }));
        Self { first: Driver::new(kernel, service, Arc::default()) }
    }

    /// One more driver of this machine, for another service. It is started and stopped
    /// by itself.
    pub fn driver(&self, service: &str) -> Driver {
        Driver::new(Arc::clone(&self.first.kernel), service, Arc::clone(&self.first.abandoned))
    }
}

impl Deref for Machine {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.first
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Driver {
        &mut self.first
    }
}

impl Driver {
    fn new(kernel: Arc<Kernel>, service: &str, abandoned: Arc<Mutex<Vec<Image>>>) -> Self {
        let faults = Arc::new(Faults::default());
        kernel.set_fail_calls(service, Arc::clone(&faults) as _);
        let service = service.to_owned();
        let (image, missing, names) = (None, Vec::new(), Vec::new());
        Self { kernel, faults, service, image, direct: |_| None, lenient: false, missing, names, abandoned }
    }

    /// Loads the driver although it imports functions that the lab does not model. A call
    /// of one stops the machine; the report names the function and where it was called.
    pub fn report_missing_at_call(&mut self) {
        self.lenient = true;
    }

    /// The functions that the loaded driver imports and the lab does not model.
    pub fn missing(&self) -> &[MissingImport] {
        &self.missing
    }

    /// Binds the driver's imports directly to the functions that `direct` gives. Use
    /// it to measure: the checks at an import cost more than the driver itself.
    /// Such functions run unchecked on the kernel stack.
    pub fn bind_directly(&mut self, direct: Direct) {
        self.direct = direct;
    }

    /// The machine's kernel.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// The machine's filter engine.
    pub fn engine(&self) -> &Arc<Engine> {
        self.kernel.engine()
    }

    /// Chooses which calls of the driver fail.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// The name of the driver's service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The driver's image, while it is loaded.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// Sets a REG_DWORD under the driver's `Parameters`.
    pub fn set(&self, name: &str, number: u32) {
        self.set_value(name, RegistryValue::dword(number));
    }

    /// Sets a value of any type under the driver's `Parameters`.
    pub fn set_value(&self, name: &str, value: RegistryValue) {
        self.kernel.set_value(&parameters_key(&self.service), name, value);
    }

    /// Whether the driver has queried a value of this name.
    pub fn has_read(&self, name: &str) -> bool {
        self.kernel.last_reading_of(&self.service, name).is_some()
    }

    /// The exports that the driver called, in all its loads, and how often it called
    /// each.
    pub fn calls(&self) -> Vec<(&'static str, u64)> {
        self.kernel.calls_of(&self.service)
    }

    /// How often the driver waited for an object.
    pub fn waits(&self) -> u64 {
        self.kernel.waits_of(&self.service)
    }

    /// Loads the driver and runs its `DriverEntry`.
    pub fn start(&mut self, sys: &Path) -> Result<(), StartError> {
        self.start_file(Arc::new(PeFile::read(sys).map_err(LoadError::from)?))
    }

    /// Loads a parsed file and runs its `DriverEntry`.
    pub fn start_file(&mut self, sys: Arc<PeFile>) -> Result<(), StartError> {
        let missing = RefCell::new(Vec::new());
        let mapped = Image::map(Arc::clone(&sys), &|module, name| {
            if let Some(function) = (self.direct)(name) {
                return Some(Export::data(function));
            }
            let export = nt::resolve(module, name);
            if export.is_none() {
                missing.borrow_mut().push(MissingImport { module: module.to_owned(), name: name.to_owned() });
            }
            (export.is_some() || self.lenient).then(|| link(name, export))
        });
        self.check_image(&sys, mapped.as_ref().map_or(0, Image::base))?;
        let image = mapped?;
        self.missing = missing.into_inner();
        // Windows loads an image with damaged resources, and Event Viewer finds no text.
        let messages = Messages::of_file(&image.file().bytes).unwrap_or_default();
        self.kernel.set_messages(&self.service, messages);
        let driver = DriverImage {
            name: self.service.clone(),
            entry: image.entry() as usize,
            base: image.base() as usize,
            size: image.size() as u32,
        };
        self.kernel.add_pageable(image.pageable());
        // Kept after a stop, so that reports can name its addresses.
        self.image = Some(image);
        match self.kernel.load_driver(driver) {
            Ok(status) if status.is_success() => {
                // DriverEntry has run, so what only it uses goes away.
                self.image.as_mut().map_or(Ok(()), Image::discard).map_err(LoadError::from)?;
                Ok(())
            }
            Ok(status) => {
                self.forget_image();
                Err(StartError::Refused(status))
            }
            Err(stop) => Err(StartError::Stopped(stop)),
        }
    }

    /// Checks the image, mapped at `base`, as Driver Verifier does before a driver runs.
    fn check_image(&mut self, file: &PeFile, base: u64) -> Result<(), StartError> {
        for findings in code_integrity(file).chunk_by(|one, other| one.rule == other.rule) {
            let details: Vec<_> = findings.iter().map(|finding| &*finding.detail).collect();
            let text = format!("{}: {}", file.name(), details.join("; "));
            let name: Vec<u8> = file.name().encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            let memory = Guarded::new(name.len());
            memory.put_bytes(memory.start(), &name);
            let parameters = image_parameters(file, base, findings[0].rule);
            let parameters = [memory.start() as u64, parameters[0], parameters[1]];
            self.names.push(memory);
            let violation = Violation::new(image_rule(findings[0].rule), parameters, text);
            self.kernel.condemn_image(&self.service, violation);
        }
        match self.kernel.stopped() {
            Some(stop) => Err(StartError::Stopped(stop.clone())),
            None => Ok(()),
        }
    }

    /// Unloads the driver and reports what it leaked.
    pub fn stop(&mut self) -> Result<LeakReport, Stop> {
        let report = self.kernel.unload_driver(&self.service)?;
        self.forget_image();
        Ok(report)
    }

    fn forget_image(&mut self) {
        if let Some(image) = self.image.take() {
            self.kernel.remove_pageable(image.base()..image.base() + image.size());
        }
    }
}

/// The address of the first section (0x2003, 0x2004) or import address table (0x2005) that
/// breaks the rule in an image at `base`, and that of the section's name. The name is the
/// begin of the section's header.
fn image_parameters(file: &PeFile, base: u64, rule: lint::Rule) -> [u64; 2] {
    const HEADER: u64 = 40;
    let word = |at: usize| {
        file.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let signature = u64::from(word(0x3C));
    // Behind the signature, the file header and the optional header.
    let table = signature + 24 + u64::from(word(signature as usize + 20) & 0xFFFF);
    let imports = file.imports.first().map_or(0, |import| import.slot);
    let broken = |section: &Section| match rule {
        lint::Rule::WritableAndExecutable => section.is_writable() && section.is_executable(),
        lint::Rule::ExecutableImportTable => section.range.contains(&imports),
        _ => !section.range.start.is_multiple_of(4096),
    };
    let Some(at) = file.sections.iter().position(broken) else { return [0; 2] };
    let header = base + table + HEADER * at as u64;
    match rule {
        lint::Rule::ExecutableImportTable => [base + u64::from(imports), header],
        _ => [header, header],
    }
}

impl Drop for Driver {
    /// The code of a driver that was not stopped stays: the machine may call it.
    fn drop(&mut self) {
        if let Some(image) = self.image.take() {
            self.kernel.remove_pageable(image.base()..image.base() + image.size());
            self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(image);
        }
    }
}

/// What an import is bound to: the function, or what makes its calls fail, or what
/// reports that there is none.
fn link(name: &str, export: Option<nt::Export>) -> Export {
    match export {
        None => Export::missing(nt::missing),
        Some(nt::Export { address, stack_args }) => {
            let address = faults::entry(name).map_or(address, |entry| entry as *const c_void);
            Export::code(address, REGISTERS + stack_args)
        }
    }
}

/// The verifier's rule for a finding of [`code_integrity`], which reports only
/// three.
fn image_rule(rule: lint::Rule) -> &'static Rule {
    match rule {
        lint::Rule::WritableAndExecutable => &rules::IMAGE_WRITABLE_CODE,
        lint::Rule::ExecutableImportTable => &rules::IMAGE_EXECUTABLE_IMPORTS,
        _ => &rules::IMAGE_UNALIGNED,
    }
}
