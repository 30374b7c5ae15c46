//! Names of addresses of this very process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::Path;
use std::process::Command;

use profiler_export::symbolize::{
    ModuleRange, ResolvedFrame, Symbolizer, SymbolizerOptions, UNKNOWN,
};
use proptest::prelude::*;

const WORKER: u32 = 3;
const PROCESS: u32 = 77;

struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    path: String,
}

/// Where the kernel mapped the file that this code lies in.
fn own_mappings() -> Vec<Mapping> {
    let exe = fs::read_link("/proc/self/exe").unwrap();
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let offset = words.nth(1)?;
            let path = words.nth(2)?;
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            (Path::new(path) == exe).then(|| Mapping {
                start: hex(start),
                end: hex(end),
                offset: hex(offset),
                path: path.to_owned(),
            })
        })
        .collect()
}

/// The build id, found by its note's bytes, so that the symbolizer does not judge itself.
fn build_id(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let note = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
    let at =
        bytes.windows(16).position(|window| window == note).expect("linked without a build id");
    bytes[at + 16..at + 36].to_vec()
}

/// A symbolizer that knows this process; `path` and `build_id` stand in for its own file's.
fn symbolizer(options: SymbolizerOptions, path: Option<&Path>, build_id: &[u8]) -> Symbolizer {
    let mut symbolizer = Symbolizer::new(options);
    for mapping in own_mappings() {
        symbolizer.add_module(
            WORKER,
            ModuleRange {
                process: PROCESS,
                start: mapping.start,
                end: mapping.end,
                file_offset: mapping.offset,
                path: path.map_or(&*mapping.path, |path| path.to_str().unwrap()),
                build_id,
            },
        );
    }
    symbolizer
}

fn own_exe() -> std::path::PathBuf {
    fs::read_link("/proc/self/exe").unwrap()
}

fn resolve(symbolizer: &mut Symbolizer, address: usize) -> Vec<ResolvedFrame> {
    symbolizer.resolve(WORKER, PROCESS, address as u64).to_vec()
}

#[inline(never)]
fn a_function_to_find(number: u64) -> u64 {
    an_inlined_function(std::hint::black_box(number))
}

#[inline(always)]
fn an_inlined_function(number: u64) -> u64 {
    std::hint::black_box(std::hint::black_box(number).wrapping_mul(0x1234_5677))
}

fn address() -> usize {
    a_function_to_find(1);
    a_function_to_find as *const () as usize
}

#[test]
fn an_own_function_has_its_own_name_file_and_line() {
    let mut symbolizer = symbolizer(SymbolizerOptions::default(), None, &build_id(&own_exe()));
    let frames = resolve(&mut symbolizer, address());
    let frame = frames.last().unwrap();
    assert_eq!(&*frame.function, "symbolize::a_function_to_find");
    assert!(frame.named && !frame.inlined);
    assert!(frame.file.as_ref().unwrap().ends_with("tests/symbolize.rs"), "{frame:?}");
    assert!(frame.line > 0);
    assert!(frame.module.as_ref().unwrap().name().starts_with("symbolize-"));
    assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
}

#[test]
fn inlined_functions_stand_before_the_one_that_holds_them() {
    let mut symbolizer = symbolizer(SymbolizerOptions::default(), None, &build_id(&own_exe()));
    let start = address();
    let inlined = (start..start + 200)
        .map(|address| resolve(&mut symbolizer, address))
        .filter(|frames| &*frames.last().unwrap().function == "symbolize::a_function_to_find")
        .find(|frames| frames.iter().any(|frame| frame.function.ends_with("an_inlined_function")))
        .expect("no address of the function lies in what was inlined into it");
    let position =
        inlined.iter().position(|f| f.function.ends_with("an_inlined_function")).unwrap();
    assert!(inlined[position].inlined);
    assert!(position + 1 < inlined.len());
    // The outer one's line is that of the call.
    assert!(
        inlined.last().unwrap().line > 0 && inlined[position].line > inlined.last().unwrap().line
    );
}

#[test]
fn another_build_id_gives_module_and_offset() {
    let mut other = build_id(&own_exe());
    other[7] ^= 1;
    for build_id in [&*other, &[], &[1]] {
        let mut symbolizer = symbolizer(SymbolizerOptions::default(), None, build_id);
        let frames = resolve(&mut symbolizer, address());
        let mapping = own_mappings()
            .into_iter()
            .find(|m| (m.start..m.end).contains(&(address() as u64)))
            .unwrap();
        let name = own_exe().file_name().unwrap().to_str().unwrap().to_owned();
        let offset = address() as u64 - mapping.start + mapping.offset;
        assert_eq!(frames.len(), 1);
        assert_eq!(*frames[0].function, *format!("{name}+0x{offset:x}"));
        assert_eq!(frames[0].rel_pc, offset);
        assert!(!frames[0].named);
        assert_eq!(symbolizer.notes().len(), 1);
    }
}

#[test]
fn addresses_in_no_file_are_unknown_or_named_by_the_perf_map() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("replica0.rank0.host.12-abc.spool");
    let mut symbolizer = symbolizer(SymbolizerOptions::default(), None, &[]);
    assert_eq!(&*resolve(&mut symbolizer, 0x100)[0].function, UNKNOWN);
    symbolizer.load_jit(WORKER, PROCESS, &spool).unwrap();
    assert_eq!(&*resolve(&mut symbolizer, 0x100)[0].function, UNKNOWN);

    fs::write(spool.with_extension("perf-map"), "100 20 py::forward:model.py\n").unwrap();
    symbolizer.load_jit(WORKER, PROCESS, &spool).unwrap();
    let frame = resolve(&mut symbolizer, 0x11f)[0].clone();
    assert_eq!((&*frame.function, frame.named, frame.rel_pc), ("py::forward:model.py", true, 0x1f));
    assert_eq!(&*resolve(&mut symbolizer, 0x120)[0].function, UNKNOWN);
    // Another process of the same number, in another worker.
    assert_eq!(&*symbolizer.resolve(WORKER + 1, PROCESS, 0x11f)[0].function, UNKNOWN);
}

