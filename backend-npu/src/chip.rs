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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each device number that Ascend's driver lists, and whether the chip's platform has MSPTI.
    #[test]
    fn each_chip_is_known_by_its_number() {
        for (device, name, has_mspti) in [
            (0xd100, "Ascend 310", false),
            (0xd105, "Ascend 310B", true),
            (0xd500, "Ascend 310P", false),
            (0xd501, "Ascend 310P", false),
            (0xd801, "Ascend 910", false),
            (0xd802, "Ascend 910B", true),
            (0xd803, "Ascend 910C", true),
            (0xd804, "Ascend 910B", true),
            (0xd805, "Ascend 910B", true),
            (0xd806, "Ascend 950", true),
            (0xd807, "Ascend 950", true),
            (0xd808, "Ascend 950", true),
        ] {
            assert_eq!(by_pci(device), Some(Chip { name, has_mspti }), "{device:#x}");
        }
        // Neighbours, and a network card of the same vendor's.
        for device in [0, 0xd104, 0xd106, 0xd502, 0xd800, 0xd809, 0x0200] {
            assert_eq!(by_pci(device), None, "{device:#x}");
        }
    }

    #[test]
    fn chips_stand_on_the_bus_in_the_order_of_their_slots() {
        let root = tempfile::tempdir().expect("a folder");
        let slot = |slot: &str, vendor: &str, device: &str| {
            let place = root.path().join("sys/bus/pci/devices").join(slot);
            std::fs::create_dir_all(&place).expect("a folder");
            std::fs::write(place.join("vendor"), vendor).expect("a file");
            std::fs::write(place.join("device"), device).expect("a file");
        };
        slot("0000:c1:00.0", "0x19e5\n", "0xd802\n");
        slot("0000:01:00.0", "0x19e5\n", "0xd500\n");
        slot("0000:02:00.0", "0x19e5\n", "0x0200\n");
        // The same number of another vendor.
        slot("0000:03:00.0", "0x10de\n", "0xd801\n");
        slot("0000:04:00.0", "what", "ever");
        let names: Vec<&str> = on_the_bus(root.path()).iter().map(|chip| chip.name).collect();
        assert_eq!(names, ["Ascend 310P", "Ascend 910B"]);
    }
}
