//! Who joins, through which door, how often, and what that leaves in the process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{
    Launcher, PATIENCE, Spoken, arm, eventually, fake_cuda, fake_cupti, injected_file, spool_file,
    threads,
};
use profiler_core::control::FromAgent;
use profiler_core::probe::ProbeReport;

/// Opens the stand-in for the driver when it is told to.
const OPENS_DEVICE: &str = "\
import ctypes, os
print('ready', flush=True)
input()
assert ctypes.CDLL(os.environ['OMNIPROF_TEST_CUDA']).cuInit(0) == 0
print('opened', flush=True)
input()
";

#[test]
fn a_preloaded_python_joins_before_its_program_runs() {
    let launcher = Launcher::new();
    let mut command = launcher.python(OPENS_DEVICE);
    command
        .args(["--api-key", "sk-verysecretindeed123"])
        .env("LD_PRELOAD", injected_file())
        .env("OMNIPROF_STAGE", "2")
        .env("OMNIPROF_ROLE", "talker")
        .env("LOCAL_RANK", "3")
        .env("VLLM_API_KEY", "hidden")
        .env("RATHER_PRIVATE", "kept");
    let mut child = Spoken::start(&mut command);
    let (mut worker, hello) = launcher.worker();
    assert_eq!(hello.joined_by, "preload");
    assert_eq!(hello.worker.pid, child.child.id());
    assert_eq!((hello.worker.stage, hello.worker.role.as_deref()), (Some(2), Some("talker")));
    assert_eq!(hello.facts.environment["LOCAL_RANK"], "3");
    assert_eq!(hello.facts.environment["VLLM_API_KEY"], "***");
    assert!(!hello.facts.environment.contains_key("RATHER_PRIVATE"));
    assert_eq!(hello.facts.command_line.last().unwrap(), "***");
    assert!(hello.facts.executable.contains("python"), "{:?}", hello.facts);

    assert_eq!(child.hear(), "ready");
    let pid = child.child.id();
    assert!(eventually(|| threads(pid).len() == 2), "{:?}", threads(pid));
    assert!(threads(pid).contains(&"omniprof-link".to_owned()));
    assert_eq!(signals_left(pid), 0, "all signals that can be blocked are");

    // A second door leads nowhere.
    child.say("open");
    assert_eq!(child.hear(), "opened");
    assert_eq!(threads(pid).len(), 2);
    let spool = spool_file();
    worker.start(arm(1), &spool.file).unwrap();
    let result = worker.stop(1);
    assert!(result.spool_closed && result.error.is_none(), "{result:?}");
    assert!(launcher.nobody_waits());
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

/// Signals that the link's thread does not block, beside those that nobody can.
fn signals_left(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let link = tasks
        .flatten()
        .find(|task| {
            std::fs::read_to_string(task.path().join("comm")).unwrap().starts_with("omniprof-link")
        })
        .unwrap();
    let status = std::fs::read_to_string(link.path().join("status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap();
    // Signals 1 to 64; SIGKILL and SIGSTOP cannot be blocked, 32 and 33 are the C library's own.
    let special = [9, 19, 32, 33].map(|signal| 1_u64 << (signal - 1)).iter().sum::<u64>();
    !(blocked | special)
}

#[test]
fn a_shell_stays_alone_and_what_it_executes_joins() {
    let launcher = Launcher::new();
    let mut command = launcher.command(Path::new("/bin/sh"));
    command
        .args(["-c", "echo shell; read word; exec \"$@\"", "sh"])
        .arg(common::python())
        .args(["-c", "input()"])
        .env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    assert_eq!(child.hear(), "shell");
    let pid = child.child.id();
    assert_eq!(threads(pid).len(), 1, "the shell is alone");
    assert!(launcher.nobody_waits());
    child.say("on");
    let (_worker, hello) = launcher.worker();
    assert_eq!(hello.worker.pid, pid, "an exec is a new worker");
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_process_joins_as_it_first_uses_the_device() {
    let launcher = Launcher::new();
    let mut command = launcher.python(OPENS_DEVICE);
    command
        .env("CUDA_INJECTION64_PATH", injected_file())
        .env("LD_PRELOAD", injected_file())
        .env("OMNIPROF_JOIN", "device");
    let mut child = Spoken::start(&mut command);
    assert_eq!(child.hear(), "ready");
    assert_eq!(threads(child.child.id()).len(), 1, "nothing happens before");
    child.say("open");
    assert_eq!(child.hear(), "opened");
    let (_worker, hello) = launcher.worker();
    assert_eq!(hello.joined_by, "cuda_injection");
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn no_door_is_open_where_processes_are_looked_at_from_outside() {
    let launcher = Launcher::new();
    let mut command = launcher.python(OPENS_DEVICE);
    command
        .env("CUDA_INJECTION64_PATH", injected_file())
        .env("LD_PRELOAD", injected_file())
        .env("OMNIPROF_JOIN", "outside");
    let mut child = Spoken::start(&mut command);
    assert_eq!(child.hear(), "ready");
    child.say("open");
    assert_eq!(child.hear(), "opened");
    assert_eq!(threads(child.child.id()).len(), 1);
    assert!(launcher.nobody_waits());
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

/// Has a libcupti and a device, opens it, launches as it is told and counts what CUPTI was asked.
const LAUNCHES: &str = "\
import ctypes, os, sys
cupti = ctypes.CDLL(os.environ['OMNIPROF_TEST_CUPTI'], ctypes.RTLD_GLOBAL)
cupti.fake_all_calls.restype = ctypes.c_uint64
cupti.fake_launch.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
assert ctypes.CDLL(os.environ['OMNIPROF_TEST_CUDA']).cuInit(0) == 0
print('opened', flush=True)
for line in sys.stdin:
    if line == 'launch\\n':
        cupti.fake_launch(b'a_kernel', 1000, 7, 32)
        print('launched', flush=True)
    elif line == 'count\\n':
        print(cupti.fake_all_calls(), flush=True)
    else:
        break
";

/// A machine with a device, and the vendor's library.
fn with_device(launcher: &Launcher, folder: &Path) -> std::process::Command {
    let cupti = folder.join("libcupti.so.13");
    std::fs::copy(fake_cupti(), &cupti).unwrap();
    std::fs::create_dir(folder.join("dev")).unwrap();
    std::fs::write(folder.join("dev/nvidia0"), "").unwrap();
    let mut command = launcher.python(LAUNCHES);
    command
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env("CUDA_INJECTION64_PATH", injected_file())
        .env("OMNIPROF_CUDA_ROOT", folder)
        .env("OMNIPROF_TEST_CUPTI", &cupti);
    command
}

#[test]
fn joined_and_idle_nothing_is_asked_of_the_driver() {
    let launcher = Launcher::new();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Spoken::start(&mut with_device(&launcher, folder.path()));
    assert_eq!(child.hear(), "opened");
    let (_worker, hello) = launcher.worker();
    let cuda = hello.backends.iter().find(|backend| backend.id.to_string() == "cuda").unwrap();
    assert!(matches!(cuda.report, ProbeReport::Available { .. }), "{cuda:?}");
    child.say("count");
    assert_eq!(child.hear(), "0", "calls of CUPTI");
    assert_eq!(threads(child.child.id()).len(), 2, "the program's and one");
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_program_that_knows_nothing_of_it_is_captured() {
    let launcher = Launcher::new();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Spoken::start(&mut with_device(&launcher, folder.path()));
    assert_eq!(child.hear(), "opened");
    let (mut worker, _hello) = launcher.worker();
    for fence in 1..=3 {
        let spool = spool_file();
        let mut arm = arm(fence);
        arm.capture.device = true;
        arm.capture.device_required = true;
        let armed = worker.start(arm, &spool.file).unwrap();
        assert_eq!(armed.backend.map(|id| id.to_string()).as_deref(), Some("cuda"));
        child.say("launch");
        assert_eq!(child.hear(), "launched");
        let result = worker.stop(fence);
        assert!(result.error.is_none() && result.degraded.is_none(), "{result:?}");
        assert_eq!(result.rows.get("kernel"), Some(&1000), "{result:?}");
        assert!(result.lost.is_empty(), "{result:?}");
    }
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_forked_child_is_inert_until_it_opens_the_device_itself() {
    let launcher = Launcher::new();
    let program = "\
import ctypes, os
print('ready', flush=True)
input()
pid = os.fork()
if pid == 0:
    inherited = [os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd')
                 if os.path.lexists('/proc/self/fd/' + fd)]
    sockets = [name for name in inherited if name.startswith('socket:')]
    threads = len(os.listdir('/proc/self/task'))
    print('child', os.getpid(), len(sockets), threads, flush=True)
    input()
    assert ctypes.CDLL(os.environ['OMNIPROF_TEST_CUDA']).cuInit(0) == 0
    print('opened', flush=True)
    input()
    os._exit(0)
print('status', os.waitpid(pid, 0)[1], flush=True)
";
    let mut command = launcher.python(program);
    command.env("LD_PRELOAD", injected_file()).env("CUDA_INJECTION64_PATH", injected_file());
    let mut child = Spoken::start(&mut command);
    let (parent, hello) = launcher.worker();
    assert_eq!(child.hear(), "ready");
    child.say("fork");
    let line = child.hear();
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[2..], ["0", "1"], "neither the link nor a thread is inherited: {line}");
    assert!(launcher.nobody_waits());

    child.say("open");
    assert_eq!(child.hear(), "opened");
    let (mut forked, second) = launcher.worker();
    assert_eq!(second.joined_by, "cuda_injection");
    assert_eq!(second.worker.pid.to_string(), words[1]);
    assert_ne!(second.worker.key, hello.worker.key);
    let spool = spool_file();
    forked.start(arm(1), &spool.file).unwrap();
    assert!(forked.stop(1).spool_closed);
    child.say("end");
    assert_eq!(child.hear(), "status 0");
    assert!(forked.finished().is_err(), "the link ends with the child");
    assert!(!parent.link.is_closed());
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_second_launcher_is_told_that_the_process_has_an_agent() {
    let (first, second) = (Launcher::new(), Launcher::new());
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libomniprof_inject.so");
    std::fs::copy(injected_file(), &copy).unwrap();
    let program = "\
import ctypes, os
print('ready', flush=True)
input()
os.environ['OMNIPROF_SOCKET'] = os.environ['OMNIPROF_TEST_SECOND']
assert ctypes.CDLL(os.environ['OMNIPROF_TEST_COPY']).InitializeInjection() == 1
print('tried', flush=True)
input()
";
    let mut command = first.python(program);
    command
        .env("LD_PRELOAD", injected_file())
        .env("OMNIPROF_TEST_SECOND", second.folder.path())
        .env("OMNIPROF_TEST_COPY", &copy);
    let mut child = Spoken::start(&mut command);
    let (_worker, hello) = first.worker();
    assert_eq!(child.hear(), "ready");
    child.say("try");
    let link = second.connection(PATIENCE).expect("the second launcher is told");
    let (message, _) = link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
    let FromAgent::Declined { worker, error } = message else { panic!("{message:?}") };
    assert_eq!(worker.pid, hello.worker.pid);
    assert_eq!(error.code, "other_agent");
    assert_eq!(child.hear(), "tried");
    let pid = child.child.id();
    assert!(eventually(|| threads(pid).len() == 2), "one agent's thread: {:?}", threads(pid));
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn without_a_launcher_nothing_comes_in_by_preload() {
    let launcher = Launcher::new();
    let mut command = launcher.python("print('ready', flush=True); input()");
    command.env("LD_PRELOAD", injected_file()).env_remove("OMNIPROF_SOCKET");
    let mut child = Spoken::start(&mut command);
    assert_eq!(child.hear(), "ready");
    assert_eq!(threads(child.child.id()).len(), 1);
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_launcher_of_another_kind_of_directory_is_nobody() {
    // Anybody may write there: whoever listens may be anybody.
    let launcher = Launcher::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(launcher.folder.path(), open).unwrap();
    let mut command = launcher.python("print('ready', flush=True); input()");
    command.env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    assert_eq!(child.hear(), "ready");
    assert!(launcher.connection(Duration::from_millis(300)).is_none());
    let own = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(launcher.folder.path(), own).unwrap();
    let (_worker, hello) = launcher.worker();
    assert_eq!(hello.worker.pid, child.child.id());
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

#[test]
fn a_program_of_one_file_runs_on_without_us() {
    let launcher = Launcher::new();
    // The loader is not asked for it: it is linked statically wherever the C library is GNU's.
    let places = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].map(Path::new);
    let program = places.into_iter().find(|path| path.exists()).unwrap();
    let mut command = launcher.command(program);
    command.arg("-p").env("LD_PRELOAD", injected_file());
    command.env("CUDA_INJECTION64_PATH", injected_file()).env("FAKE", fake_cuda());
    let output = command.output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty());
    assert!(launcher.nobody_waits());
}
