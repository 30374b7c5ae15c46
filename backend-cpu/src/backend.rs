//! The backend: what the machine allows, and sessions.

use std::sync::Arc;

use profiler_core::backend::{BackendId, ProfileSession, ProfilerBackend, SessionConfig};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::{DeviceInfo, ProbeReport};
use profiler_core::sink::RecordSink;

use crate::perf_sampler::PerfSampler;
use crate::process::Process;
use crate::session::CpuSession;

/// Records the host's side of a process.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CpuBackend;

impl CpuBackend {
    /// The backend.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl ProfilerBackend for CpuBackend {
    fn id(&self) -> BackendId {
        BackendId::parse("cpu").unwrap_or_else(|_| unreachable!("`cpu` is a valid id"))
    }

    fn probe(&self) -> ProbeReport {
        let process = match Process::open(None) {
            Ok(process) => process,
            Err(error) => {
                return ProbeReport::unavailable(
                    "no_proc",
                    profiler_core::error::chain(&error),
                    "mount /proc",
                );
            }
        };
        let note = match PerfSampler::probe(&process, PROBE_HZ) {
            Ok(()) => "stacks are sampled by perf events".to_owned(),
            Err(refusal) => format!(
                "stacks are sampled by signal timers, in processes that embed the profiler only: {}",
                refusal.text()
            ),
        };
        ProbeReport::Available { devices: vec![processor()], notes: vec![note] }
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        Ok(Box::new(CpuSession::open(config, sink, clock)?))
    }
}

const PROBE_HZ: u32 = 99;

fn processor() -> DeviceInfo {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    DeviceInfo { index: 0, name: format!("{model}, {cores} cores"), uuid: String::new() }
}
