//! Finds the image, loaded or unloaded, at an address, and describes addresses.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::map::Reservation;
use super::pe::{PAGE, PeFile};
use super::stack::Control;
use super::symbols::Symbols;
use super::thunk;

/// Describes an address that it knows, such as a block of pool.
type Describer = fn(u64) -> Option<String>;

/// Windows does not map the first 64 KB, so that small offsets from a null pointer
/// fault.
pub const NULL_REGION: u64 = 0x1_0000;
/// The first address beyond the lower half of the 48-bit address space.
const USER_END: u64 = 1 << 47;

static IMAGES: Mutex<Images> = Mutex::new(Images { loaded: BTreeMap::new(), gone: VecDeque::new() });
static DESCRIBERS: Mutex<Vec<Describer>> = Mutex::new(Vec::new());

/// Number of unloaded images whose addresses stay reserved. Older ones are
/// released, so that a process that loads images for days does not grow.
const QUARANTINE: usize = 1024;

/// Images by base address. Loaded images and unloaded ones do not overlap.
struct Images {
    loaded: BTreeMap<u64, Arc<PeFile>>,
    /// Addresses and files of unloaded images, oldest first.
    gone: VecDeque<(Reservation, Arc<PeFile>)>,
}

impl Images {
    fn find(&self, address: u64) -> Option<InImage> {
        let (base, file) = self.loaded.range(..=address).next_back()?;
        let offset = address - base;
        let inside = offset < file.image.len() as u64;
        inside.then(|| InImage { file: Arc::clone(file), rva: offset as u32 })
    }

    /// The unloaded image that held `address`, and the offset in it.
    fn gone(&self, address: u64) -> Option<(&PeFile, u64)> {
        self.gone.iter().find_map(|(addresses, file)| {
            let offset = address.checked_sub(addresses.base())?;
            (offset < addresses.size()).then_some((&**file, offset))
        })
    }
}

/// A loaded image and an address in it.
pub(super) struct InImage {
    pub file: Arc<PeFile>,
    pub rva: u32,
}

fn images() -> MutexGuard<'static, Images> {
    IMAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn loaded(base: u64, file: Arc<PeFile>) {
    images().loaded.insert(base, file);
}

/// Records that the image at these addresses was unloaded.
pub(super) fn unloaded(addresses: Reservation) {
    let mut images = images();
    if let Some(file) = images.loaded.remove(&addresses.base()) {
        images.gone.push_back((addresses, file));
    }
    if images.gone.len() > QUARANTINE {
        images.gone.pop_front();
    }
}

/// Every loaded image with its base.
pub(super) fn all_loaded() -> Vec<(u64, Arc<PeFile>)> {
    let images = images();
    let all = images.loaded.iter();
    all.map(|(&base, file)| (base, Arc::clone(file))).collect()
}

/// The loaded image that holds `address`.
pub(super) fn find(address: u64) -> Option<InImage> {
    images().find(address)
}

/// How an address belongs to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// In an image that is loaded.
    Loaded,
    /// In an image that was unloaded.
    Unloaded,
}

/// Whether a loaded or unloaded image holds an address.
pub fn residence(address: u64) -> Option<Residence> {
    let images = images();
    if images.find(address).is_some() {
        return Some(Residence::Loaded);
    }
    images.gone(address).map(|_| Residence::Unloaded)
}

/// Whether an address is on this thread's kernel stack.
pub fn is_on_kernel_stack(address: u64) -> bool {
    Control::existing().is_some_and(|control| control.stack().contains(&address))
}

/// Whether an address is in a section that goes away after DriverEntry.
pub fn is_discarded(address: u64) -> bool {
    let found = find(address);
    found.is_some_and(|it| it.file.section_at(it.rva).is_some_and(super::pe::Section::is_discardable))
}

