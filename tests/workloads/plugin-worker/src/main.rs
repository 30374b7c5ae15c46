//! A worker that is built with no backend at all.
//!
//! `plugin-worker LIBRARY` plays an application over a stand-in for libcupti or libmspti: it loads the
//! library, joins its controller, and for each number that it reads launches so many kernels. It ends where
//! its input ends, and refuses to begin where a backend is linked into it.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]

use std::ffi::{CStr, c_char};
use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_agent::Agent;
use profiler_core::registry::BackendRegistry;

/// How each stand-in launches kernels.
type CudaLaunch = extern "C" fn(*const c_char, u64, u32, u32);
type NpuLaunch = extern "C" fn(*const c_char, *const c_char, u64, u32);

const KERNEL: &CStr = c"void add<float>(float*)";
const STREAM: u32 = 7;

fn main() -> anyhow::Result<()> {
    let linked = BackendRegistry::linked().iter().map(|b| b.id().to_string()).collect::<Vec<_>>();
    anyhow::ensure!(linked.is_empty(), "backends are linked into this build: {linked:?}");

    let library = std::env::args_os().nth(1).context("usage: plugin-worker LIBRARY")?;
    // SAFETY: the caller's own library.
    let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }?;
    let launch = launch_of(&library)?;

    let agent = Agent::builder().stage(0).role("thinker").rank(0).connect()?;
    let joined = agent.wait_for_controller(Duration::from_secs(60))?;
    anyhow::ensure!(joined, "no controller came");
    say("joined")?;
    for line in std::io::stdin().lock().lines() {
        let count: u64 = line?.trim().parse().context("a number of kernels is expected")?;
        launch(count);
        say("launched")?;
    }
    Ok(())
}

/// What launches so many kernels.
fn launch_of(library: &Library) -> anyhow::Result<Box<dyn Fn(u64)>> {
    // SAFETY: it is only looked whether it is there.
    let is_npu = unsafe { library.get::<*const ()>(b"msptiSubscribe") }.is_ok();
    if is_npu {
        // SAFETY: the type that the stand-in gives the symbol.
        let launch = *unsafe { library.get::<NpuLaunch>(b"fake_launch") }?;
        let kind = c"KERNEL_AICORE".as_ptr();
        return Ok(Box::new(move |count| launch(KERNEL.as_ptr(), kind, count, STREAM)));
    }
    // SAFETY: the type that the stand-in gives the symbol.
    let launch = *unsafe { library.get::<CudaLaunch>(b"fake_launch") }?;
    Ok(Box::new(move |count| launch(KERNEL.as_ptr(), count, STREAM, 4)))
}

fn say(word: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()
}
