//! The host's counters as a backend: an agent of their own has it, and no other.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profiler_core::backend::{
    BackendId, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary,
};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::sink::{Emit, RecordSink, StreamInfo};
use profiler_core::thread::spawn_blocked;

use super::counters::Counters;
use super::library::Nvml;

/// Performance monitoring is read so often: it averages, and each reading takes longer.
const DEEP_EVERY: Duration = Duration::from_secs(1);
/// The most readings a second; NVML's own values change no faster.
const MOST_HZ: u32 = 50;

/// Reads NVML's counters of all devices of the machine.
///
/// No part of the registry: what it reads is the machine's, so that one agent a host has it.
#[derive(Debug, Default)]
pub struct HostCounters {
    /// Initialised at the first session: that takes up to a second where no other process keeps
    /// the driver awake.
    nvml: Mutex<Option<Arc<Nvml>>>,
}

impl HostCounters {
    /// The backend.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn nvml(&self) -> Result<Arc<Nvml>, BackendError> {
        let mut opened = lock(&self.nvml);
        if let Some(nvml) = &*opened {
            return Ok(Arc::clone(nvml));
        }
        let nvml = Arc::new(Nvml::open()?);
        *opened = Some(Arc::clone(&nvml));
        Ok(nvml)
    }
}

impl ProfilerBackend for HostCounters {
    fn id(&self) -> BackendId {
        BackendId::parse("nvml").unwrap_or_else(|_| unreachable!("`nvml` is a valid id"))
    }

    fn probe(&self) -> ProbeReport {
        if Nvml::is_there() {
            return ProbeReport::Available { devices: Vec::new(), notes: Vec::new() };
        }
        let error = Nvml::missing();
        ProbeReport::unavailable(error.code(), error.to_string(), "")
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let nvml = self.nvml()?;
        let stream = sink.open_stream(StreamInfo {
            producer: "nvml".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        let counters = Counters::new(&nvml, Arc::clone(&sink), stream);
        let (devices, monitored) = counters.devices();
        if devices == 0 {
            return Err(BackendError::Unavailable {
                code: "no_device".to_owned(),
                message: "NVML shows no device here".to_owned(),
            });
        }
        sink.fact("nvml.devices", &devices.to_string());
        sink.fact("nvml.devices_with_gpm", &monitored.to_string());
        let hz = config.counter_hz.clamp(1, MOST_HZ);
        let every = Duration::from_secs(1) / hz;
        Ok(Box::new(HostSession { state: State::Open(Box::new(counters)), clock, every }))
    }
}

struct HostSession {
    state: State,
    clock: Arc<dyn ClockSource>,
    every: Duration,
}

enum State {
    Open(Box<Counters>),
    Recording { shared: Arc<Shared>, ended: Receiver<()> },
    Stopped,
}

#[derive(Default)]
struct Shared {
    is_over: Mutex<bool>,
    changed: Condvar,
    /// Nobody takes rows any more. Held while rows are handed over.
    is_closed: Mutex<bool>,
}

impl ProfileSession for HostSession {
    fn start(&mut self) -> Result<(), BackendError> {
        let counters = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Open(counters) => counters,
            state => {
                self.state = state;
                return Err(BackendError::AlreadyStarted);
            }
        };
        let shared = Arc::new(Shared::default());
        let (end, ended) = channel();
        let (every, clock) = (self.every, Arc::clone(&self.clock));
        let reading = Arc::clone(&shared);
        spawn_blocked("omniprof-nvml", move || {
            read_until_over(*counters, &reading, clock.as_ref(), every, &end);
        })
        .map_err(|source| BackendError::Io {
            what: "starting the thread that reads counters".to_owned(),
            source,
        })?;
        self.state = State::Recording { shared, ended };
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        match &self.state {
            // Each reading is handed over at once.
            State::Recording { .. } => Ok(()),
            State::Open(_) | State::Stopped => Err(BackendError::NotStarted),
        }
    }

    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        let State::Recording { shared, ended } = std::mem::replace(&mut self.state, State::Stopped)
        else {
            return Err(BackendError::NotStarted);
        };
        *lock(&shared.is_over) = true;
        shared.changed.notify_all();
        let mut summary = SessionSummary::default();
        // A device that fell off the bus answers late or never.
        if ended.recv_timeout(drain) == Err(RecvTimeoutError::Timeout) {
            *lock(&shared.is_closed) = true;
            summary.notes.push("NVML did not answer: the last counters are missing".to_owned());
        }
        Ok(summary)
    }
}

impl Drop for HostSession {
    fn drop(&mut self) {
        const DRAIN: Duration = Duration::from_millis(500);
        // Nobody is left to hear of an error.
        drop(self.stop(DRAIN));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_until_over(
    mut counters: Counters,
    shared: &Shared,
    clock: &dyn ClockSource,
    every: Duration,
    // Hangs up when the thread ends, however it does.
    _end: &Sender<()>,
) {
    let mut since_deep = DEEP_EVERY;
    let mut is_over = false;
    loop {
        let deep = since_deep >= DEEP_EVERY || is_over;
        since_deep = if deep { every } else { since_deep + every };
        let rows = counters.read(clock.monotonic_ns(), deep);
        {
            let is_closed = lock(&shared.is_closed);
            if *is_closed || counters.emit(&rows) == Emit::Closed || is_over {
                return;
            }
        }
        let over = lock(&shared.is_over);
        let waited = shared.changed.wait_timeout_while(over, every, |over| !*over);
        // One last reading, so that the shortest capture has two.
        is_over = *waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}