#[test]
fn symbols_alone_are_used_where_lines_are_not_wanted() {
    let mut options = SymbolizerOptions::default();
    options.lines = false;
    let mut symbolizer = symbolizer(options, None, &build_id(&own_exe()));
    let frames = resolve(&mut symbolizer, address());
    assert_eq!(frames.len(), 1);
    assert_eq!(&*frames[0].function, "symbolize::a_function_to_find");
    assert_eq!((frames[0].line, &frames[0].file), (0, &None));
}

#[test]
fn what_does_not_fit_into_memory_is_left_out_and_said() {
    let exe = own_exe();
    let id = build_id(&exe);
    let file = fs::metadata(&exe).unwrap().len();
    // Nothing fits; symbols do; debug information too.
    for (memory_bytes, named, lines) in
        [(1000, false, false), (file, true, false), (4 * file, true, true)]
    {
        let mut options = SymbolizerOptions::default();
        options.memory_bytes = memory_bytes;
        let mut symbolizer = symbolizer(options, None, &id);
        let frames = resolve(&mut symbolizer, address());
        assert_eq!(frames.last().unwrap().named, named);
        assert_eq!(frames.last().unwrap().line > 0, lines);
        assert_eq!(symbolizer.notes().is_empty(), lines, "{:?}", symbolizer.notes());
    }
}

#[test]
fn a_stripped_file_is_named_by_its_debug_file() {
    let dir = tempfile::tempdir().unwrap();
    let stripped = dir.path().join("stripped");
    let objcopy = |arguments: &[&std::ffi::OsStr]| {
        Command::new("objcopy").args(arguments).status().is_ok_and(|status| status.success())
    };
    let exe = own_exe();
    // objcopy comes with the linker that made this test.
    assert!(objcopy(&["--strip-all".as_ref(), exe.as_os_str(), stripped.as_os_str()]));
    let build_id = build_id(&exe);
    let hex: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = SymbolizerOptions::default();
    options.debug_directories = vec![dir.path().join("debug")];

    let mut bare = symbolizer(options.clone(), Some(&stripped), &build_id);
    assert!(resolve(&mut bare, address())[0].function.starts_with("stripped+0x"));

    let debug =
        dir.path().join("debug/.build-id").join(&hex[..2]).join(format!("{}.debug", &hex[2..]));
    fs::create_dir_all(debug.parent().unwrap()).unwrap();
    assert!(objcopy(&["--only-keep-debug".as_ref(), exe.as_os_str(), debug.as_os_str()]));
    let mut found = symbolizer(options, Some(&stripped), &build_id);
    let frames = resolve(&mut found, address());
    assert_eq!(&*frames.last().unwrap().function, "symbolize::a_function_to_find");
    assert!(frames.last().unwrap().line > 0);
}

#[test]
fn what_is_no_file_is_no_hang() {
    for path in ["/dev/zero", "/proc/self/mem", "/tmp", "/nowhere/at/all", "[vdso]", "relative"] {
        let mut symbolizer =
            symbolizer(SymbolizerOptions::default(), Some(Path::new(path)), &[1; 20]);
        assert!(!resolve(&mut symbolizer, address())[0].named, "{path}");
    }
}

/// The smallest shared library that this process has, to be broken.
fn small_elf() -> Vec<u8> {
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with('/') && Path::new(path) != own_exe())
        .filter_map(|path| fs::read(path).ok())
        .filter(|bytes| bytes.starts_with(b"\x7fELF"))
        .min_by_key(Vec::len)
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn broken_files_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        header in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
        addresses in prop::collection::vec(0_u64..100_000, 1..8),
    ) {
        let mut bytes = small_elf();
        let id = {
            let note = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
            bytes.windows(16).position(|w| w == note).map(|at| bytes[at + 16..at + 36].to_vec())
        };
        for (index, byte) in changes {
            // Half of the time only the headers at both ends, where the sizes are.
            let reach = if header { bytes.len().min(4096) } else { bytes.len() };
            let at = index.index(reach);
            let at = if header && byte % 2 == 0 { bytes.len() - 1 - at } else { at };
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.so");
        fs::write(&path, &bytes).unwrap();
        let mut symbolizer = Symbolizer::new(SymbolizerOptions::default());
        symbolizer.add_module(WORKER, ModuleRange {
            process: PROCESS,
            start: 0,
            end: 200_000,
            file_offset: 0,
            path: path.to_str().unwrap(),
            build_id: &id.unwrap_or_default(),
        });
        for address in addresses {
            prop_assert!(!symbolizer.resolve(WORKER, PROCESS, address).is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The debug information, which lies behind the code, is broken in a thousand places.
    #[test]
    fn broken_debug_information_does_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1000),
    ) {
        let exe = own_exe();
        let mut bytes = fs::read(&exe).unwrap();
        let id = build_id(&exe);
        let half = bytes.len() / 2;
        for (index, byte) in changes {
            bytes[half + index.index(half)] = byte;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken");
        fs::write(&path, &bytes).unwrap();
        let mut symbolizer = symbolizer(SymbolizerOptions::default(), Some(&path), &id);
        for place in 0..200 {
            prop_assert!(!resolve(&mut symbolizer, address() + place * 997).is_empty());
        }
    }
}
