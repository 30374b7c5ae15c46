//! The environment of the process, read without touching it.
//!
//! An application may change its environment at any moment, from any thread, and the C library
//! lets nobody read meanwhile who is not called by the application. The agent's threads therefore
//! look at the memory where it stands through the kernel, which answers with an error, not with a
//! fault, where that memory is gone.
#![expect(unsafe_code, reason = "the address at which the C library keeps the environment")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use profiler_core::inject_env::{
    FACT_VARIABLES_VARIABLE, RANK_VARIABLE, REPLICA_VARIABLE, ROLE_VARIABLE, STAGE_VARIABLE,
};
use profiler_core::process_facts::{ProcessFacts, parse_variables, select};
use profiler_core::socket_path::{SOCKET_VARIABLE, SocketEnvironment};

/// Variables, at most.
const MAX_VARIABLES: usize = 4096;

/// A variable is cut here.
const MAX_VARIABLE_BYTES: usize = 4096;

/// A role from the environment is cut here.
const MAX_ROLE_CHARS: usize = 64;

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// The environment as it was when the agent entered the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// That of this process, as it is now.
    pub(crate) fn of_this_process() -> Self {
        let mut variables = BTreeMap::new();
        for pair in pairs() {
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
            let value = OsString::from_vec(pair[at + 1..].to_vec());
            variables.entry(OsString::from_vec(pair[..at].to_vec())).or_insert(value);
        }
        Self { variables }
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.to_str()
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.text(name)?.trim().parse().ok()
    }

    pub(crate) fn stage(&self) -> Option<u32> {
        self.number(STAGE_VARIABLE)
    }

    pub(crate) fn role(&self) -> Option<String> {
        Some(self.text(ROLE_VARIABLE)?.chars().take(MAX_ROLE_CHARS).collect())
    }

    pub(crate) fn replica(&self) -> Option<u32> {
        self.number(REPLICA_VARIABLE)
    }

    pub(crate) fn rank(&self) -> Option<u32> {
        self.number(RANK_VARIABLE)
    }

    /// What decides where the controller's socket lies.
    pub(crate) fn socket(&self) -> SocketEnvironment {
        let owned = |name: &str| self.get(name).map(OsStr::to_owned);
        SocketEnvironment {
            socket_dir: owned(SOCKET_VARIABLE),
            runtime_dir: owned("XDG_RUNTIME_DIR"),
            temporary_dir: owned("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
            user: rustix::process::geteuid().as_raw(),
        }
    }

    /// `OMNIPROF_DIR`, else `./omniprof-traces`.
    pub(crate) fn root(&self) -> PathBuf {
        self.get("OMNIPROF_DIR").map_or_else(|| PathBuf::from("omniprof-traces"), PathBuf::from)
    }

    /// What the process looks like now, with the variables that are set now: frameworks set ranks
    /// after a process began.
    pub(crate) fn facts(&self) -> ProcessFacts {
        let further = self.text(FACT_VARIABLES_VARIABLE).map(parse_variables).unwrap_or_default();
        let pairs = pairs();
        ProcessFacts {
            environment: select(pairs.iter().map(Vec::as_slice), &further),
            ..ProcessFacts::without_environment(std::process::id())
        }
    }
}

/// `NAME=value` of all variables that are set now; where the kernel does not let us look at our own
/// memory, those that the process was started with.
fn pairs() -> Vec<Vec<u8>> {
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
        let own = Environment::of_this_process();
        for (name, value) in std::env::vars_os() {
            if value.is_empty() {
                continue;
            }
            let found = own.get(&name.to_string_lossy()).map(OsStr::as_bytes);
            let expected = value.as_bytes();
            let expected = &expected[..expected.len().min(MAX_VARIABLE_BYTES - 256)];
            assert!(found.is_some_and(|found| found.starts_with(expected)), "{name:?}");
        }
        assert!(own.get("OMNIPROF_NOBODY_SETS_THIS").is_none());
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let memory = File::open("/proc/self/mem").unwrap();
        assert!(read_text(&memory, 16).is_none());
        let text = std::ffi::CString::new(vec![b'x'; 1000]).unwrap();
        assert_eq!(read_text(&memory, text.as_ptr().addr() as u64).unwrap(), text.as_bytes());
    }
}
