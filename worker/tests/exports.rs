//! How much of the machine exports take: each process stands back, and few read whole spools at a
//! time.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use profiler_worker::Controller;
use profiler_worker::manifest::{FileState, Manifest};
use profiler_worker::start_request::StartRequest;

use support::{Behaviour, Bench, FakeWorker, join, wait_for};

/// How far an export stands back, and how far any process can.
const NICENESS: i64 = 10;
const MOST_NICE: i64 = 19;

/// Whole spools that are read at a time.
fn turns() -> usize {
    (std::thread::available_parallelism().unwrap().get() / 4).max(1)
}

fn workers(count: usize) -> Vec<Behaviour> {
    (0..count).map(|rank| Behaviour::new(0, "thinker", 0, u32::try_from(rank).unwrap())).collect()
}

fn started(bench: &Bench, exporter: &Path, follow: bool, count: usize) -> Capture {
    let builder = bench.builder().exporter(exporter).options(|options| options.follow = follow);
    let controller = builder.build().unwrap();
    let workers = join(&controller, workers(count));
    controller.start(&StartRequest::default()).unwrap();
    Capture { controller, _workers: workers }
}

struct Capture {
    controller: Controller,
    _workers: Vec<FakeWorker>,
}

impl Capture {
    fn stop(self) -> Manifest {
        let manifest = self.controller.stop_profile().unwrap();
        assert!(manifest.is_good(), "{manifest:#?}");
        for file in manifest.workers.iter().flat_map(|line| &line.files) {
            assert_eq!(file.state, FileState::Complete, "{manifest:#?}");
        }
        manifest
    }
}

/// A folder in which processes say that they run.
fn folder(bench: &Bench, name: &str) -> PathBuf {
    let folder = bench.dir.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The nice value in a `stat` file of `/proc`; the name before it may hold spaces.
fn niceness(stat: &str) -> i64 {
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // The first field behind the name is the third of all.
    fields.split(' ').nth(19 - 3).unwrap().parse().unwrap()
}

/// Those of all threads of a process.
fn of_threads(pid: &str) -> Vec<i64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| {
            niceness(&std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap())
        })
        .collect()
}

#[test]
fn exporters_run_at_nice_10() {
    let own = niceness(&std::fs::read_to_string("/proc/self/stat").unwrap());
    let expected = (own + NICENESS).min(MOST_NICE);
    for (follow, kind) in [(true, "follows"), (false, "whole")] {
        let bench = Bench::new();
        let seen = folder(&bench, "seen");
        // The process says what it has become by then, and goes on as the exporter itself.
        let exporter = bench.dir.path().join("omniprof");
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' --follow '*) kind=follows;; *) kind=whole;; esac\n\
             cat /proc/$$/stat > {seen}.$$; mv {seen}.$$ {seen}/$kind.$$\nexec {} \"$@\"\n",
            env!("CARGO_BIN_EXE_omniprof"),
            seen = seen.display(),
        );
        std::fs::write(&exporter, script).unwrap();
        std::fs::set_permissions(&exporter, Permissions::from_mode(0o755)).unwrap();

        let capture = started(&bench, &exporter, follow, 1);
        if follow {
            wait_for("a follower", || names(&seen).len() == 1);
            let name = names(&seen).remove(0);
            let pid = name.strip_prefix("follows.").unwrap();
            wait_for("the exporter itself", || {
                let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
                line.starts_with(env!("CARGO_BIN_EXE_omniprof"))
            });
            assert!(of_threads(pid).iter().all(|nice| *nice == expected), "{:?}", of_threads(pid));
        }
        capture.stop();
        let name = names(&seen).remove(0);
        assert!(name.starts_with(kind), "{name}");
        let stat = std::fs::read_to_string(seen.join(name)).unwrap();
        assert_eq!(niceness(&stat), expected, "{stat}");
    }
}

#[test]
fn of_whole_spools_one_for_each_four_processors_is_read_at_a_time() {
    let bench = Bench::new();
    let (live, counts) = (folder(&bench, "live"), bench.dir.path().join("counts"));
    // One that finds too many tells at once; where there never are, each looks for a second.
    let exporter = bench.exporter(&format!(
        "count() {{ ls {live} | wc -l; }}\ntouch {live}/$$\ntries=0\n\
         while [ $(count) -le {turns} ] && [ $tries -lt 20 ]; do sleep 0.05; tries=$((tries+1)); \
         done\ncount >> {counts}\nrm {live}/$$\nprintf trace > \"$output\"",
        live = live.display(),
        turns = turns(),
        counts = counts.display(),
    ));
    let count = turns() + 2;
    started(&bench, &exporter, false, count).stop();
    let counts = std::fs::read_to_string(counts).unwrap();
    let counts: Vec<usize> = counts.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(counts.len(), count);
    assert!(counts.iter().all(|running| *running <= turns()), "{counts:?}");
}

#[test]
fn followers_take_no_turn() {
    let bench = Bench::new();
    let (live, go) = (folder(&bench, "live"), bench.dir.path().join("go"));
    let exporter = bench.exporter(&format!(
        "touch {live}/$$\nwhile [ ! -e {go} ]; do sleep 0.05; done\nprintf trace > \"$output\"",
        live = live.display(),
        go = go.display(),
    ));
    let count = turns() + 2;
    let capture = started(&bench, &exporter, true, count);
    wait_for("a follower for each worker", || names(&live).len() == count);
    std::fs::write(go, "").unwrap();
    capture.stop();
}
