//! NVTX: the ranges and marks that an application makes by NVIDIA's annotation library.
//!
//! NVTX is a header. At its first call in each program and library it opens the file that
//! `NVTX_INJECTION64_PATH` names and gives it a table of function pointers, which it calls from
//! then on. Ranges and marks become spans and markers of the thread that makes them, with the
//! domain as their target. Where nothing records, a call is one relaxed load.
//!
//! The declarations follow `nvtx3/nvtxDetail/nvtxTypes.h` and `nvtx3/nvToolsExt.h` of NVTX 3
//! (<https://github.com/NVIDIA/NVTX>), whose layouts are frozen.
#![expect(unsafe_code, reason = "C callbacks: pointers of the application's")]

mod names;

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::spans::{NvtxHead, NvtxOperation, append_nvtx, recording};

pub(crate) use names::{DEFAULT_DOMAIN, NO_STRING, categories, domain_name, string, thread_names};

/// What [`attach`] is given: finds a table by its number.
pub type GetExportTable = unsafe extern "C" fn(c_uint) -> *const c_void;

const EXPORT_TABLE_CALLBACKS: c_uint = 1;

const MODULE_CORE: c_uint = 1;
const MODULE_CORE2: c_uint = 5;

/// What an application gets where ranges are not tracked: `NVTX_NO_PUSH_POP_TRACKING`.
const NOT_TRACKED: c_int = -2;

/// Texts are cut here.
const MAX_TEXT_BYTES: usize = 192;

/// Domains whose ranges are counted apart; further ones share the last place.
const COUNTED_DOMAINS: usize = 16;

#[derive(Clone, Copy)]
#[repr(C)]
struct Callbacks {
    _struct_size: usize,
    module_function_table:
        Option<unsafe extern "C" fn(c_uint, *mut *const *mut *const c_void, *mut c_uint) -> c_int>,
}

/// `nvtxEventAttributes_t`, version 2 and later.
#[derive(Clone, Copy)]
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

const _: () = assert!(size_of::<Attributes>() == 48);

const MESSAGE_ASCII: i32 = 1;
const MESSAGE_UNICODE: i32 = 2;
const MESSAGE_REGISTERED: i32 = 3;

/// Puts the callbacks into NVTX's tables. Each program and library that uses NVTX has tables of
/// its own and comes here once. Whether there was a table to fill.
///
/// # Safety
///
/// `get_export_table` is the function that NVTX gives to `InitializeInjectionNvtx2`.
#[must_use]
pub unsafe fn attach(get_export_table: Option<GetExportTable>) -> bool {
    let Some(get) = get_export_table else { return false };
    // SAFETY: the caller vouches for the function; any number may be asked for.
    let table = unsafe { get(EXPORT_TABLE_CALLBACKS) }.cast::<Callbacks>();
    if table.is_null() {
        return false;
    }
    // SAFETY: NVTX's table begins with its own size.
    let size = unsafe { table.cast::<usize>().read() };
    if size < size_of::<Callbacks>() {
        return false;
    }
    // SAFETY: the table is long enough, as was just looked at.
    let Some(find) = (unsafe { table.read() }).module_function_table else { return false };
    let core: [(usize, *const c_void); 13] = [
        (1, mark_ex as *const c_void),
        (2, mark_a as *const c_void),
        (3, mark_w as *const c_void),
        (4, range_start_ex as *const c_void),
        (5, range_start_a as *const c_void),
        (6, range_start_w as *const c_void),
        (7, range_end as *const c_void),
        (8, range_push_ex as *const c_void),
        (9, range_push_a as *const c_void),
        (10, range_push_w as *const c_void),
        (11, range_pop as *const c_void),
        (12, name_category_a as *const c_void),
        (14, name_thread_a as *const c_void),
    ];
    let core2: [(usize, *const c_void); 10] = [
        (1, domain_mark_ex as *const c_void),
        (2, domain_range_start_ex as *const c_void),
        (3, domain_range_end as *const c_void),
        (4, domain_range_push_ex as *const c_void),
        (5, domain_range_pop as *const c_void),
        (8, domain_name_category_a as *const c_void),
        (10, domain_register_string_a as *const c_void),
        (11, domain_register_string_w as *const c_void),
        (12, domain_create_a as *const c_void),
        (13, domain_create_w as *const c_void),
    ];
    let mut attached = false;
    for (module, functions) in [(MODULE_CORE, &core[..]), (MODULE_CORE2, &core2[..])] {
        let mut slots = std::ptr::null();
        let mut len = 0;
        // SAFETY: NVTX's function, which writes a pointer and a length where it is told.
        if unsafe { find(module, &mut slots, &mut len) } == 0 || slots.is_null() {
            continue;
        }
        for &(index, function) in functions.iter().filter(|(index, _)| *index < len as usize) {
            // SAFETY: the index is within the table.
            let slot = unsafe { slots.wrapping_add(index).read() };
            if !slot.is_null() {
                // SAFETY: each entry is the address of a function pointer of this kind; NVTX calls
                // none before this returns.
                unsafe { slot.write(function) };
                attached = true;
            }
        }
    }
    attached
}

