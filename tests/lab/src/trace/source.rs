//! Reads the bytes of a capture file, plain or gzip, and counts them.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;

use super::capture::Damage;

/// Decompressed captures are at most this many times larger. A file that grows
/// more, beyond [`ANY_RATIO`], counts as a decompression bomb.
const LARGEST_RATIO: u64 = 100;
/// The decompressed size, in bytes, up to which any ratio is accepted: 1 GiB.
const ANY_RATIO: u64 = 1 << 30;

/// The bytes that were peeked at, and the rest.
type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// Counts the bytes that are read from the file.
struct Counted<R> {
    input: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read += count as u64;
        Ok(count)
    }
}

enum Input<R> {
    Plain(Counted<Whole<R>>),
    Gzip(Box<BufReader<MultiGzDecoder<Counted<Whole<R>>>>>),
}

/// A source that counts its bytes.
pub(super) struct Source<R> {
    input: Input<R>,
    /// The number of decompressed bytes that have been read.
    pub(super) at: u64,
    larger: u64,
}

impl<R: Read> Source<R> {
    /// Detects whether the file is compressed.
    pub(super) fn new(mut input: R) -> Result<Self, Damage> {
        let mut head = Vec::new();
        let read = (&mut input).take(2).read_to_end(&mut head);
        read.map_err(|error| Damage { at: 0, what: error.to_string() })?;
        let is_gzip = head == [0x1f, 0x8b];
        let counted = Counted { input: Cursor::new(head).chain(input), read: 0 };
        let input = match is_gzip {
            false => Input::Plain(counted),
            true => Input::Gzip(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(counted)))),
        };
        Ok(Self { input, at: 0, larger: ANY_RATIO })
    }

    /// A source with a lower bound for decompression bombs, for tests.
    #[cfg(test)]
    pub(super) fn with_bound(input: R, larger: u64) -> Result<Self, Damage> {
        Ok(Self { larger, ..Self::new(input)? })
    }

    pub(super) fn is_gzip(&self) -> bool {
        matches!(self.input, Input::Gzip(_))
    }

    /// The number of bytes of the file that have been read.
    pub(super) fn of_file(&self) -> u64 {
        match &self.input {
            Input::Plain(counted) => counted.read,
            Input::Gzip(reader) => reader.get_ref().get_ref().read,
        }
    }

    /// The next `N` bytes; `None` at the end of the file.
    pub(super) fn array_or_end<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Damage> {
        let mut bytes = [0; N];
        Ok(self.read(&mut bytes, true)?.then_some(bytes))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        self.read(&mut bytes, false)?;
        Ok(bytes)
    }

    /// Reads exactly `length` bytes into `buffer`. The caller has bounded the
    /// length.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>, length: usize) -> Result<(), Damage> {
        buffer.clear();
        buffer.resize(length, 0);
        self.read(buffer, false).map(|_| ())
    }

    pub(super) fn skip(&mut self, mut length: u64) -> Result<(), Damage> {
        let from = self.at;
        let mut room = [0; 4096];
        while length > 0 {
            let part = room.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            self.read(&mut room[..part], false).map_err(|damage| Damage { at: from, ..damage })?;
            length -= part as u64;
        }
        Ok(())
    }

    pub(super) fn damage(&self, what: impl Into<String>) -> Damage {
        Damage { at: self.at, what: what.into() }
    }

    fn read(&mut self, bytes: &mut [u8], may_end: bool) -> Result<bool, Damage> {
        let from = self.at;
        let mut filled = 0;
        while filled < bytes.len() {
            let rest = &mut bytes[filled..];
            let read = match &mut self.input {
                Input::Plain(input) => input.read(rest),
                Input::Gzip(input) => input.read(rest),
            };
            match read {
                Ok(0) if filled == 0 && may_end => return Ok(false),
                Ok(0) => {
                    let what = format!("the file ends within a record, after {filled} bytes of it");
                    return Err(Damage { at: from, what });
                }
                Ok(count) => {
                    filled += count;
                    self.at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let of = if self.is_gzip() { "gzip: " } else { "" };
                    return Err(Damage { at: from, what: format!("{of}{error}") });
                }
            }
        }
        self.is_no_bomb()?;
        Ok(true)
    }

    fn is_no_bomb(&self) -> Result<(), Damage> {
        let file = self.of_file();
        if self.at <= self.larger || !self.is_gzip() || self.at / LARGEST_RATIO <= file {
            return Ok(());
        }
        let what = format!(
            "gzip: {file} bytes of the file have become {}, more than {LARGEST_RATIO} times as many; \
             gunzip it first if that is meant",
            self.at
        );
        Err(self.damage(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        // A file of two members, as `cat a.gz b.gz` makes it.
        for file in [b"capture".to_vec(), [gzip(b"cap"), gzip(b"ture")].concat()] {
            let mut source = Source::new(&file[..]).unwrap();
            assert_eq!(source.array::<7>().unwrap(), *b"capture");
            assert_eq!(source.array_or_end::<1>().unwrap(), None);
            assert_eq!((source.at, source.of_file()), (7, file.len() as u64));
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused() {
        let file = gzip(&vec![0; 1 << 20]);
        let mut source = Source::with_bound(&file[..], 1 << 16).unwrap();
        let damage = source.skip(1 << 20).unwrap_err();
        assert!(damage.what.contains("gunzip it first"), "{damage}");
        assert!(source.at <= 1 << 17, "it must stop at most one buffer after the bound: {}", source.at);
        // Below the bound the file is accepted.
        Source::new(&file[..]).unwrap().skip(1 << 20).unwrap();
    }

    #[test]
    fn a_truncated_gzip_is_an_error() {
        let file = gzip(&(0..255).collect::<Vec<u8>>());
        let mut source = Source::new(&file[..file.len() / 2]).unwrap();
        let damage = source.skip(255).unwrap_err();
        assert!(damage.what.starts_with("gzip: "), "{damage}");
    }
}
