//! Bytes of a packet, wherever they lie.

/// Where bytes are read from.
pub trait Bytes {
    /// `N` of them from an offset on; `None` where they are not all there.
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }
}
