//! The conformance bodies fail on backends that break the contract.
#![cfg(feature = "conformance")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use profiler_core::backend::{
    BackendId, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary,
};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::conformance::{self, Fixture};
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::record::{
    HeapRef, LossCause, Marker, RecordKind, Row as _, StringDef, StringId,
};
use profiler_core::sink::{Batch, Emit, Loss, RecordSink, StreamId, StreamInfo};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    TakesASecondStart,
    StopsBeforeStart,
    WritesAfterStop,
    ForgetsDefinitions,
    CountsWhatTheSinkCounts,
    StampsRealtime,
    RecordsFromBeforeTheStart,
    HandsOverNothing,
    RefusesASecondSessionWithoutReason,
    GoesOnAfterDrop,
    HoldsTheBackendAfterDrop,
    GoesOnAfterClosed,
    SkipsSilentlyAfterFull,
    IsPoisonedByAPanic,
}

/// A sink that a dropped session still writes into.
type Left = Mutex<Option<(Arc<dyn RecordSink>, StreamId)>>;

static LEFT: Left = Mutex::new(None);

/// What a session of [`Fault::IsPoisonedByAPanic`] holds while it writes.
static HELD: Mutex<()> = Mutex::new(());

struct Broken(Fault);

impl Fixture for Broken {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        Arc::new(BrokenBackend(self.0))
    }

    fn work(&self) {}

    fn expected(&self) -> Vec<RecordKind> {
        vec![Marker::KIND]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![1])
    }
}

struct BrokenBackend(Fault);

static SESSIONS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl ProfilerBackend for BrokenBackend {
    fn id(&self) -> BackendId {
        BackendId::parse("broken").expect("an id")
    }

    fn probe(&self) -> ProbeReport {
        ProbeReport::available(Vec::new())
    }

    fn open(
        &self,
        _config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let open = SESSIONS.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.0 == Fault::RefusesASecondSessionWithoutReason && open > 0 {
            SESSIONS.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            return Err(BackendError::NotStarted);
        }
        if self.0 == Fault::HoldsTheBackendAfterDrop && open > 0 {
            return Err(BackendError::SessionOpen);
        }
        let stream = sink.open_stream(StreamInfo {
            producer: "broken".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        let opened = clock.monotonic_ns();
        Ok(Box::new(Session {
            fault: self.0,
            sink,
            clock,
            stream,
            opened,
            state: 0,
            sent: false,
            last: None,
        }))
    }
}

struct Session {
    fault: Fault,
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
    stream: StreamId,
    opened: u64,
    state: u8,
    sent: bool,
    /// What the sink answered last.
    last: Option<Emit>,
}

impl Session {
    fn write(&mut self) {
        if self.fault == Fault::HandsOverNothing {
            return;
        }
        if self.last == Some(Emit::Closed) && self.fault != Fault::GoesOnAfterClosed {
            return;
        }
        if self.last == Some(Emit::Full) && self.fault == Fault::SkipsSilentlyAfterFull {
            self.last = None;
            return;
        }
        let _held = (self.fault == Fault::IsPoisonedByAPanic)
            .then(|| HELD.lock().expect("no session panicked before"));
        if let Some((sink, stream)) = &*LEFT.lock().expect("nobody panics with it") {
            let late = [Marker { time: 1, ..Marker::default() }];
            assert_eq!(sink.emit(&[Batch::new(*stream, &late)]), Emit::Accepted);
        }
        let mut heap = Vec::new();
        let text = HeapRef::push(&mut heap, b"name");
        let names = [StringDef { text, id: StringId(1), reserved: 0 }];
        let time = match self.fault {
            Fault::StampsRealtime => self.clock.realtime_ns(),
            Fault::RecordsFromBeforeTheStart => self.opened,
            _ => self.clock.monotonic_ns(),
        };
        let rows = [Marker { time, name: StringId(1), ..Marker::default() }];
        let rows = Batch::new(self.stream, &rows);
        let emit = match self.sent {
            true => self.sink.emit(&[rows]),
            false => self.sink.emit(&[Batch::with_heap(self.stream, &names, &heap), rows]),
        };
        self.last = Some(emit);
        self.sent |= emit == Emit::Accepted || self.fault == Fault::ForgetsDefinitions;
        if emit == Emit::Full && self.fault == Fault::CountsWhatTheSinkCounts {
            self.sink.loss(Loss {
                stream: Some(self.stream),
                kind: Some(Marker::KIND),
                count: 1,
                from: 0,
                to: 0,
                cause: LossCause::SinkFull,
            });
        }
    }
}

impl ProfileSession for Session {
    fn start(&mut self) -> Result<(), BackendError> {
        if self.state != 0 && self.fault != Fault::TakesASecondStart {
            return Err(BackendError::AlreadyStarted);
        }
        self.state = 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        if self.state != 1 {
            return Err(BackendError::NotStarted);
        }
        self.write();
        Ok(())
    }

    fn stop(&mut self, _drain: Duration) -> Result<SessionSummary, BackendError> {
        if self.state != 1 && self.fault != Fault::StopsBeforeStart {
            return Err(BackendError::NotStarted);
        }
        if self.state == 1 {
            self.write();
        }
        self.state = 2;
        Ok(SessionSummary::default())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !(self.fault == Fault::HoldsTheBackendAfterDrop && self.state == 1) {
            SESSIONS.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        }
        if self.fault == Fault::WritesAfterStop && self.state == 2 {
            self.write();
        }
        if self.fault == Fault::GoesOnAfterDrop && self.state == 1 {
            let left = Some((Arc::clone(&self.sink), self.stream));
            *LEFT.lock().expect("nobody panics with it") = left;
        }
    }
}

/// What the body says of a backend with that fault; `None` where it finds nothing wrong.
fn complaint(fault: Fault, body: fn(&dyn Fixture)) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(|| body(&Broken(fault)))).err()?;
    let text = payload.downcast::<String>().map(|text| *text);
    Some(text.unwrap_or_else(|payload| {
        payload.downcast_ref::<&str>().map_or_else(String::new, |text| (*text).to_owned())
    }))
}

