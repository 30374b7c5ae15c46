//! The fields that a configuration may have: the one list behind reading, help and documentation.

use super::format::TraceFormat;

/// A field.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Whose it is.
    pub origin: FieldOrigin,
    /// What it takes.
    pub kind: FieldKind,
    /// Our field that says the same, for a field of vLLM's.
    pub alias_of: Option<&'static str>,
    /// What holds where it is not given, for people.
    pub default: &'static str,
    /// What it does, for people.
    pub doc: &'static str,
}

impl Field {
    /// The field of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.name == name)
    }

    /// What the field sets: its own name, or that of the field it is another name of.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.alias_of.unwrap_or(self.name)
    }

    /// The variable that overrides it; vLLM's fields have none.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        let takes_text = !matches!(self.kind, FieldKind::Table);
        let named = self.origin != FieldOrigin::Vllm && takes_text;
        named.then(|| format!("OMNIPROF_{}", self.name.to_ascii_uppercase()))
    }
}

/// Whose a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldOrigin {
    /// Of vLLM's `ProfilerConfig`; with one of them the configuration counts as vLLM's.
    Vllm,
    /// Of vLLM's `ProfilerConfig`, and as good without it.
    Shared,
    /// Our own.
    Own,
}

/// What a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldKind {
    /// `true` or `false`.
    Flag,
    /// A whole number in a range.
    Number {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Any text.
    Text,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A list of some words.
    Choices(&'static [&'static str]),
    /// An object.
    Table,
}

const FORMATS: [&str; TraceFormat::ALL.len()] = {
    // Kept in step by a test.
    [
        "pftrace-gz",
        "pftrace",
        "kineto-gz",
        "kineto",
        "parquet",
        "table",
        "csv",
        "speedscope",
        "folded",
    ]
};

const ANY: FieldKind = FieldKind::Number { min: 0, max: MAX_STEPS };

/// Counts beyond this are typing errors.
const MAX_STEPS: u64 = 1_000_000_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const fn vllm(
    name: &'static str,
    kind: FieldKind,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, origin: FieldOrigin::Vllm, kind, alias_of: None, default, doc }
}

const fn alias(
    name: &'static str,
    alias_of: &'static str,
    kind: FieldKind,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, origin: FieldOrigin::Vllm, kind, alias_of: Some(alias_of), default, doc }
}

const fn shared(
    name: &'static str,
    kind: FieldKind,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, origin: FieldOrigin::Shared, kind, alias_of: None, default, doc }
}

const fn own(
    name: &'static str,
    kind: FieldKind,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, origin: FieldOrigin::Own, kind, alias_of: None, default, doc }
}

