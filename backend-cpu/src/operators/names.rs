//! The names that a thread's operators have, each with an id.
//!
//! Names of schemas lie at one address for as long as the process lives; those of the backward
//! graph and of users' scopes lie in objects whose addresses are used again. So a name is looked
//! up by its address, and its bytes are compared all the same.
#![expect(unsafe_code, reason = "compares texts that libtorch points at")]

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU32, Ordering};

/// Longer names are cut.
pub(super) const MAX_NAME_BYTES: usize = 255;

const ADDRESSES: usize = 256;
const TEXTS: usize = 512;
/// Names that are kept, at most: half of the places, so that a look-up ends soon.
const MAX_NAMES: usize = TEXTS / 2;
/// A power of two: every look-up counts in it.
const TEXT_BYTES: usize = 8 << 10;

#[derive(Clone, Copy)]
struct ByAddress {
    address: usize,
    offset: u32,
    id: u32,
}

#[derive(Clone, Copy)]
struct ByText {
    hash: u32,
    id: u32,
    offset: u32,
    len: u32,
}

/// Ids are unique in the process; 0 = none.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A thread's names.
pub(super) struct Names {
    by_address: [ByAddress; ADDRESSES],
    by_text: [ByText; TEXTS],
    /// The texts, each with a zero at its end.
    bytes: [u8; TEXT_BYTES],
    used: usize,
    count: usize,
}

impl Names {
    pub(super) const fn new() -> Self {
        Self {
            by_address: [ByAddress { address: 0, offset: 0, id: 0 }; ADDRESSES],
            by_text: [ByText { hash: 0, id: 0, offset: 0, len: 0 }; TEXTS],
            bytes: [0; TEXT_BYTES],
            used: 0,
            count: 0,
        }
    }

    /// Forgets all names: each is given a new id and told anew.
    pub(super) fn clear(&mut self) {
        for place in &mut self.by_address {
            place.address = 0;
        }
        for place in &mut self.by_text {
            place.id = 0;
        }
        self.used = 0;
        self.count = 0;
    }

    /// The id of the name at `address`; a new one is told by `tell`, and where that fails there is
    /// none: 0.
    ///
    /// # Safety
    ///
    /// * A text that ends in a zero lies at `address` for the time of the call.
    #[inline]
    pub(super) unsafe fn id(
        &mut self,
        address: *const c_char,
        tell: impl FnOnce(u32, &[u8]) -> bool,
    ) -> u32 {
        let place = (address as usize >> 4) % ADDRESSES;
        let known = self.by_address[place];
        if known.address == address as usize {
            let text = &raw const self.bytes[known.offset as usize % TEXT_BYTES];
            // SAFETY: the kept text ends in a zero, and so does the other, as the caller
            // guarantees; comparing goes past neither.
            if unsafe { libc::strcmp(text.cast(), address) } == 0 {
                return known.id;
            }
        }
        // SAFETY: the caller guarantees the text.
        let text = unsafe { CStr::from_ptr(address) };
        self.find(text.to_bytes(), place, address as usize, tell)
    }

    #[cold]
    fn find(
        &mut self,
        text: &[u8],
        place: usize,
        address: usize,
        tell: impl FnOnce(u32, &[u8]) -> bool,
    ) -> u32 {
        let text = &text[..text.len().min(MAX_NAME_BYTES)];
        let hash = hash(text);
        let mut at = hash as usize % TEXTS;
        while self.by_text[at].id != 0 {
            let known = self.by_text[at];
            let begin = known.offset as usize;
            let kept = self.bytes.get(begin..begin + known.len as usize);
            if known.hash == hash && kept == Some(text) {
                self.by_address[place] = ByAddress { address, offset: known.offset, id: known.id };
                return known.id;
            }
            at = (at + 1) % TEXTS;
        }
        if self.count == MAX_NAMES || self.used + text.len() + 1 > TEXT_BYTES {
            self.clear();
            at = hash as usize % TEXTS;
        }
        let id = next_id();
        if !tell(id, text) {
            return 0;
        }
        let offset = self.used;
        self.bytes[offset..offset + text.len()].copy_from_slice(text);
        self.bytes[offset + text.len()] = 0;
        self.used += text.len() + 1;
        self.count += 1;
        let (offset, len) = (offset as u32, text.len() as u32);
        self.by_text[at] = ByText { hash, id, offset, len };
        self.by_address[place] = ByAddress { address, offset, id };
        id
    }
}

fn next_id() -> u32 {
    match NEXT_ID.fetch_add(1, Ordering::Relaxed) {
        0 => NEXT_ID.fetch_add(1, Ordering::Relaxed),
        id => id,
    }
}

/// FNV-1a.
fn hash(text: &[u8]) -> u32 {
    text.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ffi::CString;

    use super::*;

    fn id(names: &mut Names, text: &CStr, told: &mut HashMap<u32, Vec<u8>>) -> u32 {
        // SAFETY: the text lives.
        unsafe {
            names.id(text.as_ptr(), |id, text| {
                assert!(told.insert(id, text.to_vec()).is_none(), "an id is given once");
                true
            })
        }
    }

    #[test]
    fn an_address_that_is_used_again_gets_the_name_that_is_there_now() {
        let mut names = Box::new(Names::new());
        let mut told = HashMap::new();
        let mut place = *b"aten::add\0\0\0\0\0\0\0";
        let text = |place: &[u8; 16]| CStr::from_bytes_until_nul(place).unwrap().to_owned();
        let mut at = |place: &[u8; 16], told: &mut HashMap<u32, Vec<u8>>| {
            let text = CStr::from_bytes_until_nul(place).unwrap();
            id(&mut names, text, told)
        };
        let add = at(&place, &mut told);
        assert_eq!(at(&place, &mut told), add);
        for other in
            [*b"aten::add_\0\0\0\0\0\0", *b"aten::ad\0\0\0\0\0\0\0\0", *b"\0ten::add\0\0\0\0\0\0\0"]
        {
            place = other;
            let found = at(&place, &mut told);
            assert_ne!(found, add);
            assert_eq!(told[&found], text(&place).as_bytes());
        }
        place = *b"aten::add\0\0\0\0\0\0\0";
        assert_eq!(at(&place, &mut told), add);
    }

    #[test]
    fn names_without_end_are_told_right_and_take_no_memory() {
        let mut names = Box::new(Names::new());
        let mut told = HashMap::new();
        for round in 0..5000 {
            let text = CString::new(format!("request {round}")).unwrap();
            let found = id(&mut names, &text, &mut told);
            assert_eq!(told[&found], text.as_bytes());
            let common = id(&mut names, c"aten::mm", &mut told);
            assert_eq!(told[&common], b"aten::mm");
        }
        let long = CString::new("x".repeat(1000)).unwrap();
        let found = id(&mut names, &long, &mut told);
        assert_eq!(told[&found].len(), MAX_NAME_BYTES);
        assert_eq!(id(&mut names, &long, &mut told), found);
    }

    #[test]
    fn a_name_that_could_not_be_told_is_told_again() {
        let mut names = Box::new(Names::new());
        let mut told = HashMap::new();
        // SAFETY: the text lives.
        let untold = unsafe { names.id(c"aten::mm".as_ptr(), |_, _| false) };
        assert_eq!(untold, 0);
        let found = id(&mut names, c"aten::mm", &mut told);
        assert_eq!(told[&found], b"aten::mm");
    }
}
