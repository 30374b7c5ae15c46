//! Backends behind the plugin door, without a library.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::abi::{BackendTable, Exported, LoadedPlugin, PluginError, open_table, table};
use profiler_core::backend::{BackendId, ProfilerBackend, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::error::BackendError;
use profiler_core::null::NullBackend;
use profiler_core::probe::ProbeReport;

/// Makes a type that stands for a library which exports a backend.
macro_rules! exported {
    ($name:ident, $id:literal, $role:ident, $make:expr) => {
        pub(crate) struct $name;

        impl profiler_core::abi::Exported for $name {
            const REGISTRATION: profiler_core::registry::BackendRegistration =
                profiler_core::registry::BackendRegistration {
                    id: $id,
                    role: profiler_core::backend::BackendRole::$role,
                    priority: 7,
                    make: || -> Box<dyn profiler_core::backend::ProfilerBackend> { $make },
                };

            fn door() -> &'static profiler_core::abi::Door {
                static DOOR: profiler_core::abi::Door = profiler_core::abi::Door::new();
                &DOOR
            }
        }
    };
}

pub(crate) fn id(text: &str) -> BackendId {
    BackendId::parse(text).unwrap()
}

/// Opens a table as a library would give it.
pub(crate) fn open(
    table: &'static BackendTable,
    expected: &str,
) -> Result<LoadedPlugin, PluginError> {
    // SAFETY: a table for ever.
    unsafe { open_table(table, Path::new("/test.so"), &id(expected)) }
}

pub(crate) fn leaked<E: Exported>() -> &'static mut BackendTable {
    Box::leak(Box::new(table::<E>("1.2.3")))
}

pub(crate) fn loaded<E: Exported>() -> LoadedPlugin {
    open(leaked::<E>(), E::REGISTRATION.id).unwrap()
}

pub(crate) fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

exported!(Null, "null", Device, Box::new(NullBackend::new()));

/// Goes through a session until something fails.
pub(crate) fn play(backend: &dyn ProfilerBackend) -> Result<(), BackendError> {
    if let ProbeReport::Unavailable { reason } = backend.probe() {
        return Err(BackendError::Plugin { code: reason.code, message: reason.message });
    }
    let sink = Arc::new(MemorySink::default());
    let mut session = backend.open(&SessionConfig::default(), sink, clock())?;
    session.start()?;
    session.flush()?;
    session.stop(Duration::ZERO)?;
    Ok(())
}

/// The table, ended after so many bytes, with nothing readable behind it.
pub(crate) fn ended_at<E: Exported>(bytes: usize) -> *const BackendTable {
    let whole = table::<E>("1");
    let words: Vec<usize> = vec![0; bytes.div_ceil(size_of::<usize>())];
    let place = Vec::leak(words).as_mut_ptr().cast::<u8>();
    let known = bytes.min(size_of::<BackendTable>());
    // SAFETY: both have so many bytes.
    unsafe { (&raw const whole).cast::<u8>().copy_to_nonoverlapping(place, known) };
    // SAFETY: the field lies in what was allocated.
    let size = unsafe { place.add(offset_of!(BackendTable, struct_size)) };
    // SAFETY: as above, and aligned as the allocation is.
    unsafe { size.cast::<usize>().write(bytes) };
    place.cast()
}

pub(crate) fn open_raw(table: *const BackendTable) -> Result<LoadedPlugin, PluginError> {
    // SAFETY: a table for ever, as long as it says.
    unsafe { open_table(table, Path::new("/test.so"), &id("null")) }
}
