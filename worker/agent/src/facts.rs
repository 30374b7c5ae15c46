//! What is known of the process and its machine.

use profiler_core::control::Arm;
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{HeapRef, ProcessDef};
use profiler_core::sink::{Batch, Emit, RecordSink};

use crate::session::OWN_STREAM;

/// Parts of a name that mark a value as secret.
const SECRET_WORDS: &[&str] =
    &["token", "secret", "password", "passwd", "api-key", "api_key", "apikey", "credential"];

/// What stands where a secret stood.
const MASK: &str = "***";

/// Command lines are cut here.
const MAX_COMMAND_LINE_BYTES: usize = 16 << 10;

/// Variables of launchers that say who a worker is.
const RANK_VARIABLES: &[&str] = &[
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "CUDA_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
];

/// Writes the facts that are known at arm.
pub(crate) fn write(sink: &dyn RecordSink, worker: &WorkerIdentity, arm: &Arm, joined_by: &str) {
    let pid = worker.pid;
    sink.fact("agent.version", env!("CARGO_PKG_VERSION"));
    sink.fact("agent.joined_by", joined_by);
    sink.fact("host.name", &worker.host);
    let system = rustix::system::uname();
    sink.fact("host.kernel", &system.release().to_string_lossy());
    sink.fact("host.architecture", &system.machine().to_string_lossy());
    if let Ok(cpus) = std::thread::available_parallelism() {
        sink.fact("host.usable_cpus", &cpus.to_string());
    }
    sink.fact("process.program", &worker.program);
    let command_line = command_line(pid);
    sink.fact("process.command_line", &command_line.join(" "));
    define_process(sink, worker, &command_line);
    for (key, value) in [
        ("worker.stage", worker.stage.map(|stage| stage.to_string())),
        ("worker.role", worker.role.clone()),
        ("worker.replica", worker.replica.map(|replica| replica.to_string())),
        ("worker.rank", worker.rank.map(|rank| rank.to_string())),
    ] {
        if let Some(value) = value {
            sink.fact(key, &value);
        }
    }
    if pid == std::process::id() {
        for name in RANK_VARIABLES {
            if let Ok(value) = std::env::var(name) {
                sink.fact(&format!("environment.{}", name.to_lowercase()), &value);
            }
        }
    }
    for (key, json) in [
        ("config.capture", serde_json::to_string(&arm.capture)),
        ("config.schedule", serde_json::to_string(&arm.schedule)),
        ("config.limits", serde_json::to_string(&arm.limits)),
    ] {
        // Values that came as JSON go back to JSON.
        if let Ok(json) = json {
            sink.fact(key, &json);
        }
    }
}

/// Names the process, also where no backend for the host does.
fn define_process(sink: &dyn RecordSink, worker: &WorkerIdentity, command_line: &[String]) {
    let mut heap = Vec::new();
    let process = ProcessDef {
        name: HeapRef::push(&mut heap, worker.program.as_bytes()),
        command_line: HeapRef::push(&mut heap, command_line.join("\0").as_bytes()),
        process: worker.pid,
        parent: 0,
    };
    // Where the sink is full already, the facts say the same.
    let _emitted: Emit = sink.emit(&[Batch::with_heap(OWN_STREAM, &[process], &heap)]);
}

/// The command line of a process with secrets masked.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = &bytes[..bytes.len().min(MAX_COMMAND_LINE_BYTES)];
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let parts: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    mask(&parts)
}

/// Masks what follows a name that sounds like a secret: `--token X`, `--token=X`, `TOKEN=X`, and
/// passwords within URLs.
fn mask(parts: &[String]) -> Vec<String> {
    let mut masked = Vec::with_capacity(parts.len());
    let mut is_next_secret = false;
    for part in parts {
        if std::mem::take(&mut is_next_secret) && !part.starts_with('-') {
            masked.push(MASK.to_owned());
            continue;
        }
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (part.as_str(), None),
        };
        // Tokens of a language model are no secret.
        let lower = name.to_lowercase().replace("tokens", "").replace("tokeniz", "");
        let is_secret = SECRET_WORDS.iter().any(|word| lower.contains(word));
        match value {
            Some(_) if is_secret => masked.push(format!("{name}={MASK}")),
            None if is_secret && name.starts_with('-') => {
                is_next_secret = true;
                masked.push(part.clone());
            }
            _ => masked.push(mask_url(part)),
        }
    }
    masked
}

/// `scheme://user:password@host` without the password.
fn mask_url(part: &str) -> String {
    let masked = || {
        let (scheme, rest) = part.split_once("://")?;
        let authority = rest.split('/').next()?;
        let (user, _) = authority.rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        let after = &rest[user.len()..];
        Some(format!("{scheme}://{name}:{MASK}{after}"))
    };
    masked().unwrap_or_else(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_command_line_are_masked() {
        let line = [
            "server",
            "--model",
            "m",
            "--api-key",
            "sk-1",
            "--hf_token=hf-2",
            "DB_PASSWORD=3",
            "--max-tokens",
            "512",
            "--url",
            "https://me:pw4@host/path",
            "https://host/?a=b@c",
        ];
        let line = line.map(str::to_owned);
        let masked = mask(&line).join(" ");
        assert_eq!(
            masked,
            "server --model m --api-key *** --hf_token=*** DB_PASSWORD=*** --max-tokens \
             512 --url https://me:***@host/path https://host/?a=b@c"
        );
    }

    #[test]
    fn the_command_line_of_this_process_is_found() {
        assert!(!command_line(std::process::id()).is_empty());
    }
}
