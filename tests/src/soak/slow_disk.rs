//! A disk that takes seconds for what others take at once: a file system of a loop device, written
//! through, to which a control group lets so many bytes a second pass.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_core::record::{Marker, Row as _};
use profiler_core::spool::SpoolReader;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;
use rustix::fs::{major, minor};

use super::{Line, Setting, is_whole, wait_for, worker};

const NAME: &str = "slow-disk";
const ROOT: &str = "OMNIPROF_SOAK_ROOT";
const GROUP: &str = "OMNIPROF_SOAK_GROUP";
const SECONDS: &str = "OMNIPROF_SOAK_SECONDS";
const DEADLINE: Duration = Duration::from_secs(120);
/// Where control groups of block devices lie. Of version 2 the controller for them would have to be
/// switched on for the whole machine.
const GROUPS: &str = "/sys/fs/cgroup/blkio";
const LIMIT: &str = "blkio.throttle.write_bps_device";
/// What the shell answers where nothing may be mounted.
const MAY_NOT_MOUNT: i32 = 77;
const IMAGE_BYTES: u64 = 512 << 20;
/// What the disk takes: enough to write what is queued before the writer gives up, and too little.
const KIB_A_SECOND: [u64; 2] = [1024, 256];
/// How long each round writes more than the disk takes.
const FLOOD: Duration = Duration::from_secs(3);
/// The longest that an application may stand still while it makes a mark. A write to this disk of
/// what is queued in that time takes seconds; without it a busy machine takes the processor away.
const PAUSE_MS: f64 = 250.0;
/// What the end of a session may take: its writer gives up after five seconds.
const STOP_MS: f64 = 10_000.0;

/// Records more than the disk takes.
///
/// # Errors
///
/// The process on the slow disk fails.
pub fn run(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    let skipped = |why: &str| Ok(vec![Line::skipped(NAME, "rounds", why)]);
    if !Path::new(GROUPS).join(LIMIT).is_file() {
        return skipped("there is no control group (version 1) that throttles block devices");
    }
    let Some(group) = Group::make() else {
        return skipped("this user may make no control group");
    };
    let folder = setting.folder(NAME)?;
    let (image, root) = (folder.join("image"), folder.join("root"));
    std::fs::create_dir(&root)?;
    std::fs::File::create_new(&image)?.set_len(IMAGE_BYTES)?;
    // Without a journal: that would be written by the kernel's own thread, which is in no group.
    let made = Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(&image).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skipped("`mkfs.ext4` is missing or fails");
    }
    let script = format!("mount -o loop,sync \"$1\" \"$2\" || exit {MAY_NOT_MOUNT}; exec \"$0\"");
    let socket = tempfile::tempdir()?;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(std::env::current_exe()?)
        .args([&image, &root])
        .env(worker::VARIABLE, NAME)
        .env(ROOT, &root)
        .env(GROUP, &group.0)
        .env(SECONDS, setting.faults.as_secs().to_string())
        .env("OMNIPROF_SOCKET", socket.path())
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else { return skipped("there is no `unshare`") };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(MAY_NOT_MOUNT) || said.starts_with("unshare:") {
        return skipped("no file system of a loop device can be mounted");
    }
    anyhow::ensure!(output.status.success(), "{}: {said}", output.status);
    let told: Vec<f64> = serde_json::from_slice(&output.stdout).context("what it told")?;
    let [rounds, emitted, lost, unfinished, wrong, uncounted, pause_ms, stop_ms] = told[..] else {
        anyhow::bail!("{told:?}")
    };
    Ok(vec![
        Line::told(NAME, "rounds", rounds, "")
            .noted(format!("{KIB_A_SECOND:?} KiB/s, flooded for {FLOOD:?} each")),
        Line::told(NAME, "lost-and-counted", lost, "rows").noted(format!("of {emitted}")),
        Line::told(NAME, "unfinished-and-told", unfinished, "captures"),
        Line::bounded(NAME, "not-as-expected", wrong, "", 0.0)
            .noted("a whole spool, if late; told as such or as unfinished; the next one records"),
        Line::bounded(NAME, "neither-kept-nor-counted", uncounted, "rows", 0.0),
        Line::bounded(NAME, "longest-mark", pause_ms, "ms", PAUSE_MS),
        Line::bounded(NAME, "slowest-stop", stop_ms, "ms", STOP_MS),
    ])
}

/// A control group of this run. It goes when this is dropped, its processes having ended.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let folder = Path::new(GROUPS).join(format!("omniprof-soak-{}", std::process::id()));
        std::fs::create_dir(&folder).ok().map(|()| Self(folder))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _removed: std::io::Result<()> = std::fs::remove_dir(&self.0);
    }
}

