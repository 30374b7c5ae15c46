//! Processes that die at any moment: workers, the controller, the launcher.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::synthetic::Random;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;
use serde_json::Value;

use super::worker::{self, Worker};
use super::{Line, Setting, is_whole, spools, wait_for};
use crate::http;

const DEADLINE: Duration = Duration::from_secs(60);
const WORKERS: usize = 4;
/// What a killed process may have lost: what was appended in its last half second is promised, and
/// a busy machine gets as much again.
pub(super) const LOST_MS: f64 = 1000.0;
/// A worker that lives so long has written something.
const SHORT: Duration = Duration::from_millis(600);

fn stop_request() -> StopRequest {
    StopRequest { wait_ms: DEADLINE.as_millis() as u64, ..StopRequest::default() }
}

/// Kills one to four of four recorded workers in each round.
///
/// # Errors
///
/// A start, a stop or a process fails otherwise than by the kill.
pub fn workers(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    const NAME: &str = "killed-workers";
    let (controller, dir) = super::controller(setting.folder(NAME)?)?;
    let mut dice = Random::new(setting.seed);
    let mut workers: Vec<Worker> = Vec::new();
    let (mut rounds, mut killed_in_all, mut wrong_lines, mut unreadable) = (0, 0, 0, 0);
    let (mut worst_ms, mut slowest_stop, mut empty) = (0.0_f64, Duration::ZERO, 0);
    let (mut marks, mut holes) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < setting.faults {
        rounds += 1;
        for rank in workers.len()..WORKERS {
            workers.push(Worker::start(&dir, rank)?);
        }
        wait_for("four workers", DEADLINE, || {
            let pids: Vec<u32> = controller.status().workers.iter().map(|one| one.pid).collect();
            let here = |worker: &Worker| pids.contains(&worker.pid());
            (pids.len() == WORKERS && workers.iter().all(here)).then_some(())
        })?;
        controller.start(&StartRequest::default())?;
        std::thread::sleep(SHORT + Duration::from_millis(dice.below(900)));
        let mut killed = Vec::new();
        for _ in 0..=dice.below(WORKERS as u64 - 1) {
            let place = dice.below(workers.len() as u64) as usize;
            let mut worker = workers.swap_remove(place);
            killed.push((worker.pid(), worker.kill()?));
        }
        killed_in_all += killed.len();
        let stopping = Instant::now();
        let manifest = controller.stop(&stop_request())?;
        slowest_stop = slowest_stop.max(stopping.elapsed());
        wrong_lines += WORKERS.abs_diff(manifest.workers.len());
        for line in &manifest.workers {
            let death = killed.iter().find(|(pid, _)| line.pid == *pid);
            let spool = line.files.iter().find(|file| file.format == "spool");
            let read = spool
                .map(|file| worker::read(&Path::new(&manifest.directory).join(&file.path)))
                .transpose()?
                .unwrap_or_default();
            unreadable += usize::from(read.damaged);
            empty += usize::from(read.marks == 0);
            marks += read.marks;
            holes += read.holes();
            match death {
                None => wrong_lines += usize::from(!is_whole(line)),
                Some((_, at)) => {
                    worst_ms = worst_ms.max(at.saturating_sub(read.last) as f64 / 1e6);
                    // A dead worker is told as such.
                    wrong_lines += usize::from(is_whole(line) && line.stopped_by.is_none());
                }
            }
        }
        wait_for("an empty folder", DEADLINE, || {
            std::fs::remove_dir_all(&manifest.directory).ok()
        })?;
    }
    Ok(vec![
        Line::told(NAME, "rounds", f64::from(rounds), "")
            .noted(format!("{killed_in_all} killed of {WORKERS} at a time")),
        Line::bounded(NAME, "lines-not-as-expected", wrong_lines as f64, "", 0.0),
        Line::bounded(NAME, "spools-damaged", unreadable as f64, "", 0.0),
        Line::bounded(NAME, "spools-empty", empty as f64, "", 0.0),
        holes_line(NAME, holes, marks),
        Line::bounded(NAME, "lost-before-the-kill", worst_ms, "ms", LOST_MS),
        Line::told(NAME, "slowest-stop", slowest_stop.as_secs_f64() * 1e3, "ms"),
    ])
}

