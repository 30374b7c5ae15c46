//! What a launcher tells the processes that it starts, by environment variables.
//!
//! `omniprof run` sets them, the injected file (`libomniprof_inject.so`) reads them when one of
//! its doors opens, and nothing else needs to know them. They can be set by hand as well.
//!
//! | variable | holds |
//! |---|---|
//! | `CUDA_INJECTION64_PATH` | the injected file: the driver opens it at `cuInit` |
//! | `NVTX_INJECTION64_PATH` | the injected file: NVTX opens it at its first call |
//! | `LD_PRELOAD` | the injected file: the loader opens it before `main` |
//! | `OMNIPROF_SOCKET` | the directory of the controller's socket ([`crate::socket_path`]) |
//! | `OMNIPROF_TOKEN_FILE` | a file that proves who the worker is, where the kernel does not say |
//! | `OMNIPROF_PLUGIN_DIR` | a directory of backends in libraries of their own |
//! | `OMNIPROF_JOIN` | which doors are open: a [`JoinPolicy`]; not set = all of them |
//! | `OMNIPROF_JOIN_PROGRAMS` | patterns of programs that `LD_PRELOAD` lets join ([`Programs`]) |
//! | `OMNIPROF_STAGE`, `OMNIPROF_ROLE`, `OMNIPROF_REPLICA`, `OMNIPROF_RANK` | who the worker is |
//! | `OMNIPROF_FACT_VARIABLES` | further variables to report ([`crate::process_facts`]) |
//! | `OMNIPROF_STEP_MARKER` | a pattern: NVTX ranges and marks, and `record_function`s, of such names are steps |
//!
//! A value that cannot be understood counts as not set: the process that it was meant for must
//! run on as if alone. Whoever sets the variables parses them first with what is here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::socket_path::SOCKET_VARIABLE;

/// Names the file that the CUDA driver opens at `cuInit`.
pub const CUDA_INJECTION_VARIABLE: &str = "CUDA_INJECTION64_PATH";

/// Names the file that NVTX opens at its first call.
pub const NVTX_INJECTION_VARIABLE: &str = "NVTX_INJECTION64_PATH";

/// Names files that the loader opens before `main`, separated by colons or spaces.
pub const PRELOAD_VARIABLE: &str = "LD_PRELOAD";

/// The pipeline stage of the processes, from 0.
pub const STAGE_VARIABLE: &str = "OMNIPROF_STAGE";

/// What the stage does.
pub const ROLE_VARIABLE: &str = "OMNIPROF_ROLE";

/// The replica of the stage, from 0.
pub const REPLICA_VARIABLE: &str = "OMNIPROF_REPLICA";

/// The rank within the replica, from 0. A launcher of several ranks leaves it to its rules.
pub const RANK_VARIABLE: &str = "OMNIPROF_RANK";

/// The file whose contents prove who the worker is.
pub const TOKEN_FILE_VARIABLE: &str = "OMNIPROF_TOKEN_FILE";

/// A directory of plugins, an absolute path.
pub const PLUGIN_DIR_VARIABLE: &str = "OMNIPROF_PLUGIN_DIR";

/// A [`JoinPolicy`].
pub const JOIN_VARIABLE: &str = "OMNIPROF_JOIN";

/// [`Programs`] that join when they were preloaded.
pub const JOIN_PROGRAMS_VARIABLE: &str = "OMNIPROF_JOIN_PROGRAMS";

/// Names of variables to report beside the usual ones, separated by commas; `X*` = all that begin
/// with X.
pub const FACT_VARIABLES_VARIABLE: &str = "OMNIPROF_FACT_VARIABLES";

/// A pattern of names (`*` = any text): NVTX ranges and marks, and ranges of libtorch's
/// `record_function`, of such names are steps.
pub const STEP_MARKER_VARIABLE: &str = "OMNIPROF_STEP_MARKER";

/// The name of the injected file.
pub const INJECTED_FILE_NAME: &str = "libomniprof_inject.so";

/// How processes become workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JoinPolicy {
    /// The launcher decides; to the injected file every door is open.
    #[default]
    Auto,
    /// When they first use the device or NVTX. The preloaded file stays inert.
    Device,
    /// When they start, where they are programs of the wanted kind; else as `Device`.
    Preload,
    /// Not at all: they are looked at from outside. The injected file stays inert.
    Outside,
}

