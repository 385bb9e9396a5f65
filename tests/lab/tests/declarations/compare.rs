//! Compares declarations with the tables of the WDK.

use std::collections::{BTreeMap, BTreeSet};

use lab::setup::Target;
use serde_json::Value;

use super::declared::{Declared, Record, named};

impl Declared {
    /// The name that the tables use for a C tag.
    fn known_as<'a>(&'a self, tag: &'a str, table: &Value) -> Option<String> {
        let alias = self.aliases.iter().find(|(_, aliased)| named(aliased).as_deref() == Some(tag));
        let alias = alias.map(|(alias, _)| alias.clone());
        let bare = tag.trim_start_matches('_').trim_end_matches('_').to_owned();
        [alias, Some(tag.to_owned()), Some(bare)].into_iter().flatten().find(|name| table.get(name).is_some())
    }

    pub fn compare_layouts(
        &self,
        table: &Value,
        faults: &mut Vec<String>,
        unknown: &mut BTreeSet<String>,
    ) -> usize {
        let mut compared = 0;
        for (tag, record) in &self.types {
            if tag.contains("__bindgen_ty_") || !self.names(tag) || record.is_opaque() {
                continue;
            }
            let Some(name) = self.known_as(tag, table) else {
                unknown.insert(tag.clone());
                continue;
            };
            let mut entry = &table[&name];
            while let Some(same) = entry.get("same_as") {
                entry = &table[same.as_str().expect("a name")];
            }
            for (what, own) in [("size", &self.sizes), ("align", &self.alignments)] {
                if own.get(tag).copied() != entry[what].as_u64() {
                    faults.push(format!("{name}: {what} {:?}, the kit's {}", own.get(tag), entry[what]));
                }
            }
            let known: BTreeMap<&str, &Value> = entry["fields"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|field| (field[0].as_str().expect("a path"), field))
                .collect();
            compared += self.compare_fields(&name, tag, "", 0, &known, faults);
        }
        for (alias, aliased) in self.aliases.iter().filter(|(alias, _)| self.names(alias)) {
            let Some(entry) = table.get(alias) else {
                if named(aliased).is_none_or(|tag| !self.types.contains_key(&tag)) && self.is_scalar(aliased)
                {
                    self.alias_without_entry(alias, unknown);
                }
                continue;
            };
            let tag = named(aliased).and_then(|tag| self.types.get(&tag));
            if tag.is_some_and(Record::is_opaque) {
                continue;
            }
            if self.size(aliased) != entry["size"].as_u64() {
                faults.push(format!("{alias}: size {:?}, the kit's {}", self.size(aliased), entry["size"]));
            }
            compared += 1;
        }
        compared
    }

    /// Pointers to compared types, and functions, need no entry.
    fn alias_without_entry(&self, alias: &str, unknown: &mut BTreeSet<String>) {
        let of_kit = ["P", "DRIVER_", "IO_WORKITEM", "KSTART_", "FWPS_CALLOUT_", "FWPM_SERVICE_STATE_CHANGE"];
        if !of_kit.iter().any(|prefix| alias.starts_with(prefix)) || alias == "PWCH" || alias == "PHANDLE" {
            unknown.insert(alias.to_owned());
        }
    }

    fn is_scalar(&self, ty: &syn::Type) -> bool {
        !named(ty).is_some_and(|name| self.enums.contains_key(&name))
    }

    fn compare_fields(
        &self,
        name: &str,
        tag: &str,
        prefix: &str,
        base: u64,
        known: &BTreeMap<&str, &Value>,
        faults: &mut Vec<String>,
    ) -> usize {
        let mut compared = 0;
        for (index, (field, ty)) in self.types[tag].fields.iter().enumerate() {
            if ["_bitfield_", "__bindgen_padding", "_bindgen_"].iter().any(|own| field.starts_with(own)) {
                continue;
            }
            let inner = named(ty).filter(|inner| inner.contains("__bindgen_ty_"));
            let segment = match field.strip_prefix("__bindgen_anon_") {
                Some(number) => {
                    let inner = inner.as_ref().expect("the type of an anonymous member");
                    format!("@{}{number}", if self.types[inner].is_union { 'u' } else { 's' })
                }
                None if field == "type_" => "type".into(),
                None => field.clone(),
            };
            let path = if prefix.is_empty() { segment } else { format!("{prefix}.{segment}") };
            let Some(offset) = self.offset(tag, index) else {
                faults.push(format!("{name}.{path}: its offset is not known"));
                continue;
            };
            let offset = base + offset;
            compared += 1;
            match known.get(&*path) {
                None => faults.push(format!("{name}.{path}: the kit has no such field")),
                Some(entry) if entry[1].as_u64() != Some(offset) => {
                    faults.push(format!("{name}.{path}: offset {offset}, the kit's {}", entry[1]));
                }
                Some(entry) if self.size(ty).is_some() && entry[2].as_u64() != self.size(ty) => {
                    faults.push(format!("{name}.{path}: size {:?}, the kit's {}", self.size(ty), entry[2]));
                }
                Some(_) => {}
            }
            if let Some(inner) = inner {
                compared += self.compare_fields(name, &inner, &path, offset, known, faults);
            }
        }
        compared
    }

    pub fn compare_enums(
        &self,
        table: &Value,
        faults: &mut Vec<String>,
        unknown: &mut BTreeSet<String>,
    ) -> usize {
        let mut compared = 0;
        for (tag, enumerators) in self.enums.iter().filter(|(tag, _)| self.names(tag)) {
            let name = tag.trim_start_matches('_').trim_end_matches('_');
            let Some(known) = table.get(name) else {
                unknown.insert(name.to_owned());
                continue;
            };
            for (enumerator, value) in enumerators {
                compared += 1;
                if known.get(enumerator).and_then(Value::as_i64) != Some(*value) {
                    let known = known.get(enumerator);
                    faults.push(format!("{name}::{enumerator}: {value}, the kit's {known:?}"));
                }
            }
        }
        compared
    }

    pub fn compare_macros(
        &self,
        table: &Value,
        target: Target,
        faults: &mut Vec<String>,
        unknown: &mut BTreeSet<String>,
    ) -> usize {
        let mut compared = 0;
        for (name, (ty, value)) in &self.constants {
            let Some(known) = table.get(name) else {
                unknown.insert(name.clone());
                continue;
            };
            let known = known.get(target.name()).unwrap_or(known);
            let pattern = known[1].as_str().expect("a bit pattern");
            let pattern = u64::from_str_radix(&pattern[2..], 16).expect("a bit pattern");
            let width = if known[2].as_str().is_some_and(|kind| kind.ends_with("64")) { 8 } else { 4 };
            let own = if width == 8 { *value as u64 } else { u64::from(*value as u32) };
            compared += 1;
            if own != pattern || self.size(ty) != Some(width) {
                faults.push(format!("{name}: {value:#x} in {:?} bytes, the kit's {known}", self.size(ty)));
            }
        }
        compared
    }

    pub fn compare_functions(
        &self,
        table: &Value,
        faults: &mut Vec<String>,
        unknown: &mut BTreeSet<String>,
    ) -> usize {
        for (module, signature) in &self.functions {
            let name = signature.ident.to_string();
            let Some(known) = table.get(&name) else {
                unknown.insert(name);
                continue;
            };
            // A build against a WDK links an import library, or one that wdk-sys names.
            // imports.rs checks the linked result.
            let library = known["module"].as_str().and_then(|known| Some(known.rsplit_once('.')?.0));
            let linked = self.of_kit && (module.is_empty() || library == Some(module));
            if known["module"] != **module && !linked {
                faults.push(format!("{name}: linked from {module}, the kit's {}", known["module"]));
            }
            let mut own: Vec<String> = Vec::new();
            for input in &signature.inputs {
                let syn::FnArg::Typed(input) = input else { panic!("{name}: a receiver") };
                own.push(self.class(&input.ty));
            }
            own.push("->".into());
            own.push(match &signature.output {
                syn::ReturnType::Type(_, ty) if !matches!(**ty, syn::Type::Never(_)) => self.class(ty),
                _ => "void".into(),
            });
            let abi: Vec<_> =
                known["abi"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if own != abi {
                faults.push(format!("{name}: {own:?}, the kit's {abi:?}"));
            }
        }
        self.functions.len()
    }

    /// How a parameter is passed: `ptr`, `u32` and so on, as in the tables.
    fn class(&self, ty: &syn::Type) -> String {
        match ty {
            syn::Type::Ptr(_) | syn::Type::BareFn(_) => "ptr".into(),
            _ => {
                let name = named(ty).expect("a named type");
                let kind = match &*name {
                    "u8" | "c_uchar" => "u8",
                    "i8" | "c_char" | "c_schar" => "i8",
                    "u16" | "c_ushort" => "u16",
                    "i16" | "c_short" => "i16",
                    "u32" | "c_uint" | "c_ulong" => "u32",
                    "i32" | "c_int" | "c_long" | "Type" => "i32",
                    "u64" | "usize" | "c_ulonglong" => "u64",
                    "i64" | "c_longlong" => "i64",
                    "Option" => "ptr",
                    _ => match self.aliases.get(&name) {
                        Some(aliased) => return self.class(aliased),
                        None if self.size(ty) == Some(4) => "i32",
                        None => panic!("{name}: unknown how this type is passed"),
                    },
                };
                kind.into()
            }
        }
    }
}
