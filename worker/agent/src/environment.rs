//! What the environment says to an agent.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use profiler_core::environment::pairs;
use profiler_core::inject_env::{
    FACT_VARIABLES_VARIABLE, RANK_VARIABLE, REPLICA_VARIABLE, ROLE_VARIABLE, STAGE_VARIABLE,
};
use profiler_core::process_facts::{ProcessFacts, parse_variables, select};
use profiler_core::socket_path::{SOCKET_VARIABLE, SocketEnvironment};

/// A role from the environment is cut here.
const MAX_ROLE_CHARS: usize = 64;

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
