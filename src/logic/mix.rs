//! Hashes for numbers that come from the network.

/// A cheap hash of two numbers: XORs both halves of their product. Where an attacker
/// gains from guessing, at least one of the numbers must be unknown to others.
#[inline(always)]
pub(super) const fn fold(one: u64, other: u64) -> u64 {
    let product = one as u128 * other as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Mixes a number over all bits, with a key (the finalizer of SplitMix64).
pub const fn mix(number: u64, key: u64) -> u64 {
    let mut z = number.wrapping_add(key).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
