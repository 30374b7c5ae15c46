//! Faults that take whole processes: workers and controllers that are killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;
mod worker_process;

use std::path::{Path, PathBuf};

use profiler_agent::Agent;
use profiler_core::record::{RecordKind, Row as _, Span, Window};
use profiler_worker::Controller;
use profiler_worker::controller::{BuildError, StopRequest, recover};
use profiler_worker::manifest::{FileState, LineState, SessionState};
use profiler_worker::start_request::StartRequest;

use support::{Bench, DEADLINE, wait_for};
use worker_process::{Process, itself, work};

/// What a child process of this test binary shall be: `worker <rank>` or `controller`.
const PART: &str = "OMNIPROF_TEST_PART";
/// The program that stands for the exporter.
const EXPORTER: &str = "OMNIPROF_TEST_EXPORTER";
/// The root of the controller.
const ROOT: &str = "OMNIPROF_TEST_ROOT";

/// A process of a part.
fn start(part: &str, root: &Path, socket_dir: Option<&Path>) -> Process {
    let mut command = itself("part");
    if let Some(dir) = socket_dir {
        command.env("OMNIPROF_SOCKET", dir);
    }
    Process::start(command.env(PART, part).env(ROOT, root))
}

/// Not a test by itself: what the child processes are.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else { return };
    let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
    match part.split_once(' ') {
        Some(("worker", rank)) => work(rank.parse().unwrap(), Agent::step),
        _ => controller(&root),
    }
}

/// Starts a capture of two workers, says so, and waits to be killed.
fn controller(root: &Path) {
    let builder = Controller::builder().root(root).options(|options| {
        options.defaults.all.limits.min_free_percent = 0;
    });
    let builder = match std::env::var_os(EXPORTER) {
        Some(program) => builder.exporter(program),
        None => builder.without_exporter(),
    };
    let controller = builder.build().unwrap();
    let dir = controller.socket_dir().unwrap();
    std::fs::write(root.join("socket-dir.tmp"), dir.to_str().unwrap()).unwrap();
    std::fs::rename(root.join("socket-dir.tmp"), root.join("socket-dir")).unwrap();
    assert!(controller.wait_for_workers(2, DEADLINE));
    let answer = controller.start(&StartRequest::default()).unwrap();
    std::fs::write(root.join("started.tmp"), &answer.session).unwrap();
    std::fs::rename(root.join("started.tmp"), root.join("started")).unwrap();
    loop {
        std::thread::park();
    }
}

fn rows_so_far(controller: &Controller) -> Vec<u64> {
    let status = controller.status();
    status.session.map(|s| s.workers.iter().map(|w| w.rows).collect()).unwrap_or_default()
}

fn rows_of(path: &Path, kind: RecordKind) -> u64 {
    let Ok(mut reader) = profiler_core::spool::SpoolReader::open(path) else { return 0 };
    let mut rows = 0;
    while let Ok(Some(info)) = reader.skim() {
        if info.kind == kind {
            rows += u64::from(info.rows);
        }
    }
    rows
}

