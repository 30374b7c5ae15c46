//! What a probe reports of a machine that can be recorded.

mod support;

use std::path::Path;

use backend_npu::NpuBackend;
use profiler_core::backend::ProfilerBackend as _;
use profiler_core::probe::{DeviceInfo, ProbeReport, UnavailableReason};

use support::{FakeCann, install};

/// A machine with these devices, of the chip that has this number on the PCI bus.
fn machine(name: &str, devices: &[u32], pci: Option<&str>) -> FakeCann {
    // Its library is loaded already, so that no other process tries it.
    support::fake();
    let cann = install(name);
    let put = |path: &str, text: &str| {
        let path = cann.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    for device in devices {
        put(&format!("dev/davinci{device}"), "");
    }
    if let Some(pci) = pci {
        put("sys/bus/pci/devices/0000:c1:00.0/vendor", "0x19e5\n");
        put("sys/bus/pci/devices/0000:c1:00.0/device", &format!("{pci}\n"));
    }
    cann
}

fn backend(cann: &FakeCann, visible: Option<&str>) -> NpuBackend {
    NpuBackend::at(&cann.root, visible.map(str::to_owned))
}

fn available(backend: &NpuBackend) -> (Vec<DeviceInfo>, Vec<String>) {
    match backend.probe() {
        ProbeReport::Available { devices, notes } => (devices, notes),
        other => panic!("{other:?}"),
    }
}

fn indices(devices: &[DeviceInfo]) -> Vec<u32> {
    devices.iter().map(|device| device.index).collect()
}

fn has(notes: &[String], text: &str) -> bool {
    notes.iter().any(|note| note.contains(text))
}

#[test]
fn each_chip_is_reported_with_the_paths_that_it_has() {
    for (pci, name, paths) in [
        (Some("0xd802"), "Ascend 910B", "its paths: mspti, aclprof, torch_npu"),
        (Some("0xd500"), "Ascend 310P", "its paths: aclprof, torch_npu; Ascend 310P has no MSPTI"),
        (None, "Ascend NPU", "its paths: aclprof, torch_npu, and mspti if its chip"),
    ] {
        let cann = machine(&format!("paths-{}", pci.unwrap_or("none")), &[], pci);
        let (devices, notes) = available(&backend(&cann, None));
        assert_eq!((devices.len(), devices[0].name.as_str()), (1, name));
        assert!(has(&notes, paths), "{notes:?}");
        // The path that is taken is named with its library.
        let has_mspti = pci != Some("0xd500");
        assert_eq!(has(&notes, "MSPTI by "), has_mspti, "{notes:?}");
        assert_eq!(has(&notes, "recorded through aclprof ("), !has_mspti, "{notes:?}");
    }
}

#[test]
fn devices_that_the_environment_hides_are_not_listed() {
    let cann = machine("hidden", &[4, 6], Some("0xd802"));
    let (devices, notes) = available(&backend(&cann, Some("4,6")));
    // By the driver's numbers, which records carry.
    assert_eq!(indices(&devices), [4, 6]);
    let left = "ASCEND_RT_VISIBLE_DEVICES=4,6 leaves 2 of 3 devices to this process";
    assert!(has(&notes, left) && has(&notes, "renumbers devices"), "{notes:?}");

    let (devices, notes) = available(&backend(&cann, Some("0")));
    assert_eq!(indices(&devices), [0]);
    assert!(has(&notes, "leaves 1 of 3") && !has(&notes, "renumbers"), "{notes:?}");

    // What names none of them, as in a container that numbers its own, or is no list, hides none.
    for visible in [None, Some("9"), Some("all")] {
        let (devices, notes) = available(&backend(&cann, visible));
        assert_eq!(indices(&devices), [0, 4, 6], "{visible:?}");
        assert!(!has(&notes, "leaves"), "{notes:?}");
    }
}

#[test]
fn what_the_container_runtime_was_told_is_reported() {
    let cann = machine("container", &[], Some("0xd802"));
    let told = backend(&cann, None).with_container_devices(Some("0-3".to_owned()));
    let (_, notes) = available(&told);
    assert!(has(&notes, "ASCEND_VISIBLE_DEVICES=0-3 chose this container's devices"), "{notes:?}");
    let (_, notes) = available(&backend(&cann, None));
    assert!(!has(&notes, "ASCEND_VISIBLE_DEVICES"), "{notes:?}");

    // The variable alone is no device: another runtime ignored it.
    let none = Path::new("/nonexistent");
    let told = NpuBackend::at(none, None).with_container_devices(Some("0".to_owned()));
    let ProbeReport::Unavailable { reason: UnavailableReason { code, message, remedy } } =
        told.probe()
    else {
        panic!("there is no device");
    };
    assert_eq!(code, "no_device");
    assert!(
        message.contains("ASCEND_VISIBLE_DEVICES=0 asks Ascend's container runtime"),
        "{message}"
    );
    assert!(remedy.contains("--runtime=ascend"), "{remedy}");
}
