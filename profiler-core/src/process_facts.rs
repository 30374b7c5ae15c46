//! What a process looks like: by this a controller finds out which part of a pipeline it is.
//!
//! Secrets are masked ([`crate::secret`]). Titles and ranks become known late: an agent tells the
//! facts when it joins and again at each arm.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::inject_env::matches;
use crate::secret::{mask_command_line, mask_value};

/// Command lines and environments are cut here.
const MAX_BYTES: u64 = 64 << 10;

/// Values of variables are cut here.
const MAX_VALUE_BYTES: usize = 1024;

/// Variables of launchers and frameworks that say who a worker is; `X*` = all that begin with X.
pub const USUAL_VARIABLES: &[&str] = &[
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
    "CUDA_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "PMI_RANK",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "VLLM_*",
    "SGLANG_*",
    "HOSTNAME",
    "POD_NAME",
    "POD_UID",
    "NODE_NAME",
    "KUBERNETES_SERVICE_HOST",
];

/// What a process looks like. What could not be read is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFacts {
    /// The command line as it is now, secrets masked. Programs that set a title overwrite it.
    pub command_line: Vec<String>,
    /// What `ps` shows: the command line as one text, or the title that the program set.
    pub title: String,
    /// The name of the main thread, at most 15 bytes.
    pub name: String,
    /// The file that runs.
    pub executable: String,
    /// The process that started it, 0 = unknown.
    pub parent: u32,
    /// The control group: names the pod and container in most clusters.
    pub control_group: String,
    /// Some of its variables, secrets masked.
    pub environment: BTreeMap<String, String>,
}

impl ProcessFacts {
    /// Looks at a process of this machine. Its environment is the one that it was started with.
    ///
    /// `variables` are reported beside [`USUAL_VARIABLES`]; `X*` = all that begin with X.
    #[must_use]
    pub fn of_process(pid: u32, variables: &[String]) -> Self {
        let bytes = read(&Path::new("/proc").join(pid.to_string()).join("environ"));
        let pairs = bytes.split(|byte| *byte == 0);
        Self { environment: select(pairs, variables), ..Self::without_environment(pid) }
    }

    /// Looks at a process of this machine, but not at its environment.
    #[must_use]
    pub fn without_environment(pid: u32) -> Self {
        let proc = Path::new("/proc").join(pid.to_string());
        let text = |name: &str| String::from_utf8_lossy(&read(&proc.join(name))).into_owned();
        let command_line = command_line(&read(&proc.join("cmdline")));
        let executable = std::fs::read_link(proc.join("exe")).unwrap_or_default();
        Self {
            title: command_line.join(" "),
            command_line,
            name: text("comm").trim_end().to_owned(),
            executable: executable.to_string_lossy().into_owned(),
            parent: parent(&text("stat")).unwrap_or(0),
            control_group: text("cgroup").lines().last().unwrap_or_default().to_owned(),
            environment: BTreeMap::new(),
        }
    }
}

/// Of the pairs `NAME=value` those that are reported, secrets masked.
pub fn select<'a>(
    pairs: impl Iterator<Item = &'a [u8]>,
    variables: &[String],
) -> BTreeMap<String, String> {
    const MAX_VARIABLES: usize = 256;
    let mut selected = BTreeMap::new();
    for pair in pairs {
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (Ok(name), value) = (std::str::from_utf8(&pair[..at]), &pair[at + 1..]) else {
            continue;
        };
        let further = variables.iter().map(String::as_str);
        if !USUAL_VARIABLES.iter().copied().chain(further).any(|pattern| matches(pattern, name)) {
            continue;
        }
        let value = &value[..value.len().min(MAX_VALUE_BYTES)];
        let value = mask_value(name, &String::from_utf8_lossy(value));
        selected.insert(name.to_owned(), value);
        if selected.len() == MAX_VARIABLES {
            break;
        }
    }
    selected
}

/// The names in the value of [`crate::inject_env::FACT_VARIABLES_VARIABLE`].
#[must_use]
pub fn parse_variables(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path)
        && file.take(MAX_BYTES).read_to_end(&mut bytes).is_err()
    {
        // What a process that ends meanwhile still showed is as good as nothing.
        bytes.clear();
    }
    bytes
}

/// The parts of a command line. A title stands at its begin and zeros fill what is left.
fn command_line(bytes: &[u8]) -> Vec<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    let parts = bytes[..end].split(|byte| *byte == 0);
    let parts: Vec<String> = parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    mask_command_line(&parts)
}

/// Field 4 of `/proc/PID/stat`; field 2, in brackets, may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_process_is_looked_at() {
        let facts = ProcessFacts::of_process(std::process::id(), &["PATH".to_owned()]);
        assert!(!facts.command_line.is_empty() && !facts.name.is_empty(), "{facts:?}");
        assert_eq!(facts.executable, std::env::current_exe().unwrap().to_string_lossy());
        assert_eq!(facts.parent, std::os::unix::process::parent_id());
        assert!(facts.environment.contains_key("PATH"));
        assert_eq!(ProcessFacts::of_process(u32::MAX, &[]), ProcessFacts::default());
    }

    #[test]
    fn a_title_is_read_without_what_fills_it_up() {
        assert_eq!(command_line(b"VLLM::EngineCore\0\0\0\0"), ["VLLM::EngineCore"]);
        assert_eq!(command_line(b"python\0-c\0\0x\0"), ["python", "-c", "", "x"]);
        assert!(command_line(b"\0\0").is_empty() && command_line(b"").is_empty());
    }

    #[test]
    fn the_usual_variables_and_those_asked_for_are_reported() {
        let pairs = [
            &b"RANK=1"[..],
            b"VLLM_HOST_IP=10.0.0.1",
            b"VLLM_API_KEY=abc",
            b"HOME=/root",
            b"MY_STAGE=2",
            b"no pair",
            b"\xff=1",
        ];
        let selected = select(pairs.into_iter(), &parse_variables("MY_*, ,OTHER"));
        let found: Vec<String> =
            selected.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(found, ["MY_STAGE=2", "RANK=1", "VLLM_API_KEY=***", "VLLM_HOST_IP=10.0.0.1"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            command_line(&bytes);
            let pairs = bytes.split(|byte| *byte == 0);
            prop_assert!(select(pairs, &["*".to_owned()]).len() <= 256);
        }
    }
}
