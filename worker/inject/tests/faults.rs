//! Programs that end, are killed, close what they find or lock themselves in: each runs on, or ends,
//! as if alone, and what was recorded can be read.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{
    Launcher, Spoken, arm, eventually, injected_file, rows, skipped, spool_file, threads,
};
use profiler_core::control::AgentRequest;
use profiler_core::record::Window;
use profiler_core::spool::SpoolReader;

#[test]
fn a_program_that_exits_while_it_is_recorded_finishes_its_spool() {
    for ending in ["pass", "import sys; sys.exit(3)", "raise ValueError('a program fails')"] {
        let launcher = Launcher::new();
        let program = format!("print('ready', flush=True)\ninput()\n{ending}\n");
        let mut command = launcher.python(&program);
        command.env("LD_PRELOAD", injected_file()).stderr(std::process::Stdio::null());
        let mut child = Spoken::start(&mut command);
        let (mut worker, _hello) = launcher.worker();
        assert_eq!(child.hear(), "ready");
        let spool = spool_file();
        worker.start(arm(1), &spool.file).unwrap();
        child.say("end");
        let result = worker.finished().unwrap();
        assert_eq!(result.stopped_by, "process_exit");
        assert!(result.spool_closed, "{result:?}");
        let code = if ending == "pass" { 0 } else { 1 };
        let code = if ending.contains("exit") { 3 } else { code };
        assert_eq!(child.ended(), Some(code));
        let mut reader = SpoolReader::open(&spool.path).unwrap();
        while reader.next_block().unwrap().is_some() {}
        assert!(reader.is_closed());
    }
}

#[test]
fn a_killed_program_leaves_what_was_written() {
    let launcher = Launcher::new();
    let mut command = launcher.python("print('ready', flush=True); input()");
    command.env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    let (mut worker, _hello) = launcher.worker();
    assert_eq!(child.hear(), "ready");
    let spool = spool_file();
    worker.start(arm(1), &spool.file).unwrap();
    assert!(eventually(|| rows::<Window>(&spool.path).len() >= 2));
    child.child.kill().unwrap();
    assert!(worker.finished().is_err(), "the link ends with it");
    let reader = SpoolReader::open(&spool.path).unwrap();
    assert!(!reader.is_closed() && !reader.writer_alive().unwrap());
    assert_eq!(child.ended(), None);
}

/// Closes every descriptor but the usual three, then puts files of its own at all of their numbers.
const CLOSES_ALL: &str = "\
import os, sys
print('ready', flush=True)
input()
ours = sorted(int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) > 2)
path = os.environ['OMNIPROF_TEST_FILE']
os.closerange(3, 65536)
own = os.open(path, os.O_RDWR | os.O_CREAT)
os.write(own, b'precious')
for fd in ours:
    if fd != own:
        os.dup2(own, fd)
print('closed', len(ours), flush=True)
input()
text = open(path, 'rb').read()
print('kept' if text == b'precious' else repr(text), flush=True)
alive = sum(1 for fd in ours if os.path.lexists('/proc/self/fd/%d' % fd))
print(alive, flush=True)
input()
";

#[test]
fn a_program_that_closes_all_descriptors_keeps_its_own() {
    for is_recording in [false, true] {
        let launcher = Launcher::new();
        let folder = tempfile::tempdir().unwrap();
        let mut command = launcher.python(CLOSES_ALL);
        command
            .env("LD_PRELOAD", injected_file())
            .env("OMNIPROF_TEST_FILE", folder.path().join("precious"));
        let mut child = Spoken::start(&mut command);
        let (mut worker, hello) = launcher.worker();
        assert_eq!(child.hear(), "ready");
        let spool = spool_file();
        if is_recording {
            worker.start(arm(1), &spool.file).unwrap();
        }
        child.say("close");
        let closed = child.hear();
        assert!(closed.starts_with("closed "), "{closed}");
        // What is asked wakes the agent, which finds its descriptor gone.
        assert!(worker.ask(AgentRequest::Status, None).is_err());
        // It comes again over a new one, as the same worker.
        let (mut again, second) = launcher.worker();
        assert_eq!(second.worker.key, hello.worker.key);
        if is_recording {
            let result = again.finished().unwrap();
            let error = result.error.expect("the spool was closed by the program");
            assert!(error.message.contains("closed it"), "{error}");
        }
        child.say("look");
        assert_eq!(child.hear(), "kept", "nothing was written into the program's file");
        assert_eq!(format!("closed {}", child.hear()), closed, "and no number of its was closed");
        child.say("end");
        assert_eq!(child.ended(), Some(0));
    }
}

