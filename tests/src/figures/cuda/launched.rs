//! A program that knows nothing of us under `omniprof run`, asked over HTTP as its user would.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_worker::manifest::Manifest;
use profiler_worker::start_request::Activity;
use serde_json::{Value, json};

use super::capture::{DEADLINE, line};
use super::process::{Process, python};
use crate::figures::Context;
use crate::http;

/// What `run` says before it starts the command.
const HINT: &str = "/start_profile";

/// A command under `omniprof run`.
pub(super) struct Launched {
    /// Talks to the command, whose standard streams `run` leaves alone.
    pub(super) command: Process,
    root: PathBuf,
    url: String,
    activities: Vec<Activity>,
}

impl Launched {
    /// PyTorch under `omniprof run`, with the device in use.
    pub(super) fn torch(context: &Context, activities: Vec<Activity>) -> anyhow::Result<Self> {
        let mut run = Command::new(context.omniprof()?);
        let root = context.fresh_dir("run")?;
        run.args(["run", "--listen", "127.0.0.1:0", "--dir"]).arg(&root);
        if activities.contains(&Activity::Cpu) {
            // Operators are of a process that is joined as it starts.
            run.args(["--join", "preload"]);
            // What torch.profiler has no counterpart to would be measured with them.
            for more in ["OMNIPROF_SAMPLES", "OMNIPROF_COUNTERS", "OMNIPROF_SPANS"] {
                run.env(more, "false");
            }
        }
        let python = python(context)?;
        run.arg("--").arg(python.get_program()).args(python.get_args());
        // How full the disk is, is not what is measured.
        run.env("OMNIPROF_MIN_FREE_PERCENT", "0").stderr(Stdio::piped());
        let mut command = Process::spawn(run)?;
        let said = command.take_errors().context("standard error is a pipe")?;
        let mut said = BufReader::new(said);
        let url = loop {
            let mut line = String::new();
            anyhow::ensure!(said.read_line(&mut line)? > 0, "`run` ends before it starts");
            let address = line.split_whitespace().last().and_then(|word| word.strip_suffix(HINT));
            if let Some(url) = address {
                break url.to_owned();
            }
        };
        // What nobody reads would hold up who writes it.
        std::thread::Builder::new().name("figures-said".to_owned()).spawn(move || {
            let _said: std::io::Result<u64> = std::io::copy(&mut said, &mut std::io::stderr());
        })?;
        command.ask("torch use 1")?;
        Ok(Self { command, root, url, activities })
    }

    /// Starts a capture.
    pub(super) fn record(&self) -> anyhow::Result<()> {
        let request = json!({ "activities": self.activities, "wait_join_ms": 20_000 });
        self.post("start_profile", &request)?;
        Ok(())
    }

    /// Ends it: how long the call took, how long until the last file was whole, and what came.
    pub(super) fn stop(&self) -> anyhow::Result<(Duration, Duration, Manifest)> {
        let begin = Instant::now();
        self.post("stop_profile", &json!({ "wait_ms": 0 }))?;
        let call = begin.elapsed();
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        let manifest = self.post("stop_profile", &json!({ "wait_ms": wait_ms }))?;
        let complete = begin.elapsed();
        let manifest = serde_json::from_value(manifest)?;
        line(&manifest)?;
        Ok((call, complete, manifest))
    }

    /// The spool of the command, which is the manifest's one line.
    pub(super) fn spool(&self, manifest: &Manifest) -> anyhow::Result<PathBuf> {
        let files = &line(manifest)?.files;
        let file = files.iter().find(|file| file.format == "spool").context("no spool")?;
        Ok(self.root.join(&manifest.directory).join(&file.path))
    }

    fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        http::ask("POST", &format!("{}/{path}", self.url), Some(body), DEADLINE * 2)
    }
}
