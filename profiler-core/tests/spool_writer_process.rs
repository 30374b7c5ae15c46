//! The writer in a process of its own: killed, and on a full disk.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{LONG, create, header, info, options, read, wait_for};
use profiler_core::clock::SystemClock;
use profiler_core::record::{LossCause, Marker, Row as _};
use profiler_core::sink::{Batch, Emit};
use profiler_core::spool::{SpoolEnd, SpoolReader, SpoolWriteError, SpoolWriter};

/// What a child of this test program is told to do.
const CHILD: &str = "OMNIPROF_SPOOL_TEST_CHILD";

fn child(task: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "the_child_of_other_tests", "--nocapture"])
        .env(CHILD, format!("{task} {}", path.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs as the child process of the tests below; on its own it does nothing.
#[test]
fn the_child_of_other_tests() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (task, path) = task.split_once(' ').unwrap();
    let path = PathBuf::from(path);
    let writer = create(&path, options());
    let sink = writer.sink();
    let stream = sink.open_stream(info("child"));
    let mut number = 0;
    loop {
        let rows: Vec<_> = (number..number + 500)
            .map(|i| Marker {
                time: i + 1,
                payload: i,
                // Bytes that do not compress.
                thread: (i as u32).wrapping_mul(2_654_435_761).rotate_left(i as u32 % 32),
                ..Marker::default()
            })
            .collect();
        match sink.emit(&[Batch::new(stream, &rows)]) {
            Emit::Accepted => number += 500,
            Emit::Full => std::thread::yield_now(),
            _ => break,
        }
        if task == "write slowly" {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(task, "until_full");
    wait_for("the footer", || writer.progress().has_footer);
    let totals = writer.finish(LONG);
    assert!(matches!(totals.end, Some(SpoolEnd::DiskFull { .. })), "{:?}", totals.end);
    // The refused group is counted on top of what was accepted.
    assert_eq!(totals.rows[&Marker::KIND] + totals.lost.by_cause()[&LossCause::Disk], number + 500);
}

#[test]
fn a_killed_writer_leaves_every_whole_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut process = child("until_killed", &path).spawn().unwrap();
    wait_for("a few blocks", || path.metadata().is_ok_and(|m| m.len() > 200_000));
    let reader = SpoolReader::open(&path).unwrap();
    assert!(reader.writer_alive().unwrap());
    let locked = SpoolWriter::create(
        std::fs::File::options().read(true).write(true).open(&path).unwrap(),
        &header(),
        options(),
        Arc::new(SystemClock::new()),
    );
    assert!(matches!(locked, Err(SpoolWriteError::Locked)));
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!reader.writer_alive().unwrap());
    let (numbers, _, reader) = read(&path);
    assert!(numbers.len() > 8_192);
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(!reader.is_closed());
    assert_eq!(reader.skipped().damaged_bytes, 0);
}

#[test]
fn a_full_disk_still_takes_the_losses_and_the_footer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let program = child("until_full", &path);
    let variable = program
        .get_envs()
        .find_map(|(name, value)| (name == CHILD).then(|| value?.to_str()).flatten())
        .unwrap()
        .to_owned();
    // Files of this shell's child end at 2 MiB: writes past that fail as on a full disk. The last
    // blocks need room of their own below it, which a real disk has allocated ahead.
    let status = Command::new("sh")
        .arg("-c")
        .arg("ulimit -f 4096; exec \"$0\" --exact the_child_of_other_tests --nocapture")
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, variable)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the process lives on and its counts are right: {status}");
    let (numbers, losses, reader) = read(&path);
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(!numbers.is_empty());
    assert!(losses.iter().any(|loss| loss.cause == LossCause::Disk.number()));
    assert!(reader.is_closed());
    assert!(matches!(reader.footer().unwrap().end, SpoolEnd::DiskFull { .. }));
    assert!(reader.skipped().is_empty(), "{:?}", reader.skipped());
}
