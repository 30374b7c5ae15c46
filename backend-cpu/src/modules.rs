//! The code that the target has mapped: module rows for readers, unwind tables for us.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    Unwinder as _, UnwinderNative,
};
use object::read::ReadCache;

use crate::elf::{self, Bytes};
use crate::maps::{self, Mapping};
use crate::perf_record::RawSample;
use crate::process::Process;

/// Frames of a stack that are kept, from the innermost on.
pub(crate) const MAX_FRAMES: usize = 256;

/// Unwind tables that are held in memory, for all modules together. Past it frame pointers are
/// followed.
const MAX_TABLES_BYTES: usize = 96 << 20;

/// The largest `/proc/PID/maps` that is read.
const MAX_MAPS_BYTES: u64 = 16 << 20;

/// The executable mappings of the target.
pub(crate) struct Modules {
    unwinder: UnwinderNative<Bytes, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    /// In the order of their addresses.
    known: Vec<Known>,
    tables_bytes: usize,
    /// The longest text of mappings that was read.
    most_maps_bytes: usize,
    /// Modules whose tables found no room.
    tables_left_out: usize,
    build_ids: HashMap<(u64, String), Vec<u8>>,
}

struct Known {
    mapping: Mapping,
    build_id: Vec<u8>,
    /// Whether the unwinder has it.
    loaded: bool,
}

/// A mapping for which readers have no row yet.
pub(crate) struct NewModule {
    pub(crate) mapping: Mapping,
    pub(crate) build_id: Vec<u8>,
}

impl Modules {
    pub(crate) fn new() -> Self {
        Self {
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
            known: Vec::new(),
            tables_bytes: 0,
            most_maps_bytes: 0,
            tables_left_out: 0,
            build_ids: HashMap::new(),
        }
    }

    /// Reads the target's mappings again and returns the new ones.
    ///
    /// # Errors
    ///
    /// That of reading `/proc/PID/maps`: the target has ended, or it may not be looked at.
    pub(crate) fn refresh(&mut self, process: &Process) -> io::Result<Vec<NewModule>> {
        let text = process.read("maps", MAX_MAPS_BYTES)?;
        self.most_maps_bytes = self.most_maps_bytes.max(text.len());
        let mappings = maps::parse(&text);
        let current: HashSet<&Mapping> = mappings.iter().collect();
        let mut old = std::mem::take(&mut self.known);
        old.retain(|known| {
            let stays = current.contains(&known.mapping);
            if !stays && known.loaded {
                self.unwinder.remove_module(known.mapping.range.start);
            }
            stays
        });
        let kept: HashSet<Mapping> = old.iter().map(|known| known.mapping.clone()).collect();
        let mut added = Vec::new();
        for mapping in mappings {
            if kept.contains(&mapping) {
                continue;
            }
            let build_id = self.build_id(process, &mapping);
            added.push(NewModule { mapping: mapping.clone(), build_id: build_id.clone() });
            old.push(Known { mapping, build_id, loaded: false });
        }
        old.sort_by_key(|known| known.mapping.range.start);
        self.known = old;
        Ok(added)
    }

    /// All mappings, as [`Modules::refresh`] found them last.
    pub(crate) fn all(&self) -> impl Iterator<Item = NewModule> {
        self.known.iter().map(|known| NewModule {
            mapping: known.mapping.clone(),
            build_id: known.build_id.clone(),
        })
    }

    /// Modules whose unwind tables were left out, since all together exceed [`MAX_TABLES_BYTES`].
    pub(crate) fn tables_left_out(&self) -> usize {
        self.tables_left_out
    }

