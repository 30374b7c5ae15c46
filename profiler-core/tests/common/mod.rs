//! What the spool's tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::clock::{ClockDomain, Instant, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{Loss, Marker};
use profiler_core::sink::StreamInfo;
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolReader, SpoolWriter};

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn header() -> SpoolHeader {
    SpoolHeader {
        session: "20260101T000000-test".to_owned(),
        prefix: Some("test".to_owned()),
        worker: WorkerIdentity {
            stage: Some(0),
            role: Some("thinker".to_owned()),
            replica: Some(0),
            rank: Some(1),
            host: "host".to_owned(),
            pid: 42,
            key: "abcdefghij".to_owned(),
            boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            time_namespace: 1,
            pid_namespace: 2,
            start_ticks: 3,
            program: "test".to_owned(),
        },
        writer: "omniprof 0.1.0".to_owned(),
        created: Instant { monotonic_ns: 1_000, realtime_ns: 2_000 },
        fence: 7,
    }
}

pub(crate) fn create_file(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).expect("a new file")
}

/// The defaults, on a disk of which nothing has to stay free: how full it is, is no test's matter.
pub(crate) fn options() -> SpoolOptions {
    SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() }
}

pub(crate) fn create(path: &Path, options: SpoolOptions) -> SpoolWriter {
    SpoolWriter::create(create_file(path), &header(), options, Arc::new(SystemClock::new()))
        .expect("a new spool")
}

pub(crate) fn info(producer: &str) -> StreamInfo {
    StreamInfo { producer: producer.to_owned(), thread: 0, clock: ClockDomain::Monotonic }
}

/// Waits for a condition; the deadline only ends a test that has failed.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The markers' numbers, and the rows of losses.
pub(crate) fn read(path: &Path) -> (Vec<u64>, Vec<Loss>, SpoolReader) {
    let mut reader = SpoolReader::open(path).expect("a spool");
    let (mut numbers, mut losses) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block().expect("a readable file") {
        if let Some(rows) = block.rows::<Marker>() {
            numbers.extend(rows.iter().map(|marker| marker.payload));
        }
        losses.extend_from_slice(block.rows::<Loss>().unwrap_or_default());
    }
    (numbers, losses, reader)
}
