//! Reads declarations and layouts from bindgen's output.

use std::collections::{BTreeMap, BTreeSet};

use lab::setup;

/// The declarations of one set of bindings.
#[derive(Default)]
pub struct Declared {
    /// Every word of `src/ffi/wdk.h`. Only declarations with these names are compared.
    words: BTreeSet<String>,
    /// Whether wdk-sys declared some of it.
    pub of_kit: bool,
    /// Structs and unions.
    pub types: BTreeMap<String, Record>,
    pub aliases: BTreeMap<String, syn::Type>,
    pub enums: BTreeMap<String, BTreeMap<String, i64>>,
    pub constants: BTreeMap<String, (syn::Type, i128)>,
    pub functions: Vec<(String, syn::Signature)>,
    /// From the layout assertions: size, alignment, offsets of fields.
    pub sizes: BTreeMap<String, u64>,
    pub alignments: BTreeMap<String, u64>,
    pub offsets: BTreeMap<(String, String), u64>,
}

pub struct Record {
    pub is_union: bool,
    pub fields: Vec<(String, syn::Type)>,
}

impl Record {
    /// Whether only its name is declared, for use behind pointers.
    pub fn is_opaque(&self) -> bool {
        self.fields.iter().any(|(field, _)| field == "_unused")
    }
}

impl Declared {
    pub fn read(text: &str) -> Self {
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

    pub fn names(&self, name: &str) -> bool {
        self.words.contains(name)
    }

    pub fn read_constants(&mut self, text: &str) {
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

    /// Reads layout assertions such as `["Size of T"][size_of::<T>() - 16usize]`.
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

    /// The offset that bindgen asserts. Bindgen asserts none for anonymous members;
    /// for these it follows from `repr(C)`: behind the previous member, aligned.
    pub fn offset(&self, tag: &str, index: usize) -> Option<u64> {
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

    /// In bytes, for Windows targets, where `long` has 4 bytes.
    pub fn size(&self, ty: &syn::Type) -> Option<u64> {
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
}

/// The last segment of a path.
pub fn named(ty: &syn::Type) -> Option<String> {
    match ty {
        syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

/// The value of a constant expression of literals.
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
