//! Nonpaged pool: fallible, with any alignment, and a tag for each kind of allocation.

use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::status::{Result, Status};
use crate::ffi;
use crate::logic::counters::Counters;
use crate::logic::order::TieSet;
use crate::logic::policy::Exemptions;
use crate::logic::processor::Processor;

/// The tag of an allocation. A debugger's pool listing shows its four letters.
#[derive(Clone, Copy)]
pub struct Tag(ffi::ULONG);

impl Tag {
    /// The tag with these letters.
    pub const fn new(letters: &[u8; 4]) -> Self {
        Self(u32::from_le_bytes(*letters))
    }
}

/// The tags: one for each kind of allocation, so that debuggers and verifiers show which
/// code has made it (ExAllocatePool2). `!poolused 2 hu*` lists all of them.
pub mod tag {
    use super::Tag;

    /// A policy in force.
    pub const APPLIED: Tag = Tag::new(b"huAp");
    /// Registrations of callouts.
    pub const CALLOUTS: Tag = Tag::new(b"huCa");
    /// What writes ETW events.
    pub const CHANNEL: Tag = Tag::new(b"huCh");
    /// Counters that processors share.
    pub const COUNTERS: Tag = Tag::new(b"huCo");
    /// The owner of the device object.
    pub const DEVICE: Tag = Tag::new(b"huDe");
    /// Lists of exemptions.
    pub const EXEMPTIONS: Tag = Tag::new(b"huEx");
    /// The state of the session with the filter engine.
    pub const FILTERING: Tag = Tag::new(b"huFi");
    /// Records of flows.
    pub const FLOWS: Tag = Tag::new(b"huFl");
    /// Locks, with what they protect.
    pub const MUTEX: Tag = Tag::new(b"huMu");
    /// The policies.
    pub const POLICIES: Tag = Tag::new(b"huPo");
    /// Counters and remotes of a processor.
    pub const PROCESSOR: Tag = Tag::new(b"huPr");
    /// Lists of what processors have.
    pub const PER_CPU: Tag = Tag::new(b"huPc");
    /// The state that all callouts share.
    pub const SHARED: Tag = Tag::new(b"huSh");
    /// What wakes a thread.
    pub const SIGNAL: Tag = Tag::new(b"huSi");
    /// Slots in which a processor counts for flows.
    pub const SLOTS: Tag = Tag::new(b"huSl");
    /// What a thread runs.
    pub const THREAD: Tag = Tag::new(b"huTh");
    /// What connections and endpoints have passed.
    pub const TIES: Tag = Tag::new(b"huTi");
    /// A buffer for a registry value.
    pub const VALUE: Tag = Tag::new(b"huVa");
    /// The packets and calls under way on a processor.
    pub const WALKS: Tag = Tag::new(b"huWa");
    /// A work item and its work.
    pub const WORK_ITEM: Tag = Tag::new(b"huWo");
}

/// The alignment of ExAllocatePool2 on 64-bit Windows (its documentation).
const POOL_ALIGNMENT: usize = 16;

/// A block of zeroed pool. The layout is fixed, like that of its contents, so that a
/// debugger can follow it.
#[repr(C)]
struct Block {
    /// The first byte that has the alignment asked for.
    data: NonNull<u8>,
    /// The address that the pool returned.
    base: NonNull<u8>,
}

impl Block {
    fn allocate(tag: Tag, size: usize, align: usize) -> Result<Self> {
        let spare = align.saturating_sub(POOL_ALIGNMENT);
        // The pool takes a request for no bytes as a bug of the caller.
        let size = size.max(1).checked_add(spare).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        // SAFETY: size and tag are not zero, and the flags ask for nonpaged
        // pool, which may be had at any IRQL at which this crate runs.
        let base = unsafe { ffi::ExAllocatePool2(ffi::POOL_FLAG_NON_PAGED, size as ffi::SIZE_T, tag.0) };
        let base = NonNull::new(base.cast::<u8>()).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        // To the next multiple of a power of two; `align_offset` would panic for others.
        let offset = base.addr().get().wrapping_neg() & align.wrapping_sub(1);
        let offset = offset.min(spare);
        // SAFETY: `spare` bytes more than `size` were allocated.
        let data = unsafe { base.add(offset) };
        Ok(Self { data, base })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `base` came from ExAllocatePool2 and is freed once, here.
        unsafe { ffi::ExFreePool(self.base.as_ptr().cast()) };
    }
}

/// A value in nonpaged pool, at an address that never changes.
pub struct PoolBox<T> {
    block: Block,
    owns: PhantomData<T>,
}

// SAFETY: it owns its value as a plain `T` would be owned.
unsafe impl<T: Send> Send for PoolBox<T> {}
// SAFETY: it gives out shared references only.
unsafe impl<T: Sync> Sync for PoolBox<T> {}

impl<T> PoolBox<T> {
    /// Moves a value into pool.
    pub fn new(tag: Tag, value: T) -> Result<Self> {
        let block = Block::allocate(tag, size_of::<T>(), align_of::<T>())?;
        // SAFETY: the block is fresh, large enough and aligned for a `T`.
        unsafe { block.data.cast::<T>().write(value) };
        Ok(Self { block, owns: PhantomData })
    }

    /// The address of the value.
    pub fn as_ptr(&self) -> *mut T {
        self.block.data.cast().as_ptr()
    }
}

/// A type for which all bytes zero, padding included, are a valid value.
///
/// # Safety
/// All bytes zero are a valid value.
pub unsafe trait Zeroed {}

