//! What recording an operator costs a program on `tch`, in turn with libtorch's own profiler: one
//! line of JSON.
//!
//! `tch-cost [OPERATORS] [ROUNDS]`. One thread, `x.add_(y)` on 16 floats. Each way runs once a
//! round, right after the same loop without a profiler, and is told as the median over the rounds
//! of what it added to that, in processor time of the thread. `OMNIPROF_TORCH_PROBE` names the
//! library that records (`torch-probe`).
#![expect(unsafe_code, reason = "calls the recorder and libtorch's profiler by their C interfaces")]

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Context as _;
use libloading::Library;
use rustix::time::{ClockId, clock_gettime};
use tch::{Device, Kind, Tensor};

unsafe extern "C" {
    fn kineto_begin(shapes: c_int) -> c_int;
    fn kineto_end() -> c_long;
}

type ProbeStart = unsafe extern "C" fn(c_int, *const c_char) -> *mut c_void;
type ProbeStop = unsafe extern "C" fn(*mut c_void, *const c_char) -> i64;

/// What records.
#[derive(Clone, Copy)]
enum Way {
    Ours { shapes: bool },
    Kineto { shapes: bool },
}

const WAYS: [(&str, Way); 4] = [
    ("ours", Way::Ours { shapes: false }),
    ("ours_shapes", Way::Ours { shapes: true }),
    ("kineto", Way::Kineto { shapes: false }),
    ("kineto_shapes", Way::Kineto { shapes: true }),
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let rounds = arguments.next().map_or(Ok(9), |text| text.parse())?;
    let path = std::env::var_os("OMNIPROF_TORCH_PROBE").context("set OMNIPROF_TORCH_PROBE")?;
    // SAFETY: the user names the recorder of these tests, whose loading does nothing else.
    let recorder = unsafe { Library::new(&path) }.with_context(|| format!("{}", path.display()))?;
    let said = tch::no_grad(|| measure(&recorder, count, rounds))?;
    writeln!(std::io::stdout(), "{said}")?;
    Ok(())
}

fn measure(recorder: &Library, count: u32, rounds: usize) -> anyhow::Result<serde_json::Value> {
    let mut added = [const { Vec::new() }; WAYS.len()];
    let (mut off, mut after) = (Vec::new(), Vec::new());
    let mut kept: f64 = 1.0;
    plain(count)?;
    for (_, way) in WAYS {
        record(recorder, way, 1000)?;
    }
    for _ in 0..rounds {
        for ((_, way), added) in WAYS.iter().zip(&mut added) {
            let before = plain(count)?;
            let (cost, rows) = record(recorder, *way, count)?;
            off.push(before);
            added.push(cost - before);
            if matches!(way, Way::Ours { .. }) {
                kept = kept.min(rows as f64 / f64::from(count));
                after.push(plain(count)? - before);
            }
        }
    }
    let mut said = serde_json::json!({
        "off": median(&mut off), "after": median(&mut after), "kept": kept,
    });
    for ((name, _), added) in WAYS.iter().zip(&mut added) {
        said[*name] = median(added).into();
    }
    Ok(said)
}

/// The loop without a profiler: ns an operator.
fn plain(count: u32) -> anyhow::Result<f64> {
    let mut x = Tensor::f_zeros([16], (Kind::Float, Device::Cpu))?;
    let y = Tensor::f_ones([16], (Kind::Float, Device::Cpu))?;
    let begin = thread_ns();
    for _ in 0..count {
        // Not a number: that is made a tensor first, by four operators more.
        let _same: Tensor = x.f_add_(&y)?;
    }
    Ok((thread_ns() - begin) / f64::from(count))
}

/// The loop while it is recorded, and how many operators were kept.
fn record(recorder: &Library, way: Way, count: u32) -> anyhow::Result<(f64, i64)> {
    match way {
        Way::Ours { shapes } => {
            let folder = std::env::temp_dir().join(format!("tch-cost-{}", std::process::id()));
            std::fs::create_dir(&folder)?;
            let recorded = ours(recorder, shapes, count, &folder.join("cost.spool"));
            std::fs::remove_dir_all(&folder)?;
            recorded
        }
        Way::Kineto { shapes } => {
            // SAFETY: takes a number; libtorch is linked, and no other profiler of it is active.
            let begun = unsafe { kineto_begin(shapes.into()) };
            anyhow::ensure!(begun == 0, "libtorch's profiler did not begin");
            let cost = plain(count)?;
            // SAFETY: it was begun by this thread.
            let events = unsafe { kineto_end() };
            anyhow::ensure!(events >= i64::from(count), "libtorch's profiler kept {events}");
            Ok((cost, events))
        }
    }
}

fn ours(recorder: &Library, shapes: bool, count: u32, spool: &Path) -> anyhow::Result<(f64, i64)> {
    // SAFETY: the recorder declares it so.
    let start = unsafe { recorder.get::<ProbeStart>(b"probe_start") }?;
    // SAFETY: as before.
    let stop = unsafe { recorder.get::<ProbeStop>(b"probe_stop") }?;
    let path = CString::new(spool.as_os_str().as_bytes())?;
    // SAFETY: the text ends in a zero and lives until the call has returned.
    let recording = unsafe { start(shapes.into(), path.as_ptr()) };
    anyhow::ensure!(!recording.is_null(), "the recording did not begin");
    let cost = plain(count);
    // SAFETY: the recording has begun, and ends here.
    let kept = unsafe { stop(recording, std::ptr::null()) };
    anyhow::ensure!(kept >= 0, "the recording failed");
    Ok((cost?, kept))
}

fn thread_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
