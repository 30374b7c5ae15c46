//! What the machine shows of Ascend without a driver call.

use std::path::Path;

/// The environment variable that chooses devices for a process.
pub(crate) const VISIBLE_DEVICES: &str = "ASCEND_RT_VISIBLE_DEVICES";

/// The driver's library, where its installer puts it.
const DRIVER_LIBRARY: &str = "usr/local/Ascend/driver/lib64/driver/libascend_hal.so";

/// The driver's version, where its installer writes it.
const DRIVER_VERSION: &str = "usr/local/Ascend/driver/version.info";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The numbers of the device nodes (`/dev/davinci0`), in order.
    pub(crate) devices: Vec<u32>,
    /// Whether the node is there through which every device is opened.
    pub(crate) manager: bool,
    /// Whether the driver's library is there.
    pub(crate) library: bool,
    /// The driver's version, where it is told.
    pub(crate) driver: Option<String>,
    /// The value of `ASCEND_RT_VISIBLE_DEVICES`, where it is set.
    pub(crate) visible: Option<String>,
}

impl Machine {
    /// Looks below `root`.
    pub(crate) fn look(root: &Path, visible: Option<String>) -> Self {
        let dev = root.join("dev");
        let version = std::fs::read_to_string(root.join(DRIVER_VERSION));
        Self {
            devices: device_nodes(&dev),
            manager: ["davinci_manager", "davinci_manager_docker"]
                .iter()
                .any(|node| dev.join(node).exists()),
            library: root.join(DRIVER_LIBRARY).exists(),
            driver: version.ok().and_then(|text| driver_version(&text)),
            visible,
        }
    }

    /// Whether the environment hides every device from this process.
    pub(crate) fn is_hidden(&self) -> bool {
        self.visible.as_deref().is_some_and(|list| list.trim().is_empty())
    }
}

fn device_nodes(directory: &Path) -> Vec<u32> {
    let mut numbers = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return numbers };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|name| name.strip_prefix("davinci")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    numbers
}

fn driver_version(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("Version="))?;
    Some(line.trim().to_owned()).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_line_of_that_name() {
        let text = "package_version=24.1.rc3\nVersion=24.1.rc3\nascendhal_version=7.35.23\n";
        assert_eq!(driver_version(text).as_deref(), Some("24.1.rc3"));
        assert_eq!(driver_version("Version=\n"), None);
        assert_eq!(driver_version("anything"), None);
    }
}
