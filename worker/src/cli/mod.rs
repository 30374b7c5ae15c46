//! The command line: what can be typed, how it ends, how it speaks.

mod duration;
mod exit;
mod interrupts;
mod output;
mod progress;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use profiler_core::config::TraceFormat;

use crate::config::ConfigArgs;

pub(crate) use duration::parse_ms;
pub(crate) use exit::{CommandError, Exit};
pub(crate) use interrupts::Interrupts;
pub(crate) use output::{Output, bytes_text};
pub(crate) use progress::Progress;

/// Where a server listens and is looked for unless told otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8790";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong arguments or configuration, or a request that the server refused
  3  nothing there: no such session or file, or no server answers
  4  done in part: the output names what is missing
  5  conflict: a session already runs, the root has a controller, the output exists
  130  interrupted";

/// One profiler for AI inference in many stages and workers.
#[derive(Debug, Parser)]
#[command(name = "omniprof", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to log to standard error: `error`, `warn`, `info`, `debug`, `trace`.
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "OMNIPROF_LOG",
        default_value = "warn",
        hide_env_values = true
    )]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Profile a small pipeline of three stages on this machine, from start to summary.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// A stage process of the demo.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoStage(demo_stage::StageArgs),
    /// Run a command that nobody changed, and profile its processes on request.
    Run(crate::commands::RunArgs),
    /// Serve the HTTP interface; workers join by a socket.
    Serve(ServeArgs),
    /// Start a capture over all workers of a server, or over those selected.
    Start(StartArgs),
    /// Stop the capture; prints the manifest: each worker's files, counts and state.
    Stop(StopArgs),
    /// Tell what a server and its workers do.
    Status(StatusArgs),
    /// List the sessions of a root.
    List(ListArgs),
    /// Write spools in another format.
    Export(ExportArgs),
    /// Make a spool of a trace of another profiler: PyTorch's (Kineto), torch_npu's or msprof's.
    Import(ImportArgs),
    /// Tell what ran: per stage the top operations and functions, and busy and idle shares.
    Summary(SummaryArgs),
    /// Write one trace of several workers' spools, on one time axis.
    Merge(MergeArgs),
    /// Export what sessions of a dead controller or worker left behind.
    Recover(RecoverArgs),
    /// Remove the oldest sessions until the root is within its limits.
    Prune(PruneArgs),
    /// Look at this machine: what can be recorded, and what to change so that more can.
    Doctor(DoctorArgs),
    /// Load a libmspti in this process and tell what it can do: run before a worker loads it.
    #[command(hide = true)]
    ProbeNpu(ProbeNpuArgs),
    /// Print the configuration that holds, and where each value comes from.
    Config(ConfigCommandArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

/// The root.
#[derive(Args, Clone, Debug)]
pub(crate) struct RootArgs {
    /// The root below which traces lie [default: the configured one, else ./omniprof-traces].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// The server that is spoken to.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// The server's address [default: that of the controller of the root, else
    /// http://127.0.0.1:8790].
    #[arg(long, help_heading = "Server", value_name = "URL", env = "OMNIPROF_SERVER")]
    pub(crate) server: Option<String>,
    /// The file that holds the server's token.
    #[arg(long, help_heading = "Server", value_name = "FILE", env = "OMNIPROF_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The root whose controller is spoken to.
    #[arg(long, help_heading = "Server", value_name = "DIR", env = "OMNIPROF_DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The address to listen at; one that is not loopback needs `--token-file`
    /// [default: 127.0.0.1:8790].
    #[arg(long, value_name = "ADDRESS", env = "OMNIPROF_LISTEN")]
    pub(crate) listen: Option<String>,
    /// A file that holds the token which requests must carry.
    #[arg(long, value_name = "FILE", env = "OMNIPROF_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A rule by which processes that do not say who they are become known, as `omniprof run`
    /// takes it.
    #[arg(long, value_name = "RULE")]
    pub(crate) map: Vec<String>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one line of JSON when the server is ready.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// The stages to record [default: all].
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) stages: Option<Vec<u32>>,
    /// The replicas to record, of each stage [default: all].
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) replicas: Option<Vec<u32>>,
    /// The ranks to record, within a replica [default: all].
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) ranks: Option<Vec<u32>>,
    /// A label that becomes part of the session's id.
    #[arg(long, value_name = "LABEL")]
    pub(crate) prefix: Option<String>,
    /// Record for so long (`500ms`, `5s`, `2m`), then end.
    #[arg(long, value_name = "TIME", value_parser = duration::parse_ms)]
    pub(crate) duration: Option<u64>,
    /// Steps to let pass before the window.
    #[arg(long, value_name = "N")]
    pub(crate) delay_iterations: Option<u64>,
    /// Steps to record, then end.
    #[arg(long, value_name = "N")]
    pub(crate) max_iterations: Option<u64>,
    /// The absolute step at which the window begins.
    #[arg(long, value_name = "N", conflicts_with = "delay_iterations")]
    pub(crate) start_step: Option<u64>,
    /// What to record: CPU, GPU, MEM.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) activities: Option<Vec<String>>,
    /// Take the stacks of operators.
    #[arg(long)]
    pub(crate) with_stack: bool,
    /// Record the shapes of operators' inputs.
    #[arg(long)]
    pub(crate) record_shapes: bool,
    /// The most bytes that a worker's spool may take, with raw files of a vendor's tool.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// The formats to write.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) formats: Option<Vec<String>>,
    /// How much a device backend records: gpu, launch, full.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// The device backend to use; `cpu` = none.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// What to do where a device backend cannot start: fail, degrade.
    #[arg(long, value_name = "NAME")]
    pub(crate) on_unavailable: Option<String>,
    /// Record with the workers that can, where some cannot.
    #[arg(long)]
    pub(crate) allow_partial: bool,
    /// Also write one trace of all workers.
    #[arg(long)]
    pub(crate) merge: bool,
    /// Wait until the capture has ended by itself or by Ctrl-C, then stop it and print the
    /// manifest.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print the server's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// How long the server may wait for exports before it answers (`0ms`, `5s`).
    #[arg(long, value_name = "TIME", value_parser = duration::parse_ms, default_value = "5s")]
    pub(crate) wait: u64,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print the manifest as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The spools; several become one trace.
    #[arg(required = true, value_name = "SPOOL")]
    pub(crate) spools: Vec<PathBuf>,
    /// The file to write [default: beside the spool, named as it]. Nothing is replaced.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The format: pftrace-gz, pftrace, kineto-gz, kineto, parquet, table, csv, speedscope, folded.
    #[arg(long, short, value_name = "NAME", default_value = "pftrace-gz", value_parser = TraceFormat::parse)]
    pub(crate) format: TraceFormat,
    /// How many arguments each event carries.
    #[arg(long, value_name = "NAME", default_value = "minimal")]
    pub(crate) args: EventArgs,
    /// Follow a spool that is still being written, to its end.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Leave out what ends before (`1.5s` after the window's begin).
    #[arg(long, value_name = "TIME", value_parser = duration::parse_ms)]
    pub(crate) from: Option<u64>,
    /// Leave out what begins after.
    #[arg(long, value_name = "TIME", value_parser = duration::parse_ms)]
    pub(crate) to: Option<u64>,
    /// Print one line of JSON at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How many arguments each event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EventArgs {
    Minimal,
    Full,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The trace: `.json`, `.json.gz`, or a directory `…_ascend_pt` or `PROF_…`.
    pub(crate) trace: PathBuf,
    /// The spool to write [default: beside the trace, named as it]. Nothing is replaced.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print one line of JSON at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SummaryArgs {
    /// Spools, session directories, or ids of sessions in the root [default: the newest session].
    #[arg(value_name = "SPOOL|SESSION")]
    pub(crate) paths: Vec<PathBuf>,
    /// How many lines each table has.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) top: usize,
    /// Show each worker beside its stage.
    #[arg(long)]
    pub(crate) workers: bool,
    /// Show the operators once more, told apart by the shapes of their inputs or by the stacks that
    /// called them, where those were recorded.
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub(crate) by: Vec<SummaryBy>,
    /// Write the operators to a workbook as well, by name, by input shapes and by stack. Nothing is
    /// replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) xlsx: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What operators are told apart by, beside their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SummaryBy {
    /// The shapes of their inputs (`record_shapes`).
    Shape,
    /// The stacks that called them, as samples found them (`with_stack`).
    Stack,
}

