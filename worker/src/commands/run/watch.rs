//! Follows the command's processes: samples from outside those that do not join from within, and
//! tells of those that use a device and have not joined.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use profiler_worker::controller::ProcessLine;
use profiler_worker::who::ProcessText;

use super::host::Host;
use super::loader;
use super::outside::{Called, Outside};
use super::say;
use super::tree::{self, Stat};

/// How often the processes are listed.
const PERIOD: Duration = Duration::from_secs(1);

/// The same while the command begins, and for how long that is.
const EARLY_PERIOD: Duration = Duration::from_millis(100);
const EARLY: Duration = Duration::from_secs(3);

/// Listing them takes at most this part of the time, but for hosts of very many processes.
const SHARE: u32 = 100;
const MAX_PERIOD: Duration = Duration::from_secs(5);

/// A process other than the command itself is looked at from this age on: compilers and shells
/// that a server starts are over before.
const MIN_AGE: Duration = Duration::from_secs(1);

/// The same of the command itself: what only prepares another program has run it by then.
const MIN_COMMAND_AGE: Duration = Duration::from_millis(200);

/// How long a process that uses a device may take to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// How often a process is asked whether it uses a device, at most and at least.
const DEVICE_LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How long a process that could not be sampled from outside is left alone, at first and at most:
/// what was in the way, a busy machine or a controller that starts again, may be gone by then.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How many processes are sampled from outside at most: each costs threads here.
const MAX_OUTSIDE: usize = 256;

/// The name of an agent's thread in a process that has one.
const LINK_THREAD: &[u8] = b"omniprof-link";

/// What is done with the processes.
#[derive(Clone, Debug)]
pub(super) struct WatchOptions {
    /// The command's process.
    pub(super) command: u32,
    /// Whether those that do not join are sampled from outside.
    pub(super) outside: bool,
    /// Whether the command itself is to join from within as it starts.
    pub(super) by_preload: bool,
    /// The file that joins a process.
    pub(super) injected: Option<PathBuf>,
    /// Whether anything joins from within at all.
    pub(super) within: bool,
    pub(super) called: Called,
}

/// The watch over the processes.
pub(super) struct Watch {
    host: Arc<Host>,
    options: WatchOptions,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    seen: BTreeMap<u32, Seen>,
    /// Agents that end, each in a thread of its own.
    ending: Vec<JoinHandle<()>>,
    told: Vec<ProcessLine>,
    is_over: bool,
    /// Said once that there are too many.
    said_many: bool,
}

/// When something that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Retry {
    /// After one more failure.
    fn after(last: Option<Self>, now: Instant) -> Self {
        let pause = last.map_or(RETRIES.0, |last| last.pause.saturating_mul(2).min(RETRIES.1));
        Self { at: now + pause, pause }
    }
}

/// A process.
struct Seen {
    start_ticks: u64,
    stack: u64,
    threads: usize,
    /// An agent of its own is in it.
    within: bool,
    outside: Option<Outside>,
    /// Where it could not be sampled from outside.
    retry: Option<Retry>,
    device_since: Option<Instant>,
    next_device_look: Instant,
    device_pause: Duration,
    reason: Option<ProcessLine>,
}

impl Watch {
    /// Begins to watch, in a thread of its own.
    pub(super) fn begin(
        host: Arc<Host>,
        options: WatchOptions,
    ) -> std::io::Result<(Arc<Self>, JoinHandle<()>)> {
        let watch = Arc::new(Self { host, options, state: Mutex::default(), wake: Condvar::new() });
        let thread = {
            let watch = Arc::clone(&watch);
            std::thread::Builder::new()
                .name("omniprof-watch".to_owned())
                .spawn(move || watch.watch())?
        };
        Ok((watch, thread))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let first = Instant::now();
        loop {
            let begun = Instant::now();
            self.look();
            let pause = match first.elapsed() < EARLY {
                true => EARLY_PERIOD,
                false => PERIOD.max(begun.elapsed().saturating_mul(SHARE).min(MAX_PERIOD)),
            };
            let state = self.lock();
            let waited = self.wake.wait_timeout_while(state, pause, |state| !state.is_over);
            if waited.unwrap_or_else(PoisonError::into_inner).0.is_over {
                return;
            }
        }
    }

