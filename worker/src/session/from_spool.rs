//! What a spool alone tells of a worker that cannot tell any more.

use std::collections::BTreeMap;
use std::path::Path;

use profiler_core::clock::Instant;
use profiler_core::control::{WorkerError, WorkerResult};
use profiler_core::record::{ClockTuple, Loss, LossCause, Row as _, Step, Window, WindowEdge};
use profiler_core::spool::{Block, SpoolReadError, SpoolReader};

use super::run::WORKER_DIED;

/// What a spool's writer is.
#[derive(Debug)]
pub(crate) enum SpoolFate {
    /// It lives and holds the spool.
    Writing,
    /// The spool is all there is, and this is what it holds.
    Left(Box<WorkerResult>),
}

/// Looks at a spool whose worker does not speak.
pub(crate) fn look(path: &Path) -> Result<SpoolFate, SpoolReadError> {
    let mut reader = SpoolReader::open(path)?;
    // Read before the rest, so that what a writer that lives still adds is not missed as dead.
    let alive = reader.writer_alive().unwrap_or(false);
    if alive {
        return Ok(SpoolFate::Writing);
    }
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    let mut marks = Vec::new();
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    let mut clock_error_ns = 0;
    let mut block = Block::new();
    while let Some(info) = reader.skim()? {
        if info.is_repeated {
            continue;
        }
        *rows.entry(info.kind.to_string()).or_default() += u64::from(info.rows);
        if ![Window::KIND, Loss::KIND, ClockTuple::KIND].contains(&info.kind)
            || !reader.load(&info, &mut block)?
        {
            continue;
        }
        marks.extend_from_slice(block.rows::<Window>().unwrap_or_default());
        for loss in block.rows::<Loss>().unwrap_or_default() {
            let sum = lost.entry(cause_of(loss)).or_default();
            *sum = sum.saturating_add(loss.count);
        }
        for tuple in block.rows::<ClockTuple>().unwrap_or_default() {
            clock_error_ns = clock_error_ns.max(u64::from(tuple.error_ns));
        }
    }
    let spool_bytes = reader.file_len()?;
    let mut result = WorkerResult {
        session: reader.header().session.clone(),
        fence: reader.header().fence,
        worker: reader.header().worker.clone(),
        backend: None,
        why: "read from the spool that the worker left".to_owned(),
        degraded: None,
        error: None,
        windows: windows(&marks),
        steps: rows.get(&Step::KIND.to_string()).copied().unwrap_or(0),
        stopped_by: WORKER_DIED.to_owned(),
        rows,
        lost,
        spool_bytes,
        spool_closed: reader.is_closed(),
        clock_error_ns,
        own_cpu_ns: 0,
        own_memory_bytes: 0,
        device_used: None,
        driver: None,
        notes: Vec::new(),
    };
    let skipped = reader.skipped();
    if skipped.damaged_bytes > 0 {
        result.notes.push(format!("{} damaged bytes were skipped", skipped.damaged_bytes));
    }
    match reader.footer() {
        Some(footer) => {
            // The footer counts what was lost after the last row, too.
            for (cause, count) in footer.lost.by_cause() {
                result.lost.insert(cause.text().to_owned(), count);
            }
            result.stopped_by = footer.end.code().to_owned();
        }
        None => {
            let message = format!(
                "the process ended while it recorded; its spool is read up to the last whole \
                 block ({spool_bytes} bytes, {} of them behind it)",
                skipped.tail_bytes
            );
            result.error = Some(WorkerError::new(WORKER_DIED, message));
        }
    }
    Ok(SpoolFate::Left(Box::new(result)))
}

fn cause_of(loss: &Loss) -> String {
    LossCause::from_number(loss.cause)
        .map_or_else(|| format!("cause_{}", loss.cause), |cause| cause.text().to_owned())
}

fn windows(marks: &[Window]) -> Vec<(Instant, Option<Instant>)> {
    let mut windows: BTreeMap<u32, (Option<Instant>, Option<Instant>)> = BTreeMap::new();
    for mark in marks {
        let at = Instant { monotonic_ns: mark.monotonic, realtime_ns: mark.realtime };
        let window = windows.entry(mark.window).or_default();
        if mark.edge == WindowEdge::Begin.number() {
            window.0 = Some(at);
        }
        if mark.edge == WindowEdge::End.number() {
            window.1 = Some(at);
        }
    }
    windows.into_values().filter_map(|(begin, end)| Some((begin?, end))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use profiler_core::clock::{ClockDomain, ClockSource as _, SystemClock};
    use profiler_core::identity::WorkerIdentity;
    use profiler_core::sink::{Batch, Emit, StreamInfo};
    use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};

    use super::*;

    #[test]
    fn losses_that_no_number_holds_are_as_many_as_one_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.spool");
        let clock = Arc::new(SystemClock::new());
        let header = SpoolHeader {
            session: "hostile".to_owned(),
            prefix: None,
            worker: WorkerIdentity::of_this_process(Some(0), None, None, None),
            writer: "a test".to_owned(),
            created: clock.now(),
            fence: 1,
        };
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        // How full the disk is, is not what is tested.
        let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
        let writer = SpoolWriter::create(file, &header, options, clock).unwrap();
        let sink = writer.sink();
        let stream = sink.open_stream(StreamInfo {
            producer: "hostile".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        let row = |cause: LossCause| Loss {
            count: u64::MAX - 1,
            cause: cause.number(),
            ..Loss::default()
        };
        let disk = row(LossCause::Disk);
        let rows = [disk, disk, row(LossCause::SinkFull)];
        assert_eq!(sink.emit(&[Batch::new(stream, &rows)]), Emit::Accepted);
        writer.finish(Duration::from_secs(30));
        // Without its footer, as a killed worker leaves it.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
        let SpoolFate::Left(result) = look(&path).unwrap() else { panic!("nobody writes it") };
        assert_eq!(result.lost["disk"], u64::MAX);
        assert_eq!(result.lost["sink_full"], u64::MAX - 1);
    }
}
