//! The process's one place for a session, and what becomes of CUPTI once nobody is in it.
//!
//! A stop switches everything off, but CUPTI stays attached to the driver and each launch goes on
//! paying for it. Some time after the last session it is detached, by a thread that waits for
//! that and ends. Each detach leaves some device memory behind, so that the number of them is
//! bounded; and none runs while a session is open, since its records would be lost.

#![expect(unsafe_code, reason = "registers a handler for the process's exit")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use profiler_core::backend::DriverState;
use profiler_core::error::{BackendError, chain};
use profiler_core::thread::spawn_blocked;

use crate::cupti::library::{Cupti, ignore};
use crate::kineto;

/// Detaches in the life of a process: each leaves about half a megabyte of device memory.
const MOST_DETACHES: u32 = 32;
/// How long a start waits for a detach that is under way.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);
/// How long the process's exit waits for it.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

/// The place of this copy of the backend. CUPTI's own subscription keeps copies apart.
static PLACE: Place = Place { state: Mutex::new(State::NEW), changed: Condvar::new() };

struct Place {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// A session is open.
    is_taken: bool,
    /// What CUPTI is to the process; `None` = it was never used.
    driver: Option<DriverState>,
    /// When to detach, and from what.
    due: Option<(Instant, Arc<Cupti>)>,
    /// A thread waits for that.
    is_awaited: bool,
    /// It is being done.
    is_detaching: bool,
    /// How often it was done.
    detaches: u32,
    /// Why CUPTI stays attached, where it does.
    why_not: Option<String>,
}

impl State {
    const NEW: Self = Self {
        is_taken: false,
        driver: None,
        due: None,
        is_awaited: false,
        is_detaching: false,
        detaches: 0,
        why_not: None,
    };
}

/// What CUPTI is to this process, and a sentence about it; `None` = it was never used.
pub(crate) fn driver() -> Option<(DriverState, String)> {
    let state = PLACE.lock();
    let driver = state.driver?;
    let text = match (driver, &state.due, &state.why_not) {
        (DriverState::Detached, _, _) => "CUPTI is detached".to_owned(),
        (_, Some((at, _)), _) => {
            let left = at.saturating_duration_since(Instant::now()).as_secs();
            format!("CUPTI is attached, and will be detached in {left} s")
        }
        (_, None, Some(why_not)) => format!("CUPTI stays attached: {why_not}"),
        (_, None, None) => "CUPTI is attached".to_owned(),
    };
    Some((driver, text))
}

/// A session's hold on the place.
pub(crate) struct Lease {
    detach_after: Option<Duration>,
    attached: Option<Arc<Cupti>>,
}

impl Lease {
    /// Takes the place; `detach_after` = how long CUPTI stays once it is free again, `None` = for
    /// good.
    ///
    /// # Errors
    ///
    /// [`BackendError::SessionOpen`] where it is taken.
    pub(crate) fn take(detach_after: Option<Duration>) -> Result<Self, BackendError> {
        let state = PLACE.lock();
        let waited =
            PLACE.changed.wait_timeout_while(state, DETACH_PATIENCE, |state| state.is_detaching);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.is_detaching {
            let holder = "CUPTI is being detached from the process, which takes long".to_owned();
            return Err(BackendError::Busy { holder: Some(holder) });
        }
        if state.is_taken {
            return Err(BackendError::SessionOpen);
        }
        state.is_taken = true;
        state.due = None;
        drop(state);
        PLACE.changed.notify_all();
        Ok(Self { detach_after, attached: None })
    }

    /// Whether CUPTI is attached since an earlier session.
    pub(crate) fn finds_residue() -> bool {
        PLACE.lock().driver == Some(DriverState::Residue)
    }

    /// CUPTI is about to be used.
    pub(crate) fn attach(&mut self, cupti: &Arc<Cupti>) {
        self.attached = Some(Arc::clone(cupti));
        let mut state = PLACE.lock();
        state.driver = Some(DriverState::Residue);
        state.why_not = None;
    }

    /// What becomes of CUPTI when the session is over, for people.
    pub(crate) fn outlook(&self) -> Option<String> {
        let cupti = self.attached.as_ref()?;
        let detaches = PLACE.lock().detaches;
        Some(match self.detach_in(cupti, detaches) {
            Ok(after) => format!(
                "CUPTI stays attached until {} s have passed without a session",
                after.as_secs_f64()
            ),
            Err(why_not) => format!("CUPTI stays attached: {why_not}"),
        })
    }

