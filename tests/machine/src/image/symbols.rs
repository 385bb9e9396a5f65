//! Functions, inline chains, lines and data from the PDB that matches the image.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pdb_addr2line::pdb::{self, FallibleIterator, PDB, SymbolData};
use pdb_addr2line::{Context, ContextPdbData, TypeFormatterFlags};
use thiserror::Error;

use super::pe::{PdbId, PeFile};
use super::provided;
use super::report::SourceFrame;
use super::types::Types;

/// Why symbols, or one symbol, are not available.
#[derive(Clone, Debug, Error)]
pub enum SymbolError {
    /// The image was linked without debug information.
    #[error("{0} has no CodeView record: link it with debug information")]
    NoRecord(String),
    /// The PDB is not where it is expected.
    #[error("no PDB for {image}: expected {} ({}), {reason}", path.display(), show(id))]
    Missing {
        /// The image.
        image: String,
        /// The expected path.
        path: PathBuf,
        /// The expected PDB.
        id: Box<PdbId>,
        /// The system's error.
        reason: String,
    },
    /// The PDB belongs to another build.
    #[error("{} is not the PDB of {image}: expected {}, found {}", path.display(), show(wanted), show(found))]
    Mismatch {
        /// The image.
        image: String,
        /// The PDB.
        path: PathBuf,
        /// The PDB that the image names.
        wanted: Box<PdbId>,
        /// The PDB's own record.
        found: Box<PdbId>,
    },
    /// The PDB cannot be read.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The PDB.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No global variable has this name.
    #[error("no global variable {0} in the PDB")]
    NotFound(String),
    /// Several global variables have names that end like this.
    #[error("{name} is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        /// The requested name.
        name: String,
        /// The names that match.
        candidates: Vec<String>,
    },
}

fn show(id: &PdbId) -> String {
    format!("GUID {} age {}", id.guid, id.age)
}

/// A function with its own code. Inlined functions have none.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its full name, such as `core::panicking::panic_fmt`.
    pub name: String,
    /// Its code, relative to the image base. Empty if the PDB does not give the
    /// function's end.
    pub range: Range<u32>,
}

/// A global variable.
#[derive(Clone, Debug)]
pub struct DataSymbol {
    /// Its full name, such as `sample::driver::COUNTERS`.
    pub name: String,
    /// Where it lies, relative to the image base.
    pub rva: u32,
    /// Its size in bytes, from its type.
    pub size: u64,
}

/// The content of a PDB.
///
/// Read once for each build of an image; kept until the process ends.
pub struct Symbols {
    context: Mutex<Context<'static, 'static>>,
    functions: Vec<Function>,
    data: Vec<DataSymbol>,
    types: Types,
}

impl std::fmt::Debug for Symbols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (functions, data) = (self.functions.len(), self.data.len());
        write!(f, "Symbols({functions} functions, {data} data)")
    }
}

type Loaded = Result<&'static Symbols, SymbolError>;
static LOADED: Mutex<Option<HashMap<(PathBuf, PdbId), Loaded>>> = Mutex::new(None);

impl Symbols {
    /// The symbols of an image, from the PDB beside it.
    pub fn of(file: &Arc<PeFile>) -> Loaded {
        let Some(id) = file.pdb.clone() else {
            return Err(SymbolError::NoRecord(file.name()));
        };
        Self::beside(&file.path, id)
    }

    /// The symbols of an image for any processor, from the PDB beside it, which must have
    /// this identity.
    pub fn beside(image: &Path, id: PdbId) -> Loaded {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = loaded.get_or_insert_default().entry((image.to_owned(), id));
        entry.or_insert_with_key(|(image, id)| load(&name, &pdb_path(image, id), id)).clone()
    }

    /// The inline chain at an address, innermost first. The last function owns the
    /// code. Empty if the address is in no function.
    pub fn resolve(&self, rva: u32) -> Vec<SourceFrame> {
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Some(found)) = context.find_frames(rva) else {
            return Vec::new();
        };
        let frames = found.frames.into_iter().map(|frame| SourceFrame {
            function: frame.function.map_or_else(|| "?".to_owned(), readable),
            file: frame.file.map(|file| file.into_owned()),
            line: frame.line,
        });
        frames.collect()
    }

    /// The enumerators of a C-like enum and their values, by its full name.
    pub fn enumerators(&self, name: &str) -> Option<&[(String, u64)]> {
        self.types.enumerators.get(name).map(Vec::as_slice)
    }

    /// The size of a structure in bytes, by its full name.
    pub fn size_of(&self, name: &str) -> Option<u64> {
        self.types.sizes.get(name).copied()
    }

    /// Every function with its own code, by ascending address.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Every global variable, by ascending address.
    pub fn all_data(&self) -> &[DataSymbol] {
        &self.data
    }

    /// A global variable by its full name or the end of it. `COUNTERS` finds
    /// `sample::driver::COUNTERS` if no other name ends in `::COUNTERS`.
    pub fn data(&self, name: &str) -> Result<&DataSymbol, SymbolError> {
        if let Some(exact) = self.data.iter().find(|datum| datum.name == name) {
            return Ok(exact);
        }
        let ends =
            |datum: &&DataSymbol| datum.name.strip_suffix(name).is_some_and(|rest| rest.ends_with("::"));
        let candidates: Vec<_> = self.data.iter().filter(ends).collect();
        match candidates.as_slice() {
            [] => Err(SymbolError::NotFound(name.to_owned())),
            [one] => Ok(one),
            several => Err(SymbolError::Ambiguous {
                name: name.to_owned(),
                candidates: several.iter().map(|datum| datum.name.clone()).collect(),
            }),
        }
    }

    /// The global variable that holds an address.
    pub fn data_at(&self, rva: u32) -> Option<&DataSymbol> {
        let holds = |datum: &&DataSymbol| {
            rva.checked_sub(datum.rva).is_some_and(|offset| u64::from(offset) < datum.size)
        };
        self.data.iter().find(holds)
    }
}

