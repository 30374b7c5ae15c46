//! A capture of the workload, and what it cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_core::config::TraceFormat;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::{FileState, LineState, Manifest, WorkerLine};
use profiler_worker::start_request::{Activity, StartRequest};

use super::process::Process;
use crate::figures::measure::status_bytes;
use crate::figures::{Context, rusage};

/// How long anything may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(300);

/// A worker process and the controller that it belongs to.
pub(super) struct Recorder {
    pub(super) controller: Controller,
    pub(super) worker: Process,
    activities: Vec<Activity>,
    formats: Vec<TraceFormat>,
}

/// How a [`Recorder`] records.
pub(super) struct Settings {
    /// Whether the exporter follows while the worker records.
    pub(super) follow: bool,
    /// What is recorded.
    pub(super) activities: Vec<Activity>,
    /// What is exported.
    pub(super) formats: Vec<TraceFormat>,
    /// How long the backend waits without a session before it detaches; `None` = its default.
    pub(super) detach_after_ms: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            follow: true,
            activities: vec![Activity::Gpu],
            formats: vec![TraceFormat::PftraceGz],
            detach_after_ms: None,
        }
    }
}

impl Recorder {
    /// Starts both; the worker has its context and has launched before.
    pub(super) fn start(context: &Context, settings: Settings) -> anyhow::Result<Self> {
        Self::of(context, settings, |dir| Process::start(context, Some(dir)))
    }

    /// The same, with a worker that is started with the folder of the controller's socket.
    pub(super) fn of(
        context: &Context,
        settings: Settings,
        start: impl FnOnce(&Path) -> anyhow::Result<Process>,
    ) -> anyhow::Result<Self> {
        let controller = Controller::builder()
            .root(context.fresh_dir("cuda")?)
            .exporter(context.omniprof()?)
            .options(|options| {
                options.follow = settings.follow;
                options.retention = None;
                if let Some(ms) = settings.detach_after_ms {
                    let session = &mut options.defaults.all.session;
                    session.options.insert("cuda.detach_after_ms".to_owned(), ms.into());
                }
            })
            .build()?;
        let dir = controller.socket_dir().context("the controller does not listen")?;
        let mut worker = start(&dir)?;
        worker.ask("run launch 10000 1")?;
        anyhow::ensure!(controller.wait_for_workers(1, DEADLINE), "the worker does not join");
        Ok(Self { controller, worker, activities: settings.activities, formats: settings.formats })
    }

    /// Starts a capture; returns how long that took.
    pub(super) fn record(&self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.controller.start(&StartRequest {
            activities: Some(self.activities.clone()),
            formats: Some(self.formats.clone()),
            ..StartRequest::default()
        })?;
        Ok(begin.elapsed())
    }

    /// Ends it: how long the call took, how long until the last file was whole, and what came.
    pub(super) fn stop(&self) -> anyhow::Result<(Duration, Duration, Manifest)> {
        let begin = Instant::now();
        self.controller.stop(&StopRequest { wait_ms: 0, ..StopRequest::default() })?;
        let call = begin.elapsed();
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        let manifest = self.controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
        Ok((call, begin.elapsed(), manifest))
    }
}

/// The one worker of a manifest, beside which the host's devices may have a line.
pub(super) fn worker(manifest: &Manifest) -> anyhow::Result<&WorkerLine> {
    let mut workers = manifest.workers.iter().filter(|line| !line.host_counters);
    let worker = workers.next().context("no worker")?;
    let more = workers.count();
    anyhow::ensure!(more == 0, "{more} workers more than one");
    Ok(worker)
}

/// The line of that worker; an error where it is not complete.
pub(super) fn line(manifest: &Manifest) -> anyhow::Result<&WorkerLine> {
    let line = worker(manifest)?;
    anyhow::ensure!(line.state == LineState::Complete, "the worker's part: {line:?}");
    Ok(line)
}

/// The path of a file of the manifest's one line, and its bytes.
pub(super) fn file(
    recorder: &Recorder,
    manifest: &Manifest,
    format: &str,
) -> anyhow::Result<(PathBuf, u64)> {
    let line = worker(manifest)?;
    let file = line.files.iter().find(|file| file.format == format);
    let file = file.with_context(|| format!("no {format} among {:?}", line.files))?;
    anyhow::ensure!(file.state == FileState::Complete, "{file:?}");
    let path = recorder.controller.root().join(&manifest.directory).join(&file.path);
    let bytes = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
    Ok((path, bytes))
}

