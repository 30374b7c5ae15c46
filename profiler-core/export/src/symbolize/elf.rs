//! ELF files: build id, segments, symbols, DWARF.
//!
//! Sections are read one by one and never mapped, so that a file that shrinks under us is an error
//! and no signal. All sizes that a file states are checked against the file and against a budget
//! before they are believed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gimli::{EndianReader, RunTimeEndian};
use object::elf;
use object::read::elf::{
    FileHeader as _, NoteIterator, ProgramHeader as _, SectionHeader as _, Sym as _,
};
use object::read::{CompressedFileRange, CompressionFormat, ReadCache};
use object::{Endianness, Pod};

/// Why a file gives no symbols.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ElfError {
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Io(#[from] std::io::Error),
    /// It is a directory, a device, a pipe.
    #[error("it is no regular file")]
    NotRegular,
    /// It is no ELF file of 64 bits, or a broken one.
    #[error("it is no readable 64-bit ELF file")]
    Malformed(#[from] object::Error),
    /// It has more sections or segments than any honest file.
    #[error("the file has too many sections or segments")]
    TooMany,
    /// The file is another one than the process had mapped.
    #[error("the file on disk has another build id")]
    OtherBuildId,
}

pub(super) type Reader = EndianReader<RunTimeEndian, Arc<[u8]>>;
pub(super) type Dwarf = addr2line::Context<Reader>;

/// Notes that are looked at in a file, in all.
const MAX_NOTE_BYTES: u64 = 1 << 20;
/// Section or program headers, and the names of sections.
const MAX_SECTIONS: u32 = 1 << 16;
const MAX_SECTION_NAME_BYTES: u64 = 16 << 20;

/// An opened ELF file.
#[derive(Debug)]
pub(super) struct ElfFile {
    file: File,
    bytes: u64,
    endian: Endianness,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    pub(super) build_id: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    bytes: u64,
    address: u64,
}

#[derive(Clone, Debug)]
struct Section {
    name: Vec<u8>,
    kind: elf::SectionType,
    flags: elf::SectionFlags,
    address: u64,
    offset: u64,
    bytes: u64,
    link: u32,
}

impl ElfFile {
    /// Opens a file and reads its tables.
    pub(super) fn open(path: &Path) -> Result<Self, ElfError> {
        // Before opening, which would wait for a pipe's other end.
        if !fs::metadata(path)?.is_file() {
            return Err(ElfError::NotRegular);
        }
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let cache = ReadCache::new(file.try_clone()?);
        let header = elf::FileHeader64::<Endianness>::parse(&cache)?;
        let endian = header.endian()?;
        let mut opened = Self {
            file,
            bytes,
            endian,
            segments: Vec::new(),
            sections: Vec::new(),
            build_id: Vec::new(),
        };

        // Both may claim as many entries as the file has room for.
        if header.phnum(endian, &cache)? > MAX_SECTIONS
            || header.shnum(endian, &cache)? > MAX_SECTIONS
        {
            return Err(ElfError::TooMany);
        }
        let mut notes = Vec::new();
        for segment in header.program_headers(endian, &cache)? {
            let (offset, size) = segment.file_range(endian);
            match segment.p_type(endian) {
                elf::PT_LOAD => opened.segments.push(Segment {
                    offset,
                    bytes: size,
                    address: segment.p_vaddr(endian),
                }),
                elf::PT_NOTE => notes.push((offset, size, segment.p_align(endian))),
                _ => {}
            }
        }
        let headers = header.section_headers(endian, &cache)?;
        let names = match headers.get(header.section_strings_index(endian, &cache)?.0) {
            Some(names) if names.sh_size(endian) <= MAX_SECTION_NAME_BYTES => {
                opened.read(names.sh_offset(endian), names.sh_size(endian))?
            }
            _ => Vec::new(),
        };
        for section in headers {
            let kind = section.sh_type(endian);
            if kind == elf::SHT_NOTE {
                notes.push((
                    section.sh_offset(endian),
                    section.sh_size(endian),
                    section.sh_addralign(endian),
                ));
            }
            let name = names.get(section.sh_name(endian) as usize..).unwrap_or_default();
            let name = name.iter().take(64).take_while(|&&byte| byte != 0).copied().collect();
            opened.sections.push(Section {
                name,
                kind,
                flags: section.sh_flags(endian),
                address: section.sh_addr(endian),
                offset: section.sh_offset(endian),
                bytes: section.sh_size(endian),
                link: section.sh_link(endian),
            });
        }
        opened.build_id = opened.find_build_id(&notes);
        Ok(opened)
    }

    /// The address, as the file counts, of a byte of the file that is mapped as code.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        let segment = self
            .segments
            .iter()
            .find(|segment| offset >= segment.offset && offset - segment.offset < segment.bytes)?;
        Some(segment.address.wrapping_add(offset - segment.offset))
    }

    /// The functions of the file: of `.symtab`, else of `.dynsym`. `None` where they would take
    /// more than `budget` bytes.
    pub(super) fn symbols(&self, budget: u64) -> Option<Symbols> {
        let table = [elf::SHT_SYMTAB, elf::SHT_DYNSYM]
            .into_iter()
            .find_map(|kind| self.sections.iter().find(|section| section.kind == kind))?;
        let strings = self.sections.get(table.link as usize)?;
        if strings.kind != elf::SHT_STRTAB || table.bytes.saturating_add(strings.bytes) > budget {
            return None;
        }
        let names = self.read(strings.offset, strings.bytes).ok()?;
        let table = self.read(table.offset, table.bytes).ok()?;
        let entries = entries::<elf::Sym64<Endianness>>(&table);
        let endian = self.endian;

        let mut symbols = Vec::new();
        for entry in entries {
            let section =
                self.sections.get(usize::from(entry.st_shndx(endian).index().unwrap_or(0)));
            let Some(section) = section.filter(|s| s.flags.0 & elf::SHF_EXECINSTR.0 != 0) else {
                continue;
            };
            if !matches!(entry.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE) {
                continue;
            }
            let name = entry.st_name(endian);
            // Mapping symbols of ARM and labels of assemblers name no function.
            match names.get(name as usize..) {
                None | Some([] | [0 | b'$', ..] | [b'.', b'L', ..]) => continue,
                Some(_) => {}
            }
            let address = entry.st_value(endian);
            let size = entry.st_size(endian);
            symbols.push(Symbol {
                address,
                end: match size {
                    0 => section.address.saturating_add(section.bytes),
                    size => address.saturating_add(size),
                },
                name,
                rank: u8::from(size == 0) * 4
                    + u8::from(entry.st_type() == elf::STT_NOTYPE) * 2
                    + u8::from(entry.st_bind() == elf::STB_LOCAL),
            });
        }
        symbols.sort_unstable_by_key(|symbol| (symbol.address, symbol.rank));
        symbols.dedup_by_key(|symbol| symbol.address);
        symbols.shrink_to_fit();
        Some(Symbols { symbols, names })
    }

    /// Whether the file has DWARF.
    pub(super) fn has_dwarf(&self) -> bool {
        self.section(b".debug_info").is_some_and(|section| section.kind == elf::SHT_PROGBITS)
    }

    /// Whether the file has all its symbols, not only the exported ones.
    pub(super) fn has_symbol_table(&self) -> bool {
        self.sections.iter().any(|section| section.kind == elf::SHT_SYMTAB)
    }

    /// The DWARF of the file and how much memory its sections take; `None` where it has none, or
    /// it is broken, or its sections are larger than `budget`.
    pub(super) fn dwarf(&self, budget: u64) -> Option<(Dwarf, u64)> {
        if !self.has_dwarf() {
            return None;
        }
        let mut total = 0_u64;
        for name in DWARF_SECTIONS {
            if let Some(section) = self.section(name.as_bytes()) {
                total = total.saturating_add(self.data_range(section).uncompressed_size);
            }
        }
        if total > budget {
            return None;
        }
        let endian = match self.endian {
            Endianness::Little => RunTimeEndian::Little,
            Endianness::Big => RunTimeEndian::Big,
        };
        let dwarf = gimli::Dwarf::load(|id| -> Result<Reader, ElfError> {
            let data = match self.section(id.name().as_bytes()) {
                Some(section) if DWARF_SECTIONS.contains(&id.name()) => {
                    self.section_data(section)?
                }
                _ => Vec::new(),
            };
            Ok(EndianReader::new(Arc::from(data), endian))
        })
        .ok()?;
        Some((addr2line::Context::from_dwarf(dwarf).ok()?, total))
    }

    /// The file that holds the DWARF of this one, where a `.gnu_debuglink` names it: the places
    /// to look, in order.
    pub(super) fn debug_link_paths(&self, path: &Path, directories: &[PathBuf]) -> Vec<PathBuf> {
        let Some(section) = self.section(b".gnu_debuglink") else { return Vec::new() };
        let Ok(data) = self.read(section.offset, section.bytes.min(4096)) else {
            return Vec::new();
        };
        let name: Vec<u8> = data.into_iter().take_while(|&byte| byte != 0).collect();
        let Ok(name) = String::from_utf8(name) else { return Vec::new() };
        // A path in the link could lead anywhere.
        if name.is_empty() || name.contains('/') || name == ".." {
            return Vec::new();
        }
        let Some(parent) = path.parent() else { return Vec::new() };
        let mut paths = vec![parent.join(&name), parent.join(".debug").join(&name)];
        for directory in directories {
            paths.push(directory.join(parent.strip_prefix("/").unwrap_or(parent)).join(&name));
        }
        paths.retain(|candidate| candidate != path);
        paths
    }

    fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    fn find_build_id(&self, notes: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut left = MAX_NOTE_BYTES;
        for &(offset, bytes, align) in notes {
            if bytes > left {
                continue;
            }
            left -= bytes;
            let Ok(data) = self.read(offset, bytes) else { continue };
            let Ok(notes) =
                NoteIterator::<elf::FileHeader64<Endianness>>::new(self.endian, align, &data)
            else {
                continue;
            };
            for note in notes.flatten() {
                if note.name() == elf::ELF_NOTE_GNU
                    && note.n_type(self.endian) == elf::NT_GNU_BUILD_ID
                {
                    return note.desc().to_vec();
                }
            }
        }
        Vec::new()
    }

    fn data_range(&self, section: &Section) -> CompressedFileRange {
        let plain = CompressedFileRange {
            format: CompressionFormat::None,
            offset: section.offset,
            compressed_size: section.bytes,
            uncompressed_size: section.bytes,
        };
        if section.flags.0 & elf::SHF_COMPRESSED.0 == 0 {
            return plain;
        }
        let size = size_of::<elf::CompressionHeader64<Endianness>>() as u64;
        let Ok(header) = self.read(section.offset, size) else { return plain };
        let Ok((header, _)) =
            object::pod::from_bytes::<elf::CompressionHeader64<Endianness>>(&header)
        else {
            return plain;
        };
        let format = match header.ch_type.get(self.endian) {
            elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
            elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
            _ => CompressionFormat::Unknown,
        };
        CompressedFileRange {
            format,
            offset: section.offset.saturating_add(size),
            compressed_size: section.bytes.saturating_sub(size),
            uncompressed_size: header.ch_size.get(self.endian),
        }
    }

    fn section_data(&self, section: &Section) -> Result<Vec<u8>, ElfError> {
        let range = self.data_range(section);
        let data = self.read(range.offset, range.compressed_size)?;
        if range.format == CompressionFormat::None {
            return Ok(data);
        }
        let compressed = object::read::CompressedData {
            format: range.format,
            data: &data,
            uncompressed_size: range.uncompressed_size,
        };
        Ok(compressed.decompress()?.into_owned())
    }

    /// Bytes of the file. Nothing is allocated that the file does not hold.
    fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, ElfError> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let mut data = vec![0; bytes as usize];
        self.file.read_exact_at(&mut data, offset)?;
        Ok(data)
    }
}

