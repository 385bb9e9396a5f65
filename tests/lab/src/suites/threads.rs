//! Describes what the threads of a hanging process are doing.
//!
//! The process is a child of this one, so its threads may be traced wherever ptrace
//! is allowed at all. Otherwise only names and states are reported.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module, Unwinder};
use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSection, ObjectSymbol};

use machine::image::{PeFile, Symbols, unwinder};
use machine::notes;

/// The maximum number of frames shown for a thread.
const MOST_FRAMES: usize = 40;

/// Describes every thread of a process: name, state and stack. Then the waits that
/// the lab recorded there: who waits for what.
pub(super) fn describe(process: u32, notes: &Path) -> String {
    let notes = notes::of(notes, process);
    let code = Code::of(process, &notes);
    let mut text = String::new();
    for thread in threads(process) {
        let read = |file: &str| {
            let path = format!("/proc/{process}/task/{thread}/{file}");
            std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
        };
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap_or("gone");
        text += &format!("  thread {} ({state})\n", read("comm"));
        match stack(process, thread, &code) {
            Ok(frames) => text.extend(frames.iter().map(|frame| format!("    {frame}\n"))),
            Err(error) => {
                text += &format!("    no stack: {error}; in the kernel: {}\n", read("wchan"));
            }
        }
    }
    for wait in notes.iter().filter_map(|line| line.strip_prefix("wait ")) {
        text += &format!("  {wait}\n");
    }
    text
}

fn threads(process: u32) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let mut threads: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    threads.sort_unstable();
    threads
}

/// The names of a thread's frames, innermost first.
fn stack(process: u32, thread: i32, code: &Code) -> nix::Result<Vec<String>> {
    let thread = Pid::from_raw(thread);
    ptrace::seize(thread, ptrace::Options::empty())?;
    let frames = ptrace::interrupt(thread)
        .and_then(|()| waitpid(thread, Some(WaitPidFlag::__WALL)))
        .and_then(|_| ptrace::getregs(thread))
        .map(|registers| {
            let start = UnwindRegsX86_64::new(registers.rip, registers.rsp, registers.rbp);
            code.walk(registers.rip, start, Pid::from_raw(process.cast_signed()))
        });
    let _runs_on = ptrace::detach(thread, None);
    frames
}

/// The code that a process has mapped.
struct Code {
    /// Programs and libraries, by address.
    objects: BTreeMap<u64, Mapped>,
    unwinder: UnwinderX86_64<Vec<u8>>,
    /// Images of drivers, by address.
    images: BTreeMap<u64, Arc<PeFile>>,
    image_unwinder: UnwinderX86_64<machine::image::UnwindBytes>,
}

/// A program or library.
struct Mapped {
    end: u64,
    name: String,
    /// Functions by their offset.
    functions: BTreeMap<u64, String>,
}

impl Code {
    fn of(process: u32, notes: &[String]) -> Self {
        let (mut objects, mut elf) = (BTreeMap::new(), UnwinderX86_64::new());
        for (path, range) in mapped_files(process) {
            // A file that is gone or is no ELF file has no names.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let Ok(file) = object::File::parse(&*bytes) else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            elf.add_module(Module::new(name.clone(), range.clone(), range.start, sections(&file)));
            objects.insert(range.start, Mapped { end: range.end, name, functions: functions(&file) });
        }
        let images: BTreeMap<u64, Arc<PeFile>> = notes.iter().filter_map(|line| image(line)).collect();
        let image_unwinder = unwinder(images.iter().map(|(base, file)| (*base, Arc::clone(file))));
        Self { objects, unwinder: elf, images, image_unwinder }
    }

