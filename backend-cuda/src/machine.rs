//! What the machine shows of NVIDIA without a driver call.

use std::path::{Path, PathBuf};

/// The environment variable that hides devices from a process.
pub(crate) const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// A device, by its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// The number of its node (`/dev/nvidia0`).
    pub(crate) number: u32,
    /// What the kernel module calls it, else empty.
    pub(crate) name: String,
    /// Its unique id, else empty.
    pub(crate) uuid: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The devices, in the order of their nodes.
    pub(crate) devices: Vec<Device>,
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
            devices: devices(root),
            driver: version.ok().map(|text| driver_version(&text)),
            visible,
        }
    }

    /// The newest CUDA that the driver serves, by its branch; `None` = not known.
    ///
    /// <https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html>
    pub(crate) fn cuda_major(&self) -> Option<u32> {
        let branch: u32 = self.driver.as_ref()?.split('.').next()?.parse().ok()?;
        match branch {
            580.. => Some(13),
            525..580 => Some(12),
            _ => None,
        }
    }

    /// Whether the environment hides every device from this process.
    pub(crate) fn is_hidden(&self) -> bool {
        // The driver stops at the first entry that names no device.
        let first = self.visible.as_deref().map(|list| list.split(',').next().unwrap_or_default());
        first.is_some_and(|first| matches!(first.trim(), "" | "-1" | "NoDevFiles"))
    }
}

fn devices(root: &Path) -> Vec<Device> {
    let named = named_devices(&root.join("proc/driver/nvidia/gpus"));
    let nodes = device_nodes(&root.join("dev"));
    nodes
        .into_iter()
        .map(|number| {
            let known = named.iter().find(|device| device.number == number).cloned();
            known.unwrap_or(Device { number, ..Device::default() })
        })
        .collect()
}

/// What the kernel module says of each device.
fn named_devices(directory: &Path) -> Vec<Device> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let texts = entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("information")).ok());
    texts.filter_map(|text| device(&text)).collect()
}

fn device(text: &str) -> Option<Device> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    Some(Device {
        number: value("Device Minor")?.parse().ok()?,
        name: value("Model").unwrap_or_default(),
        uuid: value("GPU UUID").unwrap_or_default(),
    })
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
    fn a_device_is_named_by_the_kernel_module() {
        let text = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 0\nGPU UUID: \t GPU-254e\nDevice Minor: \t 3\n";
        let found = device(text).unwrap();
        assert_eq!((found.number, found.name.as_str()), (3, "NVIDIA H100 80GB HBM3"));
        assert_eq!(found.uuid, "GPU-254e");
        assert_eq!(device("Model: X\n"), None);
    }

    #[test]
    fn the_driver_tells_which_cuda_it_serves() {
        let machine =
            |driver: &str| Machine { driver: Some(driver.to_owned()), ..Machine::default() };
        assert_eq!(machine("580.159.04").cuda_major(), Some(13));
        assert_eq!(machine("535.104.05").cuda_major(), Some(12));
        assert_eq!(machine("of unknown version").cuda_major(), None);
        assert_eq!(Machine::default().cuda_major(), None);
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
