//! The end of a session: everything off, everything written, everything told.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use profiler_core::backend::{BackendRole, DriverState, SessionSummary};
use profiler_core::control::{WorkerError, WorkerResult};
use profiler_core::record::{
    Communication, Kernel, Marker, Memcpy, Memory, Memset, RecordKind, Row as _, Span,
    Synchronization,
};
use profiler_core::spool::{SpoolProgress, SpoolTotals};

use crate::core::Core;
use crate::session::{Session, lock};

/// How long the writer may take to write what is queued.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// The same for a process that is about to end.
const HASTY_FINISH_DEADLINE: Duration = Duration::from_millis(150);

/// How long a backend may drain for a process that is about to end.
const HASTY_DRAIN: Duration = Duration::from_millis(50);

/// Kinds that a device causes.
const DEVICE_KINDS: &[RecordKind] =
    &[Kernel::KIND, Memcpy::KIND, Memset::KIND, Communication::KIND, Synchronization::KIND];

/// What ends a session at its limit of bytes.
pub(crate) const BYTE_LIMIT: &str = "byte_limit";

/// What is said where memory was recorded and gave no row.
const NO_ALLOCATION: &str = "memory was recorded, and no allocation or free of the device was seen: \
                             what a framework keeps for itself and gives out again is none";

/// Ends a session whose windows are over, on the session's thread. The flusher has ended.
pub(crate) fn drain(core: &Core, session: &Session) -> WorkerResult {
    let spans = lock(&session.spans).take();
    if let Some(spans) = &spans {
        spans.stop();
    }
    let summaries = stop_backends(core, session);
    session.write_last_edges(Duration::from_millis(200));

    let mut notes = notes(session, &summaries);
    let terms = &session.terms;
    notes.extend(crate::jit::copy(&terms.named, core.target, terms.spool_path.as_deref()));
    for (index, note) in notes.iter().enumerate() {
        session.sink.fact(&format!("note.{index}"), note);
    }
    let totals = finish(session);
    if let Some(spans) = spans {
        spans.end();
    }
    result(core, session, &summaries, notes, &totals)
}

/// Ends what a panic left behind, with the result of as much as is known.
pub(crate) fn abandon(core: &Core, session: &Session) -> WorkerResult {
    if let Some(spans) = lock(&session.spans).take() {
        spans.stop();
        spans.end();
    }
    lock(&session.backends).clear();
    let totals = finish(session);
    result(core, session, &[], Vec::new(), &totals)
}

struct Stopped {
    role: BackendRole,
    summary: SessionSummary,
}

fn stop_backends(core: &Core, session: &Session) -> Vec<Stopped> {
    let is_hasty = session.hurry.load(Ordering::Acquire);
    let drain = if is_hasty { HASTY_DRAIN } else { session.terms.drain };
    let backends = std::mem::take(&mut *lock(&session.backends));
    let mut stopped = Vec::new();
    // Those that came last first: a device may take its time, and samplers would go on for as long.
    for backend in backends.into_iter().rev() {
        let id = backend.id().clone();
        let role = core.backends.find(&id).map_or(BackendRole::Host, |found| found.role);
        // One whose delay never ended was not started.
        if !backend.is_started() {
            continue;
        }
        match backend.stop(drain) {
            Ok(summary) => stopped.push(Stopped { role, summary }),
            Err(error) => {
                let message = format!(
                    "backend `{id}` failed while it stopped: {}",
                    profiler_core::error::chain(&error)
                );
                lock(&session.faults).fail(WorkerError::new(error.code(), message));
            }
        }
    }
    stopped.reverse();
    stopped
}

