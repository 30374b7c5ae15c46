//! A process into which the injected file is brought by a stand-in for the CUDA driver.
#![expect(unsafe_code, reason = "loads the vendor's stand-ins and calls them")]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use crate::figures::Context;
use crate::figures::role::{Role, VARIABLE};

const ROLE: &str = "injected-process";
const FOLDER: &str = "OMNIPROF_FIGURES_FOLDER";
const LAUNCHES: &str = "OMNIPROF_FIGURES_LAUNCHES";

/// What a process launches once it is told to.
#[derive(Clone, Copy)]
pub(super) enum Launches {
    /// So many kernels, at once.
    Once(u64),
    /// About this many a millisecond, until it is killed.
    Steadily(u64),
}

/// A machine with a device and the vendor's libraries, all of it stand-ins.
pub(super) struct Machine {
    folder: PathBuf,
    injected: PathBuf,
}

impl Machine {
    pub(super) fn new(context: &Context) -> anyhow::Result<Self> {
        let folder = context.fresh_dir("machine")?;
        let built = |name: &str| {
            let path = context.bin_dir().join(name);
            anyhow::ensure!(
                path.is_file(),
                "{} is missing: build it (cargo build --release -p profiler-inject -p fake-cuda \
                 -p fake-cupti)",
                path.display()
            );
            Ok(path)
        };
        std::fs::create_dir(folder.join("dev"))?;
        std::fs::write(folder.join("dev/nvidia0"), "")?;
        std::fs::copy(built("libfake_cuda.so")?, folder.join("libcuda.so.1"))?;
        std::fs::copy(built("libfake_cupti.so")?, folder.join("libcupti.so.13"))?;
        Ok(Self { folder, injected: built("libomniprof_inject.so")? })
    }
}

/// A process, waiting to be told to use the device.
pub(super) struct Injected {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Injected {
    /// Starts one. It uses the device when `go` ends and launches when it is told a line.
    pub(super) fn start(
        context: &Context,
        machine: &Machine,
        socket_dir: &Path,
        launches: Launches,
        go: &OwnedFd,
    ) -> anyhow::Result<Self> {
        let launches = match launches {
            Launches::Once(count) => format!("once {count}"),
            Launches::Steadily(count) => format!("steadily {count}"),
        };
        let mut child = Command::new(context.this_program()?)
            .env(VARIABLE, ROLE)
            .env(FOLDER, &machine.folder)
            .env(LAUNCHES, launches)
            .env("CUDA_INJECTION64_PATH", &machine.injected)
            .env("OMNIPROF_CUDA_ROOT", &machine.folder)
            .env("OMNIPROF_SOCKET", socket_dir)
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("OMNIPROF_JOIN")
            .stdin(Stdio::from(File::from(go.try_clone()?)))
            .stdout(Stdio::piped())
            .spawn()
            .context("a process does not start")?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?);
        let mut started = Self { child, output };
        started.hear("ready")?;
        Ok(started)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of this begin; what follows in it.
    pub(super) fn hear(&mut self, begin: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let rest = line.trim_end().strip_prefix(begin);
        rest.map(str::to_owned).with_context(|| format!("{begin:?} was expected, not {line:?}"))
    }

    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The memory that it touched and that no file backs, in bytes.
    pub(super) fn anonymous_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let mut bytes = 0;
        for key in ["RssAnon:", "RssShmem:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no rss")?;
            let kib: u64 = line.split_ascii_whitespace().next().unwrap_or_default().parse()?;
            bytes += kib << 10;
        }
        Ok(bytes)
    }

    /// Its threads.
    pub(super) fn threads(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/task", self.pid()))?.count())
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        let _killed: std::io::Result<()> = self.child.kill();
        let _waited: std::io::Result<_> = self.child.wait();
    }
}

pub(super) fn roles() -> Vec<Role> {
    vec![(ROLE, be_injected)]
}

fn be_injected() -> anyhow::Result<ExitCode> {
    let folder = PathBuf::from(std::env::var_os(FOLDER).context("no folder")?);
    let launches = std::env::var(LAUNCHES)?;
    let open = |name: &str, flags| {
        // SAFETY: our own stand-in, which has no initialisers.
        unsafe { Library::open(Some(folder.join(name)), RTLD_NOW | flags) }
            .with_context(|| format!("{name} does not load"))
    };
    let cupti = open("libcupti.so.13", RTLD_GLOBAL)?;
    let cuda = open("libcuda.so.1", RTLD_LOCAL)?;
    // SAFETY: the stand-in gives the symbol this type.
    let init = unsafe { cuda.get::<extern "C" fn(c_uint) -> c_int>(c"cuInit") }?;
    type Launch = unsafe extern "C" fn(*const c_char, u64, u32, u32);
    // SAFETY: likewise.
    let launch = unsafe { cupti.get::<Launch>(c"fake_launch") }?;
    // SAFETY: likewise.
    let calls = unsafe { cupti.get::<extern "C" fn() -> u64>(c"fake_all_calls") }?;
    let launch = |name: &CStr, count: u64| {
        // SAFETY: the name is a text of this program's.
        unsafe { launch(name.as_ptr(), count, 7, 32) };
    };

    say("ready")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let begin = Instant::now();
    anyhow::ensure!(init(0) == 0, "cuInit");
    say(&format!("opened {}", begin.elapsed().as_nanos()))?;
    // The launcher has armed it by the time that this file is there.
    let told = folder.join("launch");
    while !told.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    say(&format!("calls {}", calls()))?;
    let (way, count) = launches.split_once(' ').context("what shall be launched?")?;
    let count: u64 = count.parse()?;
    if way == "once" {
        launch(c"a_kernel", count);
        say("launched")?;
        std::thread::sleep(Duration::from_secs(600));
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        launch(c"a_kernel", count);
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Machine {
    /// Tells all processes of this machine to launch.
    pub(super) fn launch(&self) -> anyhow::Result<()> {
        std::fs::write(self.folder.join("launch"), "")?;
        Ok(())
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
