//! The strings of an entry, as UTF-16.

use crate::logic::address::Address;

/// Room for the strings of an entry, in UTF-16 units. An entry has at most
/// ERROR_LOG_MAXIMUM_SIZE (240) bytes, of which IO_ERROR_LOG_PACKET takes 48 (`wdm.h`).
pub const ROOM: usize = 96;

/// The most strings that an entry has.
pub const MOST: usize = 5;

/// The strings that replace `%2` and the following numbers of a message, each with its
/// terminating zero.
#[derive(Clone, Debug)]
pub struct Strings {
    units: [u16; ROOM],
    length: usize,
    count: usize,
}

impl Strings {
    /// No strings yet.
    pub const fn new() -> Self {
        Self { units: [0; ROOM], length: 0, count: 0 }
    }

    /// The units of all strings.
    pub fn units(&self) -> &[u16] {
        self.units.get(..self.length).unwrap_or(&[])
    }

    /// How many strings there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Adds a string that consists of these ASCII parts. What does not fit is cut off;
    /// room for the ends of later strings is kept. Does nothing if there are five strings.
    #[inline(never)]
    pub fn with(&mut self, parts: &[&[u8]]) -> &mut Self {
        if self.count == MOST {
            return self;
        }
        for letter in parts.iter().copied().flatten() {
            self.push(*letter);
        }
        self.count += 1;
        self.length += 1;
        self
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.with(&[text.as_bytes()])
    }

    /// Adds a decimal number.
    #[inline(never)]
    pub fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = Digits::new();
        digits.decimal(number);
        self.with(&[digits.text()])
    }

    /// Adds an NTSTATUS, as `0xC0220012`.
    #[inline(never)]
    pub fn status(&mut self, status: i32) -> &mut Self {
        let mut digits = Digits::new();
        for place in (0..8).rev() {
            digits.digit(u64::from(status as u32 >> (4 * place) & 0xf));
        }
        digits.text.make_ascii_uppercase();
        self.with(&[b"0x", digits.text()])
    }

    /// Adds an address, in the form of RFC 5952.
    #[inline(never)]
    pub fn address(&mut self, address: Address) -> &mut Self {
        let mut digits = Digits::new();
        match address {
            Address::V4(address) => digits.v4(address),
            Address::V6(address) => digits.v6(address),
        }
        self.with(&[digits.text()])
    }

    fn push(&mut self, letter: u8) {
        // The units are zero, so each string ends where the next begins.
        let ends = MOST - self.count;
        if self.length < ROOM - ends
            && let Some(unit) = self.units.get_mut(self.length)
        {
            *unit = letter.into();
            self.length += 1;
        }
    }
}

impl Default for Strings {
    fn default() -> Self {
        Self::new()
    }
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Room for a number of 64 bits, or an address: an IPv6 address has at most 39
/// characters.
struct Digits {
    text: [u8; 40],
    length: usize,
}

impl Digits {
    const fn new() -> Self {
        Self { text: [0; 40], length: 0 }
    }

    fn text(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or(&[])
    }

    fn push(&mut self, letter: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = letter;
            self.length += 1;
        }
    }

    fn digit(&mut self, digit: u64) {
        self.push(DIGITS.get(digit as usize).copied().unwrap_or(b'?'));
    }

    /// The digits of a number, without leading zeros. `place` is the largest power of
    /// `RADIX` that the number can have.
    fn in_radix<const RADIX: u64>(&mut self, number: u64, mut place: u64) {
        let mut has_begun = false;
        while place > 0 {
            let digit = number / place % RADIX;
            has_begun |= digit != 0 || place == 1;
            if has_begun {
                self.digit(digit);
            }
            place /= RADIX;
        }
    }

    fn decimal(&mut self, number: u64) {
        self.in_radix::<10>(number, 10_000_000_000_000_000_000);
    }

    fn v4(&mut self, address: u32) {
        for (at, octet) in address.to_be_bytes().into_iter().enumerate() {
            if at > 0 {
                self.push(b'.');
            }
            self.decimal(octet.into());
        }
    }

    /// RFC 5952: the longest run of at least two groups of zeros is `::`, the first of
    /// two equal ones. An IPv4-mapped address ends as an IPv4 address.
    fn v6(&mut self, address: u128) {
        if address >> 32 == 0xffff {
            b"::ffff:".iter().for_each(|letter| self.push(*letter));
            return self.v4(address as u32);
        }
        let group = |at: u32| (address >> (16 * (7 - at))) as u16;
        let (mut gap, mut longest) = (8, 1);
        for start in 0..8 {
            let zeros = (start..8).take_while(|at| group(*at) == 0).count() as u32;
            if zeros > longest {
                (gap, longest) = (start, zeros);
            }
        }
        let mut at = 0;
        while at < 8 {
            if at == gap {
                self.push(b':');
                at += longest;
                if at == 8 {
                    self.push(b':');
                }
                continue;
            }
            if at > 0 {
                self.push(b':');
            }
            self.in_radix::<16>(group(at).into(), 0x1000);
            at += 1;
        }
    }
}