// SAFETY: integers and arrays of them; all zero, it exempts nothing.
unsafe impl Zeroed for Exemptions {}

// SAFETY: atomic integers and arrays of them.
unsafe impl Zeroed for Processor {}
// SAFETY: as above.
unsafe impl Zeroed for Counters {}
// SAFETY: as above; zero means that there is no tie.
unsafe impl Zeroed for TieSet {}

impl<T: Zeroed> PoolBox<T> {
    /// A zeroed value, made in place. For values too large for a kernel stack.
    pub fn zeroed(tag: Tag) -> Result<Self> {
        let block = Block::allocate(tag, size_of::<T>(), align_of::<T>())?;
        Ok(Self { block, owns: PhantomData })
    }
}

impl<T> DerefMut for PoolBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the block holds a `T` from `new` until drop, and this is its
        // only owner.
        unsafe { self.block.data.cast().as_mut() }
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the block holds a `T` from `new` until drop.
        unsafe { self.block.data.cast().as_ref() }
    }
}

impl<T> Drop for PoolBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value was written in `new` and is dropped once, here.
        unsafe { self.as_ptr().drop_in_place() };
    }
}

/// A value in nonpaged pool that lives as long as its last owner.
pub struct PoolArc<T> {
    counted: core::mem::ManuallyDrop<PoolBox<ArcState<T>>>,
    /// Unlike a box, it is not `Send` if only `T: Send`.
    shares: PhantomData<*const T>,
}

// SAFETY: owners on other threads share the value, and the last of them, on any
// thread, drops it.
unsafe impl<T: Send + Sync> Send for PoolArc<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for PoolArc<T> {}

/// The layout is fixed, like that of [`Block`].
#[repr(C)]
struct ArcState<T> {
    owners: AtomicUsize,
    value: T,
}

impl<T> PoolArc<T> {
    /// Moves a value into pool.
    pub fn new(tag: Tag, value: T) -> Result<Self> {
        let counted = PoolBox::new(tag, ArcState { owners: AtomicUsize::new(1), value })?;
        Ok(Self { counted: core::mem::ManuallyDrop::new(counted), shares: PhantomData })
    }
}

impl<T> Clone for PoolArc<T> {
    fn clone(&self) -> Self {
        self.counted.owners.fetch_add(1, Ordering::Relaxed);
        let PoolBox { block: Block { data, base }, owns }: &PoolBox<ArcState<T>> = &self.counted;
        let counted = PoolBox { block: Block { data: *data, base: *base }, owns: *owns };
        Self { counted: core::mem::ManuallyDrop::new(counted), shares: PhantomData }
    }
}

impl<T> Deref for PoolArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted.value
    }
}

impl<T> Drop for PoolArc<T> {
    fn drop(&mut self) {
        if self.counted.owners.fetch_sub(1, Ordering::Release) == 1 {
            // Orders this after what the other owners did. It is a load because
            // ThreadSanitizer does not model fences.
            let _none = self.counted.owners.load(Ordering::Acquire);
            // SAFETY: this was the last owner, and each drops its share once.
            unsafe { core::mem::ManuallyDrop::drop(&mut self.counted) };
        }
    }
}

/// A list with a fixed capacity, allocated at the start.
///
/// Values are dropped from the end: the last one first.
#[repr(C)]
pub struct PoolVec<T> {
    block: Block,
    length: usize,
    capacity: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its values as a plain array would.
unsafe impl<T: Send> Send for PoolVec<T> {}
// SAFETY: shared, it gives out shared references only.
unsafe impl<T: Sync> Sync for PoolVec<T> {}

impl<T> PoolVec<T> {
    /// An empty list with room for `capacity` values.
    pub fn with_capacity(tag: Tag, capacity: usize) -> Result<Self> {
        let size = size_of::<T>().checked_mul(capacity).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let block = Block::allocate(tag, size, align_of::<T>())?;
        Ok(Self { block, length: 0, capacity, owns: PhantomData })
    }

    /// A list of `count` zeroed values.
    pub fn zeroed(tag: Tag, count: usize) -> Result<Self>
    where
        T: Zeroed,
    {
        let mut values = Self::with_capacity(tag, count)?;
        values.length = count;
        Ok(values)
    }

    /// A list of `count` default values.
    pub fn filled(tag: Tag, count: usize) -> Result<Self>
    where
        T: Default,
    {
        let mut values = Self::with_capacity(tag, count)?;
        for _ in 0..count {
            values.push(T::default())?;
        }
        Ok(values)
    }

    /// Adds a value; fails if the list is full.
    pub fn push(&mut self, value: T) -> Result {
        if self.length == self.capacity {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        // SAFETY: the block has room for `capacity` values, and length is less.
        let place = unsafe { self.block.data.cast::<T>().add(self.length) };
        // SAFETY: no value is there yet.
        unsafe { place.write(value) };
        self.length += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<T> {
        self.length = self.length.checked_sub(1)?;
        // SAFETY: the block has at least `length` + 1 values.
        let place = unsafe { self.block.data.cast::<T>().add(self.length) };
        // SAFETY: the value there was written by `push`, and with the shorter
        // length nothing else reads it again.
        Some(unsafe { place.read() })
    }
}

impl<T> Deref for PoolVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `length` places hold values from `push`.
        unsafe { core::slice::from_raw_parts(self.block.data.cast().as_ptr(), self.length) }
    }
}

impl<T> Drop for PoolVec<T> {
    fn drop(&mut self) {
        while let Some(value) = self.pop() {
            drop(value);
        }
    }
}
