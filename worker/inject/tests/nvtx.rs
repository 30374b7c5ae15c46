//! NVTX: what an application says becomes spans and markers.
//!
//! The test program starts itself again and plays NVTX's header: it has tables of function
//! pointers, gives them to the file's door as `nvtxInit.h` does, and calls what it finds there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(unsafe_code, reason = "plays a C header")]

mod common;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::BufRead as _;
use std::path::Path;

use common::{Launcher, Spoken, arm, injected_file, spool_file};
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use profiler_core::record::{Marker, Row, Span, StringDef, ThreadDef, flag};
use profiler_core::spool::SpoolReader;

const ROLE: &str = "OMNIPROF_TEST_ROLE";

type Slot = std::sync::atomic::AtomicPtr<c_void>;

static CORE: [Slot; 16] = [const { Slot::new(std::ptr::null_mut()) }; 16];
static CORE2: [Slot; 16] = [const { Slot::new(std::ptr::null_mut()) }; 16];

#[repr(C)]
struct Callbacks {
    struct_size: usize,
    module_function_table:
        unsafe extern "C" fn(c_uint, *mut *const *const Slot, *mut c_uint) -> c_int,
}

/// `NvtxExportTableCallbacks::GetModuleFunctionTable`: a list of the addresses of the pointers.
unsafe extern "C" fn module_function_table(
    module: c_uint,
    table: *mut *const *const Slot,
    size: *mut c_uint,
) -> c_int {
    let slots: &'static [Slot; 16] = match module {
        1 => &CORE,
        5 => &CORE2,
        _ => return 0,
    };
    let list: Vec<*const Slot> = std::iter::once(std::ptr::null())
        .chain(slots.iter().skip(1).map(std::ptr::from_ref))
        .collect();
    // SAFETY: the caller gives two places to write to.
    unsafe { table.write(list.leak().as_ptr()) };
    // SAFETY: likewise.
    unsafe { size.write(16) };
    1
}

unsafe extern "C" fn export_table(id: c_uint) -> *const c_void {
    static TABLE: Callbacks =
        Callbacks { struct_size: size_of::<Callbacks>(), module_function_table };
    match id {
        1 => (&raw const TABLE).cast(),
        _ => std::ptr::null(),
    }
}

/// `nvtxEventAttributes_t`.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_void,
}

fn attributes(message_type: i32, message: *const c_void) -> Attributes {
    Attributes {
        version: 3,
        size: size_of::<Attributes>() as u16,
        category: 0,
        color_type: 0,
        color: 0,
        payload_type: 0,
        reserved: 0,
        payload: 0,
        message_type,
        message,
    }
}

/// The function that a slot holds.
///
/// # Safety
///
/// `F` is the type that NVTX gives the function of this slot.
unsafe fn function<F: Copy>(slots: &[Slot], index: usize) -> F {
    let pointer = slots[index].load(std::sync::atomic::Ordering::Acquire);
    assert!(!pointer.is_null(), "slot {index} was filled");
    // SAFETY: a function pointer has the size of a pointer, and the caller vouches for its type.
    unsafe { std::mem::transmute_copy(&pointer) }
}

fn text(text: &CStr) -> *const c_char {
    text.as_ptr()
}

type Push = extern "C" fn(*const c_char) -> c_int;
type Pop = extern "C" fn() -> c_int;
type DomainPush = extern "C" fn(*const c_void, *const Attributes) -> c_int;
type DomainPop = extern "C" fn(*const c_void) -> c_int;
type Name = extern "C" fn(*const c_char) -> *const c_void;
type Register = extern "C" fn(*const c_void, *const c_char) -> *const c_void;

