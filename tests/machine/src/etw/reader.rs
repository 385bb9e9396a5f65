//! Reads bytes from the front of a slice.

use super::{Malformed, Result};

/// A reader over some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    /// The name of the bytes, for errors.
    what: &'a str,
}

impl<'a> Reader<'a> {
    /// A reader over all of them.
    pub fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { left: bytes, what }
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The number of bytes left.
    pub fn len(&self) -> usize {
        self.left.len()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count).ok_or_else(|| {
            Malformed::new(format!("{}: expected {count} bytes, {} left", self.what, self.left.len()))
        })?;
        self.left = left;
        Ok(taken)
    }

    /// The next bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads UTF-8 up to a zero byte, and skips the zero byte.
    pub fn name(&mut self) -> Result<String> {
        let end = self.left.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| Malformed::new(format!("{}: a name without an end", self.what)))?;
        let text = std::str::from_utf8(self.take(end)?);
        let text = text.map_err(|_| Malformed::new(format!("{}: a name that is not UTF-8", self.what)))?;
        self.u8()?;
        match text {
            "" => Err(Malformed::new(format!("{}: an empty name", self.what))),
            text => Ok(text.to_owned()),
        }
    }
}
