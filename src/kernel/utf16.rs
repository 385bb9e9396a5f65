//! Short UTF-16 strings without allocation.

use crate::ffi;

/// At most `N` - 1 units, and the terminating zero.
pub struct Utf16<const N: usize> {
    units: [ffi::WCHAR; N],
    length: usize,
}

impl<const N: usize> Utf16<N> {
    /// Concatenates the parts; cuts off what does not fit.
    pub fn concat(parts: &[&str]) -> Self {
        let mut units = [0; N];
        let text = parts.iter().flat_map(|part| part.encode_utf16());
        let mut length = 0;
        for (place, unit) in units.iter_mut().take(N.saturating_sub(1)).zip(text) {
            *place = unit;
            length += 1;
        }
        Self { units, length }
    }

    /// As a zero-terminated string. The C types ask for a mutable pointer, but no
    /// callee writes to it.
    pub fn as_ptr(&self) -> *mut ffi::WCHAR {
        self.units.as_ptr().cast_mut()
    }

    /// As a counted string that borrows this one.
    pub fn unicode_string(&self) -> ffi::UNICODE_STRING {
        let bytes = size_of::<ffi::WCHAR>();
        ffi::UNICODE_STRING {
            Length: (self.length * bytes) as ffi::USHORT,
            MaximumLength: (N * bytes) as ffi::USHORT,
            Buffer: self.as_ptr(),
        }
    }
}
