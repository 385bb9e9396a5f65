//! A machine put together: kernel, filter engine and the driver's image.

use std::path::Path;
use std::sync::Arc;

use crate::exports;
use crate::image::{Export, Image, LoadError, PeFile};
use crate::nt::mapped::Mapped;
use crate::nt::registry::RegistryValue;
use crate::nt::{DriverImage, Kernel, LeakReport, Options, Stop, parameters_key};
use crate::status::Status;
use crate::wfp::Engine;

/// The driver's service name.
pub const SERVICE: &str = "hushport";

/// Arguments that the x64 convention passes in registers.
const REGISTERS: usize = 4;

/// Why the driver does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be mapped.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// `DriverEntry` did not return.
    #[error("DriverEntry stopped the machine: {0}")]
    Stopped(Stop),
    /// `DriverEntry` refused.
    #[error("DriverEntry returned {0}")]
    Refused(Status),
}

/// One simulated machine.
pub struct Machine {
    kernel: Arc<Kernel>,
    engine: Arc<Engine>,
    image: Option<Image>,
}

impl Machine {
    /// A machine on which nothing runs but BFE.
    pub fn new(options: Options) -> Self {
        let kernel = Kernel::new(Arc::new(Mapped), options);
        let engine = Engine::new();
        kernel.set_engine(Arc::clone(&engine));
        Self { kernel, engine, image: None }
    }

    /// Its kernel.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Its filter engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The driver's image, while it is loaded.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// Sets a REG_DWORD under the driver's `Parameters`.
    pub fn set(&self, name: &str, number: u32) {
        self.kernel.set_value(&parameters_key(SERVICE), name, RegistryValue::dword(number));
    }

    /// Whether the driver has asked for a value of this name.
    pub fn has_read(&self, name: &str) -> bool {
        self.kernel.registry().was_read(name)
    }

    /// Loads the driver and runs its `DriverEntry`.
    pub fn start(&mut self, sys: &Path) -> Result<(), StartError> {
        self.start_file(&Arc::new(PeFile::read(sys).map_err(LoadError::from)?))
    }

    /// The same with a file that was read before, for many loads of one driver.
    pub fn start_file(&mut self, file: &Arc<PeFile>) -> Result<(), StartError> {
        let image = Image::map(Arc::clone(file), &|module, name| {
            let exports::Export { address, stack_args } = exports::resolve(module, name)?;
            Some(Export::code(address, REGISTERS + stack_args))
        })?;
        let driver = DriverImage {
            name: SERVICE.to_owned(),
            entry: image.entry() as usize,
            base: image.base() as usize,
            size: image.size() as u32,
        };
        // Kept when the machine stops, too, so that its addresses are named.
        self.image = Some(image);
        match self.kernel.load_driver(driver) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => {
                self.image = None;
                Err(StartError::Refused(status))
            }
            Err(stop) => Err(StartError::Stopped(stop)),
        }
    }

    /// Unloads the driver and says what it left.
    pub fn stop(&mut self) -> Result<LeakReport, Stop> {
        let report = self.kernel.unload();
        self.image = None;
        report
    }
}
