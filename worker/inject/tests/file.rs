//! The built file: what it exports and what is in it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;

use common::{Launcher, Spoken, injected_file};
use object::{Object as _, ObjectSymbol as _};

#[test]
fn the_file_exports_its_two_doors_and_nothing_else() {
    let bytes = std::fs::read(injected_file()).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let exported: BTreeSet<&str> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .map(|symbol| symbol.name().unwrap())
        .collect();
    assert_eq!(exported, BTreeSet::from(["InitializeInjection", "InitializeInjectionNvtx2"]));
}

#[test]
fn the_file_needs_nothing_but_the_c_library() {
    let bytes = std::fs::read(injected_file()).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let needed: BTreeSet<String> = needed(&file);
    let known = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
    for library in &needed {
        assert!(known.contains(&library.as_str()) || library.starts_with("ld-linux"), "{needed:?}");
    }
}

fn needed(file: &object::File<'_>) -> BTreeSet<String> {
    use object::read::elf::{Dyn as _, FileHeader as _};
    let object::File::Elf64(elf) = file else { panic!("a file of 64 bits") };
    let endian = elf.endian();
    let data = elf.data();
    let sections = elf.elf_header().sections(endian, data).unwrap();
    let (entries, link) = sections.dynamic(endian, data).unwrap().unwrap();
    let strings = sections.strings(endian, data, link).unwrap();
    entries
        .iter()
        .filter(|entry| entry.tag(endian) == object::elf::DT_NEEDED)
        .map(|entry| entry.string(endian, strings).unwrap())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[test]
fn the_backends_are_in_the_file() {
    let launcher = Launcher::new();
    let mut child = Spoken::start(launcher.python("input()").env("LD_PRELOAD", injected_file()));
    let (_worker, hello) = launcher.worker();
    let ids: BTreeSet<String> =
        hello.backends.iter().map(|backend| backend.id.to_string()).collect();
    assert_eq!(ids, BTreeSet::from(["cpu", "cuda", "npu"].map(str::to_owned)));
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}
