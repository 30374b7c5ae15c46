//! One capture by the profiler of torch_npu.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::backend::{DriverState, SessionConfig, SessionSummary};
use profiler_core::error::BackendError;
use profiler_core::sink::RecordSink;
use profiler_core::socket_path::SOCKET_VARIABLE;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::library::TorchNpu;
use super::python::Python;
use crate::options::{Level, Options};
use crate::preflight::{self, NOT_INHERITED};
use crate::raw_dir::RawDir;

const START: &CStr = c_str(concat!(include_str!("start.py"), "\0"));
const STOP: &CStr = c_str(concat!(include_str!("stop.py"), "\0"));
const ANALYSE: &str = include_str!("analyse.py");

/// How long the main thread may take until it runs Python.
const TO_BEGIN: Duration = Duration::from_secs(5);
/// How long the profiler may take until it has started, counted from the same instant.
const TO_START: Duration = Duration::from_secs(30);
/// Its stop waits for the device and writes what is there.
const TO_STOP: Duration = Duration::from_secs(60);
/// How long the program that analyses may take to go into a process of its own.
const TO_ANALYSE: Duration = Duration::from_secs(20);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(5);

const fn c_str(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a script holds a NUL"),
    }
}

/// What a capture is made of.
pub(crate) struct Target {
    /// Where facts go.
    pub(crate) sink: Arc<dyn RecordSink>,
    /// Where raw files lie.
    pub(crate) raw: Arc<RawDir>,
    /// What was asked for.
    pub(crate) config: SessionConfig,
    /// The settings of this backend.
    pub(crate) options: Options,
}

/// A capture that runs.
pub(crate) struct Capture {
    python: Python,
    started: Started,
    raw: Arc<RawDir>,
    sink: Arc<dyn RecordSink>,
    notes: Vec<String>,
    is_over: bool,
}

/// What the start's script answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Started {
    version: String,
    executable: String,
    path: Vec<String>,
}

impl Target {
    /// What the start's script is told.
    fn settings(&self) -> Value {
        let SessionConfig { preset, record_shapes, memory, with_stack, .. } = &self.config;
        let level = self.options.level_of(*preset);
        let mut profile = Map::new();
        profile.insert("record_shapes".to_owned(), (*record_shapes).into());
        profile.insert("profile_memory".to_owned(), (*memory).into());
        profile.insert("with_stack".to_owned(), (*with_stack).into());
        let mut details = Map::new();
        for (name, is_on) in
            [("l2_cache", self.options.l2_cache), ("msprof_tx", self.options.msprof_tx)]
        {
            if is_on {
                details.insert(name.to_owned(), true.into());
            }
        }
        for (name, value) in &self.options.torch {
            let of_profile = matches!(*name, "with_modules" | "with_flops");
            let table = if of_profile { &mut profile } else { &mut details };
            table.insert((*name).to_owned(), value.clone());
        }
        json!({
            "folder": self.raw.path(),
            "level": level.name(),
            "device": level != Level::None,
            "aic_metrics": self.options.metrics.map(|(name, _)| name),
            "profile": profile,
            "details": details,
        })
    }
}

