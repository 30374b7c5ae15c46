//! The plugin door between versions: older and newer plugins and hosts, and what is no plugin.
#![expect(unsafe_code, reason = "hands tables over as a library would")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[macro_use]
mod abi_common;

use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use profiler_core::abi::{
    ABI_MAJOR, BACKEND_MAGIC, BackendTable, Door, Exported, HOST_MAGIC, HostTable,
    MIN_BACKEND_TABLE_BYTES, PluginError, Text, status, table,
};
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::conformance::MemorySink;
use profiler_core::record::{Marker, Row as _};
use profiler_core::registry::{BackendRegistration, BackendRegistry, PluginOrigin, Trial};

use abi_common::{Null, clock, ended_at, id, leaked, loaded, open, open_raw, play};

struct WithTrial;

impl Exported for WithTrial {
    const REGISTRATION: BackendRegistration = Null::REGISTRATION;
    const TRIAL: Option<Trial> = Some(|library, write| {
        write(&format!("trying {}", library.display()));
        write("it works");
    });

    fn door() -> &'static Door {
        static DOOR: Door = Door::new();
        &DOOR
    }
}

#[test]
fn a_trial_says_each_line_as_it_knows_it() {
    let mut registry = BackendRegistry::empty();
    let plugin = loaded::<WithTrial>();
    let origin = PluginOrigin { path: "/test.so".into(), version: plugin.version.clone() };
    registry.add_plugin(plugin.registered(), origin, plugin.trial()).unwrap();
    let mut lines = Vec::new();
    let mut write = |line: &str| lines.push(line.to_owned());
    assert!(registry.run_trial(&id("null"), Path::new("/vendor.so"), &mut write));
    assert!(!registry.run_trial(&id("other"), Path::new("/vendor.so"), &mut write));
    assert_eq!(lines, ["trying /vendor.so", "it works"]);

    // One that has nothing to try, and an older one that could not have.
    assert!(loaded::<Null>().trial().is_none());
    assert!(
        open_raw(ended_at::<WithTrial>(offset_of!(BackendTable, trial))).unwrap().trial().is_none()
    );
}

#[test]
fn an_older_plugin_lacks_what_came_later() {
    for bytes in [MIN_BACKEND_TABLE_BYTES, MIN_BACKEND_TABLE_BYTES + 3] {
        let plugin = open_raw(ended_at::<Null>(bytes)).unwrap();
        let sink = Arc::new(MemorySink::default());
        let config = SessionConfig::default();
        let mut session = plugin.backend.open(&config, Arc::clone(&sink) as _, clock()).unwrap();
        session.start().unwrap();
        session.flush().unwrap();
        assert_eq!(sink.rows(Marker::KIND), 0, "a plugin without `flush` is not asked to");
        session.stop(Duration::ZERO).unwrap();
        assert_eq!(sink.rows(Marker::KIND), 1);
    }
}

#[test]
fn a_newer_plugin_has_more_than_is_looked_at() {
    let plugin = open_raw(ended_at::<Null>(size_of::<BackendTable>() + 64)).unwrap();
    play(&plugin.backend).unwrap();
}

#[test]
fn what_is_no_table_is_refused() {
    assert!(matches!(open_raw(std::ptr::null()), Err(PluginError::NoTable { .. })));
    let too_small = open_raw(ended_at::<Null>(MIN_BACKEND_TABLE_BYTES - 1));
    assert!(matches!(too_small, Err(PluginError::TableTooSmall { .. })), "{too_small:?}");

    let table = leaked::<Null>();
    table.magic = BACKEND_MAGIC + 1;
    assert!(matches!(open(table, "null"), Err(PluginError::BadMagic { .. })));
    for found in [0, ABI_MAJOR + 1, u32::MAX] {
        let table = leaked::<Null>();
        table.abi_major = found;
        let refused = open(table, "null").unwrap_err();
        assert!(matches!(refused, PluginError::OtherMajor { .. }), "{refused}");
        assert_eq!(refused.code(), "other_version");
    }
    let table = leaked::<Null>();
    table.role = 9;
    assert!(matches!(open(table, "null"), Err(PluginError::BadField { field: "role", .. })));
    for id in [
        Text { ptr: std::ptr::null(), len: 4 },
        Text { ptr: std::ptr::dangling(), len: usize::MAX },
        Text { ptr: c"\xff\xfe".as_ptr(), len: 2 },
    ] {
        let table = leaked::<Null>();
        table.id = id;
        assert!(matches!(open(table, "null"), Err(PluginError::BadField { field: "id", .. })));
    }
    let other = open(leaked::<Null>(), "cuda");
    assert!(matches!(other, Err(PluginError::OtherId { ref found, .. }) if found == "null"));

    let table = ended_at::<Null>(size_of::<BackendTable>()).cast_mut();
    // SAFETY: the field lies in what was allocated.
    let stop = unsafe { table.byte_add(offset_of!(BackendTable, stop)) };
    // SAFETY: as above; nobody reads it as a function before it was looked at.
    unsafe { stop.cast::<usize>().write(0) };
    let missing = open_raw(table);
    assert!(matches!(missing, Err(PluginError::MissingFunction { function: "stop", .. })));
}

