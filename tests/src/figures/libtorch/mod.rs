//! Operators of libtorch: what recording one costs beside torch.profiler, in turn in one process,
//! and how soon millions of them are a whole trace.
//!
//! Measured in an unmodified Python, for which `tests/workloads/torch/setup --python` names the
//! folder in `OMNIPROF_TORCH_SITE`, and in a Rust program on tch (`tch-cost`, built with the feature
//! `torch`); the library that records (`torch-probe`) and that program lie beside the omniprof
//! binary. Where one is missing the figures are skipped and say so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Context as _;
use serde_json::Value;

use super::{Bound, Context, FigureEntry, Measured};

/// Operators whose traces are waited for.
const MANY: &str = "4000000";

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    let at_most = |name, unit, bound, anchor, run| FigureEntry {
        name,
        unit,
        required: Some(Bound::AtMost(bound)),
        anchor,
        run,
    };
    vec![
        at_most(
            "libtorch-tch-operator",
            "ns",
            150.0,
            "libtorch's own profiler, from Rust: 342 to 476 ns; goal 120",
            |context| cost(tch_costs(context), "ours", "kineto"),
        ),
        at_most(
            "libtorch-tch-operator-shapes",
            "ns",
            200.0,
            "libtorch's own profiler with shapes: 575 to 613 ns; goal 160",
            |context| cost(tch_costs(context), "ours_shapes", "kineto_shapes"),
        ),
        at_most(
            "libtorch-tch-against-profiler",
            "x",
            0.4,
            "what libtorch's own profiler added, in turn in the same run",
            |context| ratio(tch_costs(context), "ours", "kineto"),
        ),
        at_most(
            "libtorch-tch-shapes-against-profiler",
            "x",
            0.4,
            "what libtorch's own profiler with shapes added, in turn in the same run",
            |context| ratio(tch_costs(context), "ours_shapes", "kineto_shapes"),
        ),
        at_most(
            "libtorch-tch-not-recording",
            "ns",
            5.0,
            "the callbacks are taken out at the stop; the loop before against the loop after",
            |context| not_recording(tch_costs(context)),
        ),
        at_most(
            "libtorch-python-operator",
            "ns",
            230.0,
            "torch.profiler from Python: 549 to 701 ns; goal 190",
            |context| cost(python_costs(context), "ours", "kineto"),
        ),
        at_most(
            "libtorch-python-operator-shapes",
            "ns",
            420.0,
            "torch.profiler with record_shapes: 949 to 998 ns; goal 360",
            |context| cost(python_costs(context), "ours_shapes", "kineto_shapes"),
        ),
        at_most(
            "libtorch-python-against-profiler",
            "x",
            0.4,
            "torch.profiler's added time, in turn in the same run",
            |context| ratio(python_costs(context), "ours", "kineto"),
        ),
        at_most(
            "libtorch-python-shapes-against-profiler",
            "x",
            0.4,
            "torch.profiler's added time with record_shapes, in turn in the same run",
            |context| ratio(python_costs(context), "ours_shapes", "kineto_shapes"),
        ),
        at_most(
            "libtorch-not-recording",
            "ns",
            5.0,
            "the callbacks are taken out at the stop; the loop before against the loop after",
            |context| not_recording(python_costs(context)),
        ),
        at_most("libtorch-stop-to-json", "ms", 2000.0, "torch.profiler: 24 to 29 s", |context| {
            many(context, "kineto", "kineto_mib")
        }),
        at_most(
            "libtorch-stop-to-pftrace",
            "ms",
            1500.0,
            "the default trace, unfollowed",
            |context| many(context, "pftrace-gz", "pftrace-gz_mib"),
        ),
        at_most(
            "libtorch-stop-to-pftrace-followed",
            "ms",
            500.0,
            "the default trace, followed while it grows",
            |context| many(context, "followed", "followed_mib"),
        ),
        at_most(
            "libtorch-memory",
            "MiB",
            100.0,
            "torch.profiler: 5.2 GB for 4 million operators",
            memory,
        ),
    ]
}

/// What a program of the workload says, or why it cannot run.
type Said = Result<Value, String>;

fn python_costs(context: &Context) -> &'static Said {
    static SAID: OnceLock<Said> = OnceLock::new();
    SAID.get_or_init(|| run(context, "cost.py", &[]))
}

