//! Types from the PDB, used to read a driver's memory as a debugger does.

use std::collections::BTreeMap;
use std::io::Cursor;

use pdb_addr2line::pdb::{self, FallibleIterator, PDB, TypeData, TypeFinder, TypeIndex, Variant};

/// The enumerators of every C-like enum and the size in bytes of every structure,
/// by full name.
#[derive(Debug, Default)]
pub(super) struct Types {
    pub enumerators: BTreeMap<String, Vec<(String, u64)>>,
    pub sizes: BTreeMap<String, u64>,
}

impl Types {
    pub fn read(pdb: &mut PDB<'static, Cursor<Vec<u8>>>) -> pdb::Result<Self> {
        let information = pdb.type_information()?;
        let mut finder = information.finder();
        let mut types = information.iter();
        let mut read = Self::default();
        while let Some(item) = types.next()? {
            finder.update(&types);
            // Types that the reader does not know are neither enums nor structures.
            match item.parse() {
                Ok(TypeData::Enumeration(entry)) if !entry.properties.forward_reference() => {
                    let mut enumerators = Vec::new();
                    fields(&finder, entry.fields, &mut enumerators)?;
                    read.enumerators.insert(entry.name.to_string().into_owned(), enumerators);
                }
                Ok(TypeData::Class(entry)) if !entry.properties.forward_reference() => {
                    read.sizes.insert(entry.name.to_string().into_owned(), entry.size);
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

fn fields(finder: &TypeFinder<'_>, index: TypeIndex, into: &mut Vec<(String, u64)>) -> pdb::Result<()> {
    let TypeData::FieldList(list) = finder.find(index)?.parse()? else {
        return Ok(());
    };
    for field in &list.fields {
        if let TypeData::Enumerate(entry) = field {
            into.push((entry.name.to_string().into_owned(), number(entry.value)));
        }
    }
    match list.continuation {
        Some(rest) => fields(finder, rest, into),
        None => Ok(()),
    }
}

fn number(value: Variant) -> u64 {
    match value {
        Variant::U8(value) => value.into(),
        Variant::U16(value) => value.into(),
        Variant::U32(value) => value.into(),
        Variant::U64(value) => value,
        Variant::I8(value) => value as u64,
        Variant::I16(value) => value as u64,
        Variant::I32(value) => value as u64,
        Variant::I64(value) => value as u64,
    }
}