/// Does nothing where it is run as a test like others.
#[test]
fn the_application() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    // SAFETY: our own file, whose constructor finds that it was not preloaded.
    let library = unsafe { Library::open(Some(injected_file()), RTLD_LAZY | RTLD_LOCAL) }.unwrap();
    type Door =
        unsafe extern "C" fn(Option<unsafe extern "C" fn(c_uint) -> *const c_void>) -> c_int;
    // SAFETY: NVTX's documentation gives the symbol this type.
    let door = unsafe { library.get::<Door>(c"InitializeInjectionNvtx2") }.unwrap();
    // SAFETY: no table is one of the things that the door is made for.
    assert_eq!(unsafe { door(None) }, 1);
    // SAFETY: the tables above are laid out as NVTX's.
    assert_eq!(unsafe { door(Some(export_table)) }, 1);

    // SAFETY: the types are those of `nvtxTypes.h`.
    let push: Push = unsafe { function(&CORE, 9) };
    // SAFETY: likewise.
    let pop: Pop = unsafe { function(&CORE, 11) };
    // SAFETY: likewise.
    let mark: extern "C" fn(*const c_char) = unsafe { function(&CORE, 2) };
    // SAFETY: likewise.
    let start: extern "C" fn(*const c_char) -> u64 = unsafe { function(&CORE, 5) };
    // SAFETY: likewise.
    let end: extern "C" fn(u64) = unsafe { function(&CORE, 7) };
    // SAFETY: likewise.
    let name_thread: extern "C" fn(u32, *const c_char) = unsafe { function(&CORE, 14) };
    // SAFETY: likewise.
    let create_domain: Name = unsafe { function(&CORE2, 12) };
    // SAFETY: likewise.
    let register: Register = unsafe { function(&CORE2, 10) };
    // SAFETY: likewise.
    let name_category: extern "C" fn(*const c_void, u32, *const c_char) =
        unsafe { function(&CORE2, 8) };
    // SAFETY: likewise.
    let domain_push: DomainPush = unsafe { function(&CORE2, 4) };
    // SAFETY: likewise.
    let domain_pop: DomainPop = unsafe { function(&CORE2, 5) };

    // Before the recording: nothing is kept, and one range stays open.
    assert_eq!(push(text(c"before")), -2);
    let domain = create_domain(text(c"vocoder"));
    let registered = register(domain, text(c"registered name"));
    name_category(domain, 7, text(c"attention"));
    name_thread(rustix::thread::gettid().as_raw_nonzero().get() as u32, text(c"engine"));
    let mut input = std::io::stdin().lock().lines();
    println!("ready");
    input.next().unwrap().unwrap();

    assert_eq!(pop(), -2, "it began before the recording");
    assert_eq!(push(text(c"outer")), 0);
    let mut event = attributes(3, registered);
    event.category = 7;
    event.payload_type = 2;
    event.payload = (-5_i64).cast_unsigned();
    assert_eq!(domain_push(domain, &event), 0, "domains have levels of their own");
    assert_eq!(push(text(c"inner")), 1);
    assert_eq!(pop(), 1);
    assert_eq!(domain_pop(domain), 0);
    assert_eq!(pop(), 0);
    assert_eq!(pop(), -2);
    mark(text(c"a mark"));
    let across = start(text(c"across threads"));
    std::thread::Builder::new().spawn(move || end(across)).unwrap().join().unwrap();
    end(4_000_000_000);
    // Wide texts, texts of another encoding, none, handles that are none.
    let wide: Vec<libc::wchar_t> = "größe".chars().map(|c| c as libc::wchar_t).chain([0]).collect();
    domain_push(std::ptr::null(), &attributes(2, wide.as_ptr().cast()));
    domain_pop(std::ptr::null());
    push(text(c"latin \xe9 text"));
    pop();
    push(std::ptr::null());
    pop();
    domain_push(std::ptr::without_provenance(12345), std::ptr::null());
    domain_pop(std::ptr::without_provenance(12345));
    domain_push(domain, &attributes(3, std::ptr::without_provenance(999_999)));
    domain_pop(domain);
    let long = std::ffi::CString::new(vec![b'x'; 1 << 20]).unwrap();
    push(long.as_ptr());
    pop();
    push(text(c"open at the end"));
    println!("said");
    input.next().unwrap().unwrap();
    assert_eq!(pop(), -2, "nothing is tracked after the recording");
    println!("done");
    input.next().unwrap().unwrap();
}

/// Rows with the texts of their strings.
struct Read {
    strings: BTreeMap<u32, String>,
    spans: Vec<(Span, String)>,
    markers: Vec<Marker>,
    threads: Vec<(ThreadDef, String)>,
}

