//! The security cookie of an image compiled with /GS.
//!
//! The image's load configuration (`IMAGE_LOAD_CONFIG_DIRECTORY64`, winnt.h)
//! says where its `__security_cookie` lies. The compiler gives it a fixed value,
//! and Windows' loader replaces that before the entry point runs. An image that
//! finds the fixed value there stops the machine (`FAST_FAIL_SECURITY_COOKIE_INIT`).
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, Hasher, RandomState};

use object::pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG;

use super::pe::PeFile;

/// Offset of `SecurityCookie`: the address of the cookie.
const SECURITY_COOKIE: u32 = 0x58;

/// What the compiler puts into a cookie (`DEFAULT_SECURITY_COOKIE`, process.h).
const DEFAULT: u64 = 0x0000_2B99_2DDF_A232;

/// A cookie's highest 16 bits are zero, so that a copied string cannot contain it.
const MASK: u64 = 0x0000_FFFF_FFFF_FFFF;

/// Gives a relocated image its cookie, if it has a place for one.
pub(super) fn set(file: &PeFile, base: u64, content: &mut [u8]) {
    let Some(place) = place(file, base, content) else { return };
    if let Some(cookie) = content.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<8>())
        && *cookie == DEFAULT.to_le_bytes()
    {
        *cookie = random().to_le_bytes();
    }
}

/// Where the cookie lies in the image.
fn place(file: &PeFile, base: u64, content: &[u8]) -> Option<usize> {
    let directory = file.directory(IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG)?;
    let field = directory.start.checked_add(SECURITY_COOKIE)?;
    // Old configurations end before the field.
    let size = u32::from_le_bytes(*content.get(directory.start as usize..)?.first_chunk()?);
    if size < SECURITY_COOKIE + 8 {
        return None;
    }
    let address = u64::from_le_bytes(*content.get(field as usize..)?.first_chunk()?);
    address.checked_sub(base)?.try_into().ok()
}

fn random() -> u64 {
    // Each RandomState has new random keys, so the hash of no data is random.
    match RandomState::new().build_hasher().finish() & MASK {
        0 | DEFAULT => DEFAULT + 1,
        cookie => cookie,
    }
}
