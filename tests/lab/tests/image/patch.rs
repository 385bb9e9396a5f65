//! Plants defects in a PE file by changing single fields.

/// A file being changed, with the offsets of its headers.
pub struct Patch {
    pub bytes: Vec<u8>,
    /// The `PE\0\0` signature.
    pub nt: usize,
    /// The optional header.
    pub optional: usize,
}

/// One row of the section table.
struct Row {
    header: usize,
    name: String,
    rva: u32,
    size: u32,
    file: u32,
}

impl Patch {
    pub fn of(bytes: Vec<u8>) -> Self {
        let mut patch = Self { bytes, nt: 0, optional: 0 };
        patch.nt = patch.u32(0x3C) as usize;
        patch.optional = patch.nt + 24;
        patch
    }

    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub fn set_directory(&mut self, index: usize, rva: u32, size: u32) {
        let at = self.optional + 112 + 8 * index;
        self.set_u32(at, rva);
        self.set_u32(at + 4, size);
    }

    /// Adds `IMAGE_SCN_*` flags to a section.
    pub fn set_section_flags(&mut self, name: &str, flags: u32) {
        let at = self.row(name).header + 36;
        self.set_u32(at, self.u32(at) | flags);
    }

    pub fn move_section(&mut self, name: &str, by: u32) {
        let row = self.row(name);
        self.set_u32(row.header + 12, row.rva + by);
    }

    pub fn make_first_import_ordinal(&mut self, ordinal: u32) {
        let descriptor = self.offset(self.u32(self.optional + 112 + 8));
        let thunk = self.offset(self.u32(descriptor));
        self.set_u32(thunk, ordinal);
        self.set_u32(thunk + 4, 0x8000_0000);
    }

    pub fn set_first_relocation_type(&mut self, kind: u16) {
        let block = self.offset(self.u32(self.optional + 112 + 8 * 5));
        let entry = u16::from_le_bytes([self.bytes[block + 8], self.bytes[block + 9]]);
        self.set_u16(block + 8, entry & 0xFFF | kind << 12);
    }

    /// Writes over the `nop`s that the driver keeps for it.
    pub fn plant_code(&mut self, code: &[u8]) {
        let mut windows = self.bytes.windows(32);
        let at = windows.position(|window| window == [0x90; 32]).expect("32 nops");
        self.bytes[at..at + code.len()].copy_from_slice(code);
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn rows(&self) -> Vec<Row> {
        let count = self.bytes[self.nt + 6] as usize;
        let table = self.optional + usize::from(self.bytes[self.nt + 20]);
        let row = |index| {
            let header = table + 40 * index;
            let name = &self.bytes[header..header + 8];
            Row {
                header,
                name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
                rva: self.u32(header + 12),
                size: self.u32(header + 8),
                file: self.u32(header + 20),
            }
        };
        (0..count).map(row).collect()
    }

    fn row(&self, name: &str) -> Row {
        self.rows().into_iter().find(|row| row.name == name).expect("the section")
    }

    /// Where in the file an address of the image lies.
    fn offset(&self, rva: u32) -> usize {
        let holds = |row: &Row| (row.rva..row.rva + row.size).contains(&rva);
        let row = self.rows().into_iter().find(holds).expect("in a section");
        (rva - row.rva + row.file) as usize
    }
}
