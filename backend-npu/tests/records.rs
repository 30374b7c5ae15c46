//! Each record through the stand-in, field by field. All values of a record differ, so that a field
//! that is read in another's place shows.

mod support;

use std::ffi::c_int;
use std::sync::Arc;

use backend_npu::NpuBackend;
use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::probe::ProbeReport;
use profiler_core::record::{
    ApiCall, Communication, ContextDef, DeviceDef, ExternalCorrelation, Kernel, Marker, Memcpy,
    Memory, Memset, RecordKind, Row as _, Span, StreamDef, ThreadDef,
};

use support::kept::KeptSink;
use support::session::{DRAIN, alone};
use support::{Activity, FakeMspti};

/// No two of its values are the same, nor the number of anything else.
fn distinct() -> Activity {
    Activity {
        start: 1001,
        end: 1007,
        correlation: 111,
        bytes: 112,
        address: 113,
        id: 114,
        count: 115,
        bandwidth: 116.5,
        name: c"the name".as_ptr(),
        kernel_type: c"the type".as_ptr(),
        domain: c"the domain".as_ptr(),
        algorithm: c"the algorithm".as_ptr(),
        communicator: c"the communicator".as_ptr(),
        flag: 1,
        source: 0,
        process: 121,
        thread: 122,
        device: 123,
        stream: 124,
        value: 125,
        operation: 1,
        memory_kind: 1,
        copy_kind: 2,
        data_type: 4,
        external_kind: 127,
        is_async: 1,
        growth: 0,
    }
}

/// What becomes of records, in a process where `ASCEND_RT_VISIBLE_DEVICES` is `visible`.
fn record(fake: &FakeMspti, visible: Option<&str>, records: &[(u32, Activity)]) -> Arc<KeptSink> {
    fake.preload(true);
    let sink = Arc::new(KeptSink::default());
    let backend = NpuBackend::at(&fake.cann.root, visible.map(str::to_owned));
    let config = SessionConfig { preset: Preset::Full, memory: true, ..SessionConfig::default() };
    let clock = Arc::new(SystemClock::new());
    let mut session = backend.open(&config, Arc::clone(&sink) as _, clock).expect("opens");
    session.start().expect("starts");
    // Where there are communication records, these are not asked for.
    let of_kind = |name: &str, kind: u32| fake.symbol::<extern "C" fn(u32) -> c_int>(name)(kind);
    assert_eq!(of_kind("msptiActivityEnable", 4), 0);
    for (kind, activity) in records {
        assert!(fake.emit(*kind, activity), "kind {kind} is not recorded");
    }
    let stopped = session.stop(DRAIN);
    assert_eq!(of_kind("msptiActivityDisable", 4), 0);
    stopped.expect("stops");
    sink
}