/// What addr2line asks for.
const DWARF_SECTIONS: [&str; 11] = [
    ".debug_abbrev",
    ".debug_addr",
    ".debug_aranges",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_types",
];

/// The functions of a file, by address.
#[derive(Debug)]
pub(super) struct Symbols {
    symbols: Vec<Symbol>,
    names: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    end: u64,
    name: u32,
    /// Of several at one address the lowest is kept: sized before unsized, functions before
    /// labels, exported before local.
    rank: u8,
}

impl Symbols {
    /// The name of the function at an address, as the file has it.
    pub(super) fn find(&self, address: u64) -> Option<&str> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols.get(after.checked_sub(1)?)?;
        if address >= symbol.end {
            return None;
        }
        let name = self.names.get(symbol.name as usize..)?;
        let name = name.split(|&byte| byte == 0).next()?;
        std::str::from_utf8(name).ok()
    }

    /// The memory they take.
    pub(super) fn bytes(&self) -> u64 {
        (self.symbols.len() * size_of::<Symbol>() + self.names.len()) as u64
    }
}

/// The whole entries of a table; a broken one at the end is left out.
fn entries<T: Pod>(table: &[u8]) -> &[T] {
    let count = table.len() / size_of::<T>();
    object::pod::slice_from_bytes(table, count).map_or(&[], |(entries, _)| entries)
}
