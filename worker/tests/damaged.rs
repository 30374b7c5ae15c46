//! The command over spools that are damaged, cut short, foreign or not begun.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;
mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use cli_support::{Place, Ran, until};
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::spool::{SpoolHeader, SpoolWriter};
use profiler_worker::start_request::StartRequest;
use serde_json::Value;
use support::{Behaviour, Bench, join};

/// Rows of a whole spool: enough for several segments.
const ROWS: usize = 20_000;

/// What may be asked for, in turn.
const FORMATS: [&str; 7] =
    ["pftrace-gz", "kineto", "parquet", "table", "csv", "speedscope", "folded"];

/// A finished session of two workers; gives back its spools.
fn record(bench: &Bench, request: &StartRequest) -> Vec<PathBuf> {
    let controller = bench.controller();
    let mut behaviours =
        vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::new(0, "thinker", 0, 1)];
    for behaviour in &mut behaviours {
        behaviour.rows = ROWS;
    }
    let _workers = join(&controller, behaviours);
    controller.start(request).unwrap();
    let manifest = controller.stop_profile().unwrap();
    let directory = Path::new(&manifest.directory);
    manifest.workers.iter().map(|line| directory.join(&line.files[0].path)).collect()
}

/// What becomes of a spool on a bad disk, and what is given out as one.
fn damaged(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("empty".to_owned(), Vec::new()),
        ("text".to_owned(), b"not a spool\n".repeat(1000)),
        ("zip".to_owned(), [&b"PK\x03\x04"[..], &whole[4..]].concat()),
        ("ones".to_owned(), vec![0xff; 1 << 16]),
        ("twice".to_owned(), [whole, whole].concat()),
        ("tail".to_owned(), whole[whole.len() / 2..].to_vec()),
    ];
    for length in [1, 8, 64, whole.len() / 4, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        all.push((format!("cut-{length}"), whole[..length].to_vec()));
    }
    for part in 0_usize..8 {
        let at = whole.len() * part / 8 + part;
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1 << (part % 8);
        all.push((format!("flipped-{at}"), flipped));
        let mut blank = whole.to_vec();
        let end = (at + 512).min(whole.len());
        blank[at..end].fill(0);
        all.push((format!("blank-{at}"), blank));
    }
    all
}

/// Runs it to its end, which is neither a panic nor out of sight.
#[track_caller]
fn run(place: &Place, words: &[&str]) -> Ran {
    let (out, err) = (place.join("said.out"), place.join("said.err"));
    let mut command = place.command(words);
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let status = ended(&mut command);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let ran = Ran { code: status.code(), out: read(&out), err: read(&err) };
    assert!(!ran.err.contains("panicked"), "{words:?}: {ran}");
    assert!(ran.code.is_some_and(|code| code < 100), "{words:?}: {ran}");
    ran
}