struct Levels {
    recording: Cell<u32>,
    depth: [Cell<u32>; COUNTED_DOMAINS],
}

thread_local! {
    // `const` and without a destructor: neither the first use nor the thread's end does anything.
    static LEVELS: Levels = const {
        Levels { recording: Cell::new(0), depth: [const { Cell::new(0) }; COUNTED_DOMAINS] }
    };
}

static NEXT_RANGE: AtomicU64 = AtomicU64::new(1);

/// The ranges that are open on this thread in a domain and in this recording.
fn with_depth<T>(recording: u32, domain: u32, take: impl FnOnce(&Cell<u32>) -> T) -> T {
    LEVELS.with(|levels| {
        if levels.recording.replace(recording) != recording {
            for depth in &levels.depth {
                depth.set(0);
            }
        }
        take(&levels.depth[(domain as usize).min(COUNTED_DOMAINS - 1)])
    })
}

/// A text of the application's, cut, as UTF-8.
struct Text {
    bytes: [u8; MAX_TEXT_BYTES],
    len: usize,
}

impl Text {
    const EMPTY: Self = Self { bytes: [0; MAX_TEXT_BYTES], len: 0 };

    fn as_str(&self) -> &str {
        let bytes = &self.bytes[..self.len];
        match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // What was cut within a character, or is in another encoding, ends there.
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// # Safety
    ///
    /// `text` is null or a text that ends with a zero.
    unsafe fn of_bytes(text: *const c_char) -> Self {
        let mut copy = Self::EMPTY;
        if text.is_null() {
            return copy;
        }
        for byte in &mut copy.bytes {
            // SAFETY: no zero came before this byte.
            *byte = unsafe { text.wrapping_add(copy.len).read() }.cast_unsigned();
            if *byte == 0 {
                break;
            }
            copy.len += 1;
        }
        copy
    }

    /// # Safety
    ///
    /// `text` is null or a text of wide characters that ends with a zero.
    unsafe fn of_wide(text: *const libc::wchar_t) -> Self {
        let mut copy = Self::EMPTY;
        if text.is_null() || !text.is_aligned() {
            return copy;
        }
        for index in 0.. {
            // SAFETY: no zero came before this character.
            let wide = unsafe { text.wrapping_add(index).read() };
            if wide == 0 {
                break;
            }
            let point = char::from_u32(wide as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            if copy.len + point.len_utf8() > MAX_TEXT_BYTES {
                break;
            }
            copy.len += point.encode_utf8(&mut copy.bytes[copy.len..]).len();
        }
        copy
    }
}

/// A range or mark as the application describes it.
struct Event {
    head: NvtxHead,
    text: Text,
}

impl Event {
    fn named(text: Text) -> Self {
        Self { head: NvtxHead::default(), text }
    }

    /// # Safety
    ///
    /// `attributes` is null or what NVTX calls event attributes.
    unsafe fn of(attributes: *const Attributes) -> Self {
        let mut event = Self::named(Text::EMPTY);
        if attributes.is_null() || !attributes.is_aligned() {
            return event;
        }
        // SAFETY: every version of the attributes begins with its version and size.
        let [_, size] = unsafe { attributes.cast::<[u16; 2]>().read() };
        if usize::from(size) < size_of::<Attributes>() {
            return event;
        }
        // SAFETY: the application says that there is so much.
        let attributes = unsafe { attributes.read() };
        event.head.category = attributes.category;
        event.head.payload = attributes.payload;
        event.head.payload_type = u16::try_from(attributes.payload_type).unwrap_or(0);
        match attributes.message_type {
            // SAFETY: the application says that it is such a text.
            MESSAGE_ASCII => event.text = unsafe { Text::of_bytes(attributes.message.cast()) },
            // SAFETY: likewise.
            MESSAGE_UNICODE => event.text = unsafe { Text::of_wide(attributes.message.cast()) },
            // The number that it got when it registered the text; never looked at as an address.
            MESSAGE_REGISTERED => event.head.string = names::string_of(attributes.message),
            _ => {}
        }
        event
    }

    fn name(&self) -> &str {
        match string(self.head.string) {
            Some(text) => text,
            None => self.text.as_str(),
        }
    }

    fn write(mut self, operation: NvtxOperation, domain: u32, id: u64, level: u32) {
        self.head.domain = domain;
        self.head.id = id;
        self.head.level = level;
        if operation.begins() {
            crate::spans::begin_step(self.name());
        }
        append_nvtx(operation, self.head, self.text.as_str());
    }
}

fn push(recording: u32, domain: u32, event: Event) -> c_int {
    let level = with_depth(recording, domain, |depth| depth.replace(depth.get() + 1));
    event.write(NvtxOperation::Push, domain, 0, level);
    c_int::try_from(level).unwrap_or(c_int::MAX)
}

fn pop(domain: u32) -> c_int {
    let Some(recording) = recording() else { return NOT_TRACKED };
    let level = with_depth(recording, domain, |depth| {
        let level = depth.get().checked_sub(1)?;
        depth.set(level);
        Some(level)
    });
    // A range that began before the recording is not known.
    let Some(level) = level else { return NOT_TRACKED };
    Event::named(Text::EMPTY).write(NvtxOperation::Pop, domain, 0, level);
    c_int::try_from(level).unwrap_or(c_int::MAX)
}

fn end(domain: u32, id: u64) {
    if recording().is_some() {
        Event::named(Text::EMPTY).write(NvtxOperation::End, domain, id, 0);
    }
}

fn next_range() -> u64 {
    NEXT_RANGE.fetch_add(1, Ordering::Relaxed)
}

/// Calls what is ours; a panic ends here.
fn guarded<T>(otherwise: T, call: impl FnOnce() -> T + std::panic::UnwindSafe) -> T {
    catch_unwind(call).unwrap_or(otherwise)
}

extern "C" fn mark_ex(attributes: *const Attributes) {
    domain_mark_ex(std::ptr::null(), attributes);
}

extern "C" fn mark_a(text: *const c_char) {
    if recording().is_some() {
        // SAFETY: NVTX hands on what the application gives as a text.
        let event = Event::named(unsafe { Text::of_bytes(text) });
        guarded((), || event.write(NvtxOperation::Mark, DEFAULT_DOMAIN, 0, 0));
    }
}

extern "C" fn mark_w(text: *const libc::wchar_t) {
    if recording().is_some() {
        // SAFETY: NVTX hands on what the application gives as a text.
        let event = Event::named(unsafe { Text::of_wide(text) });
        guarded((), || event.write(NvtxOperation::Mark, DEFAULT_DOMAIN, 0, 0));
    }
}

extern "C" fn domain_mark_ex(domain: *const c_void, attributes: *const Attributes) {
    if recording().is_some() {
        // SAFETY: NVTX hands on what the application gives as attributes.
        let event = unsafe { Event::of(attributes) };
        guarded((), || event.write(NvtxOperation::Mark, names::domain_of(domain), 0, 0));
    }
}

extern "C" fn range_start_ex(attributes: *const Attributes) -> u64 {
    domain_range_start_ex(std::ptr::null(), attributes)
}

extern "C" fn range_start_a(text: *const c_char) -> u64 {
    let id = next_range();
    if recording().is_some() {
        // SAFETY: NVTX hands on what the application gives as a text.
        let event = Event::named(unsafe { Text::of_bytes(text) });
        guarded((), || event.write(NvtxOperation::Start, DEFAULT_DOMAIN, id, 0));
    }
    id
}

extern "C" fn range_start_w(text: *const libc::wchar_t) -> u64 {
    let id = next_range();
    if recording().is_some() {
        // SAFETY: NVTX hands on what the application gives as a text.
        let event = Event::named(unsafe { Text::of_wide(text) });
        guarded((), || event.write(NvtxOperation::Start, DEFAULT_DOMAIN, id, 0));
    }
    id
}

extern "C" fn domain_range_start_ex(domain: *const c_void, attributes: *const Attributes) -> u64 {
    let id = next_range();
    if recording().is_some() {
        // SAFETY: NVTX hands on what the application gives as attributes.
        let event = unsafe { Event::of(attributes) };
        guarded((), || event.write(NvtxOperation::Start, names::domain_of(domain), id, 0));
    }
    id
}

extern "C" fn range_end(id: u64) {
    guarded((), || end(DEFAULT_DOMAIN, id));
}

extern "C" fn domain_range_end(domain: *const c_void, id: u64) {
    guarded((), || end(names::domain_of(domain), id));
}

extern "C" fn range_push_ex(attributes: *const Attributes) -> c_int {
    domain_range_push_ex(std::ptr::null(), attributes)
}

extern "C" fn range_push_a(text: *const c_char) -> c_int {
    let Some(recording) = recording() else { return NOT_TRACKED };
    // SAFETY: NVTX hands on what the application gives as a text.
    let event = Event::named(unsafe { Text::of_bytes(text) });
    guarded(NOT_TRACKED, || push(recording, DEFAULT_DOMAIN, event))
}

extern "C" fn range_push_w(text: *const libc::wchar_t) -> c_int {
    let Some(recording) = recording() else { return NOT_TRACKED };
    // SAFETY: NVTX hands on what the application gives as a text.
    let event = Event::named(unsafe { Text::of_wide(text) });
    guarded(NOT_TRACKED, || push(recording, DEFAULT_DOMAIN, event))
}

extern "C" fn domain_range_push_ex(domain: *const c_void, attributes: *const Attributes) -> c_int {
    let Some(recording) = recording() else { return NOT_TRACKED };
    // SAFETY: NVTX hands on what the application gives as attributes.
    let event = unsafe { Event::of(attributes) };
    guarded(NOT_TRACKED, || push(recording, names::domain_of(domain), event))
}

extern "C" fn range_pop() -> c_int {
    guarded(NOT_TRACKED, || pop(DEFAULT_DOMAIN))
}

extern "C" fn domain_range_pop(domain: *const c_void) -> c_int {
    guarded(NOT_TRACKED, || pop(names::domain_of(domain)))
}

extern "C" fn name_category_a(category: u32, text: *const c_char) {
    domain_name_category_a(std::ptr::null(), category, text);
}

extern "C" fn domain_name_category_a(domain: *const c_void, category: u32, text: *const c_char) {
    // SAFETY: NVTX hands on what the application gives as a text.
    let text = unsafe { Text::of_bytes(text) };
    guarded((), || names::name_category(names::domain_of(domain), category, text.as_str()));
}

extern "C" fn name_thread_a(thread: u32, text: *const c_char) {
    // SAFETY: NVTX hands on what the application gives as a text.
    let text = unsafe { Text::of_bytes(text) };
    guarded((), || names::name_thread(thread, text.as_str()));
}

extern "C" fn domain_register_string_a(
    _domain: *const c_void,
    text: *const c_char,
) -> *const c_void {
    // SAFETY: NVTX hands on what the application gives as a text.
    let text = unsafe { Text::of_bytes(text) };
    guarded(std::ptr::null(), || names::register_string(text.as_str()))
}

extern "C" fn domain_register_string_w(
    _domain: *const c_void,
    text: *const libc::wchar_t,
) -> *const c_void {
    // SAFETY: NVTX hands on what the application gives as a text.
    let text = unsafe { Text::of_wide(text) };
    guarded(std::ptr::null(), || names::register_string(text.as_str()))
}

extern "C" fn domain_create_a(text: *const c_char) -> *const c_void {
    // SAFETY: NVTX hands on what the application gives as a text.
    let text = unsafe { Text::of_bytes(text) };
    guarded(std::ptr::null(), || names::create_domain(text.as_str()))
}

extern "C" fn domain_create_w(text: *const libc::wchar_t) -> *const c_void {
    // SAFETY: NVTX hands on what the application gives as a text.
    let text = unsafe { Text::of_wide(text) };
    guarded(std::ptr::null(), || names::create_domain(text.as_str()))
}