    /// The memory that it holds: unwind tables, the list of mappings and what reading it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let lists = self.known.len() * size_of::<Known>()
            + self.build_ids.len() * (size_of::<(u64, String)>() + size_of::<Vec<u8>>());
        // The text is read, parsed, and its paths are kept twice: by mapping and by build id.
        lists + self.tables_bytes + 3 * self.most_maps_bytes + size_of_val(&self.cache)
    }

    /// The sample's frames, innermost first: the instruction's address, then return addresses
    /// less one.
    pub(crate) fn unwind(
        &mut self,
        process: &Process,
        sample: &RawSample<'_>,
        frames: &mut Vec<u64>,
    ) {
        frames.clear();
        let Some(registers) = sample.registers else {
            frames.push(sample.address);
            return;
        };
        frames.push(registers.ip);
        let stack = sample.stack;
        let mut read_stack = |address: u64| {
            let offset = usize::try_from(address.checked_sub(registers.sp).ok_or(())?);
            let rest = offset.ok().and_then(|offset| stack.get(offset..)).ok_or(())?;
            rest.first_chunk().map(|word| u64::from_ne_bytes(*word)).ok_or(())
        };
        let mut unwind_registers = registers.unwind();
        let mut address = FrameAddress::from_instruction_pointer(registers.ip);
        while frames.len() < MAX_FRAMES {
            self.load_around(process, address.address_for_lookup());
            let next = self.unwinder.unwind_frame(
                address,
                &mut unwind_registers,
                &mut self.cache,
                &mut read_stack,
            );
            let Ok(Some(return_address)) = next else { break };
            let Some(frame) = FrameAddress::from_return_address(return_address) else { break };
            address = frame;
            frames.push(frame.address_for_lookup());
        }
    }

    /// Gives the unwinder the module around `address`, if it has not had it.
    fn load_around(&mut self, process: &Process, address: u64) {
        let index = self.known.partition_point(|known| known.mapping.range.end <= address);
        let Some(known) = self.known.get_mut(index) else { return };
        if known.loaded || !known.mapping.range.contains(&address) {
            return;
        }
        known.loaded = true;
        let mapping = &known.mapping;
        let room = MAX_TABLES_BYTES.saturating_sub(self.tables_bytes);
        let Some((bias, sections)) = read_tables(process, mapping) else { return };
        let tables = [&sections.eh_frame, &sections.eh_frame_hdr, &sections.debug_frame];
        let size: usize = tables.iter().filter_map(|table| table.as_ref()).map(|t| t.len()).sum();
        if size > room {
            self.tables_left_out += 1;
            return;
        }
        self.tables_bytes += size;
        let name = mapping.path.clone();
        self.unwinder.add_module(Module::new(name, mapping.range.clone(), bias, sections));
    }

    fn build_id(&mut self, process: &Process, mapping: &Mapping) -> Vec<u8> {
        let key = (mapping.inode, mapping.path.clone());
        if let Some(build_id) = self.build_ids.get(&key) {
            return build_id.clone();
        }
        let build_id = match Image::open(process, mapping) {
            Some(Image::File(cache)) => elf::build_id(&cache),
            Some(Image::Memory(bytes)) => elf::build_id(bytes.as_slice()),
            None => Vec::new(),
        };
        if self.build_ids.len() < MAX_BUILD_IDS {
            self.build_ids.insert(key, build_id.clone());
        }
        build_id
    }
}

const MAX_BUILD_IDS: usize = 16_384;

fn read_tables(
    process: &Process,
    mapping: &Mapping,
) -> Option<(u64, ExplicitModuleSectionInfo<Bytes>)> {
    let (start, offset) = (mapping.range.start, mapping.file_offset);
    match Image::open(process, mapping)? {
        Image::File(cache) => {
            Some((elf::load_bias(&cache, start, offset)?, elf::unwind_sections(&cache)))
        }
        Image::Memory(bytes) => {
            let bytes = bytes.as_slice();
            Some((elf::load_bias(bytes, start, offset)?, elf::unwind_sections(bytes)))
        }
    }
}

/// Where a module's ELF image is read from.
enum Image {
    File(ReadCache<File>),
    Memory(Vec<u8>),
}

