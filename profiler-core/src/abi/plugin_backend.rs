//! The host's side of the door: the two traits over a table.
#![expect(unsafe_code, reason = "calls functions of another library by pointer")]

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::backend::{
    BackendId, DriverState, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary,
};
use crate::clock::ClockSource;
use crate::error::{BackendError, chain};
use crate::probe::ProbeReport;
use crate::sink::RecordSink;

use super::callbacks::{Host, Lines, Received};
use super::message::{self, ErrorMessage, MessageError};
use super::table::{Answer, BackendTable, SessionHandle, Status, Text, status};

/// A backend behind a table.
#[derive(Clone)]
pub struct PluginBackend {
    plugin: Arc<Plugin>,
}

struct Plugin {
    table: BackendTable,
    id: BackendId,
    panicked: OnceLock<String>,
}

impl PluginBackend {
    pub(super) fn new(table: BackendTable, id: BackendId) -> Self {
        Self { plugin: Arc::new(Plugin { table, id, panicked: OnceLock::new() }) }
    }
}

impl PluginBackend {
    /// Whether it has libraries tried by another process before it loads them.
    pub(super) fn has_trial(&self) -> bool {
        self.plugin.table.trial.is_some()
    }

    /// Tries a library; this process may die of it. The writer gets each line as soon as it is
    /// known.
    ///
    /// # Errors
    ///
    /// [`BackendError::Panicked`].
    pub fn run_trial(
        &self,
        library: &Path,
        write: &mut dyn FnMut(&str),
    ) -> Result<(), BackendError> {
        let mut lines = Lines { write };
        let answer = lines.answer();
        let path = library.as_os_str().as_bytes();
        let path = Text { ptr: path.as_ptr().cast(), len: path.len() };
        self.plugin.call(|table, _| match table.trial {
            // SAFETY: the table was checked when it was loaded; what is passed lives through the
            // call.
            Some(trial) => unsafe { trial(path, &raw const answer) },
            None => status::OK,
        })?;
        Ok(())
    }
}

impl std::fmt::Debug for PluginBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginBackend").field("id", &self.plugin.id).finish_non_exhaustive()
    }
}

impl Plugin {
    /// Calls a function of the table; its answer where it did what was asked.
    fn call(
        &self,
        function: impl FnOnce(&BackendTable, *const Answer) -> Status,
    ) -> Result<Vec<u8>, BackendError> {
        if let Some(message) = self.panicked.get() {
            return Err(self.panic(message));
        }
        let mut received = Received::default();
        let answer = received.answer();
        match function(&self.table, &raw const answer) {
            status::OK => Ok(received.bytes),
            status::PANICKED => {
                let message = match error_of(&received.bytes) {
                    Ok(BackendError::Panicked { message, .. }) => message,
                    Ok(other) => chain(&other),
                    Err(error) => format!("what it said is lost: {}", chain(&error)),
                };
                Err(self.panic(self.panicked.get_or_init(|| message)))
            }
            _ => Err(error_of(&received.bytes).unwrap_or_else(|error| self.unreadable(&error))),
        }
    }

    fn panic(&self, message: &str) -> BackendError {
        BackendError::Panicked { backend: self.id.to_string(), message: message.to_owned() }
    }

    fn unreadable(&self, error: &MessageError) -> BackendError {
        BackendError::Plugin {
            code: UNREADABLE.to_owned(),
            message: format!("plugin `{}` gave an answer that is none: {}", self.id, chain(error)),
        }
    }
}

/// The code of an answer that cannot be read.
const UNREADABLE: &str = "unreadable_answer";

fn error_of(bytes: &[u8]) -> Result<BackendError, MessageError> {
    message::read::<ErrorMessage>(bytes).map(ErrorMessage::into_error)
}

impl ProfilerBackend for PluginBackend {
    fn id(&self) -> BackendId {
        self.plugin.id.clone()
    }