/// What a capture cost.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    /// Kernels that the workload says it launched.
    pub(super) launched: u64,
    /// Kernels in the spool.
    pub(super) kernels: u64,
    /// Rows that were lost, outside of windows not counted.
    pub(super) lost: u64,
    /// The call of the stop.
    pub(super) call: Duration,
    /// From the stop's call until the last file was whole.
    pub(super) complete: Duration,
    /// Of the worker's process, above what was resident before the start: the most.
    pub(super) added_bytes: u64,
    /// Of the exporting processes: the most.
    pub(super) exporter_bytes: u64,
    /// Of the device, while it recorded.
    pub(super) device_bytes: u64,
    /// Of the profiler's threads in the worker.
    pub(super) worker_cpu: Duration,
    /// Of the exporting processes.
    pub(super) exporter_cpu: Duration,
    /// On disk.
    pub(super) spool_bytes: u64,
    /// On disk.
    pub(super) trace_bytes: u64,
    /// Of one kernel, in the loop.
    pub(super) kernel_ns: f64,
}

impl Cost {
    /// Records so many launches from so many threads, in a fresh process.
    pub(super) fn of(
        context: &Context,
        settings: Settings,
        launches: u64,
        threads: u64,
    ) -> anyhow::Result<Self> {
        let format = settings.formats.first().context("no format")?.name();
        let mut recorder = Recorder::start(context, settings)?;
        // The threads are there before, as a server's are.
        recorder.worker.ask(&format!("run launch 10000 {threads}"))?;
        let before = recorder.worker.ask("memory")?;
        recorder.worker.ask("forget-peak")?;
        let watch = ExporterWatch::begin()?;
        let cpu_before = rusage::children_cpu()?;
        recorder.record()?;
        let done = recorder.worker.ask(&format!("run launch {launches} {threads}"))?;
        let during = recorder.worker.ask("memory")?;
        let (call, complete, manifest) = recorder.stop()?;
        let exporter_cpu = rusage::children_cpu()?.saturating_sub(cpu_before);
        let exporter_bytes = watch.end()?;
        let after = recorder.worker.ask("memory")?;
        let line = line(&manifest)?;
        let field = |answer: &serde_json::Value, name: &str| {
            answer[name].as_u64().with_context(|| format!("no {name}"))
        };
        let peak = field(&after, "peak_rss_bytes")?;
        let lost = line.drops.iter().filter(|(cause, _)| *cause != "outside_window");
        let launched = field(&done, "kernels")?;
        Ok(Self {
            launched,
            kernels: line.records.get("kernel").copied().unwrap_or(0),
            lost: lost.map(|(_, count)| count).sum(),
            call,
            complete,
            added_bytes: peak.saturating_sub(field(&before, "rss_bytes")?),
            exporter_bytes,
            device_bytes: field(&before, "device_free_bytes")?
                .saturating_sub(field(&during, "device_free_bytes")?),
            worker_cpu: Duration::from_nanos(line.own_cpu_ns.context("no processor time")?),
            exporter_cpu,
            spool_bytes: file(&recorder, &manifest, "spool")?.1,
            trace_bytes: file(&recorder, &manifest, format)?.1,
            kernel_ns: field(&done, "ns")? as f64 / launched as f64,
        })
    }
}

/// Looks at the memory of this process's exporting children.
struct ExporterWatch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl ExporterWatch {
    fn begin() -> anyhow::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread =
            std::thread::Builder::new().name("figures-watch".to_owned()).spawn(move || {
                let mut most = 0;
                while !seen.load(Ordering::Relaxed) {
                    most = most.max(exporters_bytes());
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            })?;
        Ok(Self { over, thread })
    }

    fn end(self) -> anyhow::Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the watching thread panicked")
    }
}

/// The most memory of any child called `omniprof`; 0 where there is none.
fn exporters_bytes() -> u64 {
    let own = format!(" {} ", std::process::id());
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let mut most = 0;
    for process in processes.flatten() {
        let path = process.path();
        // Processes end while they are looked at.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        let Some((head, tail)) = stat.split_once(") ") else { continue };
        // Behind the name: the state, then the parent.
        if head.ends_with("(omniprof") && tail.get(1..).is_some_and(|t| t.starts_with(&own)) {
            most = most.max(status_bytes(&path.join("status"), "VmHWM").unwrap_or(0));
        }
    }
    most
}
