//! One capture through aclprof: raw files, between a start and a stop.

use std::sync::Arc;

use profiler_core::backend::{DriverState, Preset, SessionSummary};
use profiler_core::error::BackendError;
use profiler_core::sink::RecordSink;

use super::library::{Aclprof, Config, MEMORY_FREQUENCY, SUCCESS, data, result_name};
use crate::machine::{VisibleDevices, open_devices};
use crate::options::{Level, NO_METRICS, Options};
use crate::raw_dir::RawDir;

/// More devices are not taken by `aclprofCreateConfig`.
const MAX_DEVICES: usize = 64;

/// How often a second memory is read, as torch_npu's profiler has it.
const MEMORY_HZ: &str = "50";

/// What a capture is made of.
pub(crate) struct Target {
    /// The libraries.
    pub(crate) library: Arc<Aclprof>,
    /// Where facts go.
    pub(crate) sink: Arc<dyn RecordSink>,
    /// How much is recorded.
    pub(crate) preset: Preset,
    /// Memory was asked for.
    pub(crate) memory: bool,
    /// The settings of this backend.
    pub(crate) options: Options,
    /// How the process numbers devices.
    pub(crate) visible: VisibleDevices,
    /// Where raw files lie.
    pub(crate) raw: Arc<RawDir>,
}

/// A capture that runs.
pub(crate) struct Capture {
    library: Arc<Aclprof>,
    sink: Arc<dyn RecordSink>,
    raw: Arc<RawDir>,
    config: Option<Config>,
    notes: Vec<String>,
    is_over: bool,
}

/// What shall be recorded: aclprof's bits.
fn bits(preset: Preset, memory: bool, options: &Options) -> u64 {
    let mut bits = match options.level_of(preset) {
        Level::None => 0,
        Level::Level0 => data::TASK_TIME_L0 | data::ACL_API,
        Level::Level1 => data::TASK_TIME | data::ACL_API | data::HCCL_TRACE,
        Level::Level2 => {
            data::TASK_TIME | data::ACL_API | data::HCCL_TRACE | data::RUNTIME_API | data::AICPU
        }
    };
    if options.has_metrics() || options.l2_cache {
        // Counters belong to tasks that are told apart.
        bits = (bits & !data::TASK_TIME_L0) | data::TASK_TIME;
    }
    for (is_on, bit) in [
        (options.has_metrics(), data::AICORE_METRICS),
        (options.l2_cache, data::L2CACHE),
        (options.msprof_tx, data::MSPROFTX),
        (memory, data::TASK_MEMORY),
    ] {
        bits |= if is_on { bit } else { 0 };
    }
    bits
}

impl Target {
    /// The process's numbers of the devices that it has open; where that does not show, of all that
    /// it sees.
    fn devices(&self) -> Vec<u32> {
        let mut devices: Vec<u32> = open_devices()
            .into_iter()
            .filter_map(|driver| self.visible.own_number(driver))
            .collect();
        if devices.is_empty() {
            devices = (0..self.library.device_count().unwrap_or(1)).collect();
        }
        devices.truncate(MAX_DEVICES);
        devices
    }
}

impl Capture {
    /// Begins to record.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing stays switched on.
    pub(crate) fn begin(target: &Target) -> Result<Self, BackendError> {
        let options = &target.options;
        let raw = Arc::clone(&target.raw);
        let library = Arc::clone(&target.library);
        library.init(raw.path())?;
        let sink = Arc::clone(&target.sink);
        // From here on its end undoes what was done.
        let mut this = Self { library, sink, raw, config: None, notes: Vec::new(), is_over: false };
        if target.memory {
            this.read_memory();
        }
        let bits = bits(target.preset, target.memory, options);
        let (name, metrics) = options.metrics.unwrap_or(NO_METRICS);
        let mut devices = target.devices();
        this.config = this.library.create_config(&mut devices, metrics, bits);
        let Some(config) = &this.config else {
            return Err(BackendError::Unavailable {
                code: "aclprof_refused".to_owned(),
                message: format!(
                    "aclprofCreateConfig takes no devices {devices:?} with {bits:#x} and metrics \
                     {name}: the process may not have opened them yet; start the capture once its \
                     model is loaded"
                ),
            });
        };
        this.library.start(config)?;
        this.sink.fact("npu.path", "aclprof");
        let paths: Vec<String> =
            this.library.paths.iter().map(|path| path.display().to_string()).collect();
        this.sink.fact("npu.aclprof", &paths.join(", "));
        this.sink.fact("npu.aclprof.data", &format!("{bits:#x}"));
        this.sink.fact("npu.aclprof.metrics", name);
        Ok(this)
    }

    fn read_memory(&mut self) {
        let why = match self.library.set_config(MEMORY_FREQUENCY, MEMORY_HZ) {
            Some(SUCCESS) => return,
            Some(code) => format!("aclprofSetConfig answered {code} ({})", result_name(code)),
            None => "this CANN has no aclprofSetConfig".to_owned(),
        };
        self.notes.push(format!("memory of the device is not read: {why}"));
    }

    /// Ends the recording. aclprof hands over all that it has before its stop returns, however long
    /// that takes.
    pub(crate) fn end(mut self) -> Result<SessionSummary, BackendError> {
        let error = self.switch_off();
        let raw = self.raw.find(|name| name.starts_with("PROF_"));
        let mut notes = std::mem::take(&mut self.notes);
        for path in &raw {
            self.sink.fact("npu.raw", &path.display().to_string());
            notes.extend(self.raw.note(path));
        }
        error?;
        if raw.is_empty() {
            return Err(BackendError::Unavailable {
                code: "no_raw_data".to_owned(),
                message: format!(
                    "aclprof started and stopped without an error, and wrote no PROF_* into {}: \
                     look into the log of CANN (~/ascend/log)",
                    self.raw.path().display()
                ),
            });
        }
        Ok(SessionSummary {
            // What was recorded is known when it was imported.
            device_used: None,
            driver: Some(DriverState::Detached),
            notes,
            ..SessionSummary::default()
        })
    }

    /// Takes back whatever was done.
    fn switch_off(&mut self) -> Result<(), BackendError> {
        self.is_over = true;
        let mut outcome = Ok(());
        if let Some(config) = self.config.take() {
            outcome = outcome.and(self.library.stop(&config));
            outcome = outcome.and(self.library.destroy_config(config));
        }
        outcome.and(self.library.finalize())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.is_over {
            // A start that failed half-way: nobody is left to hear of an error.
            drop(self.switch_off());
        }
    }
}