/// Demangles a function name that was compiled without debug information, such as
/// names of `core`. Other names stay unchanged.
fn readable(name: String) -> String {
    match rustc_demangle::try_demangle(&name) {
        Ok(demangled) => format!("{demangled:#}"),
        Err(_) => name,
    }
}

/// The PDB beside the image: under the linker's name for it, else under the image's
/// name.
pub(super) fn pdb_path(image: &Path, id: &PdbId) -> PathBuf {
    let linked = id.path.rsplit(['/', '\\']).next().unwrap_or_default();
    let by_link = image.with_file_name(linked);
    if !linked.is_empty() && provided::is_file(&by_link) { by_link } else { image.with_extension("pdb") }
}

fn load(image: &str, path: &Path, wanted: &PdbId) -> Loaded {
    let bytes = provided::read(path).map_err(|error| SymbolError::Missing {
        image: image.to_owned(),
        path: path.to_owned(),
        id: Box::new(wanted.clone()),
        reason: error.to_string(),
    })?;
    let broken = |error: String| SymbolError::Broken { path: path.to_owned(), reason: error };
    let mut pdb = PDB::open(Cursor::new(bytes)).map_err(|error| broken(error.to_string()))?;
    let found = identify(&mut pdb, path).map_err(|error| broken(error.to_string()))?;
    if (found.guid, found.age) != (wanted.guid, wanted.age) {
        return Err(SymbolError::Mismatch {
            image: image.to_owned(),
            path: path.to_owned(),
            wanted: Box::new(wanted.clone()),
            found: Box::new(found),
        });
    }
    let raw = read_data(&mut pdb).map_err(|error| broken(error.to_string()))?;
    let types = Types::read(&mut pdb).map_err(|error| broken(error.to_string()))?;
    let symbols = index(pdb, raw, types).map_err(|error| broken(error.to_string()))?;
    Ok(Box::leak(Box::new(symbols)))
}

/// Reads the GUID from the PDB stream and the age from the DBI stream. The linker
/// writes this age into the image.
fn identify(pdb: &mut PDB<'static, Cursor<Vec<u8>>>, path: &Path) -> pdb::Result<PdbId> {
    let information = pdb.pdb_information()?;
    let age = pdb.debug_information()?.age().unwrap_or(information.age);
    Ok(PdbId {
        guid: uuid::Uuid::from_u128(information.guid.as_u128()),
        age,
        path: path.display().to_string(),
    })
}

/// A datum before the size of its type is known.
struct RawData {
    name: String,
    rva: u32,
    module: usize,
    type_index: pdb::TypeIndex,
}

fn read_data(pdb: &mut PDB<'static, Cursor<Vec<u8>>>) -> pdb::Result<Vec<RawData>> {
    let addresses = pdb.address_map()?;
    let mut data = Vec::new();
    let mut take = |module, symbol: pdb::Symbol<'_>| {
        let Ok(SymbolData::Data(datum)) = symbol.parse() else {
            return;
        };
        let Some(rva) = datum.offset.to_rva(&addresses) else {
            return;
        };
        let name = datum.name.to_string().into_owned();
        data.push(RawData { name, rva: rva.0, module, type_index: datum.type_index });
    };
    let globals = pdb.global_symbols()?;
    let mut symbols = globals.iter();
    while let Some(symbol) = symbols.next()? {
        take(0, symbol);
    }
    let information = pdb.debug_information()?;
    let modules: Vec<_> = information.modules()?.collect()?;
    for (index, module) in modules.iter().enumerate() {
        let Some(information) = pdb.module_info(module)? else {
            continue;
        };
        let mut symbols = information.symbols()?;
        while let Some(symbol) = symbols.next()? {
            take(index, symbol);
        }
    }
    Ok(data)
}

fn index(
    pdb: PDB<'static, Cursor<Vec<u8>>>,
    raw: Vec<RawData>,
    described: Types,
) -> Result<Symbols, pdb_addr2line::Error> {
    // The context borrows from its data. Both live until the process ends.
    let owner = Box::leak(Box::new(ContextPdbData::try_from_pdb(pdb)?));
    let types = owner.make_type_formatter()?;
    let mut data: Vec<_> = raw
        .into_iter()
        .map(|RawData { name, rva, module, type_index }| DataSymbol {
            name,
            rva,
            size: types.get_type_size(module, type_index),
        })
        .collect();
    data.sort_by(|a, b| (a.rva, &a.name).cmp(&(b.rva, &b.name)));
    data.dedup_by(|a, b| (a.rva, &a.name) == (b.rva, &b.name));
    // Rust has no overloads. The argument types, in C++ notation, would add
    // nothing.
    let flags = TypeFormatterFlags::default() | TypeFormatterFlags::NO_ARGUMENTS;
    let context = owner.make_context_with_formatter_flags(flags)?;
    let mut functions: Vec<_> = context
        .functions()
        .filter_map(|function| {
            let end = function.end_rva.unwrap_or(function.start_rva);
            Some(Function { name: readable(function.name?), range: function.start_rva..end })
        })
        .collect();
    functions.sort_by_key(|function| function.range.start);
    Ok(Symbols { context: Mutex::new(context), functions, data, types: described })
}
