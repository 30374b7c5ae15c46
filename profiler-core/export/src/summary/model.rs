//! What a summary says. Times are in microseconds, sizes in bytes, shares in percent.

use std::collections::BTreeMap;

use serde::Serialize;

/// The version of this layout.
pub const SCHEMA_VERSION: u32 = 1;

/// The name of the line that stands for all names beyond the bound.
pub const OTHER: &str = "(other)";

/// A capture, summed up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The session of the first worker.
    pub session: String,
    /// The label that the user gave it.
    pub prefix: Option<String>,
    /// Stage by stage: the workers of a stage together.
    pub stages: Vec<StageSummary>,
    /// Worker by worker.
    pub workers: Vec<WorkerSummary>,
    /// Rows in the windows, by kind.
    pub rows: BTreeMap<String, u64>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A stage: all its replicas and ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StageSummary {
    /// The stage, as far as it is known.
    pub stage: Option<u32>,
    /// What it does.
    pub role: Option<String>,
    /// How people call it.
    pub title: String,
    /// Its workers, by their places in [`Summary::workers`].
    pub workers: Vec<usize>,
    /// How busy they were.
    pub activity: Activity,
    /// What they did.
    pub tables: Tables,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerSummary {
    /// The stage.
    pub stage: Option<u32>,
    /// What the stage does.
    pub role: Option<String>,
    /// The replica.
    pub replica: Option<u32>,
    /// The rank within the replica.
    pub rank: Option<u32>,
    /// The host.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// The worker's key.
    pub key: String,
    /// How people call it.
    pub title: String,
    /// Whether its spool has its footer.
    pub complete: bool,
    /// How busy it was.
    pub activity: Activity,
    /// What it did.
    pub tables: Tables,
}

/// How busy a worker was, or the workers of a stage on average.
///
/// *Busy* is the share of the windows in which at least one outermost span of the worker (one that
/// no other span encloses) was open, on any thread; of a worker without spans, that in which an
/// outermost operator ran; without either, that for which samples found a thread on a processor.
/// `busy_by` says which. *Idle* is the rest. Of a stage, both are averages over its workers by the
/// length of their windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Activity {
    /// The length of the windows together; of a stage, the average over its workers.
    pub window_us: f64,
    /// How many windows there were; of a stage, the most that a worker had.
    pub windows: usize,
    /// By what `busy_percent` was found: `spans`, `operators`, `samples`; `None` = by nothing.
    pub busy_by: Option<&'static str>,
    /// The share of the windows in which it was busy.
    pub busy_percent: Option<f64>,
    /// The rest of the windows.
    pub idle_percent: Option<f64>,
    /// How much of `busy_percent` is an estimate, because rows came very late.
    pub busy_uncertain_percent: f64,
    /// Threads on a processor on average, as sampled: 1.0 = one processor all the time.
    pub processors: Option<f64>,
    /// Samples.
    pub samples: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tables {
    /// Spans by name.
    pub spans: Vec<TimeRow>,
    /// Operators by name.
    pub operators: Vec<TimeRow>,
    /// Operators by name and input shapes; empty where shapes were not taken.
    pub operators_by_shape: Vec<ShapeRow>,
    /// Operators by name and the code that called them; empty without samples.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators_by_stack: Vec<StackRow>,
    /// Work on devices that was launched outside all operators, where there are operators.
    #[serde(skip_serializing_if = "is_zero")]
    pub unattributed: u64,
    /// Sampled functions.
    pub functions: Vec<FunctionRow>,
    /// Kernels by name.
    pub kernels: Vec<TimeRow>,
    /// Kernels by the vendor's type, where it has one (Ascend: `KERNEL_AICORE`, `KERNEL_AIVEC`).
    pub kernel_types: Vec<TimeRow>,
    /// API calls by name.
    pub api_calls: Vec<TimeRow>,
    /// Copies and memsets by direction, by time.
    pub copies: Vec<TimeRow>,
    /// Copies and memsets by direction, by size.
    pub copy_sizes: Vec<SizeRow>,
    /// Communication by operation.
    pub communication: Vec<TimeRow>,
    /// Waits for devices by kind.
    pub synchronization: Vec<TimeRow>,
    /// Overheads of drivers and of the profiler.
    pub overheads: Vec<TimeRow>,
    /// Devices.
    pub devices: Vec<DeviceRow>,
    /// Memory that allocators handed out.
    pub memory: Vec<MemoryRow>,
    /// Counters.
    pub counters: Vec<CounterRow>,
    /// The time from step to step; at most one row.
    pub steps: Vec<TimeRow>,
    /// Rows that were not kept.
    pub losses: Vec<LossRow>,
}

/// Something that took time, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TimeRow {
    /// Its name; [`OTHER`] for all beyond the bound.
    pub name: String,
    /// The share of the table's total time.
    pub percent: f64,
    /// The time.
    pub total_us: f64,
    /// The time without what it encloses, where that is known.
    pub self_us: Option<f64>,
    /// How often.
    pub count: u64,
    /// The mean.
    pub avg_us: f64,
    /// The median, within 0.8 %.
    pub median_us: f64,
    /// The shortest.
    pub min_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The standard deviation.
    pub stddev_us: f64,
    /// How many had not ended when the window did.
    pub unfinished: u64,
    /// Of operators, where a device was recorded: the time on it of what they launched themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_device_us: Option<f64>,
    /// Of operators: that, and of what the operators inside them launched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_us: Option<f64>,
}