/// Whether an address is in an executable section. `None` if it is in no loaded
/// image.
pub fn section_is_executable(address: u64) -> Option<bool> {
    let InImage { file, rva } = find(address)?;
    Some(file.section_at(rva).is_some_and(super::pe::Section::is_executable))
}

/// Registers a describer for [`describe`]. Describers run in ordinary code, not in
/// a signal handler. The thread may hold any lock of the export that faulted, so a
/// describer must not wait for a lock.
pub fn register_describer(describer: Describer) {
    let mut describers = DESCRIBERS.lock().unwrap_or_else(PoisonError::into_inner);
    if !describers.iter().any(|&known| std::ptr::fn_addr_eq(known, describer)) {
        describers.push(describer);
    }
}

/// Describes an address in words.
pub fn describe(address: u64) -> String {
    in_image(address)
        .or_else(|| on_stack(address))
        .or_else(|| Some(format!("import thunk of {}", thunk::name_of_thunk(address)?)))
        .or_else(|| {
            // Clone the list, so that a describer may register another.
            let describers = DESCRIBERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
            describers.iter().find_map(|describer| describer(address))
        })
        .unwrap_or_else(|| match address {
            0 => "null pointer".to_owned(),
            1..NULL_REGION => format!("null pointer + {address:#x}"),
            NULL_REGION..USER_END => "unknown memory".to_owned(),
            _ => "outside the lower half of the address space".to_owned(),
        })
}

/// An address in code as debuggers write it: `sample!function+0x12`, `sample+0x1234`
/// without symbols, or a description if it is in no image.
pub(super) fn symbolic(address: u64) -> String {
    let Some(InImage { file, rva }) = find(address) else {
        return format!("{address:#x} ({})", describe(address));
    };
    let name = file.name();
    let module = name.rsplit_once('.').map_or(&*name, |(module, _)| module);
    let function = Symbols::of(&file).ok().and_then(|symbols| {
        let functions = symbols.functions();
        let after = functions.partition_point(|function| function.range.start <= rva);
        functions[..after].last()
    });
    match function {
        Some(function) => format!("{module}!{}+{:#x}", function.name, rva - function.range.start),
        None => format!("{module}+{rva:#x}"),
    }
}

fn in_image(address: u64) -> Option<String> {
    // Resolve symbols without the lock, because reading a PDB takes long.
    if let Some(InImage { file, rva }) = find(address) {
        let section = file.section_at(rva);
        let place = match section {
            Some(section) => format!("{}+{rva:#x} ({}", file.name(), section.name),
            None => format!("{}+{rva:#x} (no section", file.name()),
        };
        let Ok(symbols) = Symbols::of(&file) else {
            return Some(format!("{place})"));
        };
        if let Some(datum) = symbols.data_at(rva) {
            let offset = rva - datum.rva;
            return Some(format!("{place}, {}+{offset:#x})", datum.name));
        }
        let chain = match section {
            Some(section) if section.is_executable() => symbols.resolve(rva),
            _ => Vec::new(),
        };
        return Some(match chain.first() {
            Some(function) => format!("{place}, {function})"),
            None => format!("{place})"),
        });
    }
    let images = images();
    let guard = u64::from(PAGE);
    let beside = |name: &str| Some(format!("guard page beside image {name}"));
    if let Some((file, offset)) = images.gone(address) {
        return Some(format!("unloaded image {}+{offset:#x}", file.name()));
    }
    if let Some(above) = images.find(address.saturating_add(guard)) {
        return beside(&above.file.name());
    }
    beside(&images.find(address.checked_sub(guard)?)?.file.name())
}

fn on_stack(address: u64) -> Option<String> {
    let control = Control::existing()?;
    if control.stack().contains(&address) {
        Some("kernel stack".to_owned())
    } else if control.is_below_stack(address) {
        Some("guard below the kernel stack: stack overflow".to_owned())
    } else if control.is_above_stack(address) {
        Some("guard above the kernel stack".to_owned())
    } else {
        None
    }
}
