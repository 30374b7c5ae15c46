//! The environment of the process, read without touching it.
//!
//! An application may change its environment at any moment, from any thread, and the C library
//! lets nobody read meanwhile who is not called by the application. Whatever of the profiler runs
//! in a process that is not its own therefore looks at the memory where the environment stands
//! through the kernel, which answers with an error, not with a fault, where that memory is gone.
#![expect(unsafe_code, reason = "the address at which the C library keeps the environment")]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;

/// Variables, at most.
const MAX_VARIABLES: usize = 4096;

/// A variable is cut here.
const MAX_VARIABLE_BYTES: usize = 64 << 10;

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// A variable as it is now; one that is set to nothing is empty.
#[must_use]
pub fn variable(name: &str) -> Option<OsString> {
    let pairs = pairs();
    let value = pairs.iter().find_map(|pair| {
        let rest = pair.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })?;
    Some(OsString::from_vec(value.to_vec()))
}

/// `NAME=value` of all variables that are set now; where the kernel does not let us look at our own
/// memory, those that the process was started with.
#[must_use]
pub fn pairs() -> Vec<Vec<u8>> {
    read_memory().unwrap_or_else(|_| {
        let bytes = std::fs::read("/proc/self/environ").unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    })
}

fn read_memory() -> io::Result<Vec<Vec<u8>>> {
    let memory = File::open("/proc/self/mem")?;
    let mut word = [0; size_of::<usize>()];
    // The C library may put another list there while it is read here.
    memory.read_exact_at(&mut word, (&raw const environ).addr() as u64)?;
    let list = usize::from_ne_bytes(word);
    let mut pairs = Vec::new();
    if list == 0 {
        return Ok(pairs);
    }
    for index in 0..MAX_VARIABLES {
        let at = list + index * size_of::<usize>();
        if memory.read_exact_at(&mut word, at as u64).is_err() {
            break;
        }
        match usize::from_ne_bytes(word) {
            0 => break,
            text => pairs.extend(read_text(&memory, text as u64)),
        }
    }
    Ok(pairs)
}

/// A text up to its zero; `None` where no memory is.
fn read_text(memory: &File, at: u64) -> Option<Vec<u8>> {
    /// Reads of this length begin at its multiples: none goes over the end of a page.
    const STEP: u64 = 256;
    let mut text = Vec::new();
    let mut begin = at;
    while text.len() < MAX_VARIABLE_BYTES {
        let mut bytes = [0; STEP as usize];
        let step = &mut bytes[..(STEP - begin % STEP) as usize];
        memory.read_exact_at(step, begin).ok()?;
        if let Some(end) = step.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&step[..end]);
            return Some(text);
        }
        text.extend_from_slice(step);
        begin += step.len() as u64;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn the_environment_is_read_as_it_is_now() {
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            let found = variable(name).unwrap();
            assert!(value.as_bytes().starts_with(found.as_bytes()), "{name}");
            assert!(found.len() == value.len() || found.len() > 60_000, "{name}");
        }
        assert!(variable("OMNIPROF_NOBODY_SETS_THIS").is_none());
        assert_eq!(pairs().len(), std::env::vars_os().count());
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let memory = File::open("/proc/self/mem").unwrap();
        assert!(read_text(&memory, 16).is_none());
        let text = std::ffi::CString::new(vec![b'x'; 1000]).unwrap();
        assert_eq!(read_text(&memory, text.as_ptr().addr() as u64).unwrap(), text.as_bytes());
    }
}
