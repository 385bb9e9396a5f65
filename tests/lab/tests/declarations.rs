//! Every declaration the driver is built with, held against the WDK's tables.
//!
//! What is compared is what bindgen wrote for the build at hand. Its layout
//! assertions are evaluated by the compiler for that target, so that the
//! numbers in them are the driver's own.
//!
//! Under `cargo lab wdk` that is the output over a kit's own headers and
//! wdk-sys's, of which what `src/ffi/wdk.h` names is compared.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use lab::setup::{self, Target};
use serde_json::Value;
use support::facts;

/// Declarations that no table has, each with the reason why it is right.
const REASONS: &[(&str, &str)] = &[
    ("RPC_C_AUTHN_WINNT", "rpcdce.h, a header of user mode: 10"),
    ("MANUALLY_INITIATED_CRASH", "bugcodes.h, which the tables leave out: 0xE2"),
    ("EVENT_CONTROL_CODE_DISABLE_PROVIDER", "evntrace.h, a header of user mode: 0"),
    ("EVENT_CONTROL_CODE_ENABLE_PROVIDER", "evntrace.h: 1"),
    ("EVENT_CONTROL_CODE_CAPTURE_STATE", "evntrace.h: 2"),
    ("ETWENABLECALLBACK", "wdm.h; the tables give its parameters as a callback's"),
    ("LPCGUID", "guiddef.h: const GUID *"),
    ("DRIVER_REGKEY_TYPE", "wdm.h; the tables give its use (IoOpenDriverRegistryKey), not its values: 0, 1"),
    ("FWP_ACTION_TYPE", "fwptypes.h: UINT32"),
    ("CCHAR", "ntdef.h: char"),
    ("CHAR", "ntdef.h: char"),
    ("CSHORT", "ntdef.h: short"),
    ("DWORD", "minwindef.h: unsigned long"),
    ("KPROCESSOR_MODE", "wdm.h: CCHAR"),
    ("PHANDLE", "ntdef.h: HANDLE *"),
    ("PWCH", "ntdef.h: WCHAR *"),
    ("wchar_t", "the compiler's own under MSVC: unsigned short"),
    ("ULONG64", "basetsd.h: unsigned __int64"),
    ("WCHAR", "ntdef.h: wchar_t"),
    ("LPWSTR", "ntdef.h: WCHAR *"),
];

#[test]
fn x64_declarations_are_the_kits() {
    compare(Target::X64);
}

#[test]
fn arm64_declarations_are_the_kits() {
    compare(Target::Arm64);
}

