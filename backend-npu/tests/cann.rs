//! Each CANN, with the functions that it has, in a process that preloads its libmspti.
#![expect(unsafe_code, reason = "looks for symbols")]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use libloading::os::unix::Library;
use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::record::{Communication, Kernel, Row as _};

use support::{Activity, FakeCann, FakeMspti};

/// Which CANN, which is that of the process.
const CANN: &str = "OMNIPROF_TEST_CANN";
/// The folder of its machine.
const ROOT: &str = "OMNIPROF_TEST_ROOT";

/// Functions that are younger than CANN 8.0, by the first that has them.
const LATER: [(u32, &str); 6] = [
    (81, "msptiActivityFlushPeriod"),
    (81, "msptiActivityPushExternalCorrelationId"),
    (81, "msptiActivityPopExternalCorrelationId"),
    (81, "msptiActivityEnableMarkerDomain"),
    (81, "msptiActivityDisableMarkerDomain"),
    (91, "msptiActivityIsEnabled"),
];

#[test]
fn each_cann_is_read_with_what_it_has() {
    for cann in [80, 81, 82, 90, 91] {
        let installed = support::install(&format!("cann{cann}"));
        let absent: Vec<&str> =
            LATER.iter().filter(|(first, _)| *first > cann).map(|(_, name)| *name).collect();
        support::hide(&installed.library(), &absent);
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.args(["--exact", "played::a_process_that_preloaded_it", "--ignored"]);
        command.env(CANN, cann.to_string()).env(ROOT, &installed.root);
        command.env("FAKE_MSPTI_CANN", cann.to_string());
        command.env("ASCEND_HOME_PATH", &installed.home);
        command.env("LD_PRELOAD", installed.library());
        let out = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("1 passed"), "CANN {cann}: {said}");
    }
}

mod played {
    use super::*;

    #[test]
    #[ignore = "played by the test above, in a process of its own for each CANN"]
    fn a_process_that_preloaded_it() {
        let variable = |name: &str| std::env::var_os(name).expect("it is set");
        let cann: u32 = variable(CANN).to_str().expect("a number").parse().expect("a number");
        let own = Library::this();
        for (first, name) in LATER {
            // SAFETY: the symbol is only looked up.
            let found = unsafe { own.get::<extern "C" fn()>(name.as_bytes()) };
            assert_eq!(found.is_ok(), cann >= first, "{name}");
        }
        let (home, root) = (variable("ASCEND_HOME_PATH"), PathBuf::from(variable(ROOT)));
        let fake = FakeMspti::loaded(FakeCann { home: home.into(), root });
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
        assert_eq!(sink.rows(Kernel::KIND), 1_000);
        assert_eq!(sink.rows(Communication::KIND), 1);
        assert!(sink.losses().is_empty(), "{:?}", sink.losses());
        let absent = summary.notes.iter().filter(|note| note.contains("does not have it")).count();
        assert_eq!(absent > 0, cann < 90, "{:?}", summary.notes);
        sink.assert_sound();
    }
}
