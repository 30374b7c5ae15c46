//! Names for addresses, found when a trace is exported and never in the profiled process.
//!
//! A [`Symbolizer`] knows which files each process had mapped (module rows) and answers an address
//! with the functions there, inlined ones included. A file on disk is believed only if its build id
//! is the one that the process had mapped; else, and where a file has no build id, the answer is
//! `module+0x…`, the offset in the file. Symbols come from the file itself, from the separate debug
//! file of equal build id (`/usr/lib/debug/.build-id`) or from the one its debug link names. Code
//! that lies in no file is named by the perf map or jit dump that was copied beside the spool.
//!
//! The libraries behind it are `object` and `addr2line`. Both read what is on disk and nothing
//! else, which is wanted here: an export asks no symbol server.
//!
//! Memory is bounded: DWARF is let go, the least recently used first, when all of it together is
//! larger than [`SymbolizerOptions::memory_bytes`]; resolved addresses are kept in two generations
//! of [`CACHED_ADDRESSES`].

mod demangle;
mod elf;
mod files;
mod jit;
mod ranges;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use demangle::{MAX_NAME_BYTES, demangle, demangle_function};
use files::Files;
use jit::JitFunctions;
use ranges::Ranges;

/// The addresses of a generation of the cache.
pub const CACHED_ADDRESSES: usize = 1 << 16;

/// The function of an address in no known file.
pub const UNKNOWN: &str = "[unknown]";

/// The most inlined functions of one address.
const MAX_INLINED: usize = 64;

/// What a [`Symbolizer`] may do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SymbolizerOptions {
    /// How much memory the symbols and the DWARF of all files may take, each. A file with more
    /// DWARF than that is resolved by its symbols alone.
    pub memory_bytes: u64,
    /// Whether DWARF is read: files, lines and inlined functions; else symbols alone.
    pub lines: bool,
    /// Where separate debug files lie.
    pub debug_directories: Vec<PathBuf>,
}

impl Default for SymbolizerOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            lines: true,
            debug_directories: vec![PathBuf::from("/usr/lib/debug")],
        }
    }
}

/// A file that was mapped as code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleFile {
    /// Its path as the process saw it, or a name in brackets (`[vdso]`).
    pub path: Box<str>,
    /// Its build id, empty where it has none.
    pub build_id: Box<[u8]>,
}

impl ModuleFile {
    /// The name without its directory.
    #[must_use]
    pub fn name(&self) -> &str {
        let path = self.path.trim_end_matches(DELETED);
        path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
    }