/// What was seen in all rounds.
#[derive(Default)]
struct Seen {
    rounds: u32,
    emitted: u64,
    lost: u64,
    unfinished: u32,
    wrong: u32,
    uncounted: u64,
    pause: Duration,
    stop: Duration,
}

/// The process whose traces lie on a slow disk.
pub(super) fn be_slow_disk() -> anyhow::Result<ExitCode> {
    let root = PathBuf::from(std::env::var_os(ROOT).context("no root")?);
    let group = PathBuf::from(std::env::var_os(GROUP).context("no group")?);
    let seconds: u64 = std::env::var(SECONDS)?.parse()?;
    let device = std::fs::metadata(&root)?.dev();
    std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;

    let (controller, dir) = super::controller(root)?;
    let _agent = Agent::builder().stage(0).role("noisy").socket_dir(dir).connect()?;
    anyhow::ensure!(controller.wait_for_workers(1, DEADLINE), "it does not join");
    let mut seen = Seen::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) || seen.rounds < 1 {
        seen.rounds += 1;
        for kib in KIB_A_SECOND {
            let limit = format!("{}:{} {}", major(device), minor(device), kib << 10);
            std::fs::write(group.join(LIMIT), limit).context("the disk cannot be throttled")?;
            record(&controller, &mut seen, true)?;
            // Little enough for this disk: all of it is there.
            record(&controller, &mut seen, false)?;
        }
    }
    let told = serde_json::to_string(&[
        f64::from(seen.rounds),
        seen.emitted as f64,
        seen.lost as f64,
        f64::from(seen.unfinished),
        f64::from(seen.wrong),
        seen.uncounted as f64,
        seen.pause.as_secs_f64() * 1e3,
        seen.stop.as_secs_f64() * 1e3,
    ])?;
    // The only line of this role.
    std::io::Write::write_all(&mut std::io::stdout(), told.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A capture of more than the disk takes, or of a little.
fn record(controller: &Controller, seen: &mut Seen, flood: bool) -> anyhow::Result<()> {
    controller.start(&StartRequest::default())?;
    let (mut number, mut emitted) = (1_u64, 0_u64);
    let began = Instant::now();
    let mut last = began;
    loop {
        // Bytes that do not compress.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        profiler_agent::marker("noise").payload(number).field("n", number).emit();
        emitted += 1;
        let now = Instant::now();
        seen.pause = seen.pause.max(now - last);
        last = now;
        let is_enough = if flood { now - began >= FLOOD } else { emitted >= 1000 };
        if is_enough {
            break;
        }
    }
    let stopping = Instant::now();
    let wait_ms = u64::try_from(DEADLINE.as_millis())?;
    let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
    seen.stop = seen.stop.max(stopping.elapsed());
    let line = manifest.workers.first().context("no worker")?;
    let spool = line.files.iter().find(|file| file.format == "spool").context("no spool")?;
    let spool = Path::new(&manifest.directory).join(&spool.path);
    // A writer that was given up goes on for as long as the disk takes.
    let (lost, lost_in_all) = wait_for("the spool's end", DEADLINE, || lost(&spool))?;
    let read = worker::read(&spool)?;
    let is_unfinished = line.error.as_ref().is_some_and(|e| e.code == "spool_unfinished");
    seen.unfinished += u32::from(is_unfinished);
    // Other kinds of rows are lost as well; the manifest says what the file says.
    let is_told = line.drops.values().sum::<u64>() == lost_in_all;
    let is_expected = match flood {
        true => (is_whole(line) && is_told) || is_unfinished,
        false => is_whole(line) && lost_in_all == 0,
    };
    seen.wrong += u32::from(!is_expected || !read.closed || read.damaged);
    seen.uncounted += emitted.abs_diff(read.marks + lost);
    seen.emitted += emitted;
    seen.lost += lost;
    anyhow::ensure!(controller.wait_until_idle(DEADLINE), "the controller stays busy");
    wait_for("an empty folder", DEADLINE, || std::fs::remove_dir_all(&manifest.directory).ok())
}

/// How many marks a spool says that it lacks, and how many rows of all kinds; nothing before its end.
fn lost(spool: &Path) -> Option<(u64, u64)> {
    let mut reader = SpoolReader::open(spool).ok()?;
    while reader.next_block().ok()?.is_some() {}
    let footer = reader.footer()?;
    let of_marks = footer.lost.iter().filter(|(kind, _, _)| *kind == Marker::KIND);
    Some((of_marks.map(|(_, _, count)| count).sum(), footer.lost.total()))
}
