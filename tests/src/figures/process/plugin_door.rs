//! What the plugin door costs: the CUDA backend linked and as a plugin, in instructions.
//!
//! Each side is a process of its own under callgrind that records launches of the stand-in for
//! libcupti into a spool. What the stand-in itself executes is left out, for a real libcupti does
//! that in either case. Two lengths of run are subtracted, so that loading does not count.

#![expect(unsafe_code, reason = "plays an application that calls a C library")]

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::abi::LoadedPlugin;
use profiler_core::backend::{BackendId, SessionConfig};
use profiler_core::clock::{ClockSource, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{Kernel, Row as _};
use profiler_core::registry::BackendRegistry;
use profiler_core::sink::RecordSink;
use profiler_core::spool::{SpoolHeader, SpoolWriter};

use super::super::context::spool_options;
use super::super::role::{Role, VARIABLE};
use super::super::{Bound, Context, FigureEntry, Measured};

const ROLE: &str = "plugin-door";

/// Launches of a burst, after each of which the backend is flushed, as the agent does.
const BURST: u64 = 1000;
const SHORT_RUN: u64 = 20_000;
const LONG_RUN: u64 = 120_000;
const PAIRS: usize = 5;

pub(super) fn figures() -> Vec<FigureEntry> {
    vec![FigureEntry {
        name: "plugin-door",
        unit: "x",
        required: Some(Bound::AtMost(1.03)),
        anchor: "instructions a launch of the linked backend, on the stand-in, with its spool",
        run: measure,
    }]
}

pub(super) fn roles() -> Vec<Role> {
    vec![(ROLE, record)]
}

fn measure(context: &Context) -> anyhow::Result<Measured> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Ok(Measured::Skipped(
            "valgrind is not installed: instructions are counted by its \
                                     callgrind"
                .to_owned(),
        ));
    }
    let dir = context.fresh_dir("plugin-door")?;
    let (Some(stand_in), Some(plugin)) = (
        library(context, "fake-cupti", "libfake_cupti.so"),
        library(context, "backend-cuda-plugin", "libomniprof_backend_cuda.so"),
    ) else {
        return Ok(Measured::Skipped(
            "the plugin and the stand-in for libcupti lie neither beside \
                                     this program nor can cargo build them"
                .to_owned(),
        ));
    };
    let cupti = dir.join("libcupti.so.13");
    std::fs::copy(stand_in, &cupti)?;
    let mut linked = Vec::new();
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let run = |plugin: Option<&Path>| -> anyhow::Result<f64> {
            let long = instructions(context, &dir, &cupti, plugin, LONG_RUN)?;
            let short = instructions(context, &dir, &cupti, plugin, SHORT_RUN)?;
            Ok(long.saturating_sub(short) as f64 / (LONG_RUN - SHORT_RUN) as f64)
        };
        let (without, with) = (run(None)?, run(Some(&plugin))?);
        linked.push(without);
        ratios.push(with / without);
    }
    let Measured::Value { value, note } = Measured::median_of(&ratios) else {
        anyhow::bail!("a median is one value");
    };
    let linked = linked.iter().sum::<f64>() / linked.len() as f64;
    Ok(Measured::noted(value, format!("{note}; {linked:.0} instructions a launch linked")))
}

/// A library of the workspace: built by cargo where that runs this program, else beside it.
fn library(context: &Context, package: &str, name: &str) -> Option<PathBuf> {
    if std::env::var_os("CARGO").is_some() {
        return Some(profiler_core::conformance::build_plugin(package));
    }
    let beside = context.bin_dir().join(name);
    beside.is_file().then_some(beside)
}