/// Installs a filter that kills the process at one system call, for all its threads. The arguments
/// are the call's numbers on x86-64 and aarch64.
const FORBIDS: &str = "\
import ctypes, os, struct, sys
print('ready', flush=True)
input()
libc = ctypes.CDLL(None, use_errno=True)
# if nr is the one: kill the process; else allow
nr = int(sys.argv[1 if os.uname().machine == 'x86_64' else 2])
seccomp = {'x86_64': 317, 'aarch64': 277}[os.uname().machine]
code = struct.pack('HBBI', 0x20, 0, 0, 0)
code += struct.pack('HBBI', 0x15, 0, 1, nr)
code += struct.pack('HBBI', 0x06, 0, 0, 0x80000000)
code += struct.pack('HBBI', 0x06, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(code)
class Program(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
program = Program(4, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(seccomp, 1, 1, ctypes.byref(program)) == 0, ctypes.get_errno()
print('locked in', flush=True)
input()
print('lives', flush=True)
input()
";
const SOCKET: [&str; 2] = ["41", "198"];
const OPENAT: [&str; 2] = ["257", "56"];

#[test]
fn a_program_that_forbids_sockets_is_not_killed_for_ours() {
    let launcher = Launcher::new();
    let mut command = launcher.python(FORBIDS);
    command.args(SOCKET).env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    let (worker, _hello) = launcher.worker();
    assert_eq!(child.hear(), "ready");
    child.say("lock");
    assert_eq!(child.hear(), "locked in");
    // The launcher goes: without the filter the agent would look for the next one each second.
    worker.link.close();
    drop(worker);
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert!(launcher.connection(Duration::from_millis(100)).is_none());
        assert!(child.child.try_wait().unwrap().is_none(), "it lives");
    }
    child.say("live");
    assert_eq!(child.hear(), "lives");
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_start_after_a_filter_of_the_programs_own_is_refused() {
    for call in [SOCKET, OPENAT] {
        let launcher = Launcher::new();
        let mut command = launcher.python(FORBIDS);
        command.args(call).env("LD_PRELOAD", injected_file());
        let mut child = Spoken::start(&mut command);
        let (mut worker, _hello) = launcher.worker();
        assert_eq!(child.hear(), "ready");
        // One before it is none of the program's business.
        let before = spool_file();
        worker.start(arm(1), &before.file).unwrap();
        assert!(worker.stop(1).spool_closed);
        child.say("lock");
        assert_eq!(child.hear(), "locked in");
        let spool = spool_file();
        let refused = worker.start(arm(2), &spool.file).unwrap_err();
        assert_eq!(refused.code, "sandboxed", "{refused}");
        assert!(refused.to_string().contains("--join outside"), "{refused}");
        assert_eq!(spool.file.metadata().unwrap().len(), 0, "nothing was written");
        child.say("live");
        assert_eq!(child.hear(), "lives");
        child.say("end");
        assert_eq!(child.ended(), Some(0));
    }
}

/// A copy of `cat` that runs as another user than who starts it; `None` where none can be made.
fn set_user_id(folder: &Path) -> Option<PathBuf> {
    const NOBODY: u32 = 65_534;
    let program = folder.join("cat");
    // Written by another process: a descriptor of this one may be open in a child that another test
    // has just forked, and a file that somebody may write cannot be run.
    let copied = std::process::Command::new("cp").arg("/bin/cat").arg(&program).status().unwrap();
    assert!(copied.success(), "the copy is made");
    // In this order: a change of the owner takes the mode away.
    std::os::unix::fs::chown(&program, Some(NOBODY), None).ok()?;
    std::fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    Some(program)
}

/// Whether the loader takes a process for one that has more rights than its user.
fn is_secure(pid: u32) -> bool {
    const AT_SECURE: u64 = 23;
    let vector = std::fs::read(format!("/proc/{pid}/auxv")).unwrap();
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
    vector.chunks_exact(16).any(|pair| number(&pair[..8]) == AT_SECURE && number(&pair[8..]) != 0)
}

#[test]
fn a_program_with_more_rights_than_its_user_runs_on_without_us() {
    let launcher = Launcher::new();
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = set_user_id(folder.path()) else {
        return skipped("who is not root can make no program that runs as another user");
    };
    let mut command = launcher.command(&program);
    command.env("LD_PRELOAD", injected_file()).env("OMNIPROF_JOIN_PROGRAMS", "*");
    command.env("CUDA_INJECTION64_PATH", injected_file());
    let mut child = Spoken::start(&mut command);
    child.say("a line");
    assert_eq!(child.hear(), "a line");
    if !is_secure(child.child.id()) {
        child.child.kill().unwrap();
        return skipped("set-user-id programs run here as any other");
    }
    assert_eq!(threads(child.child.id()).len(), 1);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.child.id())).unwrap();
    assert!(!maps.contains("omniprof_inject"), "{maps}");
    assert!(launcher.nobody_waits());
    assert_eq!(child.ended(), Some(0));

    // The same program without those rights joins.
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut child = Spoken::start(&mut command);
    let (_worker, hello) = launcher.worker();
    assert_eq!(hello.worker.pid, child.child.id());
    child.say("a line");
    assert_eq!(child.hear(), "a line");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn the_next_launcher_takes_over_a_worker() {
    let launcher = Launcher::new();
    let mut command = launcher.python("print('ready', flush=True); input()");
    command.env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    let (mut worker, hello) = launcher.worker();
    let spool = spool_file();
    worker.start(arm(1), &spool.file).unwrap();
    drop(worker);
    let (mut again, second) = launcher.worker();
    assert_eq!(second.worker.key, hello.worker.key);
    assert_eq!(second.session.as_ref().map(|session| session.fence), Some(1), "it records on");
    assert!(again.stop(1).spool_closed);
    // The thread that told the result is about to end.
    let pid = child.child.id();
    assert!(eventually(|| threads(pid).len() == 2), "{:?}", threads(pid));
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_server_whose_children_come_and_go_keeps_its_agent() {
    let launcher = Launcher::new();
    let program = "\
import os, subprocess, sys
print('ready', flush=True)
input()
for _ in range(20):
    subprocess.run(['/bin/true'], check=True)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print('done', flush=True)
input()
";
    let mut command = launcher.python(program);
    command.env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    let (mut worker, _hello) = launcher.worker();
    assert_eq!(child.hear(), "ready");
    let spool = spool_file();
    worker.start(arm(1), &spool.file).unwrap();
    child.say("go");
    assert_eq!(child.hear(), "done");
    assert!(launcher.nobody_waits(), "none of them joined");
    assert!(worker.stop(1).spool_closed);
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}
