//! What an application names once and uses often: domains, texts, categories, threads.
//!
//! Names only come; they may come before any recording, and stay for the process's life. What is
//! given to the application as a handle is a number, so that a handle that is none reads nothing.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The domain of calls that name none.
pub(crate) const DEFAULT_DOMAIN: u32 = 0;

/// No registered text.
pub(crate) const NO_STRING: u32 = 0;

const PART: usize = 1024;

/// Values that only come, numbered from 1; `PARTS` × 1024 of them at most.
struct Register<T, const PARTS: usize> {
    len: AtomicU32,
    parts: [OnceLock<Box<[OnceLock<T>]>>; PARTS],
}

impl<T, const PARTS: usize> Register<T, PARTS> {
    const fn new() -> Self {
        Self { len: AtomicU32::new(0), parts: [const { OnceLock::new() }; PARTS] }
    }

    /// The value's number, 0 = there is no room.
    fn push(&self, value: T) -> u32 {
        let limit = (PARTS * PART) as u32;
        let taken = self.len.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |len| {
            (len < limit).then_some(len + 1)
        });
        let Ok(index) = taken else { return 0 };
        let part = self.parts[index as usize / PART]
            .get_or_init(|| (0..PART).map(|_| OnceLock::new()).collect());
        // The place is this call's alone.
        let _set: Result<(), T> = part[index as usize % PART].set(value);
        index + 1
    }

    fn get(&self, number: u32) -> Option<&T> {
        let index = number.checked_sub(1)? as usize;
        self.parts.get(index / PART)?.get()?[index % PART].get()
    }

    /// Values that came after the first `seen`, in their order.
    fn since(&self, seen: u32) -> impl Iterator<Item = &T> {
        (seen + 1..=self.len.load(Ordering::Acquire)).map_while(|number| self.get(number))
    }
}

static STRINGS: Register<Box<str>, 64> = Register::new();
static DOMAINS: Register<Box<str>, 1> = Register::new();
static CATEGORIES: Register<Category, 4> = Register::new();
static THREADS: Register<ThreadName, 4> = Register::new();

/// The name of a category of a domain.
#[derive(Debug)]
pub(crate) struct Category {
    pub(crate) domain: u32,
    pub(crate) category: u32,
    pub(crate) name: Box<str>,
}

/// The name that an application gives a thread.
#[derive(Debug)]
pub(crate) struct ThreadName {
    pub(crate) thread: u32,
    pub(crate) name: Box<str>,
}

fn handle(number: u32) -> *const c_void {
    std::ptr::without_provenance(number as usize)
}

fn number(handle: *const c_void) -> u32 {
    u32::try_from(handle.addr()).unwrap_or(u32::MAX)
}

pub(super) fn register_string(text: &str) -> *const c_void {
    handle(STRINGS.push(text.into()))
}

pub(super) fn string_of(handle: *const c_void) -> u32 {
    number(handle)
}

/// A registered text.
pub(crate) fn string(number: u32) -> Option<&'static str> {
    STRINGS.get(number).map(|text| &**text)
}

pub(super) fn create_domain(name: &str) -> *const c_void {
    handle(DOMAINS.push(name.into()))
}

pub(super) fn domain_of(handle: *const c_void) -> u32 {
    number(handle)
}

/// A domain's name.
pub(crate) fn domain_name(domain: u32) -> &'static str {
    DOMAINS.get(domain).map_or("nvtx", |name| &**name)
}

pub(super) fn name_category(domain: u32, category: u32, name: &str) {
    CATEGORIES.push(Category { domain, category, name: name.into() });
}

/// Categories that were named after the first `seen`.
pub(crate) fn categories(seen: u32) -> impl Iterator<Item = &'static Category> {
    CATEGORIES.since(seen)
}

pub(super) fn name_thread(thread: u32, name: &str) {
    THREADS.push(ThreadName { thread, name: name.into() });
}

/// Threads that were named after the first `seen`.
pub(crate) fn thread_names(seen: u32) -> impl Iterator<Item = &'static ThreadName> {
    THREADS.since(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_numbers_and_wrong_ones_name_nothing() {
        let text = register_string("größe");
        assert_eq!(string(string_of(text)), Some("größe"));
        for wrong in [std::ptr::null(), handle(60_000), std::ptr::without_provenance(usize::MAX)] {
            assert_eq!(string(string_of(wrong)), None);
        }
        assert_eq!(domain_name(domain_of(std::ptr::null())), "nvtx");
    }

    #[test]
    fn a_register_that_is_full_takes_no_more() {
        static FULL: Register<u32, 1> = Register::new();
        for number in 1..=PART as u32 {
            assert_eq!(FULL.push(number * 2), number);
        }
        assert_eq!(FULL.push(7), 0);
        assert_eq!(FULL.get(PART as u32), Some(&(PART as u32 * 2)));
        assert_eq!(FULL.since(PART as u32 - 2).count(), 2);
    }
}
