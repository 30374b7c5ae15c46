//! Processes that fork, exit or are killed while they record: each case in a process of its own.
//!
//! The test program starts itself again; the variable says which part the new process plays.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(unsafe_code, reason = "a fork is what is tested")]

mod common;

use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};

use common::{FakeController, arm, builder, eventually, kinds, rows, spool_file, turn};
use profiler_agent::link::Connection;
use profiler_core::record::{Span, flag};
use profiler_core::spool::SpoolReader;

const PART: &str = "OMNIPROF_TEST_PART";
const LINK: &str = "OMNIPROF_TEST_LINK";
const WORDS: &str = "OMNIPROF_TEST_WORDS";

/// A process that plays a part. Files in the folder are what it is told.
struct Player {
    child: Child,
    words: tempfile::TempDir,
}

impl Player {
    fn say(&self, word: &str) {
        std::fs::write(self.words.path().join(word), "").unwrap();
    }

    fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

/// Starts this program with one end of a link, to play a part. One at a time: each is to inherit
/// no link but its own.
fn play(part: &str) -> (Player, FakeController) {
    let words = tempfile::tempdir().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let theirs: OwnedFd = theirs.into();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["the_part_that_is_played", "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env(LINK, theirs.as_raw_fd().to_string())
        .env(WORDS, words.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(theirs);
    let (controller, hello) = FakeController::welcome(Connection::new(ours));
    assert_eq!(hello.worker.pid, child.id());
    (Player { child, words }, controller)
}

fn inherited_link() -> Connection {
    let number: i32 = std::env::var(LINK).unwrap().parse().unwrap();
    // SAFETY: the parent left this descriptor open for this process, and nobody else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).unwrap();
    Connection::new(fd.into())
}

/// Does nothing where it is run as a test like others.
#[test]
fn the_part_that_is_played() {
    let Ok(part) = std::env::var(PART) else { return };
    let agent = builder().connect_over(inherited_link()).unwrap();
    let words = std::path::PathBuf::from(std::env::var_os(WORDS).unwrap());
    let go = |word: &str| assert!(eventually(|| words.join(word).exists()), "nobody says {word}");
    match part.as_str() {
        "exit" => {
            go("recording");
            let _open = profiler_agent::span("open at exit").enter();
            drop(profiler_agent::span("whole").enter());
            #[expect(clippy::exit, reason = "leaving without dropping anything is what is tested")]
            std::process::exit(7);
        }
        "fork" => {
            go("recording");
            fork_and_check();
            drop(profiler_agent::span("of the parent").enter());
            go("done");
            drop(agent);
        }
        "wait" => go("never"),
        other => panic!("no such part: {other}"),
    }
}

/// Forks; the child must be inert and must hold nothing of ours.
fn fork_and_check() {
    // SAFETY: the child calls only what is tested here, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let ok = std::panic::catch_unwind(child_is_inert).unwrap_or(false);
        // SAFETY: the process ends here, without the handlers of its parent.
        unsafe { libc::_exit(i32::from(!ok)) };
    }
    let mut status = 0;
    // SAFETY: the pid is that of our child, the pointer that of a local number.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!((waited, status), (pid, 0), "the child is inert");
}

fn child_is_inert() -> bool {
    for _ in 0..1000 {
        drop(profiler_agent::span("of the child").field("n", 1).enter());
        profiler_agent::step();
    }
    let refused = builder().local();
    let is_refused = matches!(refused, Err(profiler_agent::AgentError::Forked));
    // Neither the link nor the spool is open here.
    let open: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| target.starts_with("socket:") || target.contains(".spool"))
        .collect();
    // Dropping the agent must touch nothing of the parent's.
    drop(profiler_agent::Agent::current());
    assert!(open.is_empty(), "still open: {open:?}");
    is_refused
}

#[test]
fn a_normal_exit_finishes_the_spool() {
    let _turn = turn();
    let (player, mut controller) = play("exit");
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    player.say("recording");
    let (result, _) = controller.finished();
    assert_eq!(result.stopped_by, "process_exit");
    assert!(result.spool_closed);
    let (code, text) = player.ended();
    assert_eq!(code, Some(7), "{text}");
    let spans = rows::<Span>(&spool.path);
    assert_eq!(spans.len(), 2);
    assert_eq!(spans.iter().filter(|(_, row, _)| row.flags == flag::UNFINISHED).count(), 1);
    assert!(!kinds(&spool.path).is_empty());
}

#[test]
fn a_forked_child_is_inert() {
    let _turn = turn();
    let (player, mut controller) = play("fork");
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    player.say("recording");
    // Once the parent's span is there, the child has come and gone.
    if !eventually(|| !rows::<Span>(&spool.path).is_empty()) {
        panic!("no span: {:?}", player.ended());
    }
    controller.stop(1).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.rows["span"], result.steps), (1, 0));
    player.say("done");
    let (code, text) = player.ended();
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_killed_process_leaves_a_spool_that_can_be_read() {
    let _turn = turn();
    let (mut player, mut controller) = play("wait");
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    let t0 = controller.commit(1).unwrap();
    let has_begin = || {
        rows::<profiler_core::record::Window>(&spool.path)
            .iter()
            .any(|(_, row, _)| row.monotonic == t0.monotonic_ns)
    };
    assert!(eventually(has_begin), "what was written reaches the file within a moment");
    let reader = SpoolReader::open(&spool.path).unwrap();
    assert!(reader.writer_alive().unwrap());
    player.child.kill().unwrap();
    player.child.wait().unwrap();
    assert!(!reader.writer_alive().unwrap(), "the lock went with the process");
    assert!(!reader.is_closed());
    assert!(eventually(|| controller.next_event().is_err()), "the link ends with it");
    let _file = spool.file.as_fd();
}
