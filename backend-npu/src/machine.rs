//! What the machine shows of Ascend without a driver call.

use std::path::Path;

use profiler_core::probe::{DeviceInfo, ProbeReport};

use crate::chip::{self, Chip};

/// The environment variable that chooses devices for a process.
pub(crate) const VISIBLE_DEVICES: &str = "ASCEND_RT_VISIBLE_DEVICES";

/// By which Ascend's container runtime is told the devices of a container.
pub(crate) const CONTAINER_DEVICES: &str = "ASCEND_VISIBLE_DEVICES";

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
    /// The chips on the PCI bus.
    pub(crate) chips: Vec<Chip>,
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
            chips: chip::on_the_bus(root),
            visible,
        }
    }

    /// Whether the environment hides every device from this process.
    pub(crate) fn is_hidden(&self) -> bool {
        self.visible.as_deref().is_some_and(|list| list.trim().is_empty())
    }

    /// What the chips are called. A machine has chips of one kind.
    pub(crate) fn chip_name(&self) -> &'static str {
        self.chips.first().map_or("Ascend NPU", |chip| chip.name)
    }

    /// The chip that MSPTI does not record, where all are such.
    pub(crate) fn without_mspti(&self) -> Option<&'static str> {
        let first = self.chips.first()?;
        self.chips.iter().all(|chip| !chip.has_mspti).then_some(first.name)
    }

    /// What a person should know of the numbers of devices.
    pub(crate) fn numbers_note(&self) -> Option<String> {
        VisibleDevices::parse(self.visible.as_deref()).renumbers().then(|| {
            format!(
                "{VISIBLE_DEVICES} renumbers devices, which Ascend does not support together with \
                 profiling; records carry the driver's numbers"
            )
        })
    }

    /// The devices, as a probe tells them.
    pub(crate) fn available(&self, notes: Vec<String>) -> ProbeReport {
        let name = self.chip_name();
        let devices = self.seen().into_iter().map(|number| DeviceInfo {
            index: number,
            name: name.to_owned(),
            uuid: String::new(),
        });
        ProbeReport::Available { devices: devices.collect(), notes }
    }

    /// The devices that the environment leaves to this process; all, where it names none of them.
    fn seen(&self) -> Vec<u32> {
        let visible = VisibleDevices::parse(self.visible.as_deref());
        let left = self.devices.iter().filter(|number| visible.own_number(**number).is_some());
        let left: Vec<u32> = left.copied().collect();
        if left.is_empty() { self.devices.clone() } else { left }
    }

    /// Which devices the environment chose, where it did.
    pub(crate) fn seen_note(&self) -> Option<String> {
        let list = self.visible.as_deref()?;
        let (seen, all) = (self.seen().len(), self.devices.len());
        (seen < all).then(|| {
            format!("{VISIBLE_DEVICES}={list} leaves {seen} of {all} devices to this process")
        })
    }

    /// The driver in words.
    pub(crate) fn driver_text(&self) -> String {
        match (&self.driver, self.library) {
            (Some(version), _) => format!("driver {version}"),
            (None, true) => "driver of unknown version".to_owned(),
            (None, false) => "no driver library in /usr/local/Ascend/driver".to_owned(),
        }
    }
}

/// How a process numbers devices: the driver's numbers in the order of the process's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VisibleDevices(Vec<u32>);

impl VisibleDevices {
    /// Reads a value of `ASCEND_RT_VISIBLE_DEVICES`; what is no list of numbers renumbers nothing.
    pub(crate) fn parse(list: Option<&str>) -> Self {
        let numbers = list.unwrap_or_default().split(',').map(|number| number.trim().parse());
        Self(numbers.collect::<Result<Vec<u32>, _>>().unwrap_or_default())
    }

    /// The driver's number of the process's device.
    pub(crate) fn driver_number(&self, own: u32) -> u32 {
        self.0.get(own as usize).copied().unwrap_or(own)
    }

    /// The process's number of the driver's device; `None` = it is hidden from the process.
    pub(crate) fn own_number(&self, driver: u32) -> Option<u32> {
        if self.0.is_empty() {
            return Some(driver);
        }
        (0..).zip(&self.0).find_map(|(own, number)| (*number == driver).then_some(own))
    }

    /// Whether the process's numbers differ from the driver's.
    pub(crate) fn renumbers(&self) -> bool {
        (0..).zip(&self.0).any(|(own, driver)| own != *driver)
    }
}

/// Whether this process has a device open, as its open files show.
pub(crate) fn has_device_open() -> bool {
    !open_devices().is_empty()
}

/// The driver's numbers of the devices that this process has open, as its open files show.
pub(crate) fn open_devices() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let number = |entry: std::fs::DirEntry| {
        let path = std::fs::read_link(entry.path()).ok()?;
        device_number(path.file_name()?.to_str()?)
    };
    let mut numbers: Vec<u32> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The number in the name of a device's node.
fn device_number(name: &str) -> Option<u32> {
    name.strip_prefix("davinci")?.parse().ok()
}

fn device_nodes(directory: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbers: Vec<u32> = names.filter_map(|name| device_number(&name)).collect();
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

    #[test]
    fn visible_devices_renumber() {
        let list = VisibleDevices::parse(Some("4, 6"));
        assert_eq!([0, 1, 2].map(|own| list.driver_number(own)), [4, 6, 2]);
        assert!(list.renumbers());
        assert_eq!([4, 6, 5].map(|driver| list.own_number(driver)), [Some(0), Some(1), None]);
        assert_eq!(VisibleDevices::parse(None).own_number(5), Some(5));
        for same in [None, Some("0,1"), Some(""), Some("all"), Some("1,x")] {
            assert!(!VisibleDevices::parse(same).renumbers(), "{same:?}");
        }
    }
}