impl Image {
    fn open(process: &Process, mapping: &Mapping) -> Option<Self> {
        if mapping.path == "[vdso]" {
            return vdso(process, mapping);
        }
        let file = by_path(process, mapping).or_else(|| by_range(process, mapping))?;
        Some(Self::File(ReadCache::new(file)))
    }
}

/// The file of the mapping's path, if it is still the mapped one.
///
/// Overlay file systems show another device number in maps than in stat, so that only the inode is
/// compared.
fn by_path(process: &Process, mapping: &Mapping) -> Option<File> {
    if mapping.deleted {
        return None;
    }
    let file = process.mapped_file(&mapping.path).ok()?;
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.ino() == mapping.inode).then_some(file)
}

/// The mapped file itself, which the kernel gives to the privileged only.
fn by_range(process: &Process, mapping: &Mapping) -> Option<File> {
    let (start, end) = (mapping.range.start, mapping.range.end);
    let file = process.file(&format!("map_files/{start:x}-{end:x}")).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn vdso(process: &Process, mapping: &Mapping) -> Option<Image> {
    let len = usize::try_from(mapping.range.end - mapping.range.start).ok()?;
    if len > MAX_VDSO_BYTES {
        return None;
    }
    let mut bytes = vec![0; len];
    process.file("mem").ok()?.read_exact_at(&mut bytes, mapping.range.start).ok()?;
    Some(Image::Memory(bytes))
}

const MAX_VDSO_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registers::Registers;

    fn own_modules() -> (Process, Modules) {
        let process = Process::open(None).unwrap();
        let mut modules = Modules::new();
        assert!(!modules.refresh(&process).unwrap().is_empty());
        (process, modules)
    }

    fn sample(registers: Registers, stack: &[u8]) -> RawSample<'_> {
        RawSample {
            time: 1,
            process: std::process::id(),
            thread: 1,
            cpu: 0,
            weight_ns: 1,
            registers: Some(registers),
            address: registers.ip,
            stack,
        }
    }

    #[test]
    fn a_second_look_finds_nothing_new() {
        let (process, mut modules) = own_modules();
        assert!(modules.refresh(&process).unwrap().is_empty());
        let vdso = modules.all().find(|module| module.mapping.path == "[vdso]");
        assert!(vdso.is_none_or(|vdso| !vdso.build_id.is_empty()), "the kernel gives it one");
    }

    #[test]
    fn what_is_unmapped_is_forgotten() {
        let (process, mut modules) = own_modules();
        let gone = Mapping {
            range: 0x1000..0x2000,
            file_offset: 0,
            inode: 1,
            path: "/gone".to_owned(),
            deleted: false,
        };
        modules.known.push(Known { mapping: gone, build_id: Vec::new(), loaded: true });
        assert!(modules.refresh(&process).unwrap().is_empty());
        assert!(modules.all().all(|module| module.mapping.path != "/gone"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn hostile_stacks_end(words: Vec<u64>, offset in 0u64..4096, inside in 0usize..8) {
            let (process, mut modules) = own_modules();
            let mapping = modules.all().nth(inside).map(|module| module.mapping.range.start);
            let ip = mapping.unwrap_or(0) + offset;
            // A stack of addresses within our own code, and of frame pointers to itself.
            let sp = 0x7000_0000;
            let mut stack = Vec::new();
            for (index, word) in words.iter().enumerate() {
                let value = match index % 3 {
                    0 => ip.wrapping_add(word % 4096),
                    1 => sp + word % 512,
                    _ => *word,
                };
                stack.extend(value.to_ne_bytes());
            }
            let registers = Registers { ip, sp, fp: sp + offset % 512, lr: ip };
            let mut frames = Vec::new();
            modules.unwind(&process, &sample(registers, &stack), &mut frames);
            prop_assert!((1..=MAX_FRAMES).contains(&frames.len()));
            prop_assert_eq!(frames[0], ip);
        }
    }
}