impl Capture {
    /// Begins to record.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing stays switched on.
    pub(crate) fn begin(target: &Target) -> Result<Self, BackendError> {
        let library = TorchNpu::find().ok_or_else(|| BackendError::Unavailable {
            code: "torch_npu_missing".to_owned(),
            message:
                "this process has no libtorch_npu.so, which cannot be loaded alone: start the \
                      capture once the application has imported torch_npu"
                    .to_owned(),
        })?;
        let python = Python::find()?;
        let answer = python.run(START, Some(STOP), &target.settings(), TO_BEGIN, TO_START)?;
        let mut this = Self {
            python,
            started: serde_json::from_value(answer).unwrap_or_default(),
            raw: Arc::clone(&target.raw),
            sink: Arc::clone(&target.sink),
            notes: Vec::new(),
            is_over: false,
        };
        let level = target.options.level_of(target.config.preset);
        match library.trace_level() {
            Some(_) => {}
            None if level == Level::None => {}
            // Its start prints what went wrong, and succeeds.
            None if library.tells_its_level() => {
                return Err(BackendError::Unavailable {
                    code: "torch_npu_failed".to_owned(),
                    message:
                        "torch_npu.profiler started without an error and does not record: the \
                              process's output says why, on a line that begins with [ERROR] or \
                              [WARNING]"
                            .to_owned(),
                });
            }
            None => this.notes.push(format!(
                "torch_npu {} does not tell whether its profiler records",
                this.started.version
            )),
        }
        this.sink.fact("npu.path", "torch_npu");
        this.sink.fact("npu.libtorch_npu", &library.path.display().to_string());
        this.sink.fact("npu.torch_npu.version", &this.started.version);
        this.sink.fact("npu.torch_npu.level", level.name());
        Ok(this)
    }

    /// Ends the recording, and starts the process that analyses it.
    pub(crate) fn end(mut self) -> Result<SessionSummary, BackendError> {
        self.is_over = true;
        self.python.run(STOP, None, &Value::Null, TO_BEGIN, TO_STOP)?;
        let raw = self.raw.find(|name| name.ends_with("_ascend_pt"));
        if raw.is_empty() {
            return Err(BackendError::Unavailable {
                code: "no_raw_data".to_owned(),
                message: format!(
                    "torch_npu.profiler started and stopped without an error, and wrote no \
                     *_ascend_pt into {}: the process's output says why",
                    self.raw.path().display()
                ),
            });
        }
        let mut notes = std::mem::take(&mut self.notes);
        for path in &raw {
            self.sink.fact("npu.raw", &path.display().to_string());
            notes.extend(self.raw.note(path));
        }
        if let Err(why) = self.analyse(&raw) {
            notes.push(format!("the records are not analysed: {why}"));
        }
        Ok(SessionSummary {
            // What was recorded is known when it was imported.
            device_used: None,
            driver: Some(DriverState::Detached),
            notes,
            ..SessionSummary::default()
        })
    }

    /// Starts a process of the same Python that analyses, and is waited for by whoever imports.
    fn analyse(&self, raw: &[PathBuf]) -> Result<(), String> {
        let executable = Path::new(&self.started.executable);
        if !executable.is_file() {
            return Err("the process's Python does not say which program runs it".to_owned());
        }
        // Of an application that holds an interpreter it is the application itself.
        let name = executable.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("python") && !name.starts_with("pypy") {
            return Err(format!("{} is no Python that could be started", executable.display()));
        }
        let mut command = Command::new(&self.started.executable);
        command.args(["-c", ANALYSE]).arg(self.raw.path()).args(raw);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // By the last, a Python that embeds an agent would become a worker.
        for name in NOT_INHERITED.into_iter().chain([SOCKET_VARIABLE]) {
            command.env_remove(name);
        }
        if let Ok(path) = std::env::join_paths(self.started.path.iter().filter(|at| !at.is_empty()))
        {
            command.env("PYTHONPATH", path);
        }
        // Ends at once: the analysis runs on in a process that is nobody's child.
        let mut child = command
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", self.started.executable))?;
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if !status.success() => {
                    return Err(format!("{} ended with {status}", executable.display()));
                }
                // An application that waits for all of its children may have been first.
                Ok(Some(_)) | Err(_) => return Ok(()),
                Ok(None) if begun.elapsed() < TO_ANALYSE => std::thread::sleep(LOOK_EVERY),
                Ok(None) => break,
            }
        }
        preflight::end(&mut child);
        Err(format!("{} did not begin within {TO_ANALYSE:?}", executable.display()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.is_over {
            // A start that failed half-way: nobody is left to hear of an error.
            drop(self.python.run(STOP, None, &Value::Null, TO_BEGIN, TO_STOP));
        }
    }
}
