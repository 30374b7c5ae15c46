//! What a vendor's tool writes beside a spool is bound by the session's limit of bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{PATIENCE, arm, builder, connect, eventually, registry_of, spool_file, turn};
use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary,
};
use profiler_core::clock::ClockSource;
use profiler_core::control::{Arm, WorkerResult};
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::schedule::Limits;
use profiler_core::sink::RecordSink;

const MAX_BYTES: u64 = 3 << 20;
const PIECE: usize = 600 << 10;

/// A backend that writes files, one at each flush.
struct Writer {
    /// Instead of the directory that it is offered.
    elsewhere: Option<PathBuf>,
    pieces: u64,
    written: Arc<AtomicU64>,
}

struct WriterSession {
    place: PathBuf,
    pieces: u64,
    written: Arc<AtomicU64>,
}

impl ProfilerBackend for Writer {
    fn id(&self) -> BackendId {
        BackendId::parse("writer").unwrap()
    }

    fn probe(&self) -> ProbeReport {
        ProbeReport::available(Vec::new())
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let place = match &self.elsewhere {
            Some(place) => {
                sink.fact("writer.raw_dir", place.to_str().unwrap());
                place.clone()
            }
            None => config.raw_dir.clone().unwrap(),
        };
        let written = Arc::clone(&self.written);
        Ok(Box::new(WriterSession { place, pieces: self.pieces, written }))
    }
}

impl ProfileSession for WriterSession {
    fn start(&mut self) -> Result<(), BackendError> {
        std::fs::create_dir_all(self.place.join("PROF_1/data")).unwrap();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        let number = self.written.load(Ordering::SeqCst);
        if number < self.pieces {
            let file = self.place.join(format!("PROF_1/data/slice_{number}"));
            std::fs::write(file, vec![0; PIECE]).unwrap();
            self.written.store(number + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn stop(&mut self, _drain: Duration) -> Result<SessionSummary, BackendError> {
        Ok(SessionSummary::default())
    }
}

/// A session in which so many pieces are written; it is stopped where `is_stopped`.
fn session(elsewhere: Option<&Path>, pieces: u64, is_stopped: bool) -> (WorkerResult, u64) {
    let written = Arc::new(AtomicU64::new(0));
    let elsewhere = elsewhere.map(Path::to_owned);
    let backend = Writer { elsewhere, pieces, written: Arc::clone(&written) };
    let registry =
        registry_of([(BackendRole::Device, Box::new(backend) as Box<dyn ProfilerBackend>)]);
    let (_agent, mut controller, _) = connect(builder().registry(registry));
    let spool = spool_file();
    // Where the limit does not end it, time does.
    let max_session_ms = PATIENCE.as_millis() as u64;
    let limits = Limits { max_bytes: MAX_BYTES, max_session_ms, ..arm(1).limits };
    controller.arm(Arm { limits, ..arm(1) }, Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    if is_stopped {
        assert!(eventually(|| written.load(Ordering::SeqCst) == pieces));
        controller.stop(1).unwrap();
    }
    let (result, _) = controller.finished();
    (result, written.load(Ordering::SeqCst))
}

#[test]
fn raw_files_and_the_spool_share_the_limit_wherever_the_files_lie() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    for elsewhere in [None, Some(folder.path())] {
        // Nobody stops it, and nobody but the limit ends what is written.
        let (result, written) = session(elsewhere, u64::MAX, false);
        assert_eq!((result.stopped_by.as_str(), &result.error), ("byte_limit", &None));
        assert!(result.spool_closed && result.windows[0].1.is_some(), "{result:?}");
        let [note] = &result.notes[..] else { panic!("{:?}", result.notes) };
        assert!(note.contains("raw files") && note.contains(&MAX_BYTES.to_string()), "{note}");
        let bytes = written * PIECE as u64;
        assert!(bytes + result.spool_bytes >= MAX_BYTES, "{written} pieces were not too many");
        // Some flushes may come before the stop.
        assert!(bytes <= MAX_BYTES + 10 * PIECE as u64, "{written} pieces");
    }
}

#[test]
fn below_the_limit_nothing_is_stopped_and_nothing_is_said() {
    let _turn = turn();
    let (result, written) = session(None, 2, true);
    assert_eq!((result.stopped_by.as_str(), written), ("request", 2));
    assert!(result.notes.is_empty() && result.error.is_none(), "{result:?}");
}