    /// Looks at the processes now: whoever is about to start a capture wants all of them.
    pub(super) fn look(&self) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        let there = tree::descendants();
        let left = state.take_gone(&there);
        for stat in &there {
            self.look_at(&mut state, stat);
        }
        // After those that came: a capture ends with its last worker, and a process that runs
        // another program is to stay in it.
        for (outside, reason) in left {
            state.end(outside, reason);
        }
        let lines: Vec<ProcessLine> =
            state.seen.values().filter_map(|seen| seen.reason.clone()).collect();
        if lines != state.told {
            state.told.clone_from(&lines);
            drop(state);
            self.host.report(lines);
        }
    }

    fn look_at(&self, state: &mut State, stat: &Stat) {
        let now = Instant::now();
        let is_command = stat.pid == self.options.command;
        // What joins by itself as it starts has joined by then.
        let is_early = is_command && !self.options.by_preload;
        if tree::age(stat) < if is_early { MIN_COMMAND_AGE } else { MIN_AGE } {
            return;
        }
        let seen = state.seen.entry(stat.pid).or_insert_with(|| Seen::first(stat, now));
        if !seen.within {
            seen.within = seen.has_agent(stat);
        }
        if seen.within {
            seen.reason = None;
            if let Some(outside) = seen.outside.take() {
                state.end(outside, "joined_from_within");
            }
            return;
        }
        if self.options.within {
            seen.look_for_device(stat.pid, now, self.options.injected.as_deref());
        }
        let waits = seen.retry.is_some_and(|retry| now < retry.at);
        if !self.options.outside || seen.outside.is_some() || waits {
            return;
        }
        let count = state.seen.values().filter(|seen| seen.outside.is_some()).count();
        if count >= MAX_OUTSIDE {
            if !std::mem::replace(&mut state.said_many, true) {
                say(&format!("{MAX_OUTSIDE} processes are sampled from outside, and no more"));
            }
            return;
        }
        let attached = self.host.look_at(stat.pid, &self.options.called);
        let is_there = Stat::of(stat.pid).is_some_and(|stat| !stat.is_over());
        let Some(seen) = state.seen.get_mut(&stat.pid) else { return };
        match attached {
            Ok(outside) => {
                if seen.retry.take().is_some() {
                    say(&format!("process {} is recorded now", stat.pid));
                }
                seen.outside = Some(outside);
            }
            Err(error) => {
                if is_there && seen.retry.is_none() {
                    say(&format!("process {} is not recorded for now: {error:#}", stat.pid));
                }
                seen.retry = Some(Retry::after(seen.retry, Instant::now()));
            }
        }
    }

    /// Looks no more; returns when all sessions of agents in this process are closed.
    pub(super) fn end(&self, reason: &str) {
        let ending = {
            let mut state = self.lock();
            state.is_over = true;
            for (_, seen) in std::mem::take(&mut state.seen) {
                if let Some(outside) = seen.outside {
                    state.end(outside, reason);
                }
            }
            std::mem::take(&mut state.ending)
        };
        self.wake.notify_all();
        for thread in ending {
            // A thread that panicked has said so.
            let _ended: std::thread::Result<()> = thread.join();
        }
    }
}

impl State {
    /// Takes out processes that ended or run another program; gives their agents, with the reason.
    fn take_gone(&mut self, there: &[Stat]) -> Vec<(Outside, &'static str)> {
        let mut left = Vec::new();
        self.seen.retain(|pid, seen| {
            let index = there.binary_search_by_key(pid, |stat| stat.pid);
            let stat = index.ok().map(|index| &there[index]);
            let Some(reason) = seen.gone(stat) else { return true };
            left.extend(seen.outside.take().map(|outside| (outside, reason)));
            false
        });
        self.ending.retain(|thread| !thread.is_finished());
        left
    }