/// All fields, in the order in which they are listed.
pub const FIELDS: &[Field] = &[
    vllm(
        "profiler",
        FieldKind::Choice(&["torch", "cuda", "proton"]),
        "not given",
        "`torch`: the best device backend of the machine, sampled stacks, operators and spans. `cuda`: the CUDA backend alone. `proton` is refused.",
    ),
    alias(
        "torch_profiler_dir",
        "dir",
        FieldKind::Text,
        "`dir`",
        "The root below which traces are written. URIs are refused.",
    ),
    alias(
        "torch_profiler_with_stack",
        "with_stack",
        FieldKind::Flag,
        "true with `profiler: torch`",
        "Take the stacks of operators.",
    ),
    vllm("torch_profiler_with_flops", FieldKind::Flag, "false", "`true` is refused."),
    vllm(
        "torch_profiler_use_gzip",
        FieldKind::Flag,
        "true",
        "Whether the Kineto JSON is compressed.",
    ),
    vllm(
        "torch_profiler_dump_cuda_time_total",
        FieldKind::Flag,
        "true with `profiler: torch`",
        "Write the text tables too.",
    ),
    alias(
        "torch_profiler_record_shapes",
        "record_shapes",
        FieldKind::Flag,
        "false",
        "Record the shapes of operators' inputs.",
    ),
    alias(
        "torch_profiler_with_memory",
        "memory",
        FieldKind::Flag,
        "false",
        "Record allocations and frees.",
    ),
    vllm("torch_profiler_execution_trace", FieldKind::Flag, "false", "`true` is refused."),
    vllm("capture_torch_profiler", FieldKind::Flag, "false", "`true` is refused."),
    vllm("detailed_trace_annotation", FieldKind::Flag, "false", "`true` is refused."),
    vllm(
        "ignore_frontend",
        FieldKind::Flag,
        "false",
        "`true` is refused: a front end is recorded only where it joins as a worker.",
    ),
    vllm("proton_profiler_dir", FieldKind::Text, "not given", "Refused, with all of Proton."),
    vllm("proton_context", FieldKind::Text, "not given", "Refused, with all of Proton."),
    vllm("proton_data", FieldKind::Text, "not given", "Refused, with all of Proton."),
    vllm("proton_backend", FieldKind::Text, "not given", "Refused, with all of Proton."),
    vllm("proton_mode", FieldKind::Text, "not given", "Refused, with all of Proton."),
    vllm("proton_hook", FieldKind::Text, "not given", "Refused, with all of Proton."),
    vllm("proton_output_format", FieldKind::Text, "not given", "Refused, with all of Proton."),
    shared("delay_iterations", ANY, "0", "Steps to let pass after the start."),
    shared("wait_iterations", ANY, "0", "Steps to let pass before each warm-up."),
    shared(
        "warmup_iterations",
        ANY,
        "0",
        "Steps that are recorded, counted and discarded before each window.",
    ),
    shared(
        "active_iterations",
        FieldKind::Number { min: 1, max: MAX_STEPS },
        "until the stop; 5 in vLLM's configuration with a wait or warm-up",
        "Steps of a window. vLLM's configuration has windows only with a wait or warm-up; without, the field is refused.",
    ),
    shared(
        "max_iterations",
        ANY,
        "0",
        "Steps to record, exactly, then the session ends by itself; 0 = no such limit.",
    ),
    own(
        "start_step",
        ANY,
        "not given",
        "The absolute step, counted from the process's first, at which the first window begins.",
    ),
    own(
        "repeat",
        FieldKind::Number { min: 0, max: 1_000_000 },
        "0; 1 in vLLM's configuration",
        "How many windows; 0 = until the stop.",
    ),
    own(
        "delay_ms",
        FieldKind::Number { min: 0, max: DAY_MS },
        "0",
        "Time to let pass after the start, in ms, before any step is counted.",
    ),
    own(
        "duration_ms",
        FieldKind::Number { min: 1, max: DAY_MS },
        "not given",
        "Time inside windows, in ms, then the session ends by itself.",
    ),
    own(
        "max_session_ms",
        FieldKind::Number { min: 1, max: DAY_MS },
        "600000",
        "The longest a session takes, in ms, whatever else happens.",
    ),
    own(
        "max_bytes",
        FieldKind::Number { min: 1 << 20, max: 1 << 50 },
        "4294967296",
        "The most bytes a worker's spool takes, together with raw files that a vendor's tool writes beside it; at least 1048576.",
    ),
    own(
        "min_free_percent",
        FieldKind::Number { min: 0, max: 50 },
        "5",
        "The share of the file system that stays free, in percent.",
    ),
    own(
        "activities",
        FieldKind::Choices(&["CPU", "GPU", "MEM"]),
        "CPU, and GPU where there is one",
        "What to record: `CPU` is counters, samples, spans, and operators where `operators` is on (a start's body that names `CPU` asks for them); `GPU` the device, which must be there where it is named (see `on_unavailable`); `MEM` allocations and frees, by the device's backend: a worker that has none which records them is missed as a device is (`no_memory_rows`).",
    ),
    own(
        "backend",
        FieldKind::Text,
        "the best available",
        "The device backend to use; `cpu` = none.",
    ),
    own(
        "on_unavailable",
        FieldKind::Choice(&["fail", "degrade"]),
        "fail",
        "What to do where the device backend cannot start: fail the start, or record the host alone and say so.",
    ),
    own(
        "preset",
        FieldKind::Choice(&["gpu", "launch", "full"]),
        "launch",
        "How much a device backend records: what ran on the device, that and its launches, or every call.",
    ),
    own("spans", FieldKind::Flag, "true", "Record the application's spans and markers."),
    own("samples", FieldKind::Flag, "true", "Sample the stacks of all threads."),
    own("sample_hz", FieldKind::Number { min: 1, max: 1000 }, "99", "Samples a second and thread."),
    own(
        "counters",
        FieldKind::Flag,
        "true",
        "Read processor time, memory, faults and context switches.",
    ),
    own("counter_hz", FieldKind::Number { min: 1, max: 100 }, "10", "Counter readings a second."),
    own(
        "operators",
        FieldKind::Flag,
        "false; true with `profiler: torch`",
        "Record libtorch operators.",
    ),
    own("record_shapes", FieldKind::Flag, "false", "Record the shapes of operators' inputs."),
    own(
        "with_stack",
        FieldKind::Flag,
        "false; true with `profiler: torch`",
        "Take the stacks of operators.",
    ),
    own(
        "memory",
        FieldKind::Flag,
        "false",
        "Record allocations and frees, as `MEM` of `activities` does.",
    ),
    own(
        "max_buffer_bytes",
        FieldKind::Number { min: 8 << 20, max: 64 << 30 },
        "268435456",
        "The most memory that buffers of a driver take, in bytes; at least 8388608.",
    ),
    own(
        "drain_ms",
        FieldKind::Number { min: 0, max: 60_000 },
        "500",
        "How long a stop waits for records that a driver still holds, in ms.",
    ),
    own("options", FieldKind::Table, "none", "Settings of single backends: an object by backend."),
    own(
        "formats",
        FieldKind::Choices(&FORMATS),
        "pftrace-gz; and kineto-gz, table in vLLM's configuration",
        "The formats to export to.",
    ),
    own(
        "arguments",
        FieldKind::Choice(&["minimal", "full"]),
        "minimal",
        "How many arguments each event of a trace carries.",
    ),
    own("dir", FieldKind::Text, "./omniprof-traces", "The root below which traces are written."),
];
