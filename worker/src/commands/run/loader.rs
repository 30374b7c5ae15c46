//! Why a process that uses a device has not joined: what the loader had against it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use profiler_core::inject_env::{CUDA_INJECTION_VARIABLE, INJECTED_FILE_NAME, PRELOAD_VARIABLE};
use profiler_worker::who::ProcessText;

/// The variables that bring the file into a process.
const VARIABLES: [&str; 2] = [CUDA_INJECTION_VARIABLE, PRELOAD_VARIABLE];

/// Of the auxiliary vector: the loader ignores variables, for the program has more rights than
/// its user.
const AT_SECURE: u64 = 23;

/// The modes set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// The bytes of an executable that are looked at.
const ELF_BYTES: u64 = 64 << 10;

/// The longest list of mapped files that is read.
const MAX_MAPS_BYTES: u64 = 8 << 20;

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// A stable word for programs.
    pub(super) code: &'static str,
    /// What is in the way, and what to do.
    pub(super) message: String,
}

fn reason(code: &'static str, message: impl Into<String>) -> Reason {
    Reason { code, message: message.into() }
}

/// Whether the process has a device open, or the driver's library in it.
pub(super) fn uses_device(pid: u32) -> bool {
    has_device_open(pid) || maps_any(pid, &["libcuda.so", "libascendcl.so"])
}

fn has_device_open(pid: u32) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|target| {
        let target = target.as_os_str().as_encoded_bytes();
        target.starts_with(b"/dev/nvidia") || target.starts_with(b"/dev/davinci")
    })
}

/// Whether files whose names begin so are mapped.
fn maps_any(pid: u32, names: &[&str]) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/maps")) else { return false };
    let mut text = Vec::new();
    if file.take(MAX_MAPS_BYTES).read_to_end(&mut text).is_err() {
        return false;
    }
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .filter_map(|line| line.rsplit_once('/'))
        .any(|(_, file)| names.iter().any(|name| file.starts_with(name)))
}

/// What is in the way, as far as it can be told from outside.
pub(super) fn why_not_joined(pid: u32, file: Option<&Path>) -> Reason {
    let Some(file) = file else {
        return reason(
            "no_file",
            format!(
                "{} was not found: put it beside the `omniprof` program, or name its directory \
                 with OMNIPROF_BIN_DIR",
                INJECTED_FILE_NAME
            ),
        );
    };
    let text = ProcessText::read(pid).unwrap_or_default();
    let named = VARIABLES.iter().find_map(|name| {
        let value = text.variable(name)?;
        Some((*name, value, value.split([':', ' ']).any(|part| Path::new(part) == file)))
    });
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let program = root.parent().map(|proc| proc.join("exe")).unwrap_or_default();
    if is_secure(pid, &program) {
        return reason(
            "secure",
            "the program has more rights than its user (set-user-id or capabilities), and the \
             loader takes no files for such: run it without, or record it with `--join outside`",
        );
    }
    match named {
        None if !text.environment.is_empty() => {
            return reason(
                "no_variable",
                format!(
                    "neither {} is in its environment: whoever started it cleared that; hand the \
                     variables on",
                    VARIABLES.join(" nor ")
                ),
            );
        }
        Some((name, value, false)) => {
            return reason(
                "other_file",
                format!("its {name} names {value}, not {}: another tool joins it", file.display()),
            );
        }
        _ => {}
    }
    let inside = root.join(file.strip_prefix("/").unwrap_or(file));
    // A root that may not be looked into tells nothing.
    if root.read_dir().is_ok()
        && let Err(error) = File::open(&inside)
    {
        return reason(
            "file_missing",
            format!(
                "{} cannot be opened where the process is ({error}): mount it into the container \
                 at the same path",
                file.display()
            ),
        );
    }
    if let (Some(of_program), Some(of_file)) = (Elf::read(&program), Elf::read(file)) {
        if (of_program.class, of_program.machine) != (of_file.class, of_file.machine) {
            return reason(
                "architecture",
                format!(
                    "{} is for another architecture than the program: use the one that was built \
                     for it",
                    file.display()
                ),
            );
        }
        if !of_program.has_loader {
            return reason(
                "static",
                "the program is linked statically, and no loader brings files into it: record it \
                 with `--join outside`",
            );
        }
    }
    if maps_any(pid, &[INJECTED_FILE_NAME]) {
        return reason(
            "silent",
            format!(
                "the file is loaded and its agent has not joined{}",
                if has_seccomp(pid) { "; the process filters system calls (seccomp)" } else { "" }
            ),
        );
    }
    reason(
        "not_loaded",
        "nothing is in the way, and the file is not loaded: the driver loads it when the process \
         first uses the device",
    )
}