fn tch_costs(context: &Context) -> &'static Said {
    static SAID: OnceLock<Said> = OnceLock::new();
    SAID.get_or_init(|| {
        let program = context.bin_dir().join("tch-cost");
        if !program.is_file() {
            let place = program.display();
            return Err(format!("{place} is missing: build tch-cost with the feature torch"));
        }
        let mut command = Command::new(program);
        command.env("OMNIPROF_TORCH_PROBE", probe(context)?).env("OMP_NUM_THREADS", "1");
        said_by("tch-cost", &mut command)
    })
}

fn of_many(context: &Context) -> &'static Said {
    static SAID: OnceLock<Said> = OnceLock::new();
    SAID.get_or_init(|| run(context, "many.py", &[MANY]))
}

fn cost(said: &Said, ours: &str, theirs: &str) -> anyhow::Result<Measured> {
    let said = match said {
        Ok(said) => said,
        Err(reason) => return Ok(Measured::Skipped(reason.clone())),
    };
    let note = format!(
        "torch.profiler in the same run {:.0}, the operator itself {:.0}, kept {:.2} %",
        number(said, theirs)?,
        number(said, "off")?,
        number(said, "kept")? * 100.0
    );
    Ok(Measured::noted(number(said, ours)?, note))
}

fn ratio(said: &Said, ours: &str, theirs: &str) -> anyhow::Result<Measured> {
    let said = match said {
        Ok(said) => said,
        Err(reason) => return Ok(Measured::Skipped(reason.clone())),
    };
    Ok(Measured::value(number(said, ours)? / number(said, theirs)?))
}

fn not_recording(said: &Said) -> anyhow::Result<Measured> {
    let said = match said {
        Ok(said) => said,
        Err(reason) => return Ok(Measured::Skipped(reason.clone())),
    };
    Ok(Measured::noted(number(said, "after")?, "the median of the differences"))
}

fn many(context: &Context, what: &str, memory: &str) -> anyhow::Result<Measured> {
    let said = match of_many(context) {
        Ok(said) => said,
        Err(reason) => return Ok(Measured::Skipped(reason.clone())),
    };
    let note = format!(
        "of them the stop {:.0}; {:.0} rows kept; exporter's peak {:.0} MiB",
        number(said, "stop")?,
        number(said, "kept")?,
        number(said, memory)?
    );
    Ok(Measured::noted(number(said, what)?, note))
}

fn memory(context: &Context) -> anyhow::Result<Measured> {
    let said = match of_many(context) {
        Ok(said) => said,
        Err(reason) => return Ok(Measured::Skipped(reason.clone())),
    };
    let note = format!("spool {:.1} MB", number(said, "spool_bytes")? / 1e6);
    Ok(Measured::noted(number(said, "memory_mib")?, note))
}

fn number(said: &Value, name: &str) -> anyhow::Result<f64> {
    said[name].as_f64().with_context(|| format!("the workload said no {name}: {said}"))
}

fn run(context: &Context, program: &str, arguments: &[&str]) -> Said {
    let site = std::env::var_os("OMNIPROF_TORCH_SITE")
        .ok_or("eval \"$(tests/workloads/torch/setup --python)\" first")?;
    let probe = probe(context)?;
    let omniprof = context.omniprof().map_err(|error| format!("{error:#}"))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/torch/python");
    let paths = [PathBuf::from(site), folder.clone()];
    let paths = std::env::join_paths(paths).map_err(|error| error.to_string())?;
    let mut command = Command::new("python3");
    command
        .arg(folder.join(program))
        .args(arguments)
        .env("PYTHONPATH", paths)
        .env("OMNIPROF_TORCH_PROBE", probe)
        .env("OMNIPROF_BIN", omniprof)
        .env("OMP_NUM_THREADS", "1");
    said_by(program, &mut command)
}

/// The library that records.
fn probe(context: &Context) -> Result<PathBuf, String> {
    let probe = context.bin_dir().join("libtorch_probe.so");
    if !probe.is_file() {
        return Err(format!("{} is missing: build torch-probe", probe.display()));
    }
    Ok(probe)
}

/// The last line of a program's output.
fn said_by(program: &str, command: &mut Command) -> Said {
    let output = command.output().map_err(|error| format!("{program} does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| {
        let told = String::from_utf8_lossy(&output.stderr);
        format!("{program} failed ({error}): {}", told.lines().last().unwrap_or_default())
    })
}
