//! A disk that is full.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_core::spool::SpoolReader;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;

use super::{Line, Setting, is_whole, wait_for};

const FULL: &str = "full-disk";
const ROOT: &str = "OMNIPROF_SOAK_ROOT";
const SECONDS: &str = "OMNIPROF_SOAK_SECONDS";
const DEADLINE: Duration = Duration::from_secs(60);
/// What the shell answers where nothing may be mounted.
const MAY_NOT_MOUNT: i32 = 77;

/// Fills a file system of 8 MiB over and over, with the traces on it.
///
/// # Errors
///
/// The process on the small disk fails.
pub fn full(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    let root = setting.folder(FULL)?;
    let socket = tempfile::tempdir()?;
    let script = format!(
        "mount -t tmpfs -o size=8m,mode=700 none \"$1\" || exit {MAY_NOT_MOUNT}; exec \"$0\""
    );
    let own = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(own)
        .arg(&root)
        .env(super::worker::VARIABLE, "small-disk")
        .env(ROOT, &root)
        .env(SECONDS, setting.faults.as_secs().to_string())
        .env("OMNIPROF_SOCKET", socket.path())
        .stdin(Stdio::null());
    let Ok(output) = command.output() else {
        return Ok(vec![Line::skipped(FULL, "rounds", "there is no `unshare`")]);
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(MAY_NOT_MOUNT) || said.starts_with("unshare:") {
        return Ok(vec![Line::skipped(FULL, "rounds", "this user may mount nothing")]);
    }
    anyhow::ensure!(output.status.success(), "{}: {said}", output.status);
    let told: Vec<f64> = serde_json::from_slice(&output.stdout).context("what it told")?;
    let [rounds, wrong, beyond] = told[..] else { anyhow::bail!("{told:?}") };
    Ok(vec![
        Line::told(FULL, "rounds", rounds, ""),
        Line::bounded(FULL, "not-as-expected", wrong, "", 0.0)
            .noted("told as disk_full, a whole spool, and the next capture records"),
        Line::bounded(FULL, "counted-beyond-what-was-emitted", beyond, "rows", 0.0),
    ])
}

/// The process whose traces lie on a small disk.
pub(super) fn be_small_disk() -> anyhow::Result<ExitCode> {
    let root = PathBuf::from(std::env::var_os(ROOT).context("no root")?);
    let seconds: u64 = std::env::var(SECONDS)?.parse()?;
    let (controller, dir) = super::controller(root.clone())?;
    let _agent = Agent::builder().stage(0).role("noisy").socket_dir(dir).connect()?;
    anyhow::ensure!(controller.wait_for_workers(1, DEADLINE), "it does not join");
    let (mut rounds, mut wrong, mut beyond) = (0.0, 0.0, 0.0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) || rounds < 1.0 {
        rounds += 1.0;
        beyond += fill(&controller, &mut wrong)? as f64;
        // There is room again: the same process records.
        controller.start(&StartRequest::default())?;
        profiler_agent::marker("after").emit();
        let wait = StopRequest { wait_ms: 30_000, ..StopRequest::default() };
        let manifest = controller.stop(&wait)?;
        wrong += f64::from(u8::from(!manifest.workers.iter().all(is_whole)));
        wait_for("an empty folder", DEADLINE, || {
            std::fs::remove_dir_all(&manifest.directory).ok()
        })?;
    }
    // The only line of this role.
    let told = serde_json::to_string(&[rounds, wrong, beyond])?;
    std::io::Write::write_all(&mut std::io::stdout(), told.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Records until the disk is full; how many rows are told beyond those that were emitted.
fn fill(controller: &Controller, wrong: &mut f64) -> anyhow::Result<u64> {
    let answer = controller.start(&StartRequest::default())?;
    let deadline = Instant::now() + DEADLINE;
    let (mut number, mut emitted) = (1_u64, 0_u64);
    let ended = || {
        let manifest = controller.manifest(&answer.session).ok();
        manifest.is_some_and(|manifest| manifest.workers[0].stopped_by.is_some())
    };
    while !ended() {
        for _ in 0..20_000 {
            // Bytes that do not compress.
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            profiler_agent::marker("noise").payload(number).field("n", number).emit();
            emitted += 1;
        }
        anyhow::ensure!(Instant::now() < deadline, "the disk does not fill");
    }
    let manifest = controller.stop(&StopRequest::default())?;
    let line = &manifest.workers[0];
    let told = line.stopped_by.as_deref() == Some("disk_full") && !line.drops.is_empty();
    let spool = line.files.iter().find(|file| file.format == "spool").context("no spool")?;
    let mut reader = SpoolReader::open(&Path::new(&manifest.directory).join(&spool.path))?;
    while reader.next_block()?.is_some() {}
    let whole = reader.is_closed() && reader.skipped().is_empty();
    *wrong += f64::from(u8::from(!told)) + f64::from(u8::from(!whole));
    let kept = line.records.get("marker").copied().unwrap_or_default();
    let lost: u64 = line.drops.values().sum();
    // What was emitted after the session had ended is nobody's, so there may be less.
    let beyond = (kept + lost).saturating_sub(emitted);
    wait_for("an idle controller", DEADLINE, || {
        controller.status().session.is_none().then_some(())
    })?;
    wait_for("an empty folder", DEADLINE, || std::fs::remove_dir_all(&manifest.directory).ok())?;
    Ok(beyond)
}