/// One test: the bodies share the count of sessions, and panics of many threads are hard to read.
#[test]
fn each_fault_is_caught_by_its_body() {
    use conformance as c;
    let bodies: [fn(&dyn Fixture); 12] = [
        |f| c::hundred_cycles(f),
        |f| c::double_start_is_refused(f),
        |f| c::stop_before_the_first_record(f),
        |f| c::drop_without_stop_stops(f),
        |f| c::no_rows_after_stop(f),
        |f| c::nothing_from_before_start(f),
        |f| c::two_sessions_at_once(f),
        |f| c::a_full_sink_is_counted_exactly(f),
        |f| c::a_closed_sink_ends_production(f),
        |f| c::a_flush_is_visible_within_a_second(f),
        |f| c::a_panicking_sink_harms_nobody(f),
        |f| c::realtime_steps_do_not_show(f),
    ];
    for (index, body) in bodies.into_iter().enumerate() {
        let said = complaint(Fault::None, body);
        assert_eq!(said, None, "body {index} fails on a sound backend");
    }

    // Each for its own reason: a body that fails by chance has not caught the fault.
    let caught = |fault: Fault, body: fn(&dyn Fixture), words: &str| {
        let said = complaint(fault, body).unwrap_or_default();
        assert!(said.contains(words), "{fault:?}: {words:?} is not what was said: {said:?}");
    };
    caught(Fault::TakesASecondStart, |f| c::double_start_is_refused(f), "Ok(())");
    let early = "stop before start";
    caught(Fault::StopsBeforeStart, |f| c::stop_before_the_first_record(f), early);
    caught(Fault::WritesAfterStop, |f| c::hundred_cycles(f), "wrote rows after its stop");
    caught(Fault::WritesAfterStop, |f| c::no_rows_after_stop(f), "rows after the stop");
    let undefined = "was not defined before";
    caught(Fault::ForgetsDefinitions, |f| c::a_full_sink_is_counted_exactly(f), undefined);
    let counted = "the sink counts what it refuses itself";
    caught(Fault::CountsWhatTheSinkCounts, |f| c::a_full_sink_is_counted_exactly(f), counted);
    caught(Fault::StampsRealtime, |f| c::realtime_steps_do_not_show(f), "recorded from");
    let before = "lies outside";
    caught(Fault::RecordsFromBeforeTheStart, |f| c::nothing_from_before_start(f), before);
    let nothing = "every expected kind within";
    caught(Fault::HandsOverNothing, |f| c::a_flush_is_visible_within_a_second(f), nothing);
    caught(Fault::GoesOnAfterDrop, |f| c::drop_without_stop_stops(f), "rows after the drop");
    LEFT.lock().expect("nobody panics with it").take();
    let held = "already open";
    caught(Fault::HoldsTheBackendAfterDrop, |f| c::drop_without_stop_stops(f), held);
    SESSIONS.store(0, std::sync::atomic::Ordering::SeqCst);
    let producing = "goes on producing";
    caught(Fault::GoesOnAfterClosed, |f| c::a_closed_sink_ends_production(f), producing);
    caught(Fault::SkipsSilentlyAfterFull, |f| c::a_full_sink_is_counted_exactly(f), "0 lost of");
    let poisoned = "no session panicked before";
    caught(Fault::IsPoisonedByAPanic, |f| c::a_panicking_sink_harms_nobody(f), poisoned);
    let second = Fault::RefusesASecondSessionWithoutReason;
    caught(second, |f| c::two_sessions_at_once(f), "refused with NotStarted");
}
