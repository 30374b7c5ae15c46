//! The files that were opened for their symbols, and what is kept of them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use profiler_core::error::chain;

use super::demangle::{demangle_function, shorten};
use super::elf::{Dwarf, ElfError, ElfFile, Symbols};
use super::{DELETED, MAX_INLINED, ModuleFile, SymbolizerOptions};

/// How often the DWARF of one file is loaded. Where the files in use do not fit into the budget
/// together, lines are given up before time is.
const MAX_LOADS: u32 = 8;

const MAX_NOTES: usize = 100;

/// A function at an address of a file.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) function: Arc<str>,
    pub(super) file: Option<Arc<str>>,
    pub(super) line: u32,
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    options: SymbolizerOptions,
    by_module: HashMap<Arc<ModuleFile>, Option<Loaded>>,
    symbol_bytes: u64,
    dwarf_bytes: u64,
    clock: u64,
    notes: Vec<String>,
}

struct Loaded {
    elf: ElfFile,
    symbols: Option<Symbols>,
    /// The file that has the DWARF, `None` = none has.
    dwarf_file: Option<ElfFile>,
    dwarf: Option<(Dwarf, u64)>,
    loads: u32,
    last_used: u64,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("elf", &self.elf).finish_non_exhaustive()
    }
}

impl Files {
    pub(super) fn new(options: SymbolizerOptions) -> Self {
        Self {
            options,
            by_module: HashMap::new(),
            symbol_bytes: 0,
            dwarf_bytes: 0,
            clock: 0,
            notes: Vec::new(),
        }
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The functions at an offset of a file, the innermost first; empty where none is known.
    pub(super) fn resolve(&mut self, module: &Arc<ModuleFile>, offset: u64) -> Vec<Name> {
        if !self.by_module.contains_key(module) {
            let loaded = self.load(module);
            self.by_module.insert(module.clone(), loaded);
        }
        let Some(Some(loaded)) = self.by_module.get(module) else { return Vec::new() };
        let Some(address) = loaded.elf.address_of(offset) else { return Vec::new() };

        self.ensure_dwarf(module);
        let Some(Some(loaded)) = self.by_module.get(module) else { return Vec::new() };
        // The libraries promise not to panic on broken files; this is for the day they do.
        let names = catch_unwind(AssertUnwindSafe(|| loaded.names(address)));
        match names {
            Ok(names) => names,
            Err(_) => {
                self.note(module, "the debug information is broken");
                self.by_module.insert(module.clone(), None);
                Vec::new()
            }
        }
    }

    fn load(&mut self, module: &ModuleFile) -> Option<Loaded> {
        if module.path.starts_with('[') || module.path.is_empty() {
            return None;
        }
        if module.build_id.is_empty() {
            self.note(module, "no build id, so no file on disk is known to be the same");
            return None;
        }
        let opened = catch_unwind(AssertUnwindSafe(|| self.open(module)));
        match opened {
            Ok(Ok(loaded)) => {
                match &loaded.symbols {
                    Some(symbols) => self.symbol_bytes += symbols.bytes(),
                    None => self.note(module, "no symbols, or more than there is room for"),
                }
                Some(loaded)
            }
            Ok(Err(error)) => {
                self.note(module, &chain(&error));
                None
            }
            Err(_) => {
                self.note(module, "the file is broken");
                None
            }
        }
    }

    fn open(&self, module: &ModuleFile) -> Result<Loaded, ElfError> {
        let path = Path::new(module.path.trim_end_matches(DELETED));
        let elf = ElfFile::open(path)?;
        if *elf.build_id != *module.build_id {
            return Err(ElfError::OtherBuildId);
        }
        let debug_file = if elf.has_dwarf() { None } else { self.debug_file(&elf, path) };
        let budget = self.options.memory_bytes.saturating_sub(self.symbol_bytes);
        // A separate debug file has all symbols, a stripped file the exported ones.
        let symbols = debug_file
            .as_ref()
            .filter(|file| file.has_symbol_table())
            .and_then(|file| file.symbols(budget))
            .or_else(|| elf.symbols(budget));
        let dwarf_file = match debug_file {
            Some(file) => Some(file),
            None if elf.has_dwarf() => Some(ElfFile::open(path)?),
            None => None,
        };
        Ok(Loaded { elf, symbols, dwarf_file, dwarf: None, loads: 0, last_used: 0 })
    }

    /// The separate debug file, which must have the same build id.
    fn debug_file(&self, elf: &ElfFile, path: &Path) -> Option<ElfFile> {
        let mut candidates = Vec::new();
        if elf.build_id.len() > 1 {
            let hex: String = elf.build_id.iter().map(|byte| format!("{byte:02x}")).collect();
            let (first, rest) = hex.split_at(2);
            for directory in &self.options.debug_directories {
                candidates
                    .push(directory.join(".build-id").join(first).join(format!("{rest}.debug")));
            }
        }
        candidates.extend(elf.debug_link_paths(path, &self.options.debug_directories));
        candidates
            .iter()
            .filter_map(|candidate: &PathBuf| ElfFile::open(candidate).ok())
            .find(|file| file.build_id == elf.build_id)
    }

    /// Loads the DWARF of a file, and lets go that of others where it is too much.
    fn ensure_dwarf(&mut self, module: &Arc<ModuleFile>) {
        self.clock += 1;
        let (clock, budget, lines) = (self.clock, self.options.memory_bytes, self.options.lines);
        let Some(Some(loaded)) = self.by_module.get_mut(module) else { return };
        loaded.last_used = clock;
        if !lines || loaded.dwarf.is_some() || loaded.loads >= MAX_LOADS {
            return;
        }
        let Some(file) = &loaded.dwarf_file else { return };
        loaded.loads += 1;
        let dwarf = catch_unwind(AssertUnwindSafe(|| file.dwarf(budget / DWARF_COST)));
        let Ok(Some((dwarf, bytes))) = dwarf else {
            loaded.loads = MAX_LOADS;
            self.note(
                module,
                "the debug information is too large or broken; symbols alone are used",
            );
            return;
        };
        let bytes = bytes.saturating_mul(DWARF_COST);
        loaded.dwarf = Some((dwarf, bytes));
        if loaded.loads == MAX_LOADS {
            self.note(module, "the debug information was let go too often; symbols alone are used");
        }
        self.dwarf_bytes += bytes;
        while self.dwarf_bytes > self.options.memory_bytes && self.let_go_oldest(module) {}
    }

    /// Lets go the DWARF that was not used for the longest time, but for that of `keep`.
    fn let_go_oldest(&mut self, keep: &Arc<ModuleFile>) -> bool {
        let oldest = self
            .by_module
            .iter_mut()
            .filter(|(module, _)| *module != keep)
            .filter_map(|(_, loaded)| loaded.as_mut())
            .filter(|loaded| loaded.dwarf.is_some())
            .min_by_key(|loaded| loaded.last_used);
        let Some((_, bytes)) = oldest.and_then(|loaded| loaded.dwarf.take()) else { return false };
        self.dwarf_bytes -= bytes.min(self.dwarf_bytes);
        true
    }

    fn note(&mut self, module: &ModuleFile, what: &str) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(format!("names in {}: {what}", module.path));
        }
    }
}

