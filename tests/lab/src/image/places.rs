//! Which image, loaded or gone, an address belongs to, and what else lies there.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pe::{PAGE, PeFile};
use super::stack::Control;
use super::symbols::Symbols;
use super::thunk;

/// Says what an address is, if it knows: a block of pool, for example.
type Describer = fn(u64) -> Option<String>;

/// Windows keeps the first 64 KB unmapped, so that small offsets from a null
/// pointer fault.
const NULL_REGION: u64 = 0x1_0000;
/// The first address beyond the lower half of the 48-bit address space.
const USER_END: u64 = 1 << 47;

static IMAGES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static DESCRIBERS: Mutex<Vec<Describer>> = Mutex::new(Vec::new());

/// One image, which may be gone: its addresses are never given out again.
struct Entry {
    base: u64,
    size: u64,
    name: String,
    /// Present while it is loaded.
    file: Option<Arc<PeFile>>,
}

/// A loaded image and an address in it.
pub(super) struct InImage {
    pub file: Arc<PeFile>,
    pub rva: u32,
}

fn images() -> MutexGuard<'static, Vec<Entry>> {
    IMAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn loaded(base: u64, file: Arc<PeFile>) {
    let (size, name) = (file.image.len() as u64, file.name());
    images().push(Entry {
        base,
        size,
        name,
        file: Some(file),
    });
}

pub(super) fn unloaded(base: u64) {
    if let Some(entry) = images().iter_mut().find(|entry| entry.base == base) {
        entry.file = None;
    }
}

/// Every loaded image with its base.
pub(super) fn all_loaded() -> Vec<(u64, Arc<PeFile>)> {
    images()
        .iter()
        .filter_map(|entry| Some((entry.base, entry.file.clone()?)))
        .collect()
}

/// The loaded image that holds `address`.
pub(super) fn find(address: u64) -> Option<InImage> {
    images().iter().find_map(|entry| {
        let rva = address
            .checked_sub(entry.base)
            .filter(|&offset| offset < entry.size)?;
        Some(InImage {
            file: entry.file.clone()?,
            rva: rva as u32,
        })
    })
}

/// Adds to what [`describe`] knows. It is asked in ordinary code, never in a
/// signal handler, but the thread may hold any lock of the export that faulted:
/// a describer must not wait for one.
pub fn register_describer(describer: Describer) {
    let mut describers = DESCRIBERS.lock().unwrap_or_else(PoisonError::into_inner);
    if !describers
        .iter()
        .any(|&known| std::ptr::fn_addr_eq(known, describer))
    {
        describers.push(describer);
    }
}

/// Says what lies at an address.
pub fn describe(address: u64) -> String {
    in_image(address)
        .or_else(|| on_stack(address))
        .or_else(|| {
            Some(format!(
                "import thunk of {}",
                thunk::name_of_thunk(address)?
            ))
        })
        .or_else(|| {
            // Copied, so that a describer may register another.
            let describers = DESCRIBERS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            describers.iter().find_map(|describer| describer(address))
        })
        .unwrap_or_else(|| match address {
            0 => "null pointer".to_owned(),
            1..NULL_REGION => format!("null pointer + {address:#x}"),
            NULL_REGION..USER_END => "unknown memory".to_owned(),
            _ => "outside the lower half of the address space".to_owned(),
        })
}

fn in_image(address: u64) -> Option<String> {
    let images = images();
    let guard = u64::from(PAGE);
    let inside = |entry: &&Entry| (entry.base..entry.base + entry.size).contains(&address);
    let near =
        |entry: &&Entry| (entry.base - guard..entry.base + entry.size + guard).contains(&address);
    if let Some(Entry {
        base, name, file, ..
    }) = images.iter().find(inside)
    {
        let rva = (address - base) as u32;
        let Some(file) = file.clone() else {
            return Some(format!("unloaded image {name}+{rva:#x}"));
        };
        let name = name.clone();
        // Reading the PDB takes its time.
        drop(images);
        let section = file
            .section_at(rva)
            .map_or("no section", |section| &section.name);
        let datum = Symbols::of(&file)
            .ok()
            .and_then(|symbols| symbols.data_at(rva));
        return Some(match datum {
            Some(datum) => {
                let offset = rva - datum.rva;
                format!("{name}+{rva:#x} ({section}, {}+{offset:#x})", datum.name)
            }
            None => format!("{name}+{rva:#x} ({section})"),
        });
    }
    let entry = images.iter().find(near)?;
    Some(format!("guard page beside image {}", entry.name))
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