fn read(path: &Path) -> Read {
    let mut found = Read {
        strings: BTreeMap::new(),
        spans: Vec::new(),
        markers: Vec::new(),
        threads: Vec::new(),
    };
    let mut reader = SpoolReader::open(path).unwrap();
    while let Some(block) = reader.next_block().unwrap() {
        let at = |place: profiler_core::record::HeapRef| {
            let bytes = &block.heap()[place.offset as usize..][..place.len as usize];
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        if block.kind() == StringDef::KIND {
            for row in block.rows::<StringDef>().unwrap().iter() {
                found.strings.insert(row.id.0, at(row.text));
            }
        } else if block.kind() == Span::KIND {
            let rows = block.rows::<Span>().unwrap();
            found.spans.extend(rows.iter().map(|row| (*row, at(row.fields))));
        } else if block.kind() == Marker::KIND {
            found.markers.extend(block.rows::<Marker>().unwrap().iter().copied());
        } else if block.kind() == ThreadDef::KIND {
            let rows = block.rows::<ThreadDef>().unwrap();
            found.threads.extend(rows.iter().map(|row| (*row, at(row.name))));
        }
    }
    found
}

#[test]
fn ranges_and_marks_become_spans_and_markers() {
    let launcher = Launcher::new();
    let mut command = launcher.command(&std::env::current_exe().unwrap());
    command
        .args(["the_application", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, "application")
        .env("OMNIPROF_TEST_INJECT", injected_file());
    let mut child = Spoken::start(&mut command);
    let until = |child: &mut Spoken, word: &str| {
        // The harness says more than the application.
        for _ in 0..20 {
            if child.hear().ends_with(word) {
                return;
            }
        }
        panic!("nobody says {word}");
    };
    let (mut worker, hello) = launcher.worker();
    assert_eq!(hello.joined_by, "nvtx_injection");
    until(&mut child, "ready");
    let spool = spool_file();
    worker.start(arm(1), &spool.file).unwrap();
    child.say("go");
    until(&mut child, "said");
    let result = worker.stop(1);
    assert_eq!(result.lost, BTreeMap::new());
    child.say("end");
    until(&mut child, "done");
    child.say("end");
    assert_eq!(child.ended(), Some(0));

    let found = read(&spool.path);
    let name = |id: u32| found.strings.get(&id).cloned().unwrap_or_default();
    let spans: Vec<(String, String, &str, bool)> = found
        .spans
        .iter()
        .map(|(span, fields)| {
            let is_unfinished = span.flags & flag::UNFINISHED != 0;
            assert!(is_unfinished || span.end >= span.start);
            (name(span.target.0), name(span.name.0), fields.as_str(), is_unfinished)
        })
        .collect();
    let long = "x".repeat(192);
    let expected = [
        ("nvtx", "inner", "", false),
        ("vocoder", "registered name", r#"{"category":"attention","payload":-5}"#, false),
        ("nvtx", "outer", "", false),
        ("nvtx", "across threads", "", false),
        ("nvtx", "größe", "", false),
        ("nvtx", "latin ", "", false),
        ("nvtx", "", "", false),
        ("nvtx", "", "", false),
        ("vocoder", "", "", false),
        ("nvtx", &long, "", false),
        ("nvtx", "open at the end", "", true),
    ];
    for expected in &expected {
        let (target, name, fields, is_unfinished) = expected;
        let wanted = ((*target).to_owned(), (*name).to_owned(), *fields, *is_unfinished);
        let times = |list: &[(String, String, &str, bool)]| {
            list.iter().filter(|span| **span == wanted).count()
        };
        assert!(times(&spans) >= 1, "{wanted:?} is missing: {spans:?}");
    }
    assert_eq!(spans.len(), expected.len(), "{spans:?}");
    let by_name = |wanted: &str| {
        found.spans.iter().map(|(span, _)| span).find(|span| name(span.name.0) == wanted).unwrap()
    };
    assert_eq!(by_name("inner").parent, by_name("registered name").id);
    assert_eq!(by_name("registered name").parent, by_name("outer").id);
    assert_eq!(by_name("outer").parent, 0);
    let marks: Vec<String> = found.markers.iter().map(|mark| name(mark.name.0)).collect();
    assert_eq!(marks, ["a mark"]);
    let thread = by_name("outer").thread;
    let named = found.threads.iter().find(|(row, _)| row.thread == thread).unwrap();
    assert_eq!(named.1, "engine");
}
