//! The checksum of a PE file, as ImageHlp's CheckSumMappedFile computes it.

/// Adds the file's 16-bit words with end-around carry, without the field
/// `CheckSum`, and then adds the file's length.
pub fn checksum(bytes: &[u8], field: usize) -> u32 {
    let own = field..field.saturating_add(4);
    let mut sum = 0u32;
    for (index, pair) in bytes.chunks(2).enumerate() {
        let byte = |offset: usize| match pair.get(offset) {
            Some(&byte) if !own.contains(&(2 * index + offset)) => u32::from(byte),
            _ => 0,
        };
        sum += byte(0) | byte(1) << 8;
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum.wrapping_add(bytes.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn words_are_summed_with_end_around_carry() {
        // 0xFFFF + 0x0002 = 0x1_0001; with the carry added it is 0x0002.
        assert_eq!(checksum(&[0xFF, 0xFF, 0x02, 0x00], 100), 0x0002 + 4);
    }

    #[test]
    fn an_odd_byte_counts_as_a_word() {
        assert_eq!(checksum(&[0x34, 0x12, 0x01], 100), 0x1235 + 3);
    }

    #[test]
    fn the_field_itself_does_not_count_even_at_an_odd_offset() {
        assert_eq!(checksum(&[1, 0, 9, 9, 9, 9, 2, 0], 2), 3 + 8);
        assert_eq!(checksum(&[1, 9, 9, 9, 9, 0, 2, 0], 1), 3 + 8);
    }
}