/// Marks that are neither kept nor counted, in the middle of spools.
pub(super) fn holes_line(name: &'static str, holes: u64, marks: u64) -> Line {
    Line::bounded(name, "marks-neither-kept-nor-counted", holes as f64, "", 0.0)
        .noted(format!("of {marks}"))
}

/// A server process, and the workers' socket folder.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(omniprof: &Path, root: &Path, socket: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(omniprof)
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--dir"])
            .arg(root)
            .env("OMNIPROF_SOCKET", socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("omniprof serve does not start")?;
        let mut line = String::new();
        let out = child.stdout.take().context("a pipe")?;
        BufReader::new(out).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let url = ready["url"].as_str().context("no address")?.to_owned();
        Ok(Self { child, url })
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        ask(&self.url, method, path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _killed: std::io::Result<()> = self.child.kill();
        let _waited: std::io::Result<_> = self.child.wait();
    }
}

fn ask(url: &str, method: &str, path: &str) -> anyhow::Result<Value> {
    http::ask(method, &format!("{url}{path}"), None, DEADLINE * 2)
}

/// Kills the server while it records, starts another on its root, and stops there.
///
/// # Errors
///
/// A request fails, or the next server does not take the capture over.
pub fn controller(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    const NAME: &str = "killed-controller";
    let omniprof = setting.omniprof()?;
    let root = setting.folder(NAME)?;
    let socket = tempfile::tempdir()?;
    let mut dice = Random::new(setting.seed);
    let mut server = Server::start(&omniprof, &root, socket.path())?;
    let workers = (0..WORKERS)
        .map(|rank| Worker::start(socket.path(), rank))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut rounds, mut not_whole, mut wrong, mut slowest) = (0, 0, 0, Duration::ZERO);
    let (mut gap_ms, mut marks, mut holes) = (0.0_f64, 0, 0);
    let began = Instant::now();
    while began.elapsed() < setting.faults {
        rounds += 1;
        wait_for_workers(&server.url, workers.len())?;
        let started = server.ask("POST", "/start_profile")?;
        let session = started["session"].as_str().context("a session")?.to_owned();
        std::thread::sleep(SHORT + Duration::from_millis(dice.below(600)));
        server.child.kill()?;
        server.child.wait()?;
        std::thread::sleep(Duration::from_millis(dice.below(1500)));
        let back = Instant::now();
        server = Server::start(&omniprof, &root, socket.path())?;
        wait_for_workers(&server.url, workers.len())?;
        slowest = slowest.max(back.elapsed());
        std::thread::sleep(Duration::from_millis(300));
        let now = SystemClock::new().now().monotonic_ns;
        let wait = DEADLINE.as_millis();
        let manifest = server.ask("POST", &format!("/stop_profile?wait_ms={wait}"))?;
        wrong += usize::from(manifest["session"] != *session);
        let lines = manifest["workers"].as_array().context("workers")?;
        wrong += lines.len().abs_diff(workers.len());
        let folder = PathBuf::from(manifest["directory"].as_str().context("a folder")?);
        not_whole += lines.iter().filter(|line| !line["error"].is_null()).count();
        let files = spools(&folder)?;
        wrong += files.len().abs_diff(workers.len());
        for file in files {
            let read = worker::read(&file)?;
            not_whole += usize::from(read.damaged || !read.closed);
            marks += read.marks;
            holes += read.holes();
            // They recorded all the time, whoever was dead.
            gap_ms = gap_ms.max(now.saturating_sub(read.last) as f64 / 1e6);
        }
        wait_for("an empty folder", DEADLINE, || std::fs::remove_dir_all(&folder).ok())?;
    }
    Ok(vec![
        Line::told(NAME, "rounds", f64::from(rounds), ""),
        Line::bounded(NAME, "sessions-or-lines-not-as-expected", wrong as f64, "", 0.0),
        Line::bounded(NAME, "spools-not-whole", not_whole as f64, "", 0.0),
        holes_line(NAME, holes, marks),
        Line::bounded(NAME, "recorded-until-the-stop", gap_ms, "ms", LOST_MS),
        Line::told(NAME, "slowest-return-of-workers", slowest.as_secs_f64() * 1e3, "ms"),
    ])
}