impl JoinPolicy {
    /// Its name, as it is written in the variable and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Device => "device",
            Self::Preload => "preload",
            Self::Outside => "outside",
        }
    }

    /// Whether a process may join by this door.
    #[must_use]
    pub fn opens(self, door: Door) -> bool {
        match self {
            Self::Outside => false,
            Self::Device => door != Door::Preload,
            Self::Auto | Self::Preload => true,
        }
    }
}

impl fmt::Display for JoinPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No such [`JoinPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no way to join: use auto, device, preload or outside")]
pub struct JoinPolicyError {
    /// What was given.
    pub text: String,
}

impl FromStr for JoinPolicy {
    type Err = JoinPolicyError;

    fn from_str(text: &str) -> Result<Self, JoinPolicyError> {
        match text {
            "auto" => Ok(Self::Auto),
            "device" => Ok(Self::Device),
            "preload" => Ok(Self::Preload),
            "outside" => Ok(Self::Outside),
            _ => Err(JoinPolicyError { text: text.to_owned() }),
        }
    }
}

/// How the injected file came into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the file has these doors and no other")]
pub enum Door {
    /// The CUDA driver opened it.
    Cuda,
    /// NVTX opened it.
    Nvtx,
    /// The loader opened it before `main`.
    Preload,
}

/// How an agent that a program links itself says that it joined.
pub const JOINED_BY_PROGRAM: &str = "embedded";

/// How an agent that looks at another process says that it joined.
pub const JOINED_BY_LOOKING: &str = "outside";

impl Door {
    /// What the worker's hello says in `joined_by`.
    #[must_use]
    pub fn joined_by(self) -> &'static str {
        match self {
            Self::Cuda => "cuda_injection",
            Self::Nvtx => "nvtx_injection",
            Self::Preload => "preload",
        }
    }
}

/// Programs that join when the file was preloaded: every child of a launcher has the file in it,
/// a shell and `ls` as well.
///
/// Patterns of file names, separated by commas; `*` stands for any text. Without the variable a
/// process joins that runs Python, or has a library of a device, of torch or of NVTX in it when it
/// starts. Others join as soon as they use the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    patterns: Vec<String>,
}

/// Interpreters whose programs load torch or a device's libraries later on.
const INTERPRETERS: &[&str] = &["python", "python2*", "python3*", "pypy*"];

/// How libraries begin whose presence shows that a program is of the wanted kind.
const LIBRARIES: &[&str] = &[
    "libtorch",
    "libc10",
    "libcuda.so",
    "libcudart",
    "libnvToolsExt",
    "libascendcl",
    "libmspti",
    "libruntime.so",
];

impl Programs {
    /// Reads the variable's value; every text is a list of patterns.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let patterns = text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        Self { patterns: patterns.map(str::to_owned).collect() }
    }

    /// Whether a program of this file name joins, in which these libraries (file names) are.
    pub fn take<'a>(&self, program: &str, mut libraries: impl Iterator<Item = &'a str>) -> bool {
        if !self.patterns.is_empty() {
            return self.patterns.iter().any(|pattern| matches(pattern, program));
        }
        INTERPRETERS.iter().any(|pattern| matches(pattern, program))
            || libraries.any(|name| LIBRARIES.iter().any(|begin| name.starts_with(begin)))
    }
}

/// Whether a text is of a pattern in which `*` stands for any text.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_come_back_from_their_names() {
        for policy in
            [JoinPolicy::Auto, JoinPolicy::Device, JoinPolicy::Preload, JoinPolicy::Outside]
        {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("Device".parse::<JoinPolicy>().is_err());
        assert!(JoinPolicy::Device.opens(Door::Cuda) && !JoinPolicy::Device.opens(Door::Preload));
        assert!(!JoinPolicy::Outside.opens(Door::Nvtx));
    }

    #[test]
    fn only_programs_of_the_wanted_kind_join_by_preload() {
        let usual = Programs::default();
        let none = || std::iter::empty::<&str>();
        for program in ["python", "python3", "python3.12", "pypy3"] {
            assert!(usual.take(program, none()), "{program}");
        }
        for program in ["sh", "bash", "ls", "nvcc", "pythonic-name"] {
            assert!(!usual.take(program, none()), "{program}");
        }
        assert!(usual.take("server", ["libc.so.6", "libtorch_cpu.so"].into_iter()));
        assert!(!usual.take("server", ["libc.so.6", "libm.so.6"].into_iter()));

        let chosen = Programs::parse("serv*, other,");
        assert!(chosen.take("server", none()) && chosen.take("other", none()));
        assert!(!chosen.take("python3", ["libcuda.so.1"].into_iter()), "the list is the whole");
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("ab*ba", "aba", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
