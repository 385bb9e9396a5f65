//! Parses the tables of data directories: relocations, imports, debug records.

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageThunkData, ImportTable, RelocationBlockIterator};

use super::{Import, ImportName, PdbId, PeError, PeFile, Relocation, broken};

/// More imports mean a broken table.
const MOST_IMPORTS: usize = 4096;

pub(super) fn relocations(file: &PeFile) -> Result<Vec<Relocation>, PeError> {
    let Some(range) = file.directory(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC) else {
        return Ok(Vec::new());
    };
    let data = file.slice(range).ok_or_else(|| broken("relocations outside the image"))?;
    let mut relocations = Vec::new();
    let mut blocks = RelocationBlockIterator::new(data);
    while let Some(block) = blocks.next().map_err(broken)? {
        for relocation in block {
            if relocation.typ == pe::IMAGE_REL_BASED_ABSOLUTE {
                continue;
            }
            let rva = relocation.virtual_address;
            if rva as usize + 8 > file.image.len() {
                return Err(broken(format!("relocation at {rva:#x} outside the image")));
            }
            relocations.push(Relocation { rva, kind: relocation.typ.0 });
        }
    }
    Ok(relocations)
}

pub(super) fn imports(file: &PeFile) -> Result<Vec<Import>, PeError> {
    let Some(range) = file.directory(pe::IMAGE_DIRECTORY_ENTRY_IMPORT) else {
        return Ok(Vec::new());
    };
    // In the flat image, a relative address is an offset.
    let table = ImportTable::new(&file.image, 0, range.start);
    let mut imports = Vec::new();
    let mut descriptors = table.descriptors().map_err(broken)?;
    while let Some(descriptor) = descriptors.next().map_err(broken)? {
        let module = text(table.name(descriptor.name.get(LE)).map_err(broken)?)?;
        let first = descriptor.first_thunk.get(LE);
        let names = match descriptor.original_first_thunk.get(LE) {
            0 => first,
            names => names,
        };
        let mut thunks = table.thunks(names).map_err(broken)?;
        let mut slot = first;
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>().map_err(broken)? {
            let name = if thunk.is_ordinal() {
                ImportName::Ordinal(thunk.ordinal())
            } else {
                let (_, name) = table.hint_name(thunk.address()).map_err(broken)?;
                ImportName::Name(text(name)?)
            };
            if file.image.get(slot as usize..slot as usize + 8).is_none() {
                return Err(broken(format!("import slot {slot:#x} outside the image")));
            }
            if imports.len() == MOST_IMPORTS {
                return Err(broken(format!("more than {MOST_IMPORTS} imports")));
            }
            imports.push(Import { module: module.clone(), name, slot });
            slot = slot.saturating_add(8);
        }
    }
    Ok(imports)
}

pub(super) fn pdb_id(file: &PeFile) -> Result<Option<PdbId>, PeError> {
    let Some(range) = file.directory(pe::IMAGE_DIRECTORY_ENTRY_DEBUG) else {
        return Ok(None);
    };
    let outside = || broken("debug directory outside the image");
    let data = file.slice(range).ok_or_else(outside)?;
    let entries = object::pod::slice_from_all_bytes::<pe::ImageDebugDirectory>(data)
        .map_err(|()| broken("debug directory of odd size"))?;
    for entry in entries {
        if entry.typ.get(LE) != pe::IMAGE_DEBUG_TYPE_CODEVIEW {
            continue;
        }
        let start = entry.address_of_raw_data.get(LE);
        let end = start.saturating_add(entry.size_of_data.get(LE));
        let record = file.slice(start..end).ok_or_else(outside)?;
        // "RSDS", GUID, age, zero-terminated path.
        let Some(([b'R', b'S', b'D', b'S'], rest)) = record.split_first_chunk::<4>() else {
            continue;
        };
        let short = || broken("CodeView record too short");
        let (guid, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
        let (age, path) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
        return Ok(Some(PdbId {
            guid: uuid::Uuid::from_bytes_le(*guid),
            age: u32::from_le_bytes(*age),
            path: String::from_utf8_lossy(path).into_owned(),
        }));
    }
    Ok(None)
}

fn text(bytes: &[u8]) -> Result<String, PeError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(text.to_owned())
        }
        _ => Err(broken("an import's name is not printable ASCII")),
    }
}
