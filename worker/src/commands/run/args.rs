//! What `omniprof run` is told.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use profiler_core::inject_env::JoinPolicy;

use crate::cli::{RootArgs, parse_ms};
use crate::config::ConfigArgs;

/// The arguments of `omniprof run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The pipeline stage of the command's processes [default: what their titles, command lines
    /// and environments say].
    #[arg(long, value_name = "N")]
    pub(crate) stage: Option<u32>,
    /// What the stage does (`thinker`, `diffusion`).
    #[arg(long, value_name = "NAME")]
    pub(crate) role: Option<String>,
    /// The replica of the stage.
    #[arg(long, value_name = "N")]
    pub(crate) replica: Option<u32>,
    /// A rule by which processes are known: `title:REGEX`, `cmdline:REGEX` or `env:REGEX`, whose
    /// groups `stage`, `role`, `replica`, `rank` name what they take. Rules for vLLM-Omni, vLLM,
    /// SGLang and torchrun are built in; these stand before them.
    #[arg(long, value_name = "RULE")]
    pub(crate) map: Vec<String>,
    /// How processes become workers.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) join: JoinArg,
    /// A directory of plugins for the processes that join (`OMNIPROF_PLUGIN_DIR`).
    #[arg(long, value_name = "DIR")]
    pub(crate) plugin_dir: Option<PathBuf>,
    /// Join a server instead of being one, so that several runs are one pipeline [default: that of
    /// the root's controller, else http://127.0.0.1:8790].
    #[arg(
        long,
        value_name = "URL",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with = "listen",
    )]
    pub(crate) server: Option<String>,
    /// Start a capture as soon as the first process has joined; others are recorded as they come.
    #[arg(long)]
    pub(crate) profile_at_start: bool,
    /// How long that capture records (`500ms`, `5s`, `2m`) [default: until a stop, or the end].
    #[arg(long, value_name = "TIME", value_parser = parse_ms, requires = "profile_at_start")]
    pub(crate) duration: Option<u64>,
    /// The address at which captures are started and stopped; one that is not loopback needs
    /// `--token-file` [default: 127.0.0.1:8790].
    #[arg(long, value_name = "ADDRESS", env = "OMNIPROF_LISTEN")]
    pub(crate) listen: Option<String>,
    /// A file that holds the token which requests must carry, and workers of other user namespaces.
    #[arg(long, value_name = "FILE", env = "OMNIPROF_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The command to run, with its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How processes become workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum JoinArg {
    /// As they first use a device; by LD_PRELOAD where the configuration asks for operators or
    /// spans, or the host has Ascend devices; all others are sampled from outside.
    Auto,
    /// As they first use a device, and no others.
    Device,
    /// By LD_PRELOAD.
    Preload,
    /// Not at all: all are sampled from outside.
    Outside,
}

impl JoinArg {
    /// The same, as the injected file reads it.
    pub(crate) fn policy(self) -> JoinPolicy {
        match self {
            Self::Auto => JoinPolicy::Auto,
            Self::Device => JoinPolicy::Device,
            Self::Preload => JoinPolicy::Preload,
            Self::Outside => JoinPolicy::Outside,
        }
    }
}
