//! Describes allocations, blocks and leaks of pool.

use std::fmt;

use crate::driver::Origin;

/// Which allocations fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// This many allocations succeed first.
    pub skip: u64,
    /// Then this many fail.
    pub fail: u64,
    /// Every allocation of more bytes than this fails.
    pub above: Option<usize>,
}

/// A block that was not freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its address.
    pub address: usize,
    /// Requested bytes.
    pub size: usize,
    /// Its tag.
    pub tag: PoolTag,
    /// Who has allocated it.
    pub origin: Origin,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, tag {}, at {:#x}", self.size, self.tag, self.address)?;
        match self.origin.stack.first() {
            Some(caller) => write!(f, ", allocated from {caller:#x}"),
            None => Ok(()),
        }
    }
}

/// A pool tag: four characters in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolTag(pub u32);

impl fmt::Display for PoolTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.to_le_bytes().escape_ascii())
    }
}

/// What kind of pool memory an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// A block, or the slack of its pages.
    Live,
    /// A freed block.
    Freed,
    /// The guard page after a block.
    Beyond,
}

/// A request of `ExAllocatePool2`.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Size in bytes.
    pub size: usize,
    /// The tag.
    pub tag: u32,
    /// Whether it is paged pool.
    pub paged: bool,
    /// Whether it is zeroed, which is the default.
    pub zeroed: bool,
    /// Whether it is aligned to a cache line.
    pub cache_aligned: bool,
    /// Who allocates it.
    pub origin: Origin,
}

/// An allocated or freed block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) size: usize,
    pub(super) tag: u32,
    pub(super) paged: bool,
    pub(super) pages: usize,
    /// Who has allocated it.
    pub(super) origin: Origin,
    /// Whether the system allocated it for itself.
    pub(super) of_system: bool,
    /// Return addresses of the free, if the block is freed.
    pub(super) freed: Option<Vec<u64>>,
}

/// `POOL_TYPE` (`wdm.h`): `NonPagedPool`, `PagedPool` and `NonPagedPoolNx`.
pub(in crate::nt) mod pool_type {
    pub(in crate::nt) const NON_PAGED_EXECUTE: u64 = 0;
    pub(in crate::nt) const PAGED: u64 = 1;
    pub(in crate::nt) const NON_PAGED: u64 = 512;
}

impl Block {
    /// Its `POOL_TYPE`.
    pub(super) fn pool_type(&self) -> u64 {
        if self.paged { pool_type::PAGED } else { pool_type::NON_PAGED }
    }

    /// Describes an address relative to this block.
    pub(super) fn describe(&self, address: usize) -> String {
        let (size, tag) = (self.size, PoolTag(self.tag));
        let from = |stack: &[u64]| match stack.first() {
            Some(caller) => format!("{caller:#x}"),
            None => "an unknown caller".to_string(),
        };
        let block_text = match &self.freed {
            Some(stack) => format!(
                "freed pool block, tag {tag}, {size} bytes, allocated from {}, freed from {}",
                from(&self.origin.stack),
                from(stack)
            ),
            None => {
                format!("pool block, tag {tag}, {size} bytes, allocated from {}", from(&self.origin.stack))
            }
        };
        let end = self.start + size;
        if address < self.start {
            format!("{} bytes before {block_text}", self.start - address)
        } else if address >= end {
            format!("{} bytes past the end of {block_text}", address - end)
        } else {
            format!("byte {} of {block_text}", address - self.start)
        }
    }
}
