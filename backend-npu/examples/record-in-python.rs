//! A library that Python loads by ctypes, as a process that embeds the agent has its backend:
//! `record_start(settings)` and `record_stop()`, each answers JSON.

#![expect(unsafe_code, reason = "exports C names")]

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backend_npu::NpuBackend;
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::error::BackendError;
use serde_json::{Value, json};

type Open = (Box<dyn ProfileSession>, Arc<MemorySink>);

static OPEN: Mutex<Option<Open>> = Mutex::new(None);

/// Starts a session. The settings are JSON: `machine`, the root of the file system that is probed,
/// and `config`, a session's configuration.
///
/// # Safety
///
/// `settings` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn record_start(settings: *const c_char) -> *mut c_char {
    // SAFETY: the caller's duty.
    let settings = unsafe { CStr::from_ptr(settings) }.to_string_lossy();
    let settings: Value = serde_json::from_str(&settings).unwrap_or_default();
    let config: SessionConfig =
        serde_json::from_value(settings["config"].clone()).unwrap_or_default();
    let machine = Path::new(settings["machine"].as_str().unwrap_or_default());
    let sink = Arc::new(MemorySink::default());
    let begin = || -> Result<Box<dyn ProfileSession>, BackendError> {
        let backend = NpuBackend::at(machine, None);
        let clock = Arc::new(SystemClock::new());
        let mut session = backend.open(&config, Arc::clone(&sink) as _, clock)?;
        session.start()?;
        Ok(session)
    };
    answer(match begin() {
        Ok(session) => {
            *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = Some((session, sink));
            Value::Null
        }
        Err(error) => refused(&error),
    })
}

/// Stops it.
#[unsafe(no_mangle)]
pub extern "C" fn record_stop() -> *mut c_char {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((mut session, sink)) = open else { return answer(Value::Null) };
    answer(match session.stop(Duration::from_secs(2)) {
        Ok(summary) => json!({"notes": summary.notes, "facts": sink.facts()}),
        Err(error) => refused(&error),
    })
}

fn refused(error: &BackendError) -> Value {
    json!({"code": error.code(), "error": profiler_core::error::chain(error)})
}

/// A text that is never freed.
fn answer(value: Value) -> *mut c_char {
    CString::new(value.to_string()).unwrap_or_default().into_raw()
}