/// A host as another version of this crate would be, that counts what becomes of it.
mod other_host {
    use std::ffi::c_void;
    use std::sync::atomic::{AtomicU64, Ordering};

    use profiler_core::abi::{BatchRef, HostTable, LossRef, Text, emit_answer};

    #[derive(Default)]
    pub(super) struct Counts {
        pub(super) emitted: AtomicU64,
        pub(super) released: AtomicU64,
    }

    fn counts<'a>(ctx: *mut c_void) -> &'a Counts {
        // SAFETY: the `ctx` of `table`, which lives for ever.
        unsafe { &*ctx.cast::<Counts>() }
    }

    unsafe extern "C" fn release(ctx: *mut c_void) {
        counts(ctx).released.fetch_add(1, Ordering::SeqCst);
    }

    unsafe extern "C" fn open_stream(_ctx: *mut c_void, _info: Text) -> u32 {
        1
    }

    unsafe extern "C" fn emit(
        ctx: *mut c_void,
        _batches: *const BatchRef,
        _count: usize,
        _batch_size: usize,
    ) -> u32 {
        counts(ctx).emitted.fetch_add(1, Ordering::SeqCst);
        // What a later version might say.
        emit_answer::CLOSED + 40
    }

    unsafe extern "C" fn loss(_ctx: *mut c_void, _loss: *const LossRef) {}

    unsafe extern "C" fn fact(_ctx: *mut c_void, _key: Text, _value: Text) {}

    unsafe extern "C" fn log(_ctx: *mut c_void, _level: u32, _target: Text, _message: Text) {}

    unsafe extern "C" fn clock(_ctx: *mut c_void, _which: u32) -> u64 {
        7
    }

    pub(super) fn table(
        counts: &'static Counts,
        magic: u32,
        abi_major: u32,
        size: usize,
    ) -> HostTable {
        HostTable {
            magic,
            abi_major,
            struct_size: size,
            ctx: std::ptr::from_ref(counts).cast_mut().cast(),
            release,
            open_stream,
            emit,
            loss,
            fact,
            log,
            clock,
        }
    }
}

#[test]
fn a_plugin_serves_newer_hosts_and_refuses_others() {
    let table = table::<Null>("1");
    let config = r#"{"version":1,"body":{"of a later version":true}}"#;
    let play = |host: &HostTable| {
        let mut session = std::ptr::null_mut();
        // SAFETY: everything lives through the call; no answer is asked for.
        let opened =
            unsafe { (table.open)(Text::of(config), host, &raw mut session, std::ptr::null()) };
        if opened != status::OK {
            return opened;
        }
        // SAFETY: a session that was opened just now.
        assert_eq!(unsafe { (table.start)(session, std::ptr::null()) }, status::OK);
        let flush = table.flush.unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { flush(session, std::ptr::null()) }, status::OK);
        // SAFETY: as above, for the last time.
        unsafe { (table.close)(session, std::ptr::null()) }
    };
    let counts: &'static other_host::Counts = Box::leak(Box::default());
    let newer = size_of::<HostTable>() + 64;
    let host = other_host::table(counts, HOST_MAGIC, ABI_MAJOR, newer);
    assert_eq!(play(&host), status::OK);
    assert_eq!(counts.emitted.load(Ordering::SeqCst), 1);
    assert_eq!(counts.released.load(Ordering::SeqCst), 1, "given back once, as it is closed");

    for (magic, major, size) in [
        (HOST_MAGIC + 1, ABI_MAJOR, newer),
        (HOST_MAGIC, ABI_MAJOR + 1, newer),
        (HOST_MAGIC, ABI_MAJOR, size_of::<HostTable>() - 8),
    ] {
        let host = other_host::table(counts, magic, major, size);
        assert_eq!(play(&host), status::FAILED);
    }
    let nobody: *const HostTable = std::ptr::null();
    let mut session = std::ptr::null_mut();
    // SAFETY: null is refused.
    let opened =
        unsafe { (table.open)(Text::of(config), nobody, &raw mut session, std::ptr::null()) };
    assert_eq!(opened, status::FAILED);
    assert_eq!(counts.emitted.load(Ordering::SeqCst), 1, "a host of another kind is not called");
}
