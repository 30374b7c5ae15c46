//! A worker that is built with no backend at all.
//!
//! `plugin-worker LIBRARY` plays an application over a stand-in for libcupti: it loads the library,
//! joins its controller, and for each number that it reads launches so many kernels. It ends where
//! its input ends, and refuses to begin where a backend is linked into it.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]

use std::ffi::{CStr, c_char};
use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_agent::Agent;
use profiler_core::registry::BackendRegistry;

type Launch = extern "C" fn(*const c_char, u64, u32, u32);

const KERNEL: &CStr = c"void add<float>(float*)";

fn main() -> anyhow::Result<()> {
    let linked = BackendRegistry::linked().iter().map(|b| b.id().to_string()).collect::<Vec<_>>();
    anyhow::ensure!(linked.is_empty(), "backends are linked into this build: {linked:?}");

    let library = std::env::args_os().nth(1).context("usage: plugin-worker LIBRARY")?;
    // SAFETY: the caller's own library.
    let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }?;
    // SAFETY: the type that the stand-in gives the symbol.
    let launch = *unsafe { library.get::<Launch>(b"fake_launch") }?;

    let agent = Agent::builder().stage(0).role("thinker").rank(0).connect()?;
    let joined = agent.wait_for_controller(Duration::from_secs(60))?;
    anyhow::ensure!(joined, "no controller came");
    say("joined")?;
    for line in std::io::stdin().lock().lines() {
        let count: u64 = line?.trim().parse().context("a number of kernels is expected")?;
        launch(KERNEL.as_ptr(), count, 7, 4);
        say("launched")?;
    }
    Ok(())
}

fn say(word: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()
}