#[track_caller]
fn ended(command: &mut Command) -> std::process::ExitStatus {
    let mut child = command.spawn().unwrap();
    let begun = std::time::Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > cli_support::DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn markers(report: &Value) -> u64 {
    report["rows"]["marker"].as_u64().unwrap_or(0)
}

#[test]
fn what_a_damaged_spool_still_holds_is_told_or_the_spool_is_named() {
    let bench = Bench::new();
    let spools = record(&bench, &StartRequest::default());
    let place = Place::new();
    let whole = std::fs::read(&spools[0]).unwrap();
    let other = spools[1].to_str().unwrap();
    for (number, (name, bytes)) in damaged(&whole).into_iter().enumerate() {
        let file = format!("{name}.spool");
        std::fs::write(place.join(&file), bytes).unwrap();
        let format = FORMATS[number % FORMATS.len()];
        let ran =
            run(&place, &["export", &file, "--output", "trace", "--format", format, "--json"]);
        if ran.code == Some(0) {
            let report = ran.json(0);
            let what_is_missing = report["drops"].as_object().unwrap().len()
                + report["lost"].as_object().unwrap().len()
                + report["notes"].as_array().unwrap().len();
            assert!(
                markers(&report) == ROWS as u64 || what_is_missing > 0,
                "{name}: rows are missing and nothing says so: {report:#}"
            );
            let trace = place.join("trace");
            let _gone = std::fs::remove_file(&trace).or_else(|_| std::fs::remove_dir_all(&trace));
        } else {
            ran.failed(1, &file);
        }
        assert!(!place.join("trace").exists(), "{name}: a trace of nothing");
        let ran = run(&place, &["summary", &file]);
        assert!(ran.code == Some(0) || ran.err.contains(&file), "{name}: {ran}");
        let merge = ["merge", &file, other, "--output", "all", "--format", "pftrace", "--json"];
        let ran = run(&place, &merge);
        if ran.code == Some(0) {
            assert!(markers(&ran.json(0)) >= ROWS as u64, "{name}: the other spool is whole");
            std::fs::remove_file(place.join("all")).unwrap();
        } else {
            ran.failed(1, &file);
        }
    }
}

#[test]
fn recovering_tells_of_each_spool_what_it_holds() {
    let bench = Bench::new();
    let spools = record(&bench, &StartRequest::default());
    let place = Place::new();
    let session = spools[0].parent().unwrap().parent().unwrap();
    let whole = std::fs::read(&spools[0]).unwrap();
    let root = bench.root();
    for (name, bytes) in damaged(&whole).into_iter().step_by(4) {
        // A session that its controller did not finish.
        for entry in std::fs::read_dir(session).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("manifest.json") {
                std::fs::remove_file(path).unwrap();
            }
        }
        for entry in std::fs::read_dir(spools[0].parent().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "spool") {
                std::fs::remove_file(path).unwrap();
            }
        }
        std::fs::write(&spools[0], bytes).unwrap();
        let ran = run(&place, &["recover", "--dir", root.to_str().unwrap(), "--json"]);
        assert!(matches!(ran.code, Some(0 | 4)), "{name}: {ran}");
        let manifests: Value = serde_json::from_str(&ran.out).unwrap();
        let workers = manifests[0]["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2, "{name}: {manifests:#}");
        let line = &workers[0];
        let says = !line["error"].is_null()
            || line["notes"].as_array().is_some_and(|notes| !notes.is_empty())
            || !line["drops"].as_object().unwrap().is_empty();
        assert!(
            says || line["records"]["marker"] == ROWS,
            "{name}: rows are missing and nothing says so: {line:#}"
        );
        assert_eq!(workers[1]["state"], "complete", "{name}: the other spool is whole");
        assert_eq!(workers[1]["records"]["marker"], ROWS, "{name}");
    }
}

#[test]
fn what_an_earlier_controller_exported_is_summed_up() {
    let bench = Bench::new();
    let request = StartRequest { merge_profiles: Some(true), ..StartRequest::default() };
    let spools = record(&bench, &request);
    let place = Place::new();
    let session = spools[0].parent().unwrap().parent().unwrap();
    let root = bench.root();
    let recover = || {
        std::fs::remove_file(session.join("manifest.json")).unwrap();
        let manifests = run(&place, &["recover", "--dir", root.to_str().unwrap(), "--json"]);
        manifests.json(0)[0].clone()
    };
    let first = recover();
    assert!(first["files"][0]["crc32"].is_string(), "{first:#}");
    let again = recover();
    assert_eq!(first["files"], again["files"]);
    for (one, other) in [0, 1].map(|rank| (&first["workers"][rank], &again["workers"][rank])) {
        assert_eq!(one["files"], other["files"]);
    }
}

#[test]
fn an_export_that_waits_for_a_window_can_be_called_off() {
    let place = Place::new();
    let clock = Arc::new(SystemClock::new());
    let path = place.join("waits.spool");
    let header = SpoolHeader {
        session: "waits".to_owned(),
        prefix: None,
        worker: support::identity(0, "thinker", 0, 0),
        writer: "a test".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let writer = SpoolWriter::create(file, &header, support::spool_options(), clock).unwrap();
    let mut command = place.command(&["export", "waits.spool", "--follow", "--output", "trace"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    until("SIGINT is taken over", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        (caught & (1 << (2 - 1)) != 0).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let begun = std::time::Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if begun.elapsed() > cli_support::DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the export waits on");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert_eq!(ended.code(), Some(130));
    assert!(!place.join("trace").exists());
    writer.finish(support::DEADLINE);
}