fn notes(session: &Session, summaries: &[Stopped]) -> Vec<String> {
    let mut notes = session.terms.notes.clone();
    for stopped in summaries {
        notes.extend(stopped.summary.notes.iter().cloned());
    }
    notes.extend(session.terms.logged.notes());
    for (text, times) in &lock(&session.faults).by_the_way {
        notes.push(format!("a flush failed {times} times: {text}"));
    }
    let missed = session.missed_steps.load(Ordering::Relaxed);
    if missed > 0 {
        notes.push(format!("{missed} steps came faster than they could be taken and do not count"));
    }
    let (machine, _) = session.course();
    let listed = machine.windows().len();
    if machine.windows_begun() as usize > listed {
        let begun = machine.windows_begun();
        notes.push(format!("of {begun} windows the first {listed} are listed; the spool has all"));
    }
    let stopped_by = machine.stopped_by().map(ToString::to_string);
    if stopped_by.as_deref() == Some(BYTE_LIMIT) {
        let spool_bytes = session.progress().bytes;
        notes.extend(session.terms.raw_files.note(spool_bytes, session.terms.max_bytes));
    }
    let ended_by_time =
        matches!(machine.stopped_by(), Some(profiler_core::schedule::StopCause::MaxSession));
    if ended_by_time && machine.by_steps() {
        let steps = machine.steps();
        notes.push(format!("steps stalled: {steps} came before the session's time was over"));
    }
    notes
}

fn finish(session: &Session) -> SpoolTotals {
    let writer = lock(&session.writer).take();
    let Some(writer) = writer else { return lock(&session.totals).clone() };
    // A status asked for from here on gets what the writer knew just now.
    *lock(&session.totals) = writer.progress();
    drop(lock(&session.not_inherited).take());
    let is_hasty = session.hurry.load(Ordering::Acquire);
    let totals = writer.finish(if is_hasty { HASTY_FINISH_DEADLINE } else { FINISH_DEADLINE });
    *lock(&session.totals) = totals.clone();
    totals
}

fn result(
    core: &Core,
    session: &Session,
    summaries: &[Stopped],
    mut notes: Vec<String>,
    totals: &SpoolProgress,
) -> WorkerResult {
    let terms = &session.terms;
    let (machine, clock_error_ns) = session.course();
    let device = summaries.iter().find(|stopped| stopped.role == BackendRole::Device);
    let device_used = device.and_then(|device| device.summary.device_used);
    let driver: Option<DriverState> = device.and_then(|device| device.summary.driver);
    let mut degraded = terms.degraded.clone();
    let has_device_rows = DEVICE_KINDS.iter().any(|kind| totals.rows.contains_key(kind));
    if device_used == Some(true) && !has_device_rows && degraded.is_none() {
        degraded = Some(WorkerError::new(
            "no_device_records",
            "the device was used while it was recorded, and its driver gave no record",
        ));
    }
    if terms.memory && degraded.is_none() && !totals.rows.contains_key(&Memory::KIND) {
        notes.push(NO_ALLOCATION.to_owned());
    }
    let mut error = lock(&session.faults).error.clone();
    if error.is_none() && !totals.has_footer {
        error = Some(WorkerError::new(
            "spool_unfinished",
            "the spool's writer did not finish in time: the file has no footer",
        ));
    }
    let marks: u64 =
        [Span::KIND, Marker::KIND].iter().filter_map(|kind| totals.rows.get(kind)).sum();
    let elsewhere_ns: u64 =
        summaries.iter().map(|stopped| stopped.summary.own_cpu_ns_elsewhere).sum();
    let backend_bytes: u64 = summaries.iter().map(|stopped| stopped.summary.own_memory_bytes).sum();
    let stopped_by = machine.stopped_by().map(ToString::to_string).unwrap_or_default();
    WorkerResult {
        session: terms.session.clone(),
        fence: terms.fence,
        worker: core.worker(),
        backend: terms.backend.clone(),
        why: terms.why.clone(),
        degraded,
        error,
        windows: machine.windows().to_vec(),
        steps: machine.steps(),
        stopped_by,
        rows: totals.rows.iter().map(|(kind, rows)| (kind.to_string(), *rows)).collect(),
        lost: lost(totals),
        spool_bytes: totals.bytes,
        spool_closed: totals.has_footer,
        clock_error_ns: u64::from(clock_error_ns),
        own_cpu_ns: session.own_time.spent_ns()
            + elsewhere_ns
            + crate::cost::marks_ns(marks + machine.steps()),
        own_memory_bytes: backend_bytes
            + totals.memory_bytes
            + crate::spans::most_bytes()
            + session.memory_bytes(),
        device_used,
        driver,
        notes,
    }
}

fn lost(totals: &SpoolProgress) -> BTreeMap<String, u64> {
    let by_cause = totals.lost.by_cause();
    by_cause.iter().map(|(cause, rows)| (cause.text().to_owned(), *rows)).collect()
}