/// Whether the loader ignores variables.
fn is_secure(pid: u32, program: &Path) -> bool {
    let Ok(vector) = std::fs::read(format!("/proc/{pid}/auxv")) else {
        // Not to be read: such a process belongs to somebody with more rights.
        return std::fs::metadata(program).is_ok_and(|meta| meta.mode() & SET_ID != 0);
    };
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    vector.chunks_exact(16).any(|pair| number(&pair[..8]) == AT_SECURE && number(&pair[8..]) != 0)
}

fn has_seccomp(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() != "0"))
}

/// What the loader looks at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Elf {
    class: u8,
    machine: u16,
    /// Whether it names a program that loads it.
    has_loader: bool,
}

impl Elf {
    fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(ELF_BYTES).read_to_end(&mut bytes).ok()?;
        Self::parse(&bytes)
    }

    /// Reads the header, of 64 bits for the rest: a program of 32 bits is told by its class.
    fn parse(bytes: &[u8]) -> Option<Self> {
        const PT_INTERP: u32 = 3;
        const CLASS_64: u8 = 2;
        if !bytes.starts_with(b"\x7fELF") {
            return None;
        }
        let class = *bytes.get(4)?;
        let number = |at: usize, len: usize| -> Option<u64> {
            let field = bytes.get(at..at.checked_add(len)?)?;
            Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        };
        let machine = u16::try_from(number(18, 2)?).ok()?;
        if class != CLASS_64 {
            return Some(Self { class, machine, has_loader: true });
        }
        let table = usize::try_from(number(32, 8)?).ok()?;
        let (size, count) = (number(54, 2)? as usize, number(56, 2)? as usize);
        let has_loader = (0..count).any(|index| {
            let at = index.checked_mul(size).and_then(|offset| offset.checked_add(table));
            at.and_then(|at| number(at, 4)) == Some(u64::from(PT_INTERP))
        });
        Some(Self { class, machine, has_loader })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 64];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(kinds.len()).unwrap().to_le_bytes());
        for kind in kinds {
            let mut header = [0_u8; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn headers_are_read_and_hostile_ones_are_none() {
        let whole = elf(62, &[1, 3, 1]);
        assert_eq!(Elf::parse(&whole), Some(Elf { class: 2, machine: 62, has_loader: true }));
        assert!(!Elf::parse(&elf(62, &[1, 2])).unwrap().has_loader);
        for len in 0..64 {
            // Cut anywhere: no panic, and no loader that is not there.
            assert!(Elf::parse(&whole[..len]).is_none_or(|elf| !elf.has_loader), "{len}");
        }
        let mut far = whole.clone();
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        far[54..58].copy_from_slice(&[0xFF; 4]);
        assert!(!Elf::parse(&far).unwrap().has_loader);
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn this_process_has_the_variables_of_nobody() {
        let pid = std::process::id();
        let own = std::env::current_exe().unwrap();
        assert!(Elf::read(&own).unwrap().has_loader);
        assert_eq!(why_not_joined(pid, None).code, "no_file");
        let why = why_not_joined(pid, Some(Path::new("/nowhere/libomniprof_inject.so")));
        assert_eq!(why.code, "no_variable", "{why:?}");
        assert!(!is_secure(pid, &own));
        assert!(maps_any(pid, &["libc.so", "libc-", "ld-musl"]));
        assert!(!maps_any(pid, &["libcuda.so"]));
    }
}