    fn probe(&self) -> ProbeReport {
        let report = self.plugin.call(|table, answer| {
            // SAFETY: the table was checked when it was loaded, and the answer lives through the
            // call.
            unsafe { (table.probe)(answer) }
        });
        let report =
            report.and_then(|bytes| message::read(&bytes).map_err(|e| self.plugin.unreadable(&e)));
        report.unwrap_or_else(|error| {
            ProbeReport::unavailable(
                error.code(),
                chain(&error),
                "replace the plugin, or report this",
            )
        })
    }

    fn driver(&self) -> Option<DriverState> {
        let driver = self.plugin.table.driver?;
        let answer = self.plugin.call(|_, answer| {
            // SAFETY: the table was checked when it was loaded, and the answer lives through the
            // call.
            unsafe { driver(answer) }
        });
        // A state that this host does not know, and no answer, are nothing that is known of.
        message::read(&answer.ok()?).ok().flatten()
    }

    fn records_memory(&self, config: &SessionConfig) -> bool {
        let Some(records_memory) = self.plugin.table.records_memory else { return false };
        let Ok(config) = message::write(config) else { return false };
        let answer = self.plugin.call(|_, answer| {
            let config = Text::of(&config);
            // SAFETY: the table was checked when it was loaded; what is passed lives through the
            // call.
            unsafe { records_memory(config, answer) }
        });
        answer.is_ok_and(|answer| message::read(&answer).unwrap_or(false))
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let config = message::write(config).map_err(|error| BackendError::InvalidConfig {
            field: "session".to_owned(),
            reason: chain(&error),
        })?;
        let mut session: SessionHandle = std::ptr::null_mut();
        self.plugin.call(|table, answer| {
            let host = Host::table(sink, clock);
            let config = Text::of(&config);
            // SAFETY: the table was checked when it was loaded; what is passed lives through the
            // call, but for `ctx`, which is the plugin's from here on.
            unsafe { (table.open)(config, &raw const host, &raw mut session, answer) }
        })?;
        if session.is_null() {
            return Err(BackendError::Plugin {
                code: UNREADABLE.to_owned(),
                message: format!("plugin `{}` opened a session and gave none", self.plugin.id),
            });
        }
        Ok(Box::new(PluginSession { plugin: Arc::clone(&self.plugin), session }))
    }
}

struct PluginSession {
    plugin: Arc<Plugin>,
    session: SessionHandle,
}

// SAFETY: the ABI demands sessions that any thread may call, one at a time; `&mut` sees to that.
unsafe impl Send for PluginSession {}

impl ProfileSession for PluginSession {
    fn start(&mut self) -> Result<(), BackendError> {
        let session = self.session;
        self.plugin.call(|table, answer| {
            // SAFETY: a session of this table, not closed, called by one thread at a time.
            unsafe { (table.start)(session, answer) }
        })?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        let session = self.session;
        self.plugin.call(|table, answer| match table.flush {
            // SAFETY: as in `start`.
            Some(flush) => unsafe { flush(session, answer) },
            None => status::OK,
        })?;
        Ok(())
    }

    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        let session = self.session;
        let drain_ns = u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX);
        let answer = self.plugin.call(|table, answer| {
            // SAFETY: as in `start`.
            unsafe { (table.stop)(session, drain_ns, answer) }
        })?;
        // The session is over whatever its summary says; what cannot be read is told.
        Ok(message::read(&answer).unwrap_or_else(|error| SessionSummary {
            notes: vec![chain(&self.plugin.unreadable(&error))],
            ..SessionSummary::default()
        }))
    }
}

impl Drop for PluginSession {
    fn drop(&mut self) {
        let session = self.session;
        // After a panic nothing is called any more and the session is left as it is; another error
        // has nobody to go to.
        let _closed: Result<Vec<u8>, BackendError> = self.plugin.call(|table, answer| {
            // SAFETY: a session of this table that nobody can use after this.
            unsafe { (table.close)(session, answer) }
        });
    }
}
