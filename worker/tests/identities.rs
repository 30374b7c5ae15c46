//! Workers that look alike: one that execs itself, and some with equal host name and pid. Whatever
//! they share, no two of their files meet.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;
mod worker_process;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use profiler_core::record::{Row as _, Span};
use profiler_core::spool::SpoolReader;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::{LineState, Manifest, WorkerLine};
use profiler_worker::start_request::StartRequest;

use support::{Behaviour, Bench, DEADLINE, join, skipped, wait_for};
use worker_process::{Process, arguments, itself, work};

/// The rank of a worker process of this test binary.
const RANK: &str = "OMNIPROF_TEST_RANK";
/// The file whose coming tells a worker to exec itself.
const EXEC: &str = "OMNIPROF_TEST_EXEC";

fn start(command: &mut Command, rank: u32, socket_dir: &Path) -> Process {
    Process::start(command.env(RANK, rank.to_string()).env("OMNIPROF_SOCKET", socket_dir))
}

/// Not a test by itself: what the worker processes are.
#[test]
fn a_worker() {
    let Ok(rank) = std::env::var(RANK) else { return };
    let exec = std::env::var_os(EXEC).map(PathBuf::from);
    work(rank.parse().unwrap(), |_agent| {
        if exec.as_ref().is_some_and(|word| word.exists()) {
            let error = itself("a_worker").env_remove(EXEC).exec();
            panic!("the exec failed: {error}");
        }
    });
}

/// The spool of a line, as a path below the root.
fn spool(line: &WorkerLine) -> &str {
    &line.files.iter().find(|file| file.format == "spool").unwrap().path
}

fn spans(bench: &Bench, manifest: &Manifest, line: &WorkerLine) -> u64 {
    let path = bench.root().join(&manifest.session).join(spool(line));
    let Ok(mut reader) = SpoolReader::open(&path) else { return 0 };
    let mut rows = 0;
    while let Ok(Some(info)) = reader.skim() {
        if info.kind == Span::KIND {
            rows += u64::from(info.rows);
        }
    }
    rows
}

