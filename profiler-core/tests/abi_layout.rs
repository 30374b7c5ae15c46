//! The layout of everything that crosses the plugin door. A plugin that was built yesterday must
//! work tomorrow: within a major version fields are appended at the ends of the tables and nothing
//! else changes. If this test fails, the change breaks plugins, unless it only appends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};

use profiler_core::abi::{
    ABI_MAJOR, Answer, BACKEND_MAGIC, BackendTable, BatchRef, ENTRY, HOST_MAGIC, HostTable,
    LossRef, MESSAGE_VERSION, MIN_BACKEND_TABLE_BYTES, MIN_BATCH_BYTES, MIN_HOST_TABLE_BYTES,
    MIN_LOSS_BYTES, Text, emit_answer, role, status,
};
use profiler_core::backend::{DriverState, Preset, SessionConfig, SessionSummary};
use profiler_core::clock::ClockDomain;
use profiler_core::probe::{DeviceInfo, ProbeReport};
use profiler_core::sink::StreamInfo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

macro_rules! layout {
    ($out:expr, $name:ident: $($field:ident)*) => {
        writeln!(
            $out,
            "{} size {} align {}",
            stringify!($name),
            size_of::<$name>(),
            align_of::<$name>()
        )
        .unwrap();
        $(writeln!($out, "  {:>3} {}", offset_of!($name, $field), stringify!($field)).unwrap();)*
    };
}

#[test]
fn version_1_layout() {
    let mut out = format!("entry {ENTRY}, major {ABI_MAJOR}, messages {MESSAGE_VERSION}\n");
    writeln!(out, "magic: backend {BACKEND_MAGIC:#x}, host {HOST_MAGIC:#x}").unwrap();
    writeln!(
        out,
        "least sizes: backend {MIN_BACKEND_TABLE_BYTES}, host {MIN_HOST_TABLE_BYTES}, batch \
         {MIN_BATCH_BYTES}, loss {MIN_LOSS_BYTES}"
    )
    .unwrap();
    let (ok, failed, panicked) = (status::OK, status::FAILED, status::PANICKED);
    writeln!(out, "status: ok {ok}, failed {failed}, panicked {panicked}").unwrap();
    let (accepted, full, closed) = (emit_answer::ACCEPTED, emit_answer::FULL, emit_answer::CLOSED);
    writeln!(out, "emit: accepted {accepted}, full {full}, closed {closed}").unwrap();
    writeln!(out, "role: device {}, host {}", role::DEVICE, role::HOST).unwrap();
    layout!(out, Text: ptr len);
    layout!(out, Answer: ctx write);
    layout!(out, BackendTable: magic abi_major struct_size id version role priority
        probe open start stop close flush trial driver records_memory);
    layout!(out, HostTable: magic abi_major struct_size ctx
        release open_stream emit loss fact log clock);
    layout!(out, BatchRef: stream kind reserved stride reserved_2 rows rows_len heap heap_len);
    layout!(out, LossRef: struct_size stream kind cause reserved count from to);
    insta::assert_snapshot!(out);
}

/// What crosses as JSON. Fields may be added, with a default; what stands here may neither go nor
/// change, in either direction.
#[test]
fn version_1_messages() {
    let config = SessionConfig {
        target_pid: Some(7),
        preset: Preset::Full,
        options: [("test.option".to_owned(), 1.into())].into(),
        ..SessionConfig::default()
    };
    unchanged(
        &config,
        json!({
            "target_pid": 7, "preset": "full", "samples": true, "sample_hz": 99, "counters": true,
            "counter_hz": 10, "operators": false, "record_shapes": false, "with_stack": false,
            "memory": false, "max_buffer_bytes": 268_435_456, "drain_ms": 500,
            "options": {"test.option": 1},
        }),
    );
    unchanged(
        &ProbeReport::Available {
            devices: vec![DeviceInfo {
                index: 3,
                name: "a device".to_owned(),
                uuid: "GPU-1".to_owned(),
            }],
            notes: vec!["a note".to_owned()],
        },
        json!({
            "status": "available",
            "devices": [{"index": 3, "name": "a device", "uuid": "GPU-1"}],
            "notes": ["a note"],
        }),
    );
    unchanged(
        &ProbeReport::unavailable("no_driver", "no driver", "install it"),
        json!({
            "status": "unavailable",
            "reason": {"code": "no_driver", "message": "no driver", "remedy": "install it"},
        }),
    );
    unchanged(
        &StreamInfo { producer: "x.y".to_owned(), thread: 7, clock: ClockDomain::Realtime },
        json!({"producer": "x.y", "thread": 7, "clock": "realtime"}),
    );
    unchanged(
        &SessionSummary {
            device_used: Some(true),
            driver: Some(DriverState::Residue),
            notes: vec!["a note".to_owned()],
            ..SessionSummary::default()
        },
        json!({"device_used": true, "driver": "residue", "notes": ["a note"]}),
    );
}

/// Version 1's text still means the value, and the value's text still holds all of version 1's.
fn unchanged<T>(value: &T, version_1: Value)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let read: T = serde_json::from_value(version_1.clone()).unwrap();
    assert_eq!(&read, value);
    let today = serde_json::to_value(value).unwrap();
    for (key, then) in version_1.as_object().unwrap() {
        assert_eq!(today.get(key), Some(then), "`{key}`");
    }
}
