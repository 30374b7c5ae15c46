//! What unwinding and symbolization need of an ELF file: build id, load address, unwind tables.
//!
//! Files are read, never mapped: a mapped file that somebody truncates kills the process that
//! looks at it, and this runs in the profiled one. Headers are read when a module is found, unwind
//! tables when the first sample lies in it.

use std::ops::Range;
use std::sync::Arc;

use framehop::ExplicitModuleSectionInfo;
use object::Endianness;
use object::elf::{
    FileHeader64, NT_GNU_BUILD_ID, PF_X, PT_LOAD, PT_NOTE, SHT_NOBITS, SectionHeader64,
};
use object::read::ReadRef;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable};

/// Bytes that several modules share.
pub(crate) type Bytes = Arc<[u8]>;

type Header = FileHeader64<Endianness>;

/// The largest unwind table that is read into memory (libtorch has 15 MiB).
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// The most sections and segments that are looked at.
const MAX_HEADERS: usize = 4096;

/// The build id, raw; empty = the file has none or is no ELF file of this machine.
pub(crate) fn build_id<'data, R: ReadRef<'data>>(data: R) -> Vec<u8> {
    find_build_id(data).unwrap_or_default()
}

fn find_build_id<'data, R: ReadRef<'data>>(data: R) -> Option<Vec<u8>> {
    let header = parse(data)?;
    let endian = header.endian().ok()?;
    for segment in header.program_headers(endian, data).ok()?.iter().take(MAX_HEADERS) {
        if segment.p_type(endian) != PT_NOTE || segment.p_filesz(endian) > MAX_NOTE_BYTES {
            continue;
        }
        let Ok(Some(mut notes)) = segment.notes(endian, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"GNU" && note.n_type(endian) == NT_GNU_BUILD_ID {
                return Some(note.desc().iter().copied().take(MAX_BUILD_ID_BYTES).collect());
            }
        }
    }
    None
}

const MAX_NOTE_BYTES: u64 = 64 << 10;
const MAX_BUILD_ID_BYTES: usize = 64;

/// What has to be added to an address of the file to have the one in memory, where the file's
/// bytes from `file_offset` on are mapped executable at `start`.
pub(crate) fn load_bias<'data, R: ReadRef<'data>>(
    data: R,
    start: u64,
    file_offset: u64,
) -> Option<u64> {
    let header = parse(data)?;
    let endian = header.endian().ok()?;
    for segment in header.program_headers(endian, data).ok()?.iter().take(MAX_HEADERS) {
        if segment.p_type(endian) != PT_LOAD || segment.p_flags(endian).0 & PF_X.0 == 0 {
            continue;
        }
        let offset = segment.p_offset(endian);
        let end = offset.checked_add(segment.p_filesz(endian))?;
        // The loader maps whole pages: the mapping may begin before the segment does.
        if (offset & !0xfff..end).contains(&file_offset) {
            let address = segment.p_vaddr(endian).wrapping_sub(offset).wrapping_add(file_offset);
            return Some(start.wrapping_sub(address));
        }
    }
    None
}

/// The unwind tables; empty ones where the file has none or they exceed `MAX_TABLE_BYTES`: then
/// frame pointers are followed.
pub(crate) fn unwind_sections<'data, R: ReadRef<'data>>(
    data: R,
) -> ExplicitModuleSectionInfo<Bytes> {
    find_unwind_sections(data).unwrap_or_default()
}

fn find_unwind_sections<'data, R: ReadRef<'data>>(
    data: R,
) -> Option<ExplicitModuleSectionInfo<Bytes>> {
    let header = parse(data)?;
    let endian = header.endian().ok()?;
    let sections: SectionTable<'data, Header, R> = header.sections(endian, data).ok()?;
    let mut info = ExplicitModuleSectionInfo::default();
    for section in sections.iter().take(MAX_HEADERS) {
        let Ok(name) = sections.section_name(endian, section) else { continue };
        match name {
            b".text" => info.text_svma = address_range(section, endian),
            b".got" => info.got_svma = address_range(section, endian),
            b".eh_frame" => {
                info.eh_frame_svma = address_range(section, endian);
                info.eh_frame = bytes(section, endian, data);
            }
            b".eh_frame_hdr" => {
                info.eh_frame_hdr_svma = address_range(section, endian);
                info.eh_frame_hdr = bytes(section, endian, data);
            }
            b".debug_frame" => info.debug_frame = bytes(section, endian, data),
            _ => {}
        }
    }
    Some(info)
}

fn parse<'data, R: ReadRef<'data>>(data: R) -> Option<&'data Header> {
    let header = Header::parse(data).ok()?;
    let native = header.is_little_endian() == cfg!(target_endian = "little");
    let few = usize::from(header.e_phnum.get(header.endian().ok()?)) <= MAX_HEADERS;
    (native && few).then_some(header)
}

fn address_range(section: &SectionHeader64<Endianness>, endian: Endianness) -> Option<Range<u64>> {
    let start = section.sh_addr(endian);
    Some(start..start.checked_add(section.sh_size(endian))?)
}

fn bytes<'data, R: ReadRef<'data>>(
    section: &SectionHeader64<Endianness>,
    endian: Endianness,
    data: R,
) -> Option<Bytes> {
    let compressed = section.sh_flags(endian).0 & object::elf::SHF_COMPRESSED.0 != 0;
    if compressed || section.sh_type(endian) == SHT_NOBITS {
        return None;
    }
    if section.sh_size(endian) > MAX_TABLE_BYTES {
        return None;
    }
    section.data(endian, data).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use object::read::ReadCache;
    use proptest::prelude::*;

    use super::*;

    fn own_image() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn a_file_and_its_bytes_say_the_same() {
        let bytes = own_image();
        let file = ReadCache::new(std::fs::File::open("/proc/self/exe").unwrap());
        assert_eq!(build_id(&file), build_id(bytes.as_slice()));
        let (from_file, from_bytes) = (unwind_sections(&file), unwind_sections(bytes.as_slice()));
        assert_eq!(from_file, from_bytes);
        assert!(from_file.eh_frame.is_some_and(|table| table.len() > 1000));
        assert!(from_file.eh_frame_hdr.is_some());
    }

    #[test]
    fn the_load_bias_leads_back_to_the_files_addresses() {
        let bytes = own_image();
        let maps = std::fs::read("/proc/self/maps").unwrap();
        let executable = std::env::current_exe().unwrap();
        let mapping = crate::maps::parse(&maps)
            .into_iter()
            .find(|mapping| mapping.path == executable.to_str().unwrap())
            .unwrap();
        let bias = load_bias(bytes.as_slice(), mapping.range.start, mapping.file_offset).unwrap();
        let text = unwind_sections(bytes.as_slice()).text_svma.unwrap();
        let here: fn() = the_load_bias_leads_back_to_the_files_addresses;
        let address = (here as usize as u64).wrapping_sub(bias);
        assert!(text.contains(&address), "{address:x} in {text:x?}");
    }

    proptest! {
        #[test]
        fn hostile_files_are_read_without_a_panic(
            changes in prop::collection::vec((0usize..4096, any::<u8>()), 1..40),
            len in 0usize..8192,
        ) {
            let mut bytes = own_image();
            bytes.truncate(len);
            for (place, value) in changes {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            let data = bytes.as_slice();
            prop_assert!(build_id(data).len() <= MAX_BUILD_ID_BYTES);
            let _bias: Option<u64> = load_bias(data, 0x1000, 0x2000);
            let sections = unwind_sections(data);
            prop_assert!(sections.eh_frame.is_none_or(|table| table.len() <= bytes.len()));
        }
    }
}
