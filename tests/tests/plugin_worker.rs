//! A worker that is built with no backend at all records CUDA or Ascend through a plugin, on a
//! stand-in for libcupti or libmspti. For CUDA the child has a device node of its own in a mount
//! namespace, so that the backend finds a device where there is none.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use profiler_core::conformance::{build_plugin, build_program};
use profiler_core::record::{Fact, HeapRef, Row as _};
use profiler_core::spool::SpoolReader;
use profiler_tests::cuda_stand_in::CudaStandIn;
use profiler_tests::npu_stand_in::NpuStandIn;
use profiler_tests::plugins::{compile_c_plugin, install, plugin_dir};
use profiler_worker::Controller;
use profiler_worker::manifest::WorkerLine;
use profiler_worker::start_request::{SessionDefaults, StartRequest};

const PATIENCE: Duration = Duration::from_secs(60);

/// The worker in its process.
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// On a machine with a device of NVIDIA's.
    fn start(controller: &Controller, plugins: &Path, scratch: &Path) -> Self {
        let machine = CudaStandIn::install(scratch).unwrap();
        let machine = machine.expect("`unshare` of util-linux gives a process a device of its own");
        let mut command = machine.command(build_program("plugin-worker").as_os_str());
        command.arg(machine.library());
        Self::spawn(controller, plugins, command)
    }

    fn spawn(controller: &Controller, plugins: &Path, mut command: Command) -> Self {
        let mut child = command
            .env("OMNIPROF_SOCKET", controller.socket_dir().unwrap())
            .env("OMNIPROF_PLUGIN_DIR", plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program is there, and `unshare` of util-linux");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut worker = Self { child, input, output };
        worker.expect("joined");
        worker
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word, "{:?}", self.child.try_wait());
    }

    fn launch(&mut self, kernels: u64) {
        writeln!(self.input.as_mut().unwrap(), "{kernels}").unwrap();
        self.expect("launched");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.input.take());
        if std::thread::panicking() {
            // It may have ended by itself.
            let _gone: std::io::Result<()> = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "{status}");
    }
}

fn controller(root: &Path) -> Controller {
    let mut defaults = SessionDefaults::default();
    defaults.all.limits.min_free_percent = 0;
    // The stand-in comes without a driver to wait for.
    defaults.all.session.options.insert("cuda.attach".to_owned(), "at_once".into());
    Controller::builder().root(root).defaults(defaults).without_exporter().build().unwrap()
}

#[test]
fn a_worker_without_backends_records_cuda_by_a_plugin() {
    let scratch = tempfile::tempdir().unwrap();
    let plugins = plugin_dir().unwrap();
    let cuda = install(&build_plugin("backend-cuda-plugin"), plugins.path()).unwrap();
    install(&build_plugin("backend-cpu-plugin"), plugins.path()).unwrap();
    compile_c_plugin(plugins.path(), "old", &["ID=\"old\"", "MAJOR=9"]).unwrap();

    let controller = controller(&scratch.path().join("traces"));
    let worker = Worker::start(&controller, plugins.path(), scratch.path());
    assert!(controller.wait_for_workers(1, PATIENCE));

    let status = controller.status();
    let backends = &status.workers[0].backends;
    let ids: Vec<_> = backends.iter().map(|backend| backend.id.as_str()).collect();
    assert_eq!(ids, ["cuda", "cpu"], "highest priority first");
    let from = backends[0].plugin.as_ref().unwrap();
    assert!(from.contains(cuda.canonicalize().unwrap().to_str().unwrap()), "{from}");
    assert!(from.contains(env!("CARGO_PKG_VERSION")), "{from}");
    let refused = &status.workers[0].refused_plugins;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("libomniprof_backend_old.so"), "{refused:?}");

    let line = assert_recorded(&controller, worker, "cuda", from);
    assert!(line.why.contains("highest priority"), "{}", line.why);
}

#[test]
fn a_worker_without_backends_records_npu_by_a_plugin() {
    let scratch = tempfile::tempdir().unwrap();
    let plugins = plugin_dir().unwrap();
    let npu = install(&build_plugin("backend-npu-plugin"), plugins.path()).unwrap();
    install(&build_plugin("backend-cpu-plugin"), plugins.path()).unwrap();
    let machine = NpuStandIn::install(scratch.path()).unwrap();

    let controller = controller(&scratch.path().join("traces"));
    let mut command = Command::new(build_program("plugin-worker"));
    command.arg(machine.library());
    machine.enter(&mut command, 0);
    // What is launched is told by the test alone.
    command.env_remove("FAKE_MSPTI_WORK");
    let worker = Worker::spawn(&controller, plugins.path(), command);
    assert!(controller.wait_for_workers(1, PATIENCE));

    let status = controller.status();
    let backends = &status.workers[0].backends;
    let ids: Vec<_> = backends.iter().map(|backend| backend.id.as_str()).collect();
    assert_eq!(ids, ["npu", "cpu"], "highest priority first");
    let from = backends[0].plugin.as_ref().unwrap();
    assert!(from.contains(npu.canonicalize().unwrap().to_str().unwrap()), "{from}");

    assert_recorded(&controller, worker, "npu", from);
}

/// Records a thousand kernels, and compares what came by the plugin of that backend.
fn assert_recorded(
    controller: &Controller,
    mut worker: Worker,
    backend: &str,
    from: &str,
) -> WorkerLine {
    controller.start(&StartRequest::for_stages(None, None)).unwrap();
    worker.launch(1000);
    let mut manifest = controller.stop_profile().unwrap();
    drop(worker);
    let line = manifest.workers.remove(0);
    assert_eq!(line.error, None);
    assert_eq!(line.backend.as_deref(), Some(backend), "{}", line.why);
    assert_eq!(line.records["kernel"], 1000, "{:?}, lost {:?}", line.records, line.drops);
    assert!(line.records["counter"] > 0, "the host's plugin records beside it");
    assert_eq!(facts(&manifest.directory, &line)[&format!("plugin.{backend}")], from);
    line
}

/// The facts in the worker's spool.
fn facts(directory: &str, line: &WorkerLine) -> BTreeMap<String, String> {
    let spool = line.files.iter().find(|file| file.format == "spool").unwrap();
    let mut reader = SpoolReader::open(&Path::new(directory).join(&spool.path)).unwrap();
    let mut facts = BTreeMap::new();
    while let Some(block) = reader.next_block().unwrap() {
        if block.kind() != Fact::KIND {
            continue;
        }
        for fact in block.rows::<Fact>().unwrap().iter() {
            let text = |place: HeapRef| place.text(block.heap()).unwrap().into_owned();
            facts.insert(text(fact.key), text(fact.value));
        }
    }
    facts
}

#[test]
fn a_worker_without_backends_and_plugins_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let plugins = plugin_dir().unwrap();
    let controller = controller(&scratch.path().join("traces"));
    let _worker = Worker::start(&controller, plugins.path(), scratch.path());
    assert!(controller.wait_for_workers(1, PATIENCE));
    let status = controller.status();
    assert!(status.workers[0].backends.is_empty());
    let start = StartRequest::parse(br#"{"activities":["GPU"]}"#).unwrap();
    let error = controller.start(&start).unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("no_device"), "{text}");
}
