//! What the machine shows of NVIDIA without a driver call.

use std::path::{Path, PathBuf};

/// The environment variable that hides devices from a process.
pub(crate) const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The numbers of the device nodes (`/dev/nvidia0`), in order.
    pub(crate) devices: Vec<u32>,
    /// The kernel module's version, where it is loaded.
    pub(crate) driver: Option<String>,
    /// The value of `CUDA_VISIBLE_DEVICES`, where it is set.
    pub(crate) visible: Option<String>,
}

impl Machine {
    /// Looks below `root`.
    pub(crate) fn look(root: &Path, visible: Option<String>) -> Self {
        let version = std::fs::read_to_string(root.join("proc/driver/nvidia/version"));
        Self {
            devices: device_nodes(&root.join("dev")),
            driver: version.ok().map(|text| driver_version(&text)),
            visible,
        }
    }

    /// Whether the environment hides every device from this process.
    pub(crate) fn is_hidden(&self) -> bool {
        // The driver stops at the first entry that names no device.
        let first = self.visible.as_deref().map(|list| list.split(',').next().unwrap_or_default());
        first.is_some_and(|first| matches!(first.trim(), "" | "-1" | "NoDevFiles"))
    }
}

fn device_nodes(directory: &Path) -> Vec<u32> {
    let entries: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    let number =
        |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("nvidia")?.parse::<u32>().ok();
    let mut numbers: Vec<u32> = entries.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue …`.
fn driver_version(text: &str) -> String {
    let is_version = |word: &&str| {
        word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    let first_line = text.lines().next().unwrap_or_default();
    first_line.split_whitespace().find(is_version).unwrap_or("of unknown version").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_both_wordings_of_the_module() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jan 1\nGCC";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release";
        assert_eq!(driver_version(closed), "580.159.04");
        assert_eq!(driver_version(open), "535.104.05");
        assert_eq!(driver_version(""), "of unknown version");
    }

    #[test]
    fn a_list_that_begins_with_no_device_hides_all() {
        let hidden =
            |visible: &str| Machine { visible: Some(visible.to_owned()), ..Machine::default() };
        assert!(hidden("").is_hidden());
        assert!(hidden("-1").is_hidden());
        assert!(!hidden("0,1").is_hidden());
        assert!(!hidden("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6").is_hidden());
        assert!(!Machine::default().is_hidden());
    }
}
