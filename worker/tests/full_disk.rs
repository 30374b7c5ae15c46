//! A disk that is really full while a worker records: a small file system in a mount namespace of
//! its own, with controller, worker and traces inside.

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use profiler_agent::Agent;
use profiler_core::spool::SpoolReader;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::LineState;
use profiler_worker::start_request::StartRequest;

use support::{DEADLINE, skipped, wait_for};

const ROOT: &str = "OMNIPROF_TEST_ROOT";
/// What the shell answers where nothing may be mounted.
const MAY_NOT_MOUNT: i32 = 77;

#[test]
fn a_full_disk_ends_that_worker_and_leaves_all_else_alive() {
    let folder = tempfile::tempdir().unwrap();
    // The socket's path must be short, and the disk will be full.
    let sockets = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=8m,mode=700 none \"$1\" || exit {MAY_NOT_MOUNT}; \
         exec \"$0\" --exact the_capture_on_the_small_disk --nocapture"
    );
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(folder.path())
        .env(ROOT, folder.path())
        .env("OMNIPROF_SOCKET", sockets.path())
        .stdin(Stdio::null());
    let Ok(output) = command.output() else { return skipped("there is no `unshare`") };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(MAY_NOT_MOUNT) || said.starts_with("unshare:") {
        return skipped("this user may mount nothing");
    }
    let said = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("1 passed"), "{said}");
}

/// Does nothing where it is run as a test like others.
#[test]
fn the_capture_on_the_small_disk() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let controller = Controller::builder()
        .root(&root)
        .without_exporter()
        .options(|options| options.retention = None)
        .build()
        .unwrap();
    let dir = controller.socket_dir().unwrap();
    let _agent = Agent::builder().stage(0).role("noisy").socket_dir(dir).connect().unwrap();
    assert!(controller.wait_for_workers(1, DEADLINE));
    let answer = controller.start(&StartRequest::default()).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut number = 1_u64;
    let ended = || {
        let manifest = controller.manifest(&answer.session).unwrap();
        manifest.workers[0].stopped_by.is_some()
    };
    while !ended() {
        for _ in 0..20_000 {
            // Bytes that do not compress.
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            profiler_agent::marker("noise").payload(number).field("n", number).emit();
        }
        assert!(Instant::now() < deadline, "the disk does not fill");
    }
    let manifest = controller.stop(&StopRequest::default()).unwrap();
    let line = &manifest.workers[0];
    assert_eq!(line.stopped_by.as_deref(), Some("disk_full"), "{line:#?}");
    assert_eq!(line.state, LineState::Failed);
    assert_eq!(line.error.as_ref().unwrap().code, "disk_full");
    assert!(line.drops["disk"] > 0, "{:?}", line.drops);
    let spool = line.files.iter().find(|file| file.format == "spool").unwrap();
    let mut reader = SpoolReader::open(&root.join(&manifest.session).join(&spool.path)).unwrap();
    while reader.next_block().unwrap().is_some() {}
    assert!(reader.is_closed(), "the spool has its footer");
    assert!(reader.skipped().is_empty(), "{:?}", reader.skipped());
    // What is still open keeps its room on the disk.
    drop(reader);
    assert!(line.records["marker"] > 1000, "{:?}", line.records);

    // The process lives, and the next start says what is wrong or records again.
    wait_for("an idle controller", || controller.status().session.is_none());
    std::fs::remove_dir_all(root.join(&manifest.session)).unwrap();
    controller.start(&StartRequest::default()).unwrap();
    profiler_agent::marker("after").emit();
    let wait = StopRequest { wait_ms: 30_000, ..StopRequest::default() };
    let manifest = controller.stop(&wait).unwrap();
    assert_eq!(manifest.workers[0].error, None, "{:#?}", manifest.workers[0]);
}