fn wait_for_workers(url: &str, count: usize) -> anyhow::Result<()> {
    wait_for("the workers", DEADLINE, || {
        let status = ask(url, "GET", "/profile/status").ok()?;
        (status["workers"].as_array()?.len() == count).then_some(())
    })
}

/// Kills the launcher while it records; its command lives on, and `recover` finishes the trace.
///
/// # Errors
///
/// A process does not start, or the trace cannot be read.
pub fn launcher(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    const NAME: &str = "killed-launcher";
    let omniprof = setting.omniprof()?;
    let injected = omniprof.with_file_name(profiler_core::inject_env::INJECTED_FILE_NAME);
    if !injected.is_file() {
        let why = format!("{} is not built: cargo build -p profiler-inject", injected.display());
        return Ok(vec![Line::skipped(NAME, "rounds", why)]);
    }
    let root = setting.folder(NAME)?;
    let mut dice = Random::new(setting.seed);
    let (mut rounds, mut dead, mut unreadable, mut no_trace) = (0, 0, 0, 0);
    let (mut gap_ms, mut samples) = (0.0_f64, 0);
    let began = Instant::now();
    while began.elapsed() < setting.faults {
        rounds += 1;
        let root = root.join(rounds.to_string());
        let mut child = Command::new(&omniprof)
            .args(["run", "--listen", "127.0.0.1:0", "--join", "preload", "--profile-at-start"])
            .arg("--dir")
            .arg(&root)
            // Says its process id, and lives until it is killed.
            .args(["--", "sh", "-c", "echo $$; exec python3 -c 'while True: sum(range(10000))'"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let pid: i32 = line.trim().parse().with_context(|| format!("{line:?}"))?;
        let pid = rustix::process::Pid::from_raw(pid).context("a process id")?;
        let recording = wait_for("a recording", DEADLINE, || {
            let files = spools(&root).ok()?;
            // A header alone is less.
            let written = files.first()?.metadata().ok()?.len();
            (written > 4096).then_some(())
        });
        std::thread::sleep(Duration::from_millis(500 + dice.below(800)));
        child.kill()?;
        child.wait()?;
        std::thread::sleep(Duration::from_millis(200));
        let lives = rustix::process::test_kill_process(pid).is_ok();
        dead += usize::from(!lives);
        let killed = SystemClock::new().now().monotonic_ns;
        if lives {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        }
        recording?;
        wait_for("the end of the command", DEADLINE, || {
            rustix::process::test_kill_process(pid).is_err().then_some(())
        })?;
        let recovered = Command::new(&omniprof)
            .args(["recover", "--dir"])
            .arg(&root)
            .stdin(Stdio::null())
            .output()?;
        // 4: done, and the worker was killed.
        no_trace += usize::from(!matches!(recovered.status.code(), Some(0 | 4)));
        for file in spools(&root)? {
            let read = worker::read(&file)?;
            unreadable += usize::from(read.damaged);
            samples += read.samples;
            // The command computes without a pause, and is sampled until its own end.
            gap_ms = gap_ms.max(killed.saturating_sub(read.last_sample) as f64 / 1e6);
            let trace = file.with_extension("pftrace.gz");
            no_trace += usize::from(!trace.is_file());
        }
    }
    Ok(vec![
        Line::told(NAME, "rounds", f64::from(rounds), ""),
        Line::bounded(NAME, "commands-dead", dead as f64, "", 0.0),
        Line::bounded(NAME, "spools-damaged", unreadable as f64, "", 0.0),
        Line::bounded(NAME, "not-recovered", no_trace as f64, "", 0.0),
        Line::bounded(NAME, "recorded-until-its-end", gap_ms, "ms", LOST_MS)
            .noted(format!("{samples} samples")),
    ])
}
