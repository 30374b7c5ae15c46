//! Each backend of the injected file records a program that knows nothing of it.
//!
//! `OMNIPROF_TEST_INJECT` names another build of the file. A backend that this build was made
//! without must be missing in it: `OMNIPROF_TEST_INJECT_BACKENDS` lists those that it was made with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Launcher, Spoken, arm, eventually, fake_cuda, fake_cupti, injected_file, python, skipped,
    spool_file,
};
use profiler_core::backend::BackendId;
use profiler_core::control::Hello;
use profiler_core::probe::ProbeReport;

/// The backends that the file was made with.
fn built_in() -> BTreeSet<String> {
    let listed = std::env::var("OMNIPROF_TEST_INJECT_BACKENDS");
    let listed = listed.unwrap_or_else(|_| "cpu,cuda,npu".to_owned());
    listed.split(',').map(str::to_owned).collect()
}

/// Whether this build of the file has the backend; what the test is about is then recorded.
fn is_built_in(id: &str) -> bool {
    let there = built_in().contains(id);
    if !there {
        skipped(&format!("the injected file was built without `{id}`"));
    }
    there
}

fn assert_backends(hello: &Hello) {
    let ids: BTreeSet<String> =
        hello.backends.iter().map(|backend| backend.id.to_string()).collect();
    assert_eq!(ids, built_in(), "the backends are those that the file was made with");
}

fn assert_available(hello: &Hello, id: &str) {
    let backend = hello.backends.iter().find(|backend| backend.id.to_string() == id).unwrap();
    assert!(matches!(backend.report, ProbeReport::Available { .. }), "{backend:?}");
}

/// Computes while it is told to.
const COMPUTES: &str = "\
import sys, time
print('ready', flush=True)
for line in sys.stdin:
    if line != 'work\\n':
        break
    end = time.process_time() + 0.3
    total = 0
    while time.process_time() < end:
        total += sum(range(1000))
    print('worked', flush=True)
";

#[test]
fn cpu_records_an_injected_program() {
    if !is_built_in("cpu") {
        return;
    }
    let launcher = Launcher::new();
    let mut command = launcher.command(python());
    command.args(["-c", COMPUTES]).env("LD_PRELOAD", injected_file());
    let mut child = Spoken::start(&mut command);
    let (mut worker, hello) = launcher.worker();
    assert_backends(&hello);
    assert_available(&hello, "cpu");
    assert_eq!(child.hear(), "ready");
    for fence in 1..=2 {
        let spool = spool_file();
        let mut arm = arm(fence);
        arm.capture.host = true;
        worker.start(arm, &spool.file).unwrap();
        child.say("work");
        assert_eq!(child.hear(), "worked");
        let result = worker.stop(fence);
        assert!(result.error.is_none() && result.degraded.is_none(), "{result:?}");
        assert!(result.rows.get("counter").is_some_and(|&rows| rows > 0), "{result:?}");
    }
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}

/// Has a libcupti, opens the device and launches as it is told.
const LAUNCHES: &str = "\
import ctypes, os, sys
cupti = ctypes.CDLL(os.environ['OMNIPROF_TEST_CUPTI'], ctypes.RTLD_GLOBAL)
cupti.fake_launch.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
assert ctypes.CDLL(os.environ['OMNIPROF_TEST_CUDA']).cuInit(0) == 0
print('ready', flush=True)
for line in sys.stdin:
    if line != 'work\\n':
        break
    cupti.fake_launch(b'a_kernel', 1000, 7, 32)
    print('worked', flush=True)
";

fn make_nodes(root: &Path, nodes: &[&str]) {
    std::fs::create_dir(root.join("dev")).unwrap();
    for node in nodes {
        std::fs::write(root.join("dev").join(node), "").unwrap();
    }
}

#[test]
fn cuda_records_an_injected_program_on_the_stand_in() {
    if !is_built_in("cuda") {
        return;
    }
    let launcher = Launcher::new();
    let folder = tempfile::tempdir().unwrap();
    make_nodes(folder.path(), &["nvidia0"]);
    let cupti = folder.path().join("libcupti.so.13");
    std::fs::copy(fake_cupti(), &cupti).unwrap();
    let mut command = launcher.command(python());
    command
        .args(["-c", LAUNCHES])
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env("CUDA_INJECTION64_PATH", injected_file())
        .env("OMNIPROF_CUDA_ROOT", folder.path())
        .env("OMNIPROF_TEST_CUDA", fake_cuda())
        .env("OMNIPROF_TEST_CUPTI", &cupti);
    records_a_device(&launcher, &mut command, "cuda", Some(1000));
}

