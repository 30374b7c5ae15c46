//! Which sampler runs, and why.

use std::time::Duration;

use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;

use crate::perf_record::Record;
use crate::perf_sampler::{Layout, PerfSampler};
use crate::plan::{Plan, SamplerChoice};
use crate::poller::Poller;
use crate::process::Process;
use crate::refusal::Refusal;
use crate::signal_sampler::SignalSampler;

/// The sampler of a session.
pub(crate) enum Sampler {
    /// The kernel's, by perf events.
    Perf(Box<PerfSampler>),
    /// Ours, by signal timers.
    Signal(SignalSampler),
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
        let refusal = match Self::choose(plan, process, poller) {
            Ok(chosen) => return Ok(chosen),
            Err(refusal) => refusal,
        };
        if plan.counters {
            return Ok((Self::None, refusal.text()));
        }
        Err(BackendError::Permission {
            what: format!("sampling process {}", process.pid),
            remedy: refusal.text(),
        })
    }

    fn choose(plan: &Plan, process: &Process, poller: &Poller) -> Result<(Self, String), Refusal> {
        let hz = plan.sample_hz;
        let asked = plan.sampler != SamplerChoice::Automatic;
        let why = if asked { "it was asked for" } else { "the kernel allows perf events" };
        let mut perf_refusal = None;
        if plan.sampler != SamplerChoice::SignalTimer {
            match PerfSampler::attach(process, hz, plan.layout, poller) {
                Ok(sampler) => return Ok((Self::Perf(Box::new(sampler)), why.to_owned())),
                // Signals reach no other process: the refusal is the whole story.
                Err(refusal) if asked || !process.own => return Err(refusal),
                Err(refusal) => perf_refusal = Some(refusal.text()),
            }
        }
        let sampler = SignalSampler::attach(process, hz, poller)?;
        Ok((Self::Signal(sampler), perf_refusal.unwrap_or_else(|| why.to_owned())))
    }

    pub(crate) fn text(&self) -> &'static str {
        match self {
            Self::Perf(_) => "perf_event",
            Self::Signal(_) => "signal_timer",
            Self::None => "none",
        }
    }

    pub(crate) fn layout(&self) -> Option<Layout> {
        match self {
            Self::Perf(sampler) => Some(sampler.layout()),
            Self::Signal(_) | Self::None => None,
        }
    }

    /// What a person should know of the choice.
    pub(crate) fn note(&self, why: &str) -> Option<String> {
        match self {
            Self::Perf(_) => None,
            Self::Signal(_) => Some(format!("stacks were sampled by signal timers: {why}")),
            Self::None => Some(format!("no stacks were sampled: {why}")),
        }
    }

    /// The memory that samples on their way take.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Perf(sampler) => sampler.memory_bytes(),
            Self::Signal(sampler) => sampler.memory_bytes(),
            Self::None => 0,
        }
    }

    /// Processor time that sampling took on the application's threads, as far as it is ours and
    /// not the kernel's.
    pub(crate) fn spent_on_target_ns(&self) -> u64 {
        match self {
            Self::Signal(sampler) => sampler.spent_ns(),
            Self::Perf(_) | Self::None => 0,
        }
    }

    /// Begins to sample.
    ///
    /// # Errors
    ///
    /// [`BackendError::Io`] with the kernel's answer.
    pub(crate) fn enable(
        &mut self,
        process: &Process,
        clock: &dyn ClockSource,
    ) -> Result<(), BackendError> {
        match self {
            Self::Perf(sampler) => sampler.enable().map_err(|source| BackendError::Io {
                what: "enable the perf events".to_owned(),
                source,
            }),
            Self::Signal(sampler) => {
                sampler.enable(process, clock);
                Ok(())
            }
            Self::None => Ok(()),
        }
    }

    /// Ends sampling; what was taken can still be drained.
    pub(crate) fn disable(&mut self) {
        match self {
            Self::Perf(sampler) => sampler.disable(),
            Self::Signal(sampler) => sampler.disable(),
            Self::None => {}
        }
    }

    /// Hands over the records of the rings in `tokens`, or all there are.
    pub(crate) fn drain(
        &mut self,
        process: &Process,
        poller: &Poller,
        tokens: Option<&[u32]>,
        record: impl FnMut(Record<'_>),
    ) {
        match self {
            Self::Perf(sampler) => sampler.drain(process, poller, tokens, record),
            Self::Signal(sampler) => sampler.drain(process, record),
            Self::None => {}
        }
    }

    /// Looks for threads that nothing told of.
    pub(crate) fn rescan(&mut self, process: &Process, poller: &Poller) {
        match self {
            Self::Perf(sampler) => sampler.rescan(process, poller),
            Self::Signal(sampler) => sampler.rescan(process),
            Self::None => {}
        }
    }

    /// How often to look: a list of a thousand threads takes the kernel most of a millisecond.
    pub(crate) fn rescan_period(&self) -> Duration {
        match self {
            Self::Signal(sampler) if sampler.thread_count() < MANY_THREADS => {
                Duration::from_millis(250)
            }
            _ => Duration::from_secs(1),
        }
    }

    /// The threads of a ring have ended.
    pub(crate) fn hung_up(&mut self, ring: u32, poller: &Poller) {
        if let Self::Perf(sampler) = self {
            sampler.hung_up(ring, poller);
        }
    }

    /// Samples a thread no more.
    pub(crate) fn exclude(&mut self, thread: u32, poller: &Poller) {
        match self {
            Self::Perf(sampler) => sampler.exclude(thread, poller),
            Self::Signal(sampler) => sampler.exclude(thread),
            Self::None => {}
        }
    }

    /// Samples dropped since the last call of which no record tells.
    pub(crate) fn take_dropped(&self) -> u64 {
        match self {
            Self::Signal(sampler) => sampler.take_dropped(),
            Self::Perf(_) | Self::None => 0,
        }
    }

    /// Records lost by the end of which no record tells.
    pub(crate) fn lost_untold(&self) -> u64 {
        match self {
            Self::Perf(sampler) => sampler.lost_untold(),
            Self::Signal(_) | Self::None => 0,
        }
    }

    /// What keeps threads from being sampled.
    pub(crate) fn why_missed(&self) -> &'static str {
        match self {
            Self::Perf(_) => {
                "no descriptor or locked memory was left (`ulimit -n`, `ulimit -l`, \
                 kernel.perf_event_mlock_kb)"
            }
            Self::Signal(_) | Self::None => {
                "no timer was left (`ulimit -i`), or they have seccomp filters of their own"
            }
        }
    }

    /// Threads that could not be sampled.
    pub(crate) fn missed_threads(&self) -> u64 {
        match self {
            Self::Perf(sampler) => sampler.missed_threads,
            Self::Signal(sampler) => sampler.missed_threads,
            Self::None => 0,
        }
    }
}

const MANY_THREADS: usize = 200;