    fn walk(&self, rip: u64, mut registers: UnwindRegsX86_64, process: Pid) -> Vec<String> {
        let mut read = |address| word(process, address).ok_or(());
        let mut cache = CacheX86_64::<MayAllocateDuringUnwind>::new_in();
        let mut image_cache = CacheX86_64::<MayAllocateDuringUnwind>::new_in();
        let mut address = FrameAddress::from_instruction_pointer(rip);
        let mut frames = Vec::new();
        while frames.len() < MOST_FRAMES {
            let at = address.address_for_lookup();
            frames.extend(self.name(at));
            let next = match self.image(at) {
                Some(_) => {
                    self.image_unwinder.unwind_frame(address, &mut registers, &mut image_cache, &mut read)
                }
                None => self.unwinder.unwind_frame(address, &mut registers, &mut cache, &mut read),
            };
            match next.ok().flatten().and_then(FrameAddress::from_return_address) {
                Some(caller) => address = caller,
                None => break,
            }
        }
        frames
    }

    fn image(&self, address: u64) -> Option<(&Arc<PeFile>, u32)> {
        let (base, file) = self.images.range(..=address).next_back()?;
        let offset = address - base;
        (offset < file.image.len() as u64).then_some((file, offset as u32))
    }

    /// The functions at an address; inlined ones come first, innermost first.
    fn name(&self, address: u64) -> Vec<String> {
        if let Some((file, rva)) = self.image(address) {
            let frames = Symbols::of(file).map(|symbols| symbols.resolve(rva)).unwrap_or_default();
            let mut named: Vec<String> =
                frames.iter().map(|frame| format!("{}: {frame}", file.name())).collect();
            if named.is_empty() {
                named.push(format!("{}+{rva:#x}", file.name()));
            }
            return named;
        }
        let object = self.objects.range(..=address).next_back().filter(|(_, object)| address < object.end);
        let Some((base, object)) = object else { return vec![format!("{address:#x}")] };
        match object.functions.range(..=address - base).next_back() {
            Some((_, function)) => vec![function.clone()],
            None => vec![format!("{}+{:#x}", object.name, address - base)],
        }
    }
}

/// The files from which a process has mapped code, with the range of addresses.
fn mapped_files(process: u32) -> BTreeMap<PathBuf, Range<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let mut files: BTreeMap<PathBuf, Range<u64>> = BTreeMap::new();
    for line in maps.lines() {
        // ADDRESS-ADDRESS FLAGS OFFSET DEVICE INODE PATH, the path as it is.
        let mut words = line.splitn(6, ' ');
        let (Some(range), Some(path)) = (words.next(), words.nth(4)) else { continue };
        let path = path.trim_start();
        let bounds = range.split_once('-').and_then(|(start, end)| {
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        });
        if let (Some((start, end)), true) = (bounds, path.starts_with('/')) {
            let whole = files.entry(path.into()).or_insert(start..end);
            *whole = whole.start.min(start)..whole.end.max(end);
        }
    }
    files
}

fn sections(file: &object::File<'_>) -> ExplicitModuleSectionInfo<Vec<u8>> {
    let section = |name: &str| file.section_by_name(name);
    let range =
        |name: &str| section(name).map(|section| section.address()..section.address() + section.size());
    let data = |name: &str| section(name).and_then(|section| section.data().ok().map(<[u8]>::to_vec));
    ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range(".text"),
        text: data(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..Default::default()
    }
}

fn functions(file: &object::File<'_>) -> BTreeMap<u64, String> {
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let code = symbols.filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.address() != 0);
    let named = code.filter_map(|symbol| {
        let name = rustc_demangle::demangle(symbol.name().ok()?);
        // Without the hash that distinguishes instances.
        Some((symbol.address(), format!("{name:#}")))
    });
    named.collect()
}

/// Parses a note with the address of an image.
fn image(note: &str) -> Option<(u64, Arc<PeFile>)> {
    let (base, path) = note.strip_prefix("image 0x")?.split_once(' ')?;
    let base = u64::from_str_radix(base, 16).ok()?;
    Some((base, Arc::new(PeFile::read(Path::new(path)).ok()?)))
}

fn word(process: Pid, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let remote = [RemoteIoVec { base: usize::try_from(address).ok()?, len: bytes.len() }];
    let read = process_vm_readv(process, &mut [IoSliceMut::new(&mut bytes)], &remote).ok()?;
    (read == bytes.len()).then(|| u64::from_le_bytes(bytes))
}
