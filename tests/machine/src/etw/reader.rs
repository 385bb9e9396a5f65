//! Taking bytes off the front of a slice.

use super::{Malformed, Result};

/// What is left of some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    /// What the bytes are, for complaints.
    what: &'a str,
}

impl<'a> Reader<'a> {
    /// All of them.
    pub fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { left: bytes, what }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.left.len()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count).ok_or_else(|| {
            Malformed::new(format!("{}: {count} bytes wanted, {} left", self.what, self.left.len()))
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

    /// Bytes up to a zero, as UTF-8, and past the zero.
    pub fn name(&mut self) -> Result<String> {
        let end = self.left.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| Malformed::new(format!("{}: a name without its end", self.what)))?;
        let text = std::str::from_utf8(self.take(end)?);
        let text = text.map_err(|_| Malformed::new(format!("{}: a name that is no UTF-8", self.what)))?;
        self.u8()?;
        match text {
            "" => Err(Malformed::new(format!("{}: an empty name", self.what))),
            text => Ok(text.to_owned()),
        }
    }
}