#[derive(Args, Debug)]
pub(crate) struct MergeArgs {
    /// Spools, session directories, or ids of sessions in the root.
    #[arg(required = true, value_name = "SPOOL|SESSION")]
    pub(crate) paths: Vec<PathBuf>,
    /// The file to write. Nothing is replaced.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The format.
    #[arg(long, short, value_name = "NAME", default_value = "pftrace-gz", value_parser = TraceFormat::parse)]
    pub(crate) format: TraceFormat,
    /// How many arguments each event carries.
    #[arg(long, value_name = "NAME", default_value = "minimal")]
    pub(crate) args: EventArgs,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one line of JSON at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The sessions to look at [default: all of the root that nobody records].
    #[arg(value_name = "SESSION")]
    pub(crate) sessions: Vec<String>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print the manifests as one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// The most bytes that the root may hold [default: 20 GiB].
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// The most sessions that the root may hold [default: 50].
    #[arg(long, value_name = "N")]
    pub(crate) max_sessions: Option<usize>,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The directory of plugins, an absolute path [default: that of OMNIPROF_PLUGIN_DIR].
    #[arg(long, value_name = "DIR")]
    pub(crate) plugin_dir: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ProbeNpuArgs {
    /// The library.
    pub(crate) library: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ConfigCommandArgs {
    /// Print that of one stage alone.
    #[arg(long, value_name = "N")]
    pub(crate) stage: Option<u32>,
    /// Print what every field means, instead of what holds.
    #[arg(long)]
    pub(crate) fields: bool,
    /// Print the variables that are no fields.
    #[arg(long, conflicts_with = "fields")]
    pub(crate) variables: bool,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}
