//! Structures that drivers and the kernel share, with the WDK headers' layout.
//!
//! They are declared independently of the driver's own header, so that an error in
//! either is detected: a test compares every size and offset with
//! `facts/layouts.x64.json`. A member that points to foreign memory is an
//! [`Address`], which is never dereferenced directly.
#![allow(non_camel_case_types, non_snake_case, reason = "names as in the WDK headers")]

mod base;
mod etw;
mod fwpm;
mod fwps;
mod io;
mod irp;
mod net;
mod wdf;

pub use base::*;
pub use etw::*;
pub use fwpm::*;
pub use fwps::*;
pub use io::*;
pub use irp::*;
pub use net::*;
pub use wdf::*;

/// An address from the driver. It may be invalid.
pub type Address = usize;
/// `HANDLE`.
pub type HANDLE = Address;
/// `NTSTATUS`.
pub type NTSTATUS = i32;
/// `BOOLEAN`.
pub type BOOLEAN = u8;
/// `KIRQL`.
pub type KIRQL = u8;

/// A declared member: path in the fact tables, offset and size in bytes.
pub type Member = (&'static str, usize, usize);

/// The layout of a declared structure, for comparison with the fact tables.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name in the headers.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Every declared member.
    pub members: &'static [Member],
}

/// A structure of integers in which every bit pattern is a valid value, so that it
/// can be copied from foreign memory.
///
/// # Safety
/// Implemented only by `raw!`. Members are integers, arrays of them, and other such
/// structures.
#[allow(unsafe_code, reason = "a marker that licenses byte-wise copies")]
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty)*) => { $(
        #[allow(unsafe_code, reason = "a marker that licenses byte-wise copies")]
        // SAFETY: every bit pattern of an integer is a value.
        unsafe impl $crate::nt::types::Plain for $type {}
    )* };
}
plain!(u8 u16 u32 u64 usize i8 i16 i32 i64 [u8; 4] [u8; 16]);

/// Size of a member, from the type of a reference to it.
const fn size_of_member<S, M>(_: fn(&S) -> &M) -> usize {
    size_of::<M>()
}

/// Declares `repr(C)` structures with their [`Layout`]s. A member is `name: type`,
/// or `name = "path": type` if its path in the fact tables differs.
macro_rules! raw {
    ($(
        $(#[$meta:meta])*
        struct $name:ident { $($field:ident $(= $path:literal)? : $type:ty),* $(,)? }
    )*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            #[allow(missing_docs, reason = "the names are the headers' own")]
            pub struct $name { $(pub $field: $type),* }

            #[allow(unsafe_code, reason = "a marker that licenses byte-wise copies")]
            // SAFETY: `raw!` declares only members of integer types.
            unsafe impl $crate::nt::types::Plain for $name {}

            impl $name {
                /// All members zero.
                pub const fn zeroed() -> Self {
                    #[allow(unsafe_code, reason = "zero is a value of every integer")]
                    // SAFETY: `Plain`: every bit pattern is a value.
                    unsafe { std::mem::zeroed() }
                }
            }
        )*

        /// The structures of this file.
        pub(super) const LAYOUTS: &[$crate::nt::types::Layout] = &[$(
            $crate::nt::types::Layout {
                name: stringify!($name),
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                members: &[$((
                    raw!(@path $field $($path)?),
                    std::mem::offset_of!($name, $field),
                    $crate::nt::types::size_of_member(|it: &$name| &it.$field),
                )),*],
            }
        ),*];
    };
    (@path $field:ident) => { stringify!($field) };
    (@path $field:ident $path:literal) => { $path };
}
use raw;

/// Every declared structure.
pub fn layouts() -> impl Iterator<Item = &'static Layout> {
    let kernel = [base::LAYOUTS, etw::LAYOUTS, io::LAYOUTS, irp::LAYOUTS, net::LAYOUTS];
    let others = [fwpm::LAYOUTS, fwps::LAYOUTS, wdf::LAYOUTS];
    kernel.into_iter().chain(others).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_structure_is_laid_out_as_in_the_headers() {
        let mut facts: Value = serde_json::from_str(include_str!("../../../facts/layouts.x64.json")).unwrap();
        let mut kmdf: Value = serde_json::from_str(include_str!("../../../facts/kmdf.json")).unwrap();
        facts.as_object_mut().unwrap().append(kmdf["layouts"].as_object_mut().unwrap());
        for layout in layouts() {
            let fact = resolve(&facts, layout.name);
            assert_eq!(fact["size"], layout.size, "size of {}", layout.name);
            assert_eq!(fact["align"], layout.align, "alignment of {}", layout.name);
            for (path, offset, size) in layout.members {
                let field = fact["fields"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|field| field[0] == *path)
                    .unwrap_or_else(|| panic!("{}.{path} is in no header", layout.name));
                assert_eq!(field[1], *offset, "offset of {}.{path}", layout.name);
                assert_eq!(field[2], *size, "size of {}.{path}", layout.name);
            }
        }
    }

    fn resolve<'a>(facts: &'a Value, name: &str) -> &'a Value {
        let fact = &facts[name];
        assert!(fact.is_object(), "{name} is in no header");
        match fact["same_as"].as_str() {
            Some(other) => resolve(facts, other),
            None => fact,
        }
    }
}