    fn detach_in(&self, cupti: &Cupti, detaches: u32) -> Result<Duration, String> {
        let Some(after) = self.detach_after else {
            return Err("`cuda.detach_after_ms` is off".to_owned());
        };
        if !cupti.can_detach() {
            return Err(format!(
                "libcupti {} is older than CUDA 12.6, before which detaching is not safe",
                cupti.version
            ));
        }
        if detaches >= MOST_DETACHES {
            return Err(format!("it was detached {MOST_DETACHES} times, the most for a process"));
        }
        Ok(after)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = PLACE.lock();
        state.is_taken = false;
        let Some(cupti) = self.attached.take() else { return };
        let after = match self.detach_in(&cupti, state.detaches) {
            Ok(after) => after,
            Err(why_not) => {
                state.why_not = Some(why_not);
                return;
            }
        };
        state.due = Some((Instant::now() + after, cupti));
        if state.is_awaited {
            drop(state);
            PLACE.changed.notify_all();
            return;
        }
        watch_exit();
        match spawn_blocked("omniprof-detach", || PLACE.detach_when_due()) {
            Ok(_thread) => state.is_awaited = true,
            Err(error) => {
                state.due = None;
                state.why_not = Some(format!("no thread can be started for it: {error}"));
            }
        }
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a detach is due and does it, or until a session makes it needless.
    fn detach_when_due(&self) {
        let mut state = self.lock();
        let cupti = loop {
            let Some((at, cupti)) = &state.due else {
                state.is_awaited = false;
                return;
            };
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Arc::clone(cupti);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.due = None;
        state.is_awaited = false;
        if EXITING.load(Ordering::Acquire) {
            return;
        }
        state.is_detaching = true;
        drop(state);
        let outcome = detach(&cupti);
        let mut state = self.lock();
        state.is_detaching = false;
        // Where another tool is there, nothing was done.
        state.detaches += u32::from(!matches!(outcome, Err(BackendError::Busy { .. })));
        match outcome {
            Ok(()) => state.driver = Some(DriverState::Detached),
            Err(error) => state.why_not = Some(chain(&error)),
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Takes CUPTI out of the process, if nobody else uses it.
fn detach(cupti: &Cupti) -> Result<(), BackendError> {
    // Whoever holds the subscription is alone with CUPTI, and nobody can come while it is held.
    let subscriber = cupti.subscribe(ignore)?;
    let finalize = || {
        // Clients of the older interface need no subscription.
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        match cupti.is_recording() {
            Some(true) => return Err(BackendError::Busy { holder: None }),
            None if kineto::may_be_unseen(&maps()) => {
                let holder = "PyTorch's profiler may use CUPTI, which this libcupti does not tell";
                return Err(BackendError::Busy { holder: Some(holder.to_owned()) });
            }
            Some(false) | None => {}
        }
        cupti.flush_all(false)?;
        cupti.finalize()
    };
    finalize().inspect_err(|_| drop(cupti.unsubscribe(&subscriber)))
}

/// The process ends: no detach begins any more.
static EXITING: AtomicBool = AtomicBool::new(false);
/// The process that registered the handler; a forked child is another.
static HOME: AtomicU32 = AtomicU32::new(0);

/// Keeps a detach from running into the driver's own end: handlers run in the reverse order of
/// their registration, and the driver was there before.
fn watch_exit() {
    if HOME.swap(std::process::id(), Ordering::AcqRel) != 0 {
        return;
    }
    // SAFETY: the handler is a plain function of a library that is never unloaded. Where it is
    // not taken, a detach may meet the process's exit.
    unsafe { libc::atexit(wait_for_detach) };
}

extern "C" fn wait_for_detach() {
    // In a forked child nobody is left who could release the lock.
    if HOME.load(Ordering::Acquire) != std::process::id() {
        return;
    }
    EXITING.store(true, Ordering::Release);
    let deadline = Instant::now() + EXIT_PATIENCE;
    while Instant::now() < deadline {
        match PLACE.state.try_lock() {
            Ok(state) if !state.is_detaching => return,
            Ok(_) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Poisoned(_)) => return,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
