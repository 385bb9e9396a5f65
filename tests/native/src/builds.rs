//! A machine that runs the image or the native build of the driver.
#![expect(unsafe_code, reason = "names the native build's entry point")]

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

// Linked for its symbols.
use hushport_native_driver as _;

use lab::hushport::SERVICE;
use lab::setup::{self, Target};
use lab::storm::Subject;
use machine::StartError;
use machine::nt::registry::RegistryValue;
use machine::nt::types::FWPS_CALLOUT3;
use machine::nt::{Direct, DriverImage, Kernel, LeakReport, Options, Stop, parameters_key};
use machine::wfp::{Change, Engine, LayerInfo};

unsafe extern "win64" {
    fn DriverEntry(object: *mut c_void, registry_path: *mut c_void) -> i32;
}

/// Whether a machine runs the native driver, and a wait for it. The driver's statics
/// belong to the process, so one machine at a time can run it.
static TAKEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// The right to run the native driver, until this is dropped.
struct Alone(());

impl Alone {
    fn wait() -> Self {
        let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = TAKEN.1.wait_while(taken, |taken| *taken);
        *free.unwrap_or_else(PoisonError::into_inner) = true;
        Self(())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        TAKEN.1.notify_one();
    }
}

/// A machine that runs one build of the driver.
pub struct Machine {
    build: Build,
}

enum Build {
    /// The image.
    Image(machine::Machine),
    /// The source, compiled for the host.
    Native { kernel: Arc<Kernel>, engine: Arc<Engine>, _alone: Alone },
}

/// A callout of the driver: its layer and its functions.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Callout {
    pub layer: &'static LayerInfo,
    pub functions: FWPS_CALLOUT3,
}

impl Machine {
    /// Makes a machine for the native build. Waits until no other machine runs it.
    pub fn native(options: Options) -> Self {
        let alone = Alone::wait();
        let kernel = Kernel::new(Arc::new(Direct), options);
        let engine = Engine::new();
        kernel.set_engine(Arc::clone(&engine));
        Self { build: Build::Native { kernel, engine, _alone: alone } }
    }

    /// Makes a machine for the image.
    pub fn image(options: Options) -> Self {
        Self { build: Build::Image(lab::hushport::machine(options)) }
    }

    /// The kernel of the machine.
    pub fn kernel(&self) -> &Arc<Kernel> {
        match &self.build {
            Build::Image(machine) => machine.kernel(),
            Build::Native { kernel, .. } => kernel,
        }
    }

    /// The filter engine of the machine.
    pub fn engine(&self) -> &Arc<Engine> {
        match &self.build {
            Build::Image(machine) => machine.engine(),
            Build::Native { engine, .. } => engine,
        }
    }

    /// Sets a value under the driver's `Parameters`.
    pub fn set(&self, name: &str, value: RegistryValue) {
        self.kernel().set_value(&parameters_key(SERVICE), name, value);
    }

    /// Deletes a value under the driver's `Parameters`.
    pub fn delete(&self, name: &str) {
        self.kernel().delete_value(&parameters_key(SERVICE), name);
    }

    /// Runs the driver's `DriverEntry`.
    ///
    /// # Errors
    /// If the driver does not run afterwards.
    pub fn start(&mut self) -> Result<(), StartError> {
        let kernel = match &mut self.build {
            Build::Image(machine) => {
                let driver = setup::build(Target::X64).expect("the driver builds");
                return machine.start(&driver.sys);
            }
            Build::Native { kernel, .. } => kernel,
        };
        let entry = DriverEntry as *const () as usize;
        let driver = DriverImage { name: SERVICE.to_owned(), entry, base: entry, size: 0 };
        match kernel.load_driver(driver) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(StartError::Refused(status)),
            Err(stop) => Err(StartError::Stopped(stop)),
        }
    }

    /// Unloads the driver.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn stop(&mut self) -> Result<LeakReport, Stop> {
        match &mut self.build {
            Build::Image(machine) => machine.stop(),
            Build::Native { kernel, .. } => kernel.unload(),
        }
    }

    /// Callouts of the running driver, in the order of their registration.
    pub fn callouts(&self) -> Vec<Callout> {
        let engine = self.engine();
        let added = engine.journal().into_iter().filter_map(|change| match change {
            Change::CalloutAdd { key, layer, .. } => Some((key, layer)),
            _ => None,
        });
        let found = added.filter_map(|(key, layer)| {
            let layer = engine.layer_by_key(layer)?;
            Some(Callout { layer, functions: self.kernel().registered(key)? })
        });
        let mut callouts: Vec<Callout> = Vec::new();
        for callout in found {
            // The journal also has earlier starts.
            if !callouts.iter().any(|known| known.layer.id == callout.layer.id) {
                callouts.push(callout);
            }
        }
        callouts
    }
}

impl Subject for Machine {
    fn kernel(&self) -> &Arc<Kernel> {
        self.kernel()
    }

    fn engine(&self) -> &Arc<Engine> {
        self.engine()
    }

    fn start(&mut self) -> Result<(), StartError> {
        self.start()
    }

    fn stop(&mut self) -> Result<LeakReport, Stop> {
        self.stop()
    }
}