#[test]
fn cuda_records_an_injected_program_on_hardware() {
    if !is_built_in("cuda") {
        return;
    }
    if !Path::new("/dev/nvidia0").exists() {
        return skipped("there is no NVIDIA device (/dev/nvidia0)");
    }
    let launcher = Launcher::new();
    let program = common::build("cuda-workload", "cuda-workload");
    let mut command = launcher.command(&program);
    command.env("CUDA_INJECTION64_PATH", injected_file());
    let mut child = Spoken::start(&mut command);
    // The first launch opens the device, which brings the file in.
    child.say("run launch 1 1");
    let (mut worker, hello) = launcher.worker();
    assert_backends(&hello);
    assert_available(&hello, "cuda");
    assert!(child.hear().contains("\"kernels\":1"));
    for fence in 1..=3 {
        let spool = spool_file();
        let mut arm = arm(fence);
        arm.capture.device = true;
        arm.capture.device_required = true;
        worker.start(arm, &spool.file).unwrap();
        child.say("run launch 1000 1");
        assert!(child.hear().contains("\"kernels\":1000"));
        let result = worker.stop(fence);
        assert!(result.error.is_none() && result.degraded.is_none(), "{result:?}");
        assert_eq!(result.rows.get("kernel"), Some(&1000), "{result:?}");
        assert!(result.lost.is_empty(), "{result:?}");
    }
    assert_eq!(child.ended(), Some(0));
}

/// Lives while it is recorded; the stand-in launches by itself.
const WAITS: &str = "\
import sys
print('ready', flush=True)
for line in sys.stdin:
    if line != 'work\\n':
        break
    print('worked', flush=True)
";

/// The stand-ins, laid out as an installation.
fn fake_cann(folder: &Path) -> PathBuf {
    let lib = folder.join("cann/lib64");
    std::fs::create_dir_all(&lib).unwrap();
    let mspti = common::build("fake-mspti", "libfake_mspti.so");
    std::fs::copy(mspti, lib.join("libmspti.so")).unwrap();
    let companion = common::build("fake-ascend", "libfake_ascend.so");
    for name in ["libprofapi.so", "libascendalog.so", "libascend_hal.so"] {
        std::fs::copy(&companion, lib.join(name)).unwrap();
    }
    lib.join("libmspti.so")
}

#[test]
fn npu_records_an_injected_program_on_the_stand_in() {
    if !is_built_in("npu") {
        return;
    }
    let launcher = Launcher::new();
    let folder = tempfile::tempdir().unwrap();
    make_nodes(folder.path(), &["davinci0", "davinci_manager"]);
    let mspti = fake_cann(folder.path());
    let preload = format!("{}:{}", mspti.display(), injected_file().display());
    let mut command = launcher.command(python());
    command
        .args(["-c", WAITS])
        .env_remove("ASCEND_RT_VISIBLE_DEVICES")
        .env("LD_PRELOAD", preload)
        .env("ASCEND_HOME_PATH", folder.path().join("cann"))
        .env("OMNIPROF_NPU_ROOT", folder.path())
        .env("FAKE_MSPTI_WORK", "5");
    records_a_device(&launcher, &mut command, "npu", None);
}

/// Records a program three times by the backend of that device. `kernels` = how many it launches
/// each time; where nobody knows, it is asked until there is one.
fn records_a_device(launcher: &Launcher, command: &mut Command, id: &str, kernels: Option<u64>) {
    let mut child = Spoken::start(command);
    let (mut worker, hello) = launcher.worker();
    assert_backends(&hello);
    assert_available(&hello, id);
    assert_eq!(child.hear(), "ready");
    for fence in 1..=3 {
        let spool = spool_file();
        let mut arm = arm(fence);
        arm.capture.device = true;
        arm.capture.device_required = true;
        arm.capture.backend = Some(BackendId::parse(id).unwrap());
        let armed = worker.start(arm, &spool.file).unwrap();
        assert_eq!(armed.backend.map(|id| id.to_string()).as_deref(), Some(id));
        child.say("work");
        assert_eq!(child.hear(), "worked");
        if kernels.is_none() {
            let written = || common::rows::<profiler_core::record::Kernel>(&spool.path).len();
            assert!(eventually(|| written() > 0), "kernels reach the file");
        }
        let result = worker.stop(fence);
        assert!(result.error.is_none() && result.degraded.is_none(), "{result:?}");
        let recorded = result.rows.get("kernel").copied().unwrap_or_default();
        match kernels {
            Some(kernels) => assert_eq!(recorded, kernels, "{result:?}"),
            None => assert!(recorded > 0, "{result:?}"),
        }
        assert!(result.lost.is_empty(), "{result:?}");
    }
    child.say("end");
    assert_eq!(child.ended(), Some(0));
}