fn compare(target: Target) {
    let mut declared = Declared::read(&bindings(target));
    declared.of_kit = setup::build(target).unwrap().bindings.len() > 1;
    let constants = setup::root().join("src/ffi/constants.rs");
    declared.read_constants(&std::fs::read_to_string(constants).unwrap());
    let layouts = facts(&format!("layouts.{}", target.name()));
    let mut faults = Vec::new();
    let mut unknown = BTreeSet::new();
    let counts = [
        declared.compare_layouts(&layouts, &mut faults, &mut unknown),
        declared.compare_enums(&facts("enums"), &mut faults, &mut unknown),
        declared.compare_macros(&facts("macros"), target, &mut faults, &mut unknown),
        declared.compare_functions(&facts("functions"), &mut faults, &mut unknown),
    ];
    // What a kit's own headers declare needs no other witness.
    for name in unknown.iter().filter(|_| !declared.of_kit) {
        if !REASONS.iter().any(|(known, _)| known == name) {
            faults.push(format!("{name}: in none of the tables; give a reason in REASONS"));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let [layouts, enumerators, macros, functions] = counts;
    // A parser that sees nothing finds no fault.
    assert!(layouts > 150 && enumerators > 30 && macros > 20 && functions > 30, "{counts:?}");
}

#[test]
fn every_reason_is_needed() {
    let mut text = bindings(Target::X64);
    text += &std::fs::read_to_string(setup::root().join("src/ffi/constants.rs")).unwrap();
    for (name, _) in REASONS {
        assert!(text.contains(name), "{name} is not declared any more");
    }
}

/// What bindgen wrote for a target.
fn bindings(target: Target) -> String {
    let driver = setup::build(target).unwrap();
    driver.bindings.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// What a source of bindings declares.
#[derive(Default)]
struct Declared {
    /// Every word of `src/ffi/wdk.h`: of other names no declaration is compared.
    words: BTreeSet<String>,
    /// Whether wdk-sys declared some of it.
    of_kit: bool,
    /// Structs and unions.
    types: BTreeMap<String, Record>,
    aliases: BTreeMap<String, syn::Type>,
    enums: BTreeMap<String, BTreeMap<String, i64>>,
    constants: BTreeMap<String, (syn::Type, i128)>,
    functions: Vec<(String, syn::Signature)>,
    /// From the layout assertions: size, alignment, offsets of fields.
    sizes: BTreeMap<String, u64>,
    alignments: BTreeMap<String, u64>,
    offsets: BTreeMap<(String, String), u64>,
}

struct Record {
    is_union: bool,
    fields: Vec<(String, syn::Type)>,
}

impl Record {
    /// Declared by name only: met behind pointers.
    fn is_opaque(&self) -> bool {
        self.fields.iter().any(|(field, _)| field == "_unused")
    }
}

impl Declared {
    fn read(text: &str) -> Self {
        let file = syn::parse_file(text).expect("bindings parse");
        let header = std::fs::read_to_string(setup::root().join("src/ffi/wdk.h")).unwrap();
        let words = header.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect();
        let mut declared = Self { words, ..Self::default() };
        for item in file.items {
            match item {
                syn::Item::Struct(item) => declared.record(&item.ident, false, item.fields),
                syn::Item::Union(item) => {
                    declared.record(&item.ident, true, syn::Fields::Named(item.fields));
                }
                syn::Item::Type(item) => {
                    declared.aliases.insert(item.ident.to_string(), *item.ty);
                }
                syn::Item::Mod(item) => declared.module(item),
                syn::Item::Const(item) if declared.names(&item.ident.to_string()) => {
                    declared.constant(&item);
                }
                syn::Item::ForeignMod(item) => declared.foreign(item),
                _ => {}
            }
        }
        declared.assertions(text);
        declared
    }

    fn names(&self, name: &str) -> bool {
        self.words.contains(name)
    }

    fn read_constants(&mut self, text: &str) {
        for item in syn::parse_file(text).expect("constants parse").items {
            if let syn::Item::Const(item) = item {
                self.constant(&item);
            }
        }
    }

    fn record(&mut self, name: &syn::Ident, is_union: bool, fields: syn::Fields) {
        let fields =
            fields.into_iter().filter_map(|field| Some((field.ident?.to_string(), field.ty))).collect();
        self.types.insert(name.to_string(), Record { is_union, fields });
    }

    fn module(&mut self, module: syn::ItemMod) {
        let mut enumerators = BTreeMap::new();
        for item in module.content.into_iter().flat_map(|(_, items)| items) {
            if let syn::Item::Const(item) = item {
                enumerators.insert(item.ident.to_string(), evaluate(&item.expr) as i64);
            }
        }
        self.enums.insert(module.ident.to_string(), enumerators);
    }

    fn constant(&mut self, item: &syn::ItemConst) {
        self.constants.insert(item.ident.to_string(), ((*item.ty).clone(), evaluate(&item.expr)));
    }

    fn foreign(&mut self, block: syn::ItemForeignMod) {
        let link = block.attrs.iter().find(|attribute| attribute.path().is_ident("link"));
        let mut module = String::new();
        if let Some(link) = link {
            link.parse_nested_meta(|meta| {
                let value: syn::LitStr = meta.value()?.parse()?;
                if meta.path.is_ident("name") {
                    module = value.value();
                }
                Ok(())
            })
            .expect("link attributes parse");
        }
        for item in block.items {
            if let syn::ForeignItem::Fn(item) = item
                && self.names(&item.sig.ident.to_string())
            {
                self.functions.push((module.clone(), item.sig));
            }
        }
    }

    /// `["Size of T"][size_of::<T>() - 16usize]` and its likes.
    fn assertions(&mut self, text: &str) {
        let quoted: Vec<&str> = text.split('"').collect();
        for (title, rest) in quoted.iter().zip(&quoted[1..]) {
            let assertion = rest.split(';').next().unwrap_or_default();
            let Some(number) = assertion.rsplit(" - ").next().and_then(|rest| rest.split("usize").next())
            else {
                continue;
            };
            let Ok(number) = number.trim().parse() else { continue };
            if let Some(name) = title.strip_prefix("Size of ") {
                self.sizes.insert(name.into(), number);
            } else if let Some(name) = title.strip_prefix("Alignment of ") {
                self.alignments.insert(name.into(), number);
            } else if let Some(field) = title.strip_prefix("Offset of field: ") {
                let (name, field) = field.split_once("::").expect("a type and its field");
                self.offsets.insert((name.into(), field.into()), number);
            }
        }
    }

    /// The name under which the tables have a C tag.
    fn known_as<'a>(&'a self, tag: &'a str, table: &Value) -> Option<String> {
        let alias = self.aliases.iter().find(|(_, aliased)| named(aliased).as_deref() == Some(tag));
        let alias = alias.map(|(alias, _)| alias.clone());
        let bare = tag.trim_start_matches('_').trim_end_matches('_').to_owned();
        [alias, Some(tag.to_owned()), Some(bare)].into_iter().flatten().find(|name| table.get(name).is_some())
    }

    fn compare_layouts(
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

    /// Pointers and functions to types that are compared need no entry.
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
                    let inner = inner.as_ref().expect("an unnamed member has an unnamed type");
                    format!("@{}{number}", if self.types[inner].is_union { 'u' } else { 's' })
                }
                None if field == "type_" => "type".into(),
                None => field.clone(),
            };
            let path = if prefix.is_empty() { segment } else { format!("{prefix}.{segment}") };
            let Some(offset) = self.offset(tag, index) else {
                faults.push(format!("{name}.{path}: nothing says where it is"));
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

    /// What bindgen asserts, or, since it asserts nothing about unnamed members,
    /// what `repr(C)` gives: behind the member before it, aligned.
    fn offset(&self, tag: &str, index: usize) -> Option<u64> {
        let record = &self.types[tag];
        let (field, ty) = &record.fields[index];
        if let Some(offset) = self.offsets.get(&(tag.to_owned(), field.clone())) {
            return Some(*offset);
        }
        if record.is_union || index == 0 {
            return Some(0);
        }
        let (_, previous) = &record.fields[index - 1];
        let end = self.offset(tag, index - 1)? + self.size(previous)?;
        Some(end.next_multiple_of(self.alignment(ty)?))
    }

    fn alignment(&self, ty: &syn::Type) -> Option<u64> {
        match named(ty).and_then(|name| self.alignments.get(&name)) {
            Some(alignment) => Some(*alignment),
            None => self.size(ty),
        }
    }

    /// In bytes, for the Windows targets, where `long` has four.
    fn size(&self, ty: &syn::Type) -> Option<u64> {
        match ty {
            syn::Type::Ptr(_) | syn::Type::BareFn(_) => Some(8),
            syn::Type::Array(array) => Some(self.size(&array.elem)? * evaluate(&array.len) as u64),
            _ => match &*named(ty)? {
                "u8" | "i8" | "c_uchar" | "c_schar" | "c_char" => Some(1),
                "u16" | "i16" | "c_ushort" | "c_short" => Some(2),
                "u32" | "i32" | "f32" | "c_uint" | "c_int" | "c_ulong" | "c_long" | "Type" => Some(4),
                "u64" | "i64" | "f64" | "usize" | "c_ulonglong" | "c_longlong" | "Option" => Some(8),
                name if self.enums.contains_key(name) || self.enums.contains_key(&format!("{name}_")) => {
                    Some(4)
                }
                name if self.enums.contains_key(&format!("_{name}")) => Some(4),
                name => match self.aliases.get(name) {
                    Some(aliased) => self.size(aliased),
                    None => self.sizes.get(name).copied(),
                },
            },
        }
    }

    fn compare_enums(
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

    fn compare_macros(
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

    fn compare_functions(
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
            // Over a kit it is an import library, or one of wdk-sys's, which it
            // names elsewhere; imports.rs sees what either became.
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

    /// How a parameter is passed, in the tables' words.
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
                        None => panic!("{name}: how is it passed?"),
                    },
                };
                kind.into()
            }
        }
    }
}

/// The last segment of a path.
fn named(ty: &syn::Type) -> Option<String> {
    match ty {
        syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

/// The literals that constants are made of.
fn evaluate(expression: &syn::Expr) -> i128 {
    match expression {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(number), .. }) => {
            number.base10_parse().expect("a number")
        }
        syn::Expr::Unary(syn::ExprUnary { op: syn::UnOp::Neg(_), expr, .. }) => -evaluate(expr),
        syn::Expr::Cast(cast) => evaluate(&cast.expr),
        syn::Expr::Paren(inner) => evaluate(&inner.expr),
        other => panic!("not a number: {other:?}"),
    }
}
