//! Access to the bytes of a packet.

/// A source of bytes.
pub trait Bytes {
    /// `N` bytes at an offset; `None` if they are not all there.
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }
}