    /// The build id in hexadecimal.
    #[must_use]
    pub fn build_id_text(&self) -> String {
        self.build_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What the kernel appends to the path of a file that was removed.
const DELETED: &str = " (deleted)";

/// Where a file was mapped, as a module row says it.
#[derive(Clone, Copy, Debug)]
pub struct ModuleRange<'a> {
    /// The process.
    pub process: u32,
    /// The first address.
    pub start: u64,
    /// The address past the last.
    pub end: u64,
    /// Where in the file the range begins.
    pub file_offset: u64,
    /// The file.
    pub path: &'a str,
    /// Its build id, raw bytes.
    pub build_id: &'a [u8],
}

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedFrame {
    /// The function's name, or `module+0x…`, or [`UNKNOWN`].
    pub function: Arc<str>,
    /// Whether `function` is a name that symbols gave.
    pub named: bool,
    /// The source file.
    pub file: Option<Arc<str>>,
    /// The line in it, 0 = not known.
    pub line: u32,
    /// The mapped file.
    pub module: Option<Arc<ModuleFile>>,
    /// Where in that file the address lies, in bytes from its beginning; without a file, the
    /// address itself.
    pub rel_pc: u64,
    /// Whether it was inlined into the next one.
    pub inlined: bool,
}

/// Finds names for addresses.
#[derive(Debug)]
pub struct Symbolizer {
    processes: HashMap<(u32, u32), Process>,
    modules: HashSet<Arc<ModuleFile>>,
    files: Files,
    young: Cache,
    old: Cache,
}

type Cache = HashMap<(u32, u32, u64), Arc<[ResolvedFrame]>>;

#[derive(Debug, Default)]
struct Process {
    ranges: Ranges,
    jit: JitFunctions,
}

impl Symbolizer {
    /// A symbolizer that knows no module yet.
    #[must_use]
    pub fn new(options: SymbolizerOptions) -> Self {
        Self {
            processes: HashMap::new(),
            modules: HashSet::new(),
            files: Files::new(options),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Tells it where a file was mapped, in the order of time: a later range hides what it covers
    /// of earlier ones. `worker` tells the processes of several workers apart, whose ids may be
    /// equal.
    pub fn add_module(&mut self, worker: u32, module: ModuleRange<'_>) {
        let file = ModuleFile { path: module.path.into(), build_id: module.build_id.into() };
        let file = match self.modules.get(&file) {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(file);
                self.modules.insert(file.clone());
                file
            }
        };
        let process = self.processes.entry((worker, module.process)).or_default();
        process.ranges.insert(module.start, module.end, module.file_offset, file);
        self.young.clear();
        self.old.clear();
    }

    /// Reads the perf map and the jit dump that lie beside a spool, where they do:
    /// `<stem>.perf-map` and `<stem>.jitdump`.
    ///
    /// # Errors
    ///
    /// A file that is there cannot be read. What was read of it before is kept.
    pub fn load_jit(&mut self, worker: u32, process: u32, spool: &Path) -> std::io::Result<()> {
        let process = self.processes.entry((worker, process)).or_default();
        if let Some(map) = open_beside(spool, "perf-map")? {
            process.jit.read_perf_map(map)?;
        }
        if let Some(dump) = open_beside(spool, "jitdump")? {
            process.jit.read_jit_dump(dump)?;
        }
        self.young.clear();
        self.old.clear();
        Ok(())
    }

    /// The functions at an address, the innermost first; never empty.
    pub fn resolve(&mut self, worker: u32, process: u32, address: u64) -> Arc<[ResolvedFrame]> {
        let key = (worker, process, address);
        if let Some(frames) = self.young.get(&key) {
            return frames.clone();
        }
        let frames = match self.old.get(&key) {
            Some(frames) => frames.clone(),
            None => self.look_up(worker, process, address),
        };
        if self.young.len() >= CACHED_ADDRESSES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, frames.clone());
        frames
    }

    /// What a person should know: files whose symbols could not be used, and why. At most a
    /// hundred lines.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.files.notes()
    }

    fn look_up(&mut self, worker: u32, process: u32, address: u64) -> Arc<[ResolvedFrame]> {
        let process = self.processes.get(&(worker, process));
        let mapped = process.and_then(|process| process.ranges.find(address));
        // Generated code lies in anonymous memory, which module rows may name in brackets or as a
        // removed file.
        let in_file = mapped.is_some_and(|mapped| !is_anonymous(&mapped.file.path));
        if !in_file
            && let Some((function, start)) = process.and_then(|process| process.jit.find(address))
        {
            return Arc::from([ResolvedFrame {
                function,
                named: true,
                file: None,
                line: 0,
                module: mapped.map(|mapped| mapped.file.clone()),
                rel_pc: address - start,
                inlined: false,
            }]);
        }
        let Some(mapped) = mapped else {
            return Arc::from([ResolvedFrame {
                function: Arc::from(UNKNOWN),
                named: false,
                file: None,
                line: 0,
                module: None,
                rel_pc: address,
                inlined: false,
            }]);
        };
        let rel_pc = mapped.offset_of(address);
        let names = self.files.resolve(&mapped.file, rel_pc);
        if names.is_empty() {
            return Arc::from([ResolvedFrame {
                function: Arc::from(format!("{}+0x{rel_pc:x}", mapped.file.name())),
                named: false,
                file: None,
                line: 0,
                module: Some(mapped.file.clone()),
                rel_pc,
                inlined: false,
            }]);
        }
        let last = names.len() - 1;
        names
            .into_iter()
            .enumerate()
            .map(|(index, name)| ResolvedFrame {
                function: name.function,
                named: true,
                file: name.file,
                line: name.line,
                module: Some(mapped.file.clone()),
                rel_pc,
                inlined: index < last,
            })
            .collect()
    }
}

fn is_anonymous(path: &str) -> bool {
    path.is_empty()
        || path.starts_with("//anon")
        || path.starts_with("[anon")
        || path.starts_with("/dev/zero")
        || path.starts_with("/memfd:")
        || path.starts_with("[heap")
}

fn open_beside(spool: &Path, extension: &str) -> std::io::Result<Option<BufReader<File>>> {
    let path = spool.with_extension(extension);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(Some(BufReader::new(File::open(path)?))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
