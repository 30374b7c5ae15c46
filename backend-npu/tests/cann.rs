//! Each CANN, in a process that preloaded its libmspti. One test: the variable is the process's.
#![expect(unsafe_code, reason = "sets a variable of this process")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::record::{Communication, Kernel, Row as _};

use support::Activity;

#[test]
fn each_cann_is_read_with_what_it_has() {
    let fake = support::fake();
    // SAFETY: this process has no other thread that reads variables.
    unsafe { std::env::set_var("LD_PRELOAD", fake.cann.library()) };
    for cann in [80, 81, 82, 90, 91] {
        fake.cann(cann);
        let sink = Arc::new(MemorySink::default());
        let config = SessionConfig { preset: Preset::Full, ..SessionConfig::default() };
        let clock = Arc::new(SystemClock::new());
        let opened = fake.backend().open(&config, Arc::clone(&sink) as _, clock);
        let mut session = opened.expect("opens");
        session.start().expect("starts");
        fake.launch(c"kernel", 1_000, 3);
        // Before 8.2 a collective is an HCCL record.
        let kind = if cann < 82 { 4 } else { 9 };
        fake.emit(kind, &Activity { name: c"hcom_allGather_".as_ptr(), ..Activity::now() });
        let summary = session.stop(Duration::from_secs(2)).expect("stops");
        assert_eq!(sink.rows(Kernel::KIND), 1_000, "CANN {cann}");
        assert_eq!(sink.rows(Communication::KIND), 1, "CANN {cann}");
        assert!(sink.losses().is_empty(), "CANN {cann}: {:?}", sink.losses());
        let absent = summary.notes.iter().filter(|note| note.contains("does not have it")).count();
        assert_eq!(absent > 0, cann < 90, "CANN {cann}: {:?}", summary.notes);
        sink.assert_sound();
    }
}