#[test]
fn a_worker_killed_while_it_records_leaves_its_spool() {
    let bench = Bench::new();
    let controller = bench.patient();
    let dir = controller.socket_dir().unwrap();
    let _lives = start("worker 0", &bench.root(), Some(&dir));
    let mut dies = start("worker 1", &bench.root(), Some(&dir));
    assert!(controller.wait_for_workers(2, DEADLINE));
    let answer = controller.start(&StartRequest::default()).unwrap();
    let spool = bench.root().join(&answer.session).join("stage0-thinker");
    let spools = || {
        let entries = std::fs::read_dir(&spool).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    wait_for("rows on the disk", || {
        spools()
            .iter()
            .all(|path| rows_of(path, Span::KIND) > 100 && rows_of(path, Window::KIND) > 0)
    });
    dies.kill();
    let manifest = controller.stop_profile().unwrap();
    assert!(!manifest.is_good());
    let [lived, died] = manifest.workers.as_slice() else { panic!("two lines") };
    assert_eq!(lived.state, LineState::Pending, "{lived:?}");
    assert_eq!((died.rank, died.state), (Some(1), LineState::Failed));
    assert_eq!(died.error.as_ref().unwrap().code, "worker_died");
    assert!(died.records.values().sum::<u64>() > 100, "{:?}", died.records);
    assert_eq!(died.windows.len(), 1, "its window is known from the spool");
    assert!(lived.own_cpu_ns.is_some_and(|ns| ns > 0) && lived.own_memory_bytes.is_some());
    assert_eq!((died.own_cpu_ns, died.own_memory_bytes), (None, None), "nobody knows");
    // It is not whole, and it is offered.
    assert_eq!(died.files[0].state, FileState::Failed);
    controller.open_file(&manifest.session, &died.files[0].path).unwrap();
    assert!(died.files[1].command.is_some(), "what is there can be exported");
}

#[test]
fn the_next_controller_adopts_what_a_killed_one_left() {
    let bench = Bench::new();
    let root = bench.root();
    std::fs::create_dir(&root).unwrap();
    let mut first = start("controller", &root, None);
    wait_for("the socket", || root.join("socket-dir").exists());
    let dir = PathBuf::from(std::fs::read_to_string(root.join("socket-dir")).unwrap());
    let _workers = [start("worker 0", &root, Some(&dir)), start("worker 1", &root, Some(&dir))];
    wait_for("the start", || root.join("started").exists());
    let session = std::fs::read_to_string(root.join("started")).unwrap();

    // One live controller a root.
    let error = bench.builder().build().unwrap_err();
    assert!(matches!(error, BuildError::Root { .. }), "{error:?}");
    assert!(profiler_core::error::chain(&error).contains("--server"));

    first.kill();
    let second = bench.patient();
    let running = second.status().session.expect("the session is taken over");
    assert_eq!(running.session, session);
    assert!(second.wait_for_workers(2, DEADLINE), "the workers come back by themselves");
    wait_for("word of the workers", || {
        rows_so_far(&second).len() == 2 && rows_so_far(&second).iter().all(|rows| *rows > 0)
    });
    let manifest = second.stop_profile().unwrap();
    assert_eq!(manifest.session, session);
    assert!(manifest.is_good(), "{manifest:#?}");
    for line in &manifest.workers {
        assert_eq!(line.files[0].state, FileState::Complete);
        assert_eq!(line.stopped_by.as_deref(), Some("request"));
    }
    // And the next one starts as ever.
    second.start(&StartRequest::default()).unwrap();
    assert!(second.stop(&StopRequest::default()).unwrap().is_good());
}

#[test]
fn what_everybody_left_is_recovered_from_the_spools() {
    let bench = Bench::new();
    let root = bench.root();
    std::fs::create_dir(&root).unwrap();
    let mut first = start("controller", &root, None);
    wait_for("the socket", || root.join("socket-dir").exists());
    let dir = PathBuf::from(std::fs::read_to_string(root.join("socket-dir")).unwrap());
    let mut workers = [start("worker 0", &root, Some(&dir)), start("worker 1", &root, Some(&dir))];
    wait_for("the start", || root.join("started").exists());
    let session = std::fs::read_to_string(root.join("started")).unwrap();
    let spools = root.join(&session).join("stage0-thinker");
    wait_for("rows on the disk", || {
        let entries = std::fs::read_dir(&spools).unwrap();
        entries.map(|entry| rows_of(&entry.unwrap().path(), Span::KIND)).all(|rows| rows > 10)
    });
    first.kill();
    for worker in &mut workers {
        worker.kill();
    }
    // One of the two is damaged as well.
    let damaged = std::fs::read_dir(&spools).unwrap().map(|entry| entry.unwrap().path()).min();
    std::fs::write(damaged.unwrap(), vec![0x5a; 100_000]).unwrap();
    let manifests = recover(&root, None, DEADLINE).unwrap();
    let [manifest] = manifests.as_slice() else { panic!("one session") };
    assert_eq!((&manifest.session, manifest.state), (&session, SessionState::Complete));
    let [damaged, left] = manifest.workers.as_slice() else { panic!("two lines") };
    assert_eq!((damaged.state, left.state), (LineState::Failed, LineState::Failed));
    assert!(damaged.error.as_ref().unwrap().message.contains("cannot be read"), "{damaged:#?}");
    assert!(left.records["span"] > 10);
    assert!(left.clock_error_ns > 0, "known from the spool");
    assert!(recover(&root, None, DEADLINE).unwrap().is_empty(), "it is finished");
}

#[test]
fn exports_die_with_their_controller() {
    let bench = Bench::new();
    let root = bench.root();
    std::fs::create_dir(&root).unwrap();
    let pids = bench.dir.path().join("pids");
    std::fs::create_dir(&pids).unwrap();
    let body = format!("touch {}/$$; exec sleep 1000", pids.display());
    let exporter = bench.exporter(&body);
    let mut first = Process::start(
        itself("part").env(PART, "controller").env(ROOT, &root).env(EXPORTER, &exporter),
    );
    wait_for("the socket", || root.join("socket-dir").exists());
    let dir = PathBuf::from(std::fs::read_to_string(root.join("socket-dir")).unwrap());
    let _workers = [start("worker 0", &root, Some(&dir)), start("worker 1", &root, Some(&dir))];
    let children = || -> Vec<String> {
        let entries = std::fs::read_dir(&pids).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    wait_for("two exports", || children().len() == 2);
    first.kill();
    for child in children() {
        let stat = PathBuf::from(format!("/proc/{child}/stat"));
        wait_for("the export's end", || {
            // A dead child that nobody has waited for yet is a zombie.
            std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

#[test]
fn a_root_that_cannot_be_used_says_why() {
    let bench = Bench::new();
    let chain = |root: &Path| {
        let error = Controller::builder().root(root).without_exporter().build().unwrap_err();
        profiler_core::error::chain(&error)
    };
    let file = bench.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(chain(&file).contains("exist") || chain(&file).contains("not a directory"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let below = file.join("below");
    assert!(chain(&below).contains("not a directory"), "{}", chain(&below));

    let open = bench.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&open, mode).unwrap();
    assert!(chain(&open).contains("everybody may write"), "{}", chain(&open));
}

#[test]
fn a_symlink_planted_in_the_root_leads_nowhere() {
    let bench = Bench::new();
    let controller = bench.controller();
    let outside = bench.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("manifest.json"), "{}").unwrap();
    let id = "20261124T110807123Z-aaaaaaah";
    std::os::unix::fs::symlink(&outside, bench.root().join(id)).unwrap();
    assert!(controller.sessions().unwrap().is_empty());
    assert!(controller.manifest(id).is_err());
    assert!(controller.open_file(id, "manifest.json").is_err());
    drop(controller);
    let _adopts_nothing = bench.controller();
    assert!(outside.join("manifest.json").exists());
}
