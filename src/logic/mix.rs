//! A hash for numbers that come from the network.

/// Two numbers made one, nearly for nothing: both halves of their product, laid
/// over each other. Where somebody gains by guessing, one of them at least must
/// be nobody else's to know, or to choose.
#[inline(always)]
pub(super) const fn fold(one: u64, other: u64) -> u64 {
    let product = one as u128 * other as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Spreads a number over all bits, keyed (the finalizer of SplitMix64).
pub const fn mix(number: u64, key: u64) -> u64 {
    let mut z = number.wrapping_add(key).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