/// An operator with the shapes of its inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShapeRow {
    /// The shapes and types of the inputs.
    pub shapes: String,
    /// The operator.
    #[serde(flatten)]
    pub row: TimeRow,
}

/// An operator with the stack that called it, as samples found it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StackRow {
    /// The operator.
    pub name: String,
    /// The time that samples found in it and in no operator inside it.
    pub self_us: f64,
    /// The time that samples found in it.
    pub total_us: f64,
    /// How many samples.
    pub samples: u64,
    /// The innermost frames outside of libtorch, innermost first; five at most.
    pub stack: Vec<String>,
}

/// Bytes moved, by direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SizeRow {
    /// The direction.
    pub name: String,
    /// The bytes.
    pub total_bytes: u64,
    /// How often.
    pub count: u64,
    /// The mean.
    pub avg_bytes: f64,
    /// The median, within 0.8 %.
    pub median_bytes: u64,
    /// The least.
    pub min_bytes: u64,
    /// The most.
    pub max_bytes: u64,
    /// The standard deviation.
    pub stddev_bytes: f64,
    /// Bytes a second of the time the copies took.
    pub bytes_per_second: f64,
}

/// A function, as samples found it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FunctionRow {
    /// Its name, or `module+0x…`.
    pub name: String,
    /// The file it lies in.
    pub module: String,
    /// The share of the sampled processor time in the function itself.
    pub self_percent: f64,
    /// That time.
    pub self_us: f64,
    /// The share in the function and all that it called.
    pub total_percent: f64,
    /// That time.
    pub total_us: f64,
    /// Samples in the function itself.
    pub self_samples: u64,
    /// Samples in the function and all that it called.
    pub total_samples: u64,
    /// The time in it while the thread waited, where waiting was sampled.
    pub waiting_us: f64,
}

/// A device. The shares are of the windows, but for `copy_overlap_percent` and
/// `communication_overlap_percent`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeviceRow {
    /// The worker's title; of a worker's own table, empty.
    pub worker: String,
    /// The number by which rows name it.
    pub device: u32,
    /// What the vendor calls it.
    pub name: String,
    /// Any kernel, copy or memset ran.
    pub busy_percent: f64,
    /// None ran.
    pub idle_percent: f64,
    /// A kernel ran.
    pub compute_percent: f64,
    /// A copy or memset ran.
    pub copy_percent: f64,
    /// The share of the copies' time during which a kernel ran too.
    pub copy_overlap_percent: f64,
    /// A collective or point-to-point communication ran, where such are rows of their own.
    pub communication_percent: f64,
    /// The share of the communication's time during which a kernel ran too.
    pub communication_overlap_percent: f64,
    /// How much of `busy_percent` is an estimate, because rows came very late.
    pub uncertain_percent: f64,
    /// Kernels.
    pub kernels: u64,
    /// The sum of the kernels' times.
    pub kernels_us: f64,
}

/// What an allocator did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MemoryRow {
    /// The allocator; empty = the driver's own.
    pub allocator: String,
    /// The device.
    pub device: u32,
    /// Allocations.
    pub allocations: u64,
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Frees.
    pub frees: u64,
    /// Bytes freed, where frees tell.
    pub freed_bytes: u64,
    /// The most that was in use, as the allocator told; 0 = not told.
    pub peak_bytes: u64,
    /// The most that was taken from the device; 0 = not told.
    pub peak_reserved_bytes: u64,
}

/// A counter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CounterRow {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The device, `None` = the process.
    pub device: Option<u32>,
    /// How many values.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The mean of the values.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
    /// The last less the first, in time: what a counter that only grows gained. Of a stage, summed.
    pub change: f64,
}

/// Rows that were not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LossRow {
    /// The kind, empty = several.
    pub kind: String,
    /// Why.
    pub cause: String,
    /// How many.
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
