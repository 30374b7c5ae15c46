//! Which sampler runs, and why.

use profiler_core::error::BackendError;

use crate::perf_record::Record;
use crate::perf_sampler::{Layout, PerfSampler};
use crate::plan::{Plan, SamplerChoice};
use crate::poller::Poller;
use crate::process::Process;

/// The sampler of a session.
pub(crate) enum Sampler {
    /// The kernel's, by perf events.
    Perf(Box<PerfSampler>),
    /// None: counters and spans go on.
    None,
}

impl Sampler {
    /// Attaches the sampler that the plan asks for and the machine allows, and says why it is this
    /// one. Nothing is sampled yet.
    ///
    /// # Errors
    ///
    /// [`BackendError::Permission`] where samples alone were asked for and none can be had.
    pub(crate) fn attach(
        plan: &Plan,
        process: &Process,
        poller: &Poller,
    ) -> Result<(Self, String), BackendError> {
        if !plan.samples {
            return Ok((Self::None, "samples were not asked for".to_owned()));
        }
        let _choice: SamplerChoice = plan.sampler;
        match PerfSampler::attach(process, plan.sample_hz, plan.layout, poller) {
            Ok(sampler) => {
                Ok((Self::Perf(Box::new(sampler)), "the kernel allows perf events".to_owned()))
            }
            Err(refusal) if plan.counters => Ok((Self::None, refusal.text())),
            Err(refusal) => Err(BackendError::Permission {
                what: format!("sampling process {}", process.pid),
                remedy: refusal.text(),
            }),
        }
    }

    pub(crate) fn text(&self) -> &'static str {
        match self {
            Self::Perf(_) => "perf_event",
            Self::None => "none",
        }
    }

    pub(crate) fn layout(&self) -> Option<Layout> {
        match self {
            Self::Perf(sampler) => Some(sampler.layout()),
            Self::None => None,
        }
    }

    /// What a person should know of the choice.
    pub(crate) fn note(&self, why: &str) -> Option<String> {
        match self {
            Self::Perf(_) => None,
            Self::None => Some(format!("no stacks were sampled: {why}")),
        }
    }

    /// Begins to sample.
    ///
    /// # Errors
    ///
    /// [`BackendError::Io`] with the kernel's answer.
    pub(crate) fn enable(&mut self) -> Result<(), BackendError> {
        match self {
            Self::Perf(sampler) => sampler.enable().map_err(|source| BackendError::Io {
                what: "enable the perf events".to_owned(),
                source,
            }),
            Self::None => Ok(()),
        }
    }

    pub(crate) fn disable(&mut self) {
        match self {
            Self::Perf(sampler) => sampler.disable(),
            Self::None => {}
        }
    }

    pub(crate) fn drain(
        &mut self,
        process: &Process,
        poller: &Poller,
        tokens: Option<&[u32]>,
        record: impl FnMut(Record<'_>),
    ) {
        match self {
            Self::Perf(sampler) => sampler.drain(process, poller, tokens, record),
            Self::None => {}
        }
    }

    pub(crate) fn rescan(&mut self, process: &Process, poller: &Poller) {
        match self {
            Self::Perf(sampler) => sampler.rescan(process, poller),
            Self::None => {}
        }
    }

    pub(crate) fn hung_up(&mut self, ring: u32, poller: &Poller) {
        match self {
            Self::Perf(sampler) => sampler.hung_up(ring, poller),
            Self::None => {}
        }
    }

    pub(crate) fn exclude(&mut self, thread: u32, poller: &Poller) {
        match self {
            Self::Perf(sampler) => sampler.exclude(thread, poller),
            Self::None => {}
        }
    }

    /// Samples dropped since the last call of which no record tells.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        0
    }

    /// Records lost at the end without a record that tells.
    pub(crate) fn lost_untold(&self) -> u64 {
        match self {
            Self::Perf(sampler) => sampler.lost_untold(),
            Self::None => 0,
        }
    }

    pub(crate) fn missed_threads(&self) -> u64 {
        match self {
            Self::Perf(sampler) => sampler.missed_threads,
            Self::None => 0,
        }
    }
}