#[test]
fn every_field_of_every_kind_is_read_from_its_place() {
    let alone = alone();
    let times = "start=1001 end=1007";
    let place = "device=123 context=123 stream=124";
    let expected: [(u32, RecordKind, String); 12] = [
        (
            1,
            Marker::KIND,
            "time=1001 payload=114 name=the name target=the domain thread=122".to_owned(),
        ),
        (
            2,
            Kernel::KIND,
            format!("{times} correlation=111 name=the name {place} category=the type"),
        ),
        (3, ApiCall::KIND, format!("{times} correlation=111 name=the name thread=122 domain=4")),
        (
            4,
            Communication::KIND,
            format!("{times} name=the name communicator=the communicator device=123 stream=124"),
        ),
        (
            5,
            Memory::KIND,
            format!(
                "time=1001 address=113 size_bytes=112 correlation=111 {place} operation=2 \
                 memory_kind=3"
            ),
        ),
        (
            6,
            Memset::KIND,
            format!(
                "{times} correlation=111 size_bytes=112 value=125 {place} flags=4 memory_kind=3"
            ),
        ),
        (
            7,
            Memcpy::KIND,
            format!(
                "{times} correlation=111 size_bytes=112 {place} source_device=123 \
                 target_device=123 flags=4 copy_kind=1 source_kind=1 target_kind=3"
            ),
        ),
        (8, ExternalCorrelation::KIND, "correlation=111 external=114 external_kind=127".to_owned()),
        (
            9,
            Communication::KIND,
            format!(
                "{times} correlation=111 count=115 name=the name algorithm=the algorithm \
                 data_type=fp32 communicator=the communicator device=123 stream=124"
            ),
        ),
        (10, ApiCall::KIND, format!("{times} correlation=111 name=the name thread=122 domain=3")),
        (11, ApiCall::KIND, format!("{times} correlation=111 name=the name thread=122 domain=3")),
        (12, ApiCall::KIND, format!("{times} correlation=111 name=the name thread=122 domain=3")),
    ];
    for (kind, row, text) in expected {
        let sink = record(alone.fake, None, &[(kind, distinct())]);
        assert_eq!(sink.take(row), [text], "kind {kind}");
        let is_on_device = matches!(kind, 2 | 4 | 6 | 7 | 9);
        let defined =
            [DeviceDef::KIND, ContextDef::KIND, StreamDef::KIND].map(|kind| sink.take(kind));
        let [device, context, stream] = &defined;
        if is_on_device {
            assert_eq!(device[..], ["name=Ascend NPU device=123 vendor=3"], "kind {kind}");
            assert_eq!(context[..], ["context=123 device=123"], "kind {kind}");
            assert_eq!(stream[..], ["stream=124 context=123 device=123"], "kind {kind}");
        } else {
            assert!(defined.iter().all(Vec::is_empty), "kind {kind}: {defined:?}");
        }
    }
}

/// The value of a field in a row's text.
fn field<'a>(row: &'a str, name: &str) -> Option<&'a str> {
    row.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn types_of_elements_are_named_as_frameworks_name_them_and_others_are_no_name() {
    let alone = alone();
    let names = [
        (0, Some("int8")),
        (1, Some("int16")),
        (2, Some("int32")),
        (3, Some("fp16")),
        (4, Some("fp32")),
        (5, Some("int64")),
        (6, Some("uint64")),
        (7, Some("uint8")),
        (8, Some("uint16")),
        (9, Some("uint32")),
        (10, Some("fp64")),
        (11, Some("bf16")),
        (12, Some("int128")),
        (13, None),
        (14, Some("hif8")),
        (15, Some("fp8_e4m3")),
        (16, Some("fp8_e5m2")),
        (17, Some("fp8_e8m0")),
        (18, None),
        (0xFFFF, None),
    ];
    let of_type = |(data_type, _): &(u32, Option<&str>)| {
        (
            9,
            Activity {
                data_type: *data_type,
                correlation: 1 + u64::from(*data_type),
                ..distinct()
            },
        )
    };
    let records: Vec<_> = names.iter().map(of_type).collect();
    let rows = record(alone.fake, None, &records).take(Communication::KIND);
    let found: Vec<_> = rows.iter().map(|row| field(row, "data_type")).collect();
    assert_eq!(found, names.map(|(_, name)| name));
}

