//! Ascend's chips, by what the PCI bus says of them.

use std::path::Path;

const HUAWEI: u32 = 0x19e5;

/// A chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chip {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Whether MSPTI records it.
    pub(crate) has_mspti: bool,
}

/// The chip of a PCI device number of Huawei's; its network cards have others.
pub(crate) fn by_pci(device: u32) -> Option<Chip> {
    let (name, has_mspti) = match device {
        0xd100 => ("Ascend 310", false),
        0xd105 => ("Ascend 310B", true),
        0xd500 | 0xd501 => ("Ascend 310P", false),
        0xd801 => ("Ascend 910", false),
        0xd802 | 0xd804 | 0xd805 => ("Ascend 910B", true),
        0xd803 => ("Ascend 910C", true),
        0xd806..=0xd808 => ("Ascend 950", true),
        _ => return None,
    };
    Some(Chip { name, has_mspti })
}

/// The chips that the PCI bus shows below `root`, in the order of their slots. A container shows
/// those of its host, and a chip that is attached by another bus is not there.
pub(crate) fn on_the_bus(root: &Path) -> Vec<Chip> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return Vec::new();
    };
    let mut slots: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    slots.sort();
    let number = |slot: &Path, file: &str| -> Option<u32> {
        let text = std::fs::read_to_string(slot.join(file)).ok()?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let ascend = slots.iter().filter(|slot| number(slot, "vendor") == Some(HUAWEI));
    ascend.filter_map(|slot| by_pci(number(slot, "device")?)).collect()
}
