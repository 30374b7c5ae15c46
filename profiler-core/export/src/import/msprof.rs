//! Running `msprof`, which alone reads what aclprof wrote.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::device::NO_LINKS;
use super::source::{MSPROF_OUTPUT, MSPROF_TRACE, msprof_database, newest_parts};

/// The environment variable that names the program.
const PROGRAM_VARIABLE: &str = "OMNIPROF_MSPROF";
/// Where a CANN keeps it.
const PLACES: [&str; 3] = ["tools/profiler/bin/msprof", "bin/msprof", "tools/msprof"];
/// CANN 9's place, then that of CANN 8.5 and before.
const HOMES: [&str; 2] = ["/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest"];

/// Captures of an hour take it a few minutes.
const LIMIT: Duration = Duration::from_secs(30 * 60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What is told of its last words.
const MAX_WORDS: usize = 400;

/// What a person types.
pub(super) fn command(trace: &Path) -> String {
    format!("msprof --export=on --type=text --output={}", trace.display())
}

/// The newest timeline that was exported, or all parts of it; where there is none, a database.
pub(super) fn timelines(trace: &Path) -> Vec<PathBuf> {
    let parts = newest_parts(&trace.join(MSPROF_OUTPUT), MSPROF_TRACE, ".json");
    match parts.is_empty() {
        true => msprof_database(trace).into_iter().collect(),
        false => parts,
    }
}

/// Makes a timeline. `lock` stays locked until the program has ended, whatever becomes of us.
pub(super) fn export(
    trace: &Path,
    log: &Path,
    lock: &File,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), String> {
    let program = locate().ok_or_else(|| {
        format!(
            "no `msprof` was found: install the CANN toolkit here and source its set_env.sh, or \
             name the program by {PROGRAM_VARIABLE}"
        )
    })?;
    let refused = |what: &str, error: &dyn std::error::Error| {
        format!("{what} {}: {error}", program.display())
    };
    let words = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(NO_LINKS)
        .open(log)
        .map_err(|error| refused("no log can be written of", &error))?;
    let also = words.try_clone().map_err(|error| refused("no log can be written of", &error))?;
    let mut command = Command::new(&program);
    command.args(["--export=on", "--type=text"]).arg(format!("--output={}", trace.display()));
    command.stdin(Stdio::null()).stdout(words).stderr(also);
    let inherited = inherit(lock, true);
    let child = command.spawn();
    inherited.and(inherit(lock, false)).map_err(|error| refused("no lock for", &error))?;
    let child = child.map_err(|error| refused("cannot start", &error))?;
    wait(Running(child), log, goes_on)
}

/// Whether programs that are started get the file, too.
fn inherit(file: &File, inherited: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfd(file)?;
    flags.set(FdFlags::CLOEXEC, !inherited);
    fcntl_setfd(file, flags)
}

/// A program that does not outlive the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that ended needs neither.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait(mut running: Running, log: &Path, goes_on: &mut dyn FnMut() -> bool) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match running.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                return Err(format!("`msprof` ended with {status}: {}", last_words(log)));
            }
            Ok(None) if begun.elapsed() > LIMIT => {
                return Err(format!("`msprof` was not done after {} min", LIMIT.as_secs() / 60));
            }
            Ok(None) if goes_on() => std::thread::sleep(LOOK_EVERY),
            Ok(None) => return Err("called off".to_owned()),
            Err(error) => return Err(format!("`msprof` cannot be waited for: {error}")),
        }
    }
}

fn last_words(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let last =
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing was said");
    last.chars().take(MAX_WORDS).collect()
}

fn locate() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        // Whoever names a program means that one and no other.
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let variables = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];
    let homes = variables.iter().filter_map(|name| std::env::var_os(name).map(PathBuf::from));
    let homes: Vec<PathBuf> = homes.chain(HOMES.iter().map(PathBuf::from)).collect();
    let of_cann = homes.iter().flat_map(|home| PLACES.iter().map(|place| home.join(place)));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let by_path = std::env::split_paths(&search).map(|folder| folder.join("msprof"));
    of_cann.chain(by_path).find(|path| path.is_file())
}
