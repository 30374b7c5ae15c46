//! The plugin's side of the door: any backend as a table.
#![expect(unsafe_code, reason = "implements functions of a C interface")]

use std::any::Any;
use std::ffi::OsStr;
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::backend::{BackendRole, ProfileSession, ProfilerBackend, SessionConfig};
use crate::clock::ClockSource;
use crate::error::BackendError;
use crate::registry::{BackendRegistration, Trial};
use crate::sink::RecordSink;

use super::host_handle::HostHandle;
use super::message::{self, ErrorMessage};
use super::table::{
    ABI_MAJOR, Answer, BACKEND_MAGIC, BackendTable, HostTable, SessionHandle, Status, Text, role,
    status,
};

/// Exports a backend from a library, given its [`BackendRegistration`].
///
/// Stands once in a crate of type `cdylib` that holds nothing else: the entry symbol may be in a
/// program once only, so it must not lie in the backend's own crate.
///
/// ```ignore
/// profiler_core::export_backend!(backend_cuda::REGISTRATION);
/// ```
///
/// A backend that has libraries tried by another process passes its
/// [`TrialRegistration`](crate::registry::TrialRegistration) as well.
#[macro_export]
macro_rules! export_backend {
    ($registration:expr) => {
        $crate::export_backend!(@ $registration, None);
    };
    ($registration:expr, $trial:expr) => {
        $crate::export_backend!(@ $registration, Some($trial.run));
    };
    (@ $registration:expr, $trial:expr) => {
        #[cfg(not(panic = "unwind"))]
        compile_error!(
            "a plugin is built with panic = \"unwind\": what panics in it must stop at its door, \
             not end the profiled process"
        );

        const _: () = {
            struct Plugin;

            static DOOR: $crate::abi::Door = $crate::abi::Door::new();

            impl $crate::abi::Exported for Plugin {
                const REGISTRATION: $crate::registry::BackendRegistration = $registration;
                const TRIAL: Option<$crate::registry::Trial> = $trial;

                fn door() -> &'static $crate::abi::Door {
                    &DOOR
                }
            }

            static TABLE: $crate::abi::BackendTable =
                $crate::abi::table::<Plugin>(env!("CARGO_PKG_VERSION"));

            #[unsafe(no_mangle)]
            extern "C" fn omniprof_backend_entry_v1() -> *const $crate::abi::BackendTable {
                &raw const TABLE
            }
        };
    };
}

/// What [`export_backend!`](crate::export_backend) makes of a registration.
pub trait Exported: 'static {
    /// The backend.
    const REGISTRATION: BackendRegistration;

    /// What it tries in a process of its own, where there is something.
    const TRIAL: Option<Trial> = None;

    /// The plugin's one door.
    fn door() -> &'static Door;
}

/// What a plugin keeps: its backend, once it was asked for, and whether it panicked.
#[derive(Default)]
pub struct Door {
    backend: OnceLock<Box<dyn ProfilerBackend>>,
    panicked: OnceLock<String>,
}

impl Door {
    /// A door that nobody has used.
    #[must_use]
    pub const fn new() -> Self {
        Self { backend: OnceLock::new(), panicked: OnceLock::new() }
    }
}

/// The table of a backend.
#[must_use]
pub const fn table<E: Exported>(version: &'static str) -> BackendTable {
    BackendTable {
        magic: BACKEND_MAGIC,
        abi_major: ABI_MAJOR,
        struct_size: size_of::<BackendTable>(),
        id: Text::of(E::REGISTRATION.id),
        version: Text::of(version),
        role: match E::REGISTRATION.role {
            BackendRole::Device => role::DEVICE,
            BackendRole::Host => role::HOST,
        },
        priority: E::REGISTRATION.priority,
        probe: probe::<E>,
        open: open::<E>,
        start: start::<E>,
        stop: stop::<E>,
        close: close::<E>,
        flush: Some(flush::<E>),
        trial: match E::TRIAL {
            Some(_) => Some(trial::<E>),
            None => None,
        },
        driver: Some(driver::<E>),
        records_memory: Some(records_memory::<E>),
    }
}

type BoxedSession = Box<dyn ProfileSession>;

unsafe extern "C" fn probe<E: Exported>(answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        let report = backend::<E>().probe();
        say(answer, &report);
        Ok(())
    })
}

unsafe extern "C" fn open<E: Exported>(
    config: Text,
    host: *const HostTable,
    session: *mut SessionHandle,
    answer: *const Answer,
) -> Status {
    // Before all else, so that the host is released whatever happens.
    // SAFETY: the ABI demands a table of the host, whose `ctx` is ours from here on.
    let host = unsafe { HostHandle::take(host) };
    guarded::<E>(answer, move || {
        let Some(host) = host else {
            return Err(refused("host", "its table is of another version of the plugin interface"));
        };
        if session.is_null() {
            return Err(refused("session", "there is no place for it"));
        }
        // SAFETY: the ABI demands a text that lives through the call.
        let config = unsafe { config.bytes() }.unwrap_or_default();
        let config: SessionConfig = message::read(config)
            .map_err(|error| refused("config", &crate::error::chain(&error)))?;
        let sink = Arc::clone(&host) as Arc<dyn RecordSink>;
        let opened = backend::<E>().open(&config, sink, host as Arc<dyn ClockSource>)?;
        let handle = Box::into_raw(Box::new(opened));
        // SAFETY: not null, and the ABI demands a place that can be written.
        unsafe { session.write(handle.cast()) };
        Ok(())
    })
}

