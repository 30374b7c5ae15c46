//! An Ascend machine that consists of stand-ins: device nodes, libmspti and its companions, aclprof, msprof.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

use crate::programs::build_folder;

/// The stand-ins, laid out as an installation.
#[derive(Clone, Debug)]
pub struct NpuStandIn {
    home: PathBuf,
    root: PathBuf,
    ledgers: PathBuf,
}

impl NpuStandIn {
    /// Builds the stand-ins where this build keeps its files, and lays them out below `folder`.
    ///
    /// # Errors
    ///
    /// They cannot be built or copied.
    pub fn install(folder: &Path) -> anyhow::Result<Self> {
        let built = build_folder()?;
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.args(["build", "--locked", "--quiet", "-p", "fake-mspti", "-p", "fake-ascend"]);
        // `msprof` makes databases as well.
        command.args(["--features", "fake-ascend/database"]);
        command.arg("--target-dir").arg(built.parent().context("no target folder")?);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let status = command.status().context("cargo cannot be started")?;
        anyhow::ensure!(status.success(), "building the stand-ins: {status}");

        let this = Self {
            home: folder.join("cann"),
            root: folder.join("machine"),
            ledgers: folder.join("ledgers"),
        };
        let lib = this.home.join("lib64");
        for dir in [&lib, &this.root.join("dev"), &this.ledgers] {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::copy(built.join("libfake_mspti.so"), this.library())?;
        for companion in [
            "libprofapi.so",
            "libascendalog.so",
            "libascend_hal.so",
            "libascendcl.so",
            "libmsprofiler.so",
            "libtorch_npu.so",
        ] {
            std::fs::copy(built.join("libfake_ascend.so"), lib.join(companion))?;
        }
        let programs = this.home.join("tools/profiler/bin");
        std::fs::create_dir_all(&programs)?;
        std::fs::copy(built.join("fake-msprof"), programs.join("msprof"))?;
        for node in ["davinci0", "davinci_manager"] {
            std::fs::write(this.root.join("dev").join(node), "")?;
        }
        Ok(this)
    }

    /// The stand-in for libmspti.
    #[must_use]
    pub fn library(&self) -> PathBuf {
        self.home.join("lib64/libmspti.so")
    }

    /// The folder below which the machine's files lie.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `ASCEND_HOME_PATH`.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Makes the processes of a command workers of such a machine, in each of which so many kernels
    /// run every two milliseconds while they are recorded.
    pub fn enter(&self, command: &mut Command, kernels: u32) {
        command
            .env("OMNIPROF_NPU_ROOT", &self.root)
            .env("ASCEND_HOME_PATH", &self.home)
            .env("FAKE_MSPTI_WORK", kernels.to_string())
            .env("FAKE_ACL_WORK", kernels.to_string())
            .env("FAKE_MSPTI_LEDGER", &self.ledgers);
    }

    /// The same for Python programs that import torch_npu.
    pub fn enter_python(&self, command: &mut Command, kernels: u32) {
        self.enter(command, kernels);
        command
            .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/fakes/torch_npu"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("FAKE_LIBTORCH_NPU", self.home.join("lib64/libtorch_npu.so"));
    }

    /// What the stand-in emitted in a process.
    ///
    /// # Errors
    ///
    /// There is no ledger of that process, or it cannot be read.
    pub fn ledger(&self, process: u64) -> anyhow::Result<Vec<Emitted>> {
        let path = self.ledgers.join(format!("{process}.csv"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.lines().map(|line| Emitted::parse(line).with_context(|| line.to_owned())).collect()
    }
}

/// A record that the stand-in emitted. Instants are CLOCK_REALTIME, ns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Emitted {
    /// `kernel` or `communication`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// When it was launched.
    pub launched: u64,
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
}

impl Emitted {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let mut text = || fields.next().map(str::to_owned);
        let (kind, name) = (text()?, text()?);
        let mut number = || fields.next()?.parse().ok();
        Some(Self { kind, name, launched: number()?, start: number()?, end: number()? })
    }
}

/// Count and summed duration in ns, by kind and name.
pub type Sums = BTreeMap<(String, String), (u64, u64)>;

fn add(sums: &mut Sums, kind: &str, name: &str, count: u64, ns: u64) {
    let sum = sums.entry((kind.to_owned(), name.to_owned())).or_default();
    *sum = (sum.0 + count, sum.1 + ns);
}

/// What a ledger adds up to.
#[must_use]
pub fn of_ledger(emitted: &[Emitted]) -> Sums {
    let mut sums = Sums::new();
    for one in emitted {
        add(&mut sums, &one.kind, &one.name, 1, one.end - one.start);
    }
    sums
}

/// What a Kineto trace says of the device.
///
/// # Errors
///
/// It is none.
pub fn of_trace(bytes: &[u8]) -> anyhow::Result<Sums> {
    let trace: Value = serde_json::from_slice(bytes)?;
    let events = trace["traceEvents"].as_array().context("no `traceEvents`")?;
    let mut sums = Sums::new();
    for event in events {
        let kind = match event["cat"].as_str() {
            Some("kernel") => "kernel",
            Some("collective_comm") => "communication",
            _ => continue,
        };
        let name = event["name"].as_str().context("an event without a name")?;
        add(&mut sums, kind, name, 1, ns(&event["dur"])?);
    }
    Ok(sums)
}

/// What a worker of a summary says of the device.
///
/// # Errors
///
/// It is no such worker.
pub fn of_summary(worker: &Value) -> anyhow::Result<Sums> {
    let mut sums = Sums::new();
    for (table, kind) in [("kernels", "kernel"), ("communication", "communication")] {
        for row in worker["tables"][table].as_array().context(table)? {
            let name = row["name"].as_str().context("a row without a name")?;
            let count = row["count"].as_u64().context("a row without a count")?;
            add(&mut sums, kind, name, count, ns(&row["total_us"])?);
        }
    }
    Ok(sums)
}

fn ns(us: &Value) -> anyhow::Result<u64> {
    let us = us.as_f64().with_context(|| format!("{us} is no duration"))?;
    Ok((us * 1_000.0).round() as u64)
}
