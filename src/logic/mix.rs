//! A hash for numbers that come from the network.

/// Spreads a number over all bits, keyed (the finalizer of SplitMix64).
pub(super) const fn mix(number: u64, key: u64) -> u64 {
    let mut z = number.wrapping_add(key).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Spreads two numbers over one: their product's halves, laid over each other.
/// One multiplication, for what nobody gains by guessing.
#[inline(always)]
pub(super) const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}
