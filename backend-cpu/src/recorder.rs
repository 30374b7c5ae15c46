//! The backend's one thread: drains the sampler, reads the counters, answers the session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::backend::SessionSummary;
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::sink::{LogLevel, RecordSink};

use crate::counters::Counters;
use crate::intake::Intake;
use crate::perf_sampler::STACK_BYTES;
use crate::plan::Plan;
use crate::poller::{COMMAND, Poller, Ready, TARGET_ENDED};
use crate::process::Process;
#[cfg(feature = "python")]
use crate::python::PythonSampler;
use crate::sampler::Sampler;
use crate::shared::Shared;

/// There is none in this build.
#[cfg(not(feature = "python"))]
enum PythonSampler {}

/// How often rings are drained that nothing has filled.
const DRAIN_PERIOD: Duration = Duration::from_millis(100);

/// How long the thread sleeps when nothing is due.
const IDLE_PERIOD: Duration = Duration::from_secs(1);

/// All that the thread works with.
pub(crate) struct Recorder {
    pub(crate) plan: Plan,
    pub(crate) process: Arc<Process>,
    pub(crate) sink: Arc<dyn RecordSink>,
    pub(crate) clock: Arc<dyn ClockSource>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) intake: Option<Intake>,
    pub(crate) counters: Option<Counters>,
    /// The most memory that the sampler and what takes its samples held.
    pub(crate) most_bytes: usize,
}

impl Recorder {
    /// Records until the session says stop.
    ///
    /// # Errors
    ///
    /// What kept it from beginning; told to the session as well.
    pub(crate) fn run(mut self) -> Result<SessionSummary, BackendError> {
        let poller = self.poller()?;
        let mut notes = Vec::new();
        let python = self.python(&mut notes);
        let (mut sampler, why) = match &python {
            // A second sampler would count every moment twice.
            Some(_) => (Sampler::None, "Python stacks are sampled instead".to_owned()),
            None => Sampler::attach(&self.plan, &self.process, &poller)?,
        };
        self.tell_plan(&sampler, &why);
        if python.is_some() {
            self.sink.fact("cpu.sampler", "python");
        }
        sampler.enable(&self.process, &*self.clock)?;
        self.shared.tell_ready();

        if self.plan.samples && python.is_none() {
            notes.extend(sampler.note(&why));
        }
        if let Some(intake) = &mut self.intake {
            intake.describe();
        }
        let target_ended = self.record(&poller, &mut sampler);
        sampler.disable();
        self.drain(&poller, &mut sampler, None);
        self.end_python(python);
        self.finish(&sampler, target_ended, &mut notes);
        Ok(SessionSummary {
            notes,
            own_memory_bytes: self.most_bytes as u64,
            own_cpu_ns_elsewhere: sampler.spent_on_target_ns(),
            ..SessionSummary::default()
        })
    }

    /// The sampler of Python stacks, where they were asked for and the target runs Python.
    #[cfg(feature = "python")]
    fn python(&self, notes: &mut Vec<String>) -> Option<PythonSampler> {
        if !(self.plan.samples && self.plan.with_stack) {
            return None;
        }
        // Its own process knows at once; of another one, looking tells more than a guess.
        if self.process.own && !crate::python::is_in_this_process() {
            return None;
        }
        let (pid, hz) = (self.process.pid, self.plan.sample_hz);
        match PythonSampler::attach(pid, hz, &self.sink, &self.clock) {
            Ok(sampler) => Some(sampler),
            Err(why) => {
                notes.push(format!("no Python stacks were read: {why}"));
                None
            }
        }
    }

    #[cfg(not(feature = "python"))]
    fn python(&self, notes: &mut Vec<String>) -> Option<PythonSampler> {
        if self.plan.samples && self.plan.with_stack && !self.process.own {
            notes.push("no Python stacks were read: this build cannot (feature `python`)".into());
        }
        None
    }

    /// Ends the sampler of Python stacks.
    #[cfg(feature = "python")]
    fn end_python(&self, python: Option<PythonSampler>) {
        let Some(python) = python else { return };
        let summary = python.stop();
        self.sink.fact("cpu.python.samples", &summary.samples.to_string());
        self.sink.fact("cpu.python.failed_readings", &summary.failed.to_string());
        self.sink.fact("cpu.python.cost_ns", &summary.cost_ns.to_string());
    }

    #[cfg(not(feature = "python"))]
    fn end_python(&self, python: Option<PythonSampler>) {
        if let Some(never) = python {
            match never {}
        }
    }

    fn poller(&self) -> Result<Poller, BackendError> {
        let error = |source| BackendError::Io { what: "wait for descriptors".into(), source };
        let poller = Poller::default();
        poller.add(self.shared.woken(), COMMAND).map_err(error)?;
        if let Some(end) = &self.process.end {
            poller.add(end, TARGET_ENDED).map_err(error)?;
        }
        Ok(poller)
    }

