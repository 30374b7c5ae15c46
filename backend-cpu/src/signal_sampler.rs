//! Samples the process we run in by signal timers: the fallback where perf is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use profiler_core::clock::ClockSource;

use crate::perf_record::Record;
use crate::poller::Poller;
use crate::process::{Process, is_profiler_thread};
use crate::refusal::Refusal;
use crate::seccomp::RiskyCall;
use crate::signal::{self, Pool, Timer};

/// The timers of a session, one a thread.
pub(crate) struct SignalSampler {
    pool: &'static Pool,
    period_ns: u64,
    timers: BTreeMap<u32, Timer>,
    /// Threads that are not sampled, since their seccomp filters are not ours.
    filtered_threads: BTreeSet<u32>,
    /// Threads found ended, not told yet.
    ended: Vec<u32>,
    enabled: bool,
    started_ns: u64,
    /// Threads for which no timer could be had, or must not.
    pub(crate) missed_threads: u64,
}

/// The token of the pool in the poller.
const POOL: u64 = 0;

impl SignalSampler {
    /// Installs the handler. Nothing is sampled yet.
    ///
    /// # Errors
    ///
    /// Why it cannot be: another process is the target, or there are too many sessions.
    pub(crate) fn attach(process: &Process, hz: u32, poller: &Poller) -> Result<Self, Refusal> {
        let refusal =
            |what: &str, remedy: &str| Refusal { what: what.to_owned(), remedy: remedy.to_owned() };
        if !process.own {
            return Err(refusal("signal timers sample only the process that embeds them", ""));
        }
        let io = |error: io::Error| refusal(&format!("no signal handler can be had ({error})"), "");
        let pool = Pool::take().map_err(io)?;
        let pool = pool.ok_or_else(|| {
            refusal("as many sessions sample by signal timers as can", "end one of them")
        })?;
        let installed = signal::install().and_then(|()| poller.add(pool.woken(), POOL));
        if let Err(error) = installed {
            pool.release();
            return Err(io(error));
        }
        let period_ns = 1_000_000_000 / u64::from(hz.max(1));
        Ok(Self {
            pool,
            period_ns,
            timers: BTreeMap::new(),
            filtered_threads: BTreeSet::new(),
            ended: Vec::new(),
            enabled: false,
            started_ns: 0,
            missed_threads: 0,
        })
    }

    /// The memory of the samples that wait.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pool.memory_bytes()
    }

    /// Processor time that handlers have taken of the application's threads.
    pub(crate) fn spent_ns(&self) -> u64 {
        self.pool.spent_ns()
    }

    /// Begins to sample all threads but the profiler's.
    pub(crate) fn enable(&mut self, process: &Process, clock: &dyn ClockSource) {
        // A handler of an earlier session may have come late.
        self.pool.drain(process.pid, |_late| {});
        self.started_ns = clock.monotonic_ns();
        self.pool.activate(self.period_ns, RiskyCall::ProcessVmReadv.is_survivable());
        self.enabled = true;
        self.rescan(process);
    }

    /// Ends sampling; what was taken stays until it is drained.
    pub(crate) fn disable(&mut self) {
        self.enabled = false;
        self.timers.clear();
        self.pool.deactivate();
    }

    /// Starts timers for new threads, ends those of threads that have ended.
    pub(crate) fn rescan(&mut self, process: &Process) {
        if !self.enabled {
            return;
        }
        let Ok(threads) = process.threads() else { return };
        let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let filters = process.filters(own);
        self.filtered_threads.retain(|thread| threads.binary_search(thread).is_ok());
        self.timers.retain(|thread, _| {
            let lives = threads.binary_search(thread).is_ok();
            if !lives {
                self.ended.push(*thread);
            }
            lives
        });
        for thread in threads {
            if self.timers.contains_key(&thread) || self.filtered_threads.contains(&thread) {
                continue;
            }
            if process.thread_name(thread).is_none_or(|name| is_profiler_thread(&name)) {
                continue;
            }
            // What this thread survives, one behind other filters may not.
            if process.filters(thread) != filters {
                self.filtered_threads.insert(thread);
                self.missed_threads += 1;
                continue;
            }
            match Timer::start(thread, self.period_ns, self.pool) {
                Ok(timer) => {
                    self.timers.insert(thread, timer);
                }
                // The thread has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(_) => self.missed_threads += 1,
            }
        }
    }

    /// Hands over what the handlers took.
    pub(crate) fn drain(&mut self, process: &Process, mut record: impl FnMut(Record<'_>)) {
        let started_ns = self.started_ns;
        self.pool.drain(process.pid, |sample| {
            if sample.time >= started_ns {
                record(Record::Sample(sample));
            }
        });
        for thread in self.ended.drain(..) {
            record(Record::Ended { process: process.pid, thread });
        }
    }

    /// Samples a thread no more.
    pub(crate) fn exclude(&mut self, thread: u32) {
        self.timers.remove(&thread);
    }

    /// Samples dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.pool.take_dropped()
    }

    pub(crate) fn thread_count(&self) -> usize {
        self.timers.len()
    }
}

impl Drop for SignalSampler {
    fn drop(&mut self) {
        self.disable();
        signal::uninstall();
        self.pool.release();
    }
}