/// The instructions of a process that records so many launches, without those of the stand-in.
fn instructions(
    context: &Context,
    dir: &Path,
    cupti: &Path,
    plugin: Option<&Path>,
    launches: u64,
) -> anyhow::Result<u64> {
    let out = dir.join("callgrind.out");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"])
        // Else its one running thread may keep the spool's writer from running for long.
        .arg("--fair-sched=yes")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(context.this_program()?)
        .env(VARIABLE, ROLE)
        .env("OMNIPROF_FIGURES_CUPTI", cupti)
        .env("OMNIPROF_FIGURES_LAUNCHES", launches.to_string())
        .env("OMNIPROF_FIGURES_SPOOL", dir.join("worker.spool"))
        .env("OMNIPROF_FIGURES_PLUGIN", plugin.unwrap_or(Path::new("")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("valgrind")?;
    anyhow::ensure!(status.success(), "recording {launches} launches under callgrind: {status}");
    let text = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    Ok(own_cost(&text, "libcupti.so.13"))
}

/// The cost of all lines that lie in other objects than `left_out`. A line behind `calls=` is the
/// cost of the called function, which stands at its own lines.
fn own_cost(callgrind: &str, left_out: &str) -> u64 {
    let mut cost = 0;
    let mut counts = true;
    let mut is_inclusive = false;
    for line in callgrind.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            counts = !object.ends_with(left_out);
        } else if line.starts_with("calls=") {
            is_inclusive = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let own = line.split(' ').nth(1).and_then(|own| own.parse::<u64>().ok());
            if !std::mem::take(&mut is_inclusive) && counts {
                cost += own.unwrap_or(0);
            }
        }
    }
    cost
}

/// Records launches by the linked backend or by a plugin.
fn record() -> anyhow::Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let launches: u64 = variable("OMNIPROF_FIGURES_LAUNCHES")?.parse()?;
    // SAFETY: our own library, which has no initialisers.
    let cupti =
        unsafe { Library::open(Some(variable("OMNIPROF_FIGURES_CUPTI")?), RTLD_NOW | RTLD_LOCAL) }?;
    type Launch = extern "C" fn(*const c_char, u64, u32, u32);
    // SAFETY: the type that the stand-in gives the symbol.
    let launch = *unsafe { cupti.get::<Launch>(b"fake_launch") }?;

    let id = BackendId::parse("cuda")?;
    let registry = BackendRegistry::linked();
    let plugin: LoadedPlugin;
    let backend = match variable("OMNIPROF_FIGURES_PLUGIN")?.as_str() {
        "" => &*registry.find(&id).context("the CUDA backend is not linked")?.backend,
        path => {
            plugin = profiler_core::abi::load(Path::new(path), &id)?;
            &plugin.backend
        }
    };

    let clock: Arc<dyn ClockSource> = Arc::new(SystemClock::new());
    let header = SpoolHeader {
        session: "figure".to_owned(),
        prefix: None,
        worker: WorkerIdentity::of_this_process(None, None, None, None),
        writer: "figures".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    let path = variable("OMNIPROF_FIGURES_SPOOL")?;
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let writer = SpoolWriter::create(file, &header, spool_options(), Arc::clone(&clock))?;

    let mut config = SessionConfig::default();
    // The stand-in comes without a driver to wait for.
    config.options.insert("cuda.attach".to_owned(), "at_once".into());
    let sink: Arc<dyn RecordSink> = writer.sink();
    let mut session = backend.open(&config, sink, clock)?;
    session.start()?;
    const KERNEL: &CStr = c"void add<float>(float*)";
    for _ in 0..launches / BURST {
        launch(KERNEL.as_ptr(), BURST, 7, 4);
        session.flush()?;
    }
    session.stop(Duration::from_secs(60))?;
    drop(session);
    let totals = writer.finish(Duration::from_secs(60));
    let kernels = totals.rows.get(&Kernel::KIND).copied().unwrap_or(0);
    anyhow::ensure!(kernels == launches, "{kernels} of {launches} launches in the spool");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::own_cost;

    #[test]
    fn costs_of_calls_and_of_the_library_are_left_out() {
        let text = "events: Ir\n\nob=/usr/bin/figures\nfl=a.rs\nfn=main\n10 5\n11 7\n\
                    cob=/tmp/libcupti.so.13\ncfn=launch\ncalls=1 3\n12 1000\n13 1\n\
                    ob=/tmp/libcupti.so.13\nfn=launch\n3 1000\n\
                    ob=/usr/bin/figures\nfn=flush\n20 2\n\ntotals: 1015\n";
        assert_eq!(own_cost(text, "libcupti.so.13"), 15);
    }
}