/// All files of a session, by their names.
fn files(bench: &Bench, session: &str) -> BTreeSet<String> {
    let folder = bench.root().join(session).join("stage0-thinker");
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_worker_that_execs_itself_while_it_records_is_two_workers() {
    let bench = Bench::new();
    let controller = bench.patient();
    let dir = controller.socket_dir().unwrap();
    let word = bench.dir.path().join("exec");
    let process = start(itself("a_worker").env(EXEC, &word), 0, &dir);
    // A session whose only worker has ended is over; this one goes on.
    let _stays = start(&mut itself("a_worker"), 1, &dir);
    assert!(controller.wait_for_workers(2, DEADLINE));
    let key = || {
        let workers = controller.status().workers;
        workers.into_iter().find(|worker| worker.rank == Some(0)).map(|worker| worker.key)
    };
    let first_key = key().unwrap();
    let answer = controller.start(&StartRequest::default()).unwrap();
    wait_for("rows before the exec", || {
        let session = controller.status().session;
        session.is_some_and(|session| session.workers.iter().all(|worker| worker.rows > 100))
    });

    std::fs::write(&word, "").unwrap();
    wait_for("the second join", || key().is_some_and(|key| key != first_key));
    wait_for("the second file", || files(&bench, &answer.session).len() == 3);
    wait_for("rows after the exec", || {
        let manifest = controller.manifest(&answer.session).unwrap();
        let mut lines = manifest.workers.iter();
        let second = lines.find(|line| line.rank == Some(0) && line.key != first_key);
        // The line stands there a moment before its file does.
        let second = second.filter(|line| line.files.iter().any(|file| file.format == "spool"));
        second.is_some_and(|line| spans(&bench, &manifest, line) > 10)
    });
    let stop = StopRequest { wait_ms: 30_000, ..StopRequest::default() };
    let manifest = controller.stop(&stop).unwrap();

    assert_eq!(manifest.workers.len(), 3, "{manifest:#?}");
    let line = |first: bool| {
        let mut lines = manifest.workers.iter().filter(|line| line.rank == Some(0));
        lines.find(|line| (line.key == first_key) == first).unwrap()
    };
    let (before, after) = (line(true), line(false));
    assert_eq!((before.pid, after.pid), (process.0.id(), process.0.id()), "an exec keeps the pid");
    assert_ne!(spool(before), spool(after));
    assert_eq!(files(&bench, &answer.session).len(), 3);
    assert_eq!(before.state, LineState::Failed);
    assert_eq!(before.error.as_ref().unwrap().code, "worker_died", "{before:#?}");
    assert!(spans(&bench, &manifest, before) > 0, "what it wrote is there");
    assert_eq!(after.error, None, "{after:#?}");
    assert!(after.late && after.records["span"] > 10, "{after:#?}");
}

/// Two processes of equal host name and pid, as in two containers: each is the first of a pid
/// namespace of its own.
#[test]
fn two_containers_with_equal_host_name_and_pid_share_no_file() {
    let probe = ["--user", "--map-root-user", "--pid", "--fork", "true"];
    let may = Command::new("unshare").args(probe).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        return skipped("this user may make no pid namespace: the in-process test stands alone");
    }
    let bench = Bench::new();
    let controller = bench.patient();
    let dir = controller.socket_dir().unwrap();
    let in_container = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
        command.arg(std::env::current_exe().unwrap()).args(arguments("a_worker"));
        start(&mut command, 0, &dir)
    };
    let _processes = [in_container(), in_container()];
    assert!(controller.wait_for_workers(2, DEADLINE));
    let answer = controller.start(&StartRequest::default()).unwrap();
    let folder = bench.root().join(&answer.session).join("stage0-thinker");
    wait_for("rows of both", || {
        let status = controller.status();
        status.session.is_some_and(|session| session.workers.iter().all(|w| w.rows > 100))
    });
    let stop = StopRequest { wait_ms: 30_000, ..StopRequest::default() };
    let manifest = controller.stop(&stop).unwrap();
    let [one, other] = manifest.workers.as_slice() else { panic!("two lines: {manifest:#?}") };
    assert_eq!((one.pid, &one.host), (1, &other.host), "{one:#?}");
    assert_eq!(other.pid, 1);
    assert_ne!(one.key, other.key);
    assert_ne!(spool(one), spool(other));
    for line in [one, other] {
        assert_eq!(line.error, None, "{line:#?}");
        assert!(spans(&bench, &manifest, line) > 100);
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 2);
}

/// The same in one process, and a pid that came back: a worker ends, and another has its pid.
#[test]
fn equal_host_names_and_pids_share_no_file() {
    let bench = Bench::new();
    let controller = bench.controller();
    let alike = || Behaviour::new(0, "thinker", 0, 0);
    let mut workers = join(&controller, vec![alike(), alike()]);
    let answer = controller.start(&StartRequest::default()).unwrap();
    workers.remove(0).die();
    wait_for("the end of the first", || controller.status().workers.len() == 1);
    workers.extend(join(&controller, vec![alike()]));
    // Its file comes first: a stop in between would leave the third out, and take the file away.
    wait_for("the third line", || {
        controller.manifest(&answer.session).is_ok_and(|manifest| manifest.workers.len() == 3)
    });
    assert_eq!(files(&bench, &answer.session).len(), 3);
    let manifest = controller.stop(&StopRequest::default()).unwrap();
    let pids: BTreeSet<(u32, &str)> =
        manifest.workers.iter().map(|line| (line.pid, line.host.as_str())).collect();
    assert_eq!(pids.len(), 1);
    let spools: BTreeSet<&str> = manifest.workers.iter().map(spool).collect();
    assert_eq!((manifest.workers.len(), spools.len()), (3, 3), "{manifest:#?}");
}