    /// Ends an agent; its session may take a moment to close.
    fn end(&mut self, outside: Outside, reason: &str) {
        let reason = reason.to_owned();
        let spawned = std::thread::Builder::new()
            .name("omniprof-leave".to_owned())
            .spawn(move || outside.end(&reason));
        match spawned {
            Ok(thread) => self.ending.push(thread),
            // The agent was dropped with the closure, which ends it as well.
            Err(error) => tracing::warn!(%error, "an agent ended without its reason"),
        }
    }
}

impl Seen {
    fn first(stat: &Stat, now: Instant) -> Self {
        Self {
            start_ticks: stat.start_ticks,
            stack: stat.stack,
            threads: 0,
            within: false,
            outside: None,
            retry: None,
            device_since: None,
            next_device_look: now,
            device_pause: DEVICE_LOOKS.0,
            reason: None,
        }
    }

    /// Why the program that was seen is not there any more, where it is not.
    fn gone(&self, stat: Option<&Stat>) -> Option<&'static str> {
        match stat {
            None => Some("process_exit"),
            Some(stat) if stat.start_ticks != self.start_ticks => Some("process_exit"),
            Some(stat) if stat.stack == self.stack => None,
            // One that ends gives up its memory some time before it is a zombie.
            Some(stat) if stat.stack == 0 => Some("process_exit"),
            Some(_) => Some("exec"),
        }
    }

    /// Whether an agent of its own is in the process. Only a new thread can be one.
    fn has_agent(&mut self, stat: &Stat) -> bool {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", stat.pid)) else { return false };
        let tasks: Vec<_> = tasks.flatten().map(|task| task.path()).collect();
        if tasks.len() == self.threads {
            return false;
        }
        self.threads = tasks.len();
        tasks.iter().any(|task| {
            std::fs::read(task.join("comm")).is_ok_and(|name| name.starts_with(LINK_THREAD))
        })
    }

    fn look_for_device(&mut self, pid: u32, now: Instant, injected: Option<&std::path::Path>) {
        if self.device_since.is_none() && now >= self.next_device_look {
            self.device_pause = self.device_pause.saturating_mul(2).min(DEVICE_LOOKS.1);
            self.next_device_look = now + self.device_pause;
            self.device_since = loader::uses_device(pid).then_some(now);
        }
        let Some(since) = self.device_since else { return };
        if self.reason.is_some() || now.duration_since(since) < JOIN_PATIENCE {
            return;
        }
        let why = loader::why_not_joined(pid, injected);
        let text = ProcessText::read(pid).unwrap_or_default();
        say(&format!(
            "process {pid} ({}) uses a device and has not joined: {}",
            text.title, why.message
        ));
        self.reason = Some(ProcessLine::new(pid, &text.title, why.code, &why.message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_its_memory_ends_and_runs_no_other_program() {
        let stat = Stat { pid: 7, parent: 1, state: b'R', start_ticks: 42, stack: 0x7ffc_0000 };
        let seen = Seen::first(&stat, Instant::now());
        assert_eq!(seen.gone(Some(&stat)), None);
        let ending = Stat { stack: 0, ..stat.clone() };
        assert_eq!(seen.gone(Some(&ending)), Some("process_exit"));
        let other_program = Stat { stack: 0x7ffe_0000, ..stat.clone() };
        assert_eq!(seen.gone(Some(&other_program)), Some("exec"));
        let other_process = Stat { start_ticks: 43, ..other_program };
        assert_eq!(seen.gone(Some(&other_process)), Some("process_exit"));
        assert_eq!(seen.gone(None), Some("process_exit"));
    }

    #[test]
    fn what_failed_is_tried_again_less_and_less_often() {
        let begun = Instant::now();
        let mut retry = None;
        let mut at = begun;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let next = Retry::after(retry, at);
            pauses.push((next.at - at).as_secs());
            at = next.at;
            retry = Some(next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }
}