#[test]
fn copies_and_allocations_tell_their_direction_and_kind() {
    let alone = alone();
    // Host 1 and device 3; a copy's own number is that of the two.
    let kinds = [
        (0, [None, None, None]),
        (1, [Some("9"), Some("1"), Some("1")]),
        (2, [Some("1"), Some("1"), Some("3")]),
        (3, [Some("2"), Some("3"), Some("1")]),
        (4, [Some("8"), Some("3"), Some("3")]),
        (5, [None, None, None]),
        (u32::MAX, [None, None, None]),
    ];
    let of_kind = |(copy_kind, _): &(u32, [Option<&str>; 3])| {
        (7, Activity { copy_kind: *copy_kind, is_async: 0, ..distinct() })
    };
    let mut records: Vec<_> = kinds.iter().map(of_kind).collect();
    for (operation, memory_kind) in [(0, 0), (0, 1), (1, 0), (7, 9)] {
        records.push((5, Activity { operation, memory_kind, ..distinct() }));
    }
    let sink = record(alone.fake, None, &records);
    let rows = sink.take(Memcpy::KIND);
    let found: Vec<_> = rows
        .iter()
        .map(|row| ["copy_kind", "source_kind", "target_kind"].map(|name| field(row, name)))
        .collect();
    assert_eq!(found, kinds.map(|(_, numbers)| numbers));
    assert!(rows.iter().all(|row| field(row, "flags").is_none()), "{rows:?}");
    let rows = sink.take(Memory::KIND);
    let found: Vec<_> =
        rows.iter().map(|row| ["operation", "memory_kind"].map(|name| field(row, name))).collect();
    let (allocation, release, device) = (Some("1"), Some("2"), Some("3"));
    assert_eq!(
        found,
        [[allocation, None], [allocation, device], [release, None], [allocation, None]]
    );
}

#[test]
fn markers_of_the_device_lie_on_a_timeline_of_its_stream() {
    let alone = alone();
    let on_device = Activity { source: 1, device: 3, stream: 5, ..distinct() };
    let (host, ended) = (Activity { id: 9, ..distinct() }, c"".as_ptr());
    let sink = record(
        alone.fake,
        None,
        &[
            (1, Activity { flag: 8, ..on_device }),
            // Both sides of one range; an end has no name.
            (1, Activity { flag: 16, ..host }),
            (1, Activity { flag: 16, id: 9, start: 1002, ..on_device }),
            (1, Activity { flag: 32, id: 9, start: 1006, name: ended, domain: ended, ..on_device }),
            (1, Activity { flag: 32, start: 1009, name: ended, domain: ended, ..host }),
        ],
    );
    let timeline = 0xF000_0000_u32 + (3 << 16) + 5;
    let names = "name=the name target=the domain";
    assert_eq!(
        sink.take(Marker::KIND),
        [format!("time=1001 payload=114 {names} thread={timeline}")]
    );
    assert_eq!(
        sink.take(Span::KIND),
        [
            format!("start=1002 end=1006 id=1 {names} thread={timeline}"),
            format!("start=1001 end=1009 id=2 {names} thread=122"),
        ]
    );
    let process = std::process::id();
    assert_eq!(
        sink.take(ThreadDef::KIND),
        [format!("name=NPU 3 stream 5 markers thread={timeline} process={process}")]
    );
}

/// Kernels and collectives carry the driver's numbers of devices, what the host measured the
/// process's own.
#[test]
fn renumbered_devices_are_the_drivers_in_every_row() {
    let alone = alone();
    let of_device = |kind, device| (kind, Activity { device, ..distinct() });
    let records =
        [of_device(2, 6), of_device(9, 6), of_device(5, 1), of_device(6, 0), of_device(7, 1)];
    let sink = record(alone.fake, Some("4,6"), &records);
    for (kind, device) in [
        (Kernel::KIND, "6"),
        (Communication::KIND, "6"),
        (Memory::KIND, "6"),
        (Memset::KIND, "4"),
        (Memcpy::KIND, "6"),
    ] {
        let rows = sink.take(kind);
        assert_eq!(rows.len(), 1, "{kind}");
        assert_eq!(field(&rows[0], "device"), Some(device), "{}", rows[0]);
    }
    let devices = sink.take(DeviceDef::KIND);
    let numbers: Vec<_> = devices.iter().map(|row| field(row, "device")).collect();
    assert_eq!(numbers, [Some("6"), Some("4")], "one device, however it is numbered");

    let report = NpuBackend::at(&alone.fake.cann.root, Some("4,6".to_owned())).probe();
    let ProbeReport::Available { notes, .. } = report else { panic!("{report:?}") };
    assert!(notes.iter().any(|note| note.contains("renumbers devices")), "{notes:?}");
}