unsafe extern "C" fn start<E: Exported>(session: SessionHandle, answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        // SAFETY: the ABI demands a session of this plugin, called by one thread at a time.
        unsafe { session_of(session) }?.start()
    })
}

unsafe extern "C" fn flush<E: Exported>(session: SessionHandle, answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        // SAFETY: as in `start`.
        unsafe { session_of(session) }?.flush()
    })
}

unsafe extern "C" fn stop<E: Exported>(
    session: SessionHandle,
    drain_ns: u64,
    answer: *const Answer,
) -> Status {
    guarded::<E>(answer, || {
        // SAFETY: as in `start`.
        let session = unsafe { session_of(session) }?;
        let summary = session.stop(Duration::from_nanos(drain_ns))?;
        say(answer, &summary);
        Ok(())
    })
}

unsafe extern "C" fn close<E: Exported>(session: SessionHandle, answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        if session.is_null() {
            return Err(BackendError::NotStarted);
        }
        // SAFETY: made by `open`, and the ABI demands that it is closed once, last.
        drop(unsafe { Box::from_raw(session.cast::<BoxedSession>()) });
        Ok(())
    })
}

unsafe extern "C" fn trial<E: Exported>(library: Text, answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        // SAFETY: the ABI demands a text that lives through the call.
        let library = unsafe { library.bytes() }.unwrap_or_default();
        if let Some(run) = E::TRIAL {
            run(Path::new(OsStr::from_bytes(library)), &mut |line| say_text(answer, line));
        }
        Ok(())
    })
}

unsafe extern "C" fn driver<E: Exported>(answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        say(answer, &backend::<E>().driver());
        Ok(())
    })
}

unsafe extern "C" fn records_memory<E: Exported>(config: Text, answer: *const Answer) -> Status {
    guarded::<E>(answer, || {
        // SAFETY: the ABI demands a text that lives through the call.
        let config = unsafe { config.bytes() }.unwrap_or_default();
        let config: SessionConfig = message::read(config)
            .map_err(|error| refused("config", &crate::error::chain(&error)))?;
        say(answer, &backend::<E>().records_memory(&config));
        Ok(())
    })
}

fn backend<E: Exported>() -> &'static dyn ProfilerBackend {
    E::door().backend.get_or_init(E::REGISTRATION.make).as_ref()
}

/// The session behind a handle.
///
/// # Safety
///
/// * `session` is null or of this plugin's `open` and not closed.
/// * Nobody else uses it while `'a` lasts.
unsafe fn session_of<'a>(session: SessionHandle) -> Result<&'a mut BoxedSession, BackendError> {
    let session = session.cast::<BoxedSession>();
    // SAFETY: the caller guarantees it.
    unsafe { session.as_mut() }.ok_or(BackendError::NotStarted)
}

/// Calls the backend, unless it has panicked before; a panic ends here.
fn guarded<E: Exported>(
    answer: *const Answer,
    call: impl FnOnce() -> Result<(), BackendError>,
) -> Status {
    let door = E::door();
    if door.panicked.get().is_none() {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(())) => return status::OK,
            Ok(Err(error)) => {
                say(answer, &ErrorMessage::of(&error));
                return status::FAILED;
            }
            // Of two that panic at once the first one's text stays.
            Err(payload) => drop(door.panicked.set(text_of(payload))),
        }
    }
    let text = door.panicked.get().map_or("", String::as_str);
    say(answer, &ErrorMessage::panicked(E::REGISTRATION.id, text));
    status::PANICKED
}

/// Answers the host.
fn say<T: serde::Serialize>(answer: *const Answer, body: &T) {
    // Nothing that crosses has keys that JSON cannot have; without a text the host says so.
    if let Ok(text) = message::write(body) {
        say_text(answer, &text);
    }
}

fn say_text(answer: *const Answer, text: &str) {
    // SAFETY: the ABI demands null or an answer that lives through the call.
    let Some(answer) = (unsafe { answer.as_ref() }) else { return };
    // SAFETY: the text lives through the call, and the host's function is called on the thread and
    // during the call that it was given to.
    unsafe { (answer.write)(answer.ctx, Text::of(text)) }
}

fn refused(field: &str, reason: &str) -> BackendError {
    BackendError::InvalidConfig { field: field.to_owned(), reason: reason.to_owned() }
}

/// The text of a panic. The payload is dropped behind a catch: its own drop may panic, too.
fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a text".to_owned(),
    };
    // What its drop says goes nowhere.
    let _dropped: std::thread::Result<()> = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    text
}
