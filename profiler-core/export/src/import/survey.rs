//! The first reading: what a trace is, where it begins and ends, and who is in it.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::ImportError;
use super::database;
use super::event::{Event, plain};
use super::scan::{Part, Scanner};
use super::source::Source;

/// Names that are kept, at most.
const MAX_NAMES: usize = 1 << 16;

/// The bits of a torch_npu timeline's number that hold the device.
const DEVICE_BITS: u64 = 31;

/// Who wrote the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Layout {
    /// PyTorch.
    #[default]
    Kineto,
    /// torch_npu.
    TorchNpu,
    /// A database of msprof's or torch_npu's.
    #[cfg_attr(not(feature = "ascend-db"), expect(dead_code, reason = "no databases are read"))]
    Msprof,
}

impl Layout {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kineto => "kineto",
            Self::TorchNpu => "torch_npu",
            Self::Msprof => "msprof_db",
        }
    }
}

/// What is known before rows are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) layout: Layout,
    /// Add this to instants.
    pub(super) base: u64,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) process: u32,
    pub(super) rank: Option<u32>,
    /// Names of processes, by their numbers as text.
    pub(super) processes: HashMap<String, String>,
    /// Names of threads, by process and thread.
    pub(super) threads: HashMap<(String, String), String>,
    pub(super) devices: Vec<DeviceProperties>,
    /// Ascend's devices, and what they are called.
    pub(super) npus: Vec<(u32, String)>,
    pub(super) notes: Vec<String>,
}

/// A device as Kineto describes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DeviceProperties {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) total_global_mem: u64,
    pub(super) compute_major: u32,
    pub(super) compute_minor: u32,
    pub(super) num_sms: u32,
    pub(super) warp_size: u32,
    pub(super) max_threads_per_multiprocessor: u32,
    pub(super) regs_per_multiprocessor: u32,
    pub(super) shared_mem_per_multiprocessor: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Name<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Distributed {
    rank: Option<u32>,
}

/// The device whose timeline has this number.
pub(super) fn npu(timeline: &str) -> u32 {
    (timeline.parse::<u64>().unwrap_or(0) & DEVICE_BITS) as u32
}

impl Survey {
    pub(super) fn take(source: &Source) -> Result<Self, ImportError> {
        if source.is_database()? {
            return database::survey(source);
        }
        let mut survey = Self { begin: u64::MAX, ..Self::default() };
        let mut scanner = Scanner::new(source.open()?);
        let mut events = 0_u64;
        loop {
            let part = match scanner.next() {
                Ok(Some(part)) => part,
                Ok(None) => break,
                // A gzip file that was cut off: what came before it counts.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && events > 0 => {
                    survey.cut_off();
                    break;
                }
                Err(error) => return Err(source.unread(error)),
            };
            match part {
                Part::Event(bytes) => {
                    let Some(event) = Event::parse(bytes) else { continue };
                    events += 1;
                    survey.see(&event);
                }
                Part::Field(key, value) => survey.field(key, value),
                Part::CutOff => survey.cut_off(),
                Part::TooLong | Part::Strange => {}
            }
        }
        if events == 0 {
            return Err(source.no_trace("it holds no list of trace events"));
        }
        if survey.begin == u64::MAX {
            return Err(source.no_trace("none of its events has an instant"));
        }
        let is_npu = |name: &String| matches!(name.as_str(), "CANN" | "Ascend Hardware");
        if survey.processes.values().any(is_npu) {
            survey.layout = Layout::TorchNpu;
        }
        survey.begin = survey.begin.saturating_add(survey.base);
        survey.end = survey.end.saturating_add(survey.base).max(survey.begin) + 1;
        survey.process = survey.find_process();
        survey.npus = survey.find_npus();
        Ok(survey)
    }

    fn cut_off(&mut self) {
        self.notes.push("the trace is cut off: what came after is missing".to_owned());
    }

    fn see(&mut self, event: &Event<'_>) {
        match event.ph.as_ref() {
            "M" => self.metadata(event),
            "X" | "i" | "I" | "C" => {
                let Some(start) = event.start(0) else { return };
                self.begin = self.begin.min(start);
                self.end = self.end.max(start.saturating_add(event.duration()));
                let is_host = matches!(
                    event.cat.as_ref(),
                    "cpu_op"
                        | "cuda_runtime"
                        | "cuda_driver"
                        | "privateuse1_runtime"
                        | "user_annotation"
                );
                if self.process == 0 && is_host {
                    self.process = event.pid_text().parse().unwrap_or(0);
                }
            }
            _ => {}
        }
    }

    fn metadata(&mut self, event: &Event<'_>) {
        let name = event.arguments::<Name<'_>>().name;
        match event.name.as_ref() {
            "process_name" if self.processes.len() < MAX_NAMES => {
                self.processes.insert(event.pid_text().to_owned(), name.into_owned());
            }
            "thread_name" if self.threads.len() < MAX_NAMES => {
                let key = (event.pid_text().to_owned(), event.tid_text().to_owned());
                self.threads.insert(key, name.into_owned());
            }
            _ => {}
        }
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        match key {
            "baseTimeNanoseconds" => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                self.base = plain(text).parse().unwrap_or(0);
            }
            "deviceProperties" => {
                self.devices = serde_json::from_slice(value).unwrap_or_default();
            }
            "distributedInfo" => {
                let known: Distributed = serde_json::from_slice(value).unwrap_or_default();
                self.rank = known.rank;
            }
            _ => {}
        }
    }

    /// torch_npu packs the device's number into those of its timelines.
    fn find_npus(&self) -> Vec<(u32, String)> {
        if self.layout != Layout::TorchNpu {
            return Vec::new();
        }
        let is_device = |(_, name): &(&String, &String)| *name == "Ascend Hardware";
        let hardware = self.processes.iter().filter(is_device);
        let mut devices: Vec<u32> = hardware.map(|(number, _)| npu(number)).collect();
        devices.sort_unstable();
        devices.dedup();
        devices.into_iter().map(|device| (device, "Ascend NPU".to_owned())).collect()
    }

    /// torch_npu packs the process's number into those of its timelines.
    fn find_process(&self) -> u32 {
        if self.layout == Layout::Kineto {
            return self.process;
        }
        let mut found = 0;
        #[expect(clippy::iter_over_hash_type, reason = "a maximum knows no order")]
        for (number, name) in &self.processes {
            let packed: u64 = number.parse().unwrap_or(0);
            if matches!(name.as_str(), "CANN" | "Ascend Hardware") {
                found = found.max(u32::try_from(packed >> 10).unwrap_or(0));
            }
        }
        found
    }
}