/// What addr2line builds from DWARF takes about as much memory as the sections.
const DWARF_COST: u64 = 2;

impl Loaded {
    fn names(&self, address: u64) -> Vec<Name> {
        let symbol = self.symbols.as_ref().and_then(|symbols| symbols.find(address));
        let mut names = Vec::new();
        if let Some((dwarf, _)) = &self.dwarf
            && let Ok(mut frames) = dwarf.find_frames(address).skip_all_loads()
        {
            while let Ok(Some(frame)) = frames.next() {
                if names.len() == MAX_INLINED {
                    break;
                }
                let function = frame.function.as_ref().and_then(|name| name.raw_name().ok());
                let location = frame.location.as_ref();
                let file = location.and_then(|location| location.file);
                names.push((
                    function.map(|name| Arc::from(&*demangle_function(&name))),
                    file.map(|file| Arc::from(&*shorten(file))),
                    location.and_then(|location| location.line).unwrap_or(0),
                ));
            }
        }
        let symbol = symbol.map(|name| Arc::from(&*demangle_function(name)));
        if names.is_empty() {
            let Some(function) = symbol else { return Vec::new() };
            return vec![Name { function, file: None, line: 0 }];
        }
        // The outermost function is the symbol's, whose name is the fuller one where the DWARF is
        // of line tables only; an inlined one without a name is left out.
        let last = names.len() - 1;
        names
            .into_iter()
            .enumerate()
            .filter_map(|(index, (function, file, line))| {
                let function = match (&symbol, function) {
                    (Some(symbol), _) if index == last => symbol.clone(),
                    (_, function) => function?,
                };
                Some(Name { function, file, line })
            })
            .collect()
    }
}
