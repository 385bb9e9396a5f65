//! The addresses of all code that a confined process maps.
//!
//! A seccomp filter sees the arguments of `mprotect`, not what they are for. So a
//! process that loads images after its filter is armed reserves addresses for them
//! before, and the filter lets pages be executable there and nowhere else.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Mutex, PoisonError};

use super::map::Reservation;
use super::{dispatch, fault, thunk};

/// Reserved addresses of images to come.
static ARENA: Mutex<Option<Free>> = Mutex::new(None);

struct Free {
    reservation: Reservation,
    used: usize,
}

/// The addresses where this process maps code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
}

/// Prepares this process for a filter: reserves `bytes` of addresses for all images,
/// and makes the executable pages and signal handlers that it needs besides.
///
/// # Errors
/// If the system refuses. If it was called before.
pub fn confine(bytes: usize) -> io::Result<Arena> {
    fault::install();
    dispatch::limit_allocator();
    thunk::prepare()?;
    let reservation = Reservation::new(bytes)?;
    let start = reservation.base();
    let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
    if arena.is_some() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    *arena = Some(Free { reservation, used: 0 });
    Ok(Arena { start, end: start + bytes as u64 })
}

/// The address of `size` unused bytes of the arena; `None` if there is no arena.
/// Addresses are not used twice.
pub(super) fn take(size: usize) -> Option<io::Result<u64>> {
    let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
    let free = arena.as_mut()?;
    let end = free.used.checked_add(size).filter(|&end| end as u64 <= free.reservation.size());
    Some(match end {
        Some(end) => {
            let at = free.reservation.base() + free.used as u64;
            free.used = end;
            Ok(at)
        }
        None => Err(io::Error::other("no addresses are left for another image")),
    })
}