    /// The loop; answers whether the target ended before the session.
    fn record(&mut self, poller: &Poller, sampler: &mut Sampler) -> bool {
        let mut next_drain = Instant::now();
        let mut next_counters = Instant::now();
        let mut next_rescan = Instant::now() + sampler.rescan_period();
        let mut target_ended = false;
        loop {
            let mut wake = Instant::now() + IDLE_PERIOD;
            if self.intake.is_some() {
                wake = wake.min(next_drain).min(next_rescan);
            }
            if self.counters.is_some() {
                wake = wake.min(next_counters);
            }
            let ready = match poller.wait(wake.saturating_duration_since(Instant::now())) {
                Ok(ready) => ready,
                Err(error) => {
                    // Without it the thread would spin; what is in the rings is drained below.
                    let message = format!("waiting for samples failed: {error}");
                    self.sink.log(LogLevel::Error, "backend-cpu", &message);
                    self.shared.wait_for_stop();
                    return target_ended;
                }
            };
            let commands = self.shared.take_commands();
            let now = Instant::now();
            if ready.target_ended {
                target_ended = true;
                if let Some(end) = &self.process.end {
                    poller.remove(end);
                }
                self.counters = None;
            }
            let mut everything =
                now >= next_drain || commands.flush.is_some() || ready.target_ended;
            if self.counters.is_some() && now >= next_counters {
                self.read_counters();
                next_counters = later(next_counters, self.plan.counter_period, now);
                // The thread is awake: draining now saves waking for it.
                everything = true;
            }
            if now >= next_rescan {
                sampler.rescan(&self.process, poller);
                next_rescan = now + sampler.rescan_period();
            }
            if everything || !ready.rings.is_empty() {
                let tokens = if everything { None } else { Some(ready.rings.as_slice()) };
                self.drain(poller, sampler, tokens);
                if everything {
                    next_drain = now + DRAIN_PERIOD;
                }
            }
            Self::let_go(poller, sampler, &ready);
            if let Some(flush) = commands.flush {
                self.shared.tell_flushed(flush);
            }
            if commands.stop {
                return target_ended;
            }
            if self.intake.as_ref().is_some_and(Intake::is_closed) {
                sampler.disable();
                self.intake = None;
            }
        }
    }

    fn let_go(poller: &Poller, sampler: &mut Sampler, ready: &Ready) {
        for ring in &ready.hung_up {
            sampler.hung_up(*ring, poller);
        }
    }

    fn drain(&mut self, poller: &Poller, sampler: &mut Sampler, tokens: Option<&[u32]>) {
        let Some(intake) = &mut self.intake else { return };
        sampler.drain(&self.process, poller, tokens, |record| intake.take(record));
        let held = sampler.memory_bytes() + intake.memory_bytes();
        self.most_bytes = self.most_bytes.max(held);
        for thread in intake.newly_excluded() {
            sampler.exclude(thread, poller);
        }
        intake.lost(sampler.take_dropped());
        intake.finish_round();
    }

    fn read_counters(&mut self) {
        let time = self.clock.monotonic_ns();
        if let Some(counters) = &mut self.counters
            && !counters.sample(time)
        {
            self.counters = None;
        }
    }

    fn finish(&mut self, sampler: &Sampler, target_ended: bool, notes: &mut Vec<String>) {
        self.read_counters();
        if let Some(intake) = &mut self.intake {
            intake.lost(sampler.lost_untold());
            intake.refresh_modules();
            intake.finish_round();
            self.sink.fact("cpu.samples", &intake.samples.to_string());
            let left_out = intake.tables_left_out();
            if left_out > 0 {
                self.sink.fact("cpu.unwind.modules_without_tables", &left_out.to_string());
            }
            if let Some(path) = intake.jitdump() {
                self.sink.fact("cpu.jitdump", &path);
            }
        }
        let missed = sampler.missed_threads();
        if missed > 0 {
            self.sink.fact("cpu.sampler.missed_threads", &missed.to_string());
            notes.push(format!("{missed} threads were not sampled: {}", sampler.why_missed()));
        }
        if target_ended {
            self.sink.fact("cpu.target", "ended");
            notes.push(format!("process {} ended while it was recorded", self.process.pid));
        }
        self.tell_perf_map();
        let cost = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cost_ns = cost.tv_sec as u64 * 1_000_000_000 + cost.tv_nsec as u64;
        self.sink.fact("cpu.cost_ns", &cost_ns.to_string());
    }

    fn tell_plan(&self, sampler: &Sampler, why: &str) {
        if !self.plan.samples {
            return;
        }
        self.sink.fact("cpu.sampler", sampler.text());
        self.sink.fact("cpu.sampler.reason", why);
        if let Some(layout) = sampler.layout() {
            self.sink.fact("cpu.sampler.layout", layout.text());
        }
        if !matches!(sampler, Sampler::None) {
            self.sink.fact("cpu.sample_hz", &self.plan.sample_hz.to_string());
            self.sink.fact("cpu.stack_bytes", &STACK_BYTES.to_string());
        }
    }

    /// Names the file in which the target's JIT compiler lists its functions. We open no file of
    /// the session: whoever owns it copies this one.
    fn tell_perf_map(&self) {
        let path = format!("/tmp/perf-{}.map", self.process.pid);
        if self.process.mapped_file(&path).is_ok() {
            self.sink.fact("cpu.perf_map", &path);
        }
    }
}

/// The next of regular instants; those that were slept through are not made up for.
fn later(last: Instant, period: Duration, now: Instant) -> Instant {
    let next = last + period;
    if next > now { next } else { now + period }
}
