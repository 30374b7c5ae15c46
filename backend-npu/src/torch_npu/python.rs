//! The Python interpreter of the process, where it is one.
//!
//! Code runs on the interpreter's main thread, which is where an application initialises its device:
//! torch_npu's profiler belongs to that thread. `Py_AddPendingCall` puts a call before it, which it
//! takes the next time that it runs Python.

#![expect(unsafe_code, reason = "calls the C API of the process's interpreter")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libloading::os::unix::Library;
use profiler_core::error::BackendError;
use serde::Deserialize;
use serde_json::Value;

type Object = *mut c_void;

/// `Py_file_input`.
const FILE_INPUT: c_int = 257;

/// The functions that are needed, from the process itself.
#[derive(Clone, Copy, Debug)]
struct Api {
    is_initialized: unsafe extern "C" fn() -> c_int,
    add_pending_call:
        unsafe extern "C" fn(extern "C" fn(*mut c_void) -> c_int, *mut c_void) -> c_int,
    run_string: unsafe extern "C" fn(*const c_char, c_int, Object, Object) -> Object,
    new_dict: unsafe extern "C" fn() -> Object,
    builtins: unsafe extern "C" fn() -> Object,
    set_item: unsafe extern "C" fn(Object, *const c_char, Object) -> c_int,
    item: unsafe extern "C" fn(Object, *const c_char) -> Object,
    new_text: unsafe extern "C" fn(*const c_char) -> Object,
    text: unsafe extern "C" fn(Object) -> *const c_char,
    decrement: unsafe extern "C" fn(Object),
    clear_error: unsafe extern "C" fn(),
    error: unsafe extern "C" fn() -> Object,
    error_is: unsafe extern "C" fn(Object) -> c_int,
    /// The variable that holds the class `Exception`.
    exception: *const Object,
    /// `Py_IsFinalizing`, by its older name before Python 3.13.
    is_finalizing: Option<unsafe extern "C" fn() -> c_int>,
}

// SAFETY: functions and the address of a variable of the interpreter, which are the same for all
// threads; each use says what it needs.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// The process's interpreter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Python {
    api: Api,
}

/// What a script said: `{"done": ...}`, or `{"failed": {"code": ..., "message": ...}}` with a stable
/// word as code.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Done(Value),
    Failed { code: String, message: String },
}

/// A call before the main thread, and its answer. Whoever is later, lets it go.
struct Call {
    api: Api,
    script: CString,
    argument: CString,
    /// Takes back what the script did, where nobody waits for it any more.
    undo: Option<CString>,
    /// The process that asked.
    process: u32,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Waiting,
    Running,
    Over(Result<String, &'static str>),
    CalledOff,
}

impl Python {
    /// The interpreter, where the process has one that runs.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] where it has none.
    pub(crate) fn find() -> Result<Self, BackendError> {
        let none = |what: &str| BackendError::Unavailable {
            code: "no_python".to_owned(),
            message: format!(
                "{what}: torch_npu.profiler is driven through the process's own Python; record it \
                 with `npu.path` `mspti` or `aclprof`"
            ),
        };
        let api = Api::find().ok_or_else(|| none("this process has no Python interpreter"))?;
        if !api.runs() {
            return Err(none("the Python interpreter of this process does not run"));
        }
        Ok(Self { api })
    }

    /// Runs a script on the main thread, with `argument` as the variable of that name. The script
    /// leaves a text in `answer`: JSON, `{"done": ...}` or `{"failed": {"code": .., "message": ..}}`.
    ///
    /// One that cannot begin in time is called off if there is an `undo`, and one that takes too
    /// long is undone when it ends. Without, it runs whenever the main thread comes to it.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] with the script's own word, or where the main thread did not
    /// come to run Python, or the script did not end, in time.
    pub(crate) fn run(
        &self,
        script: &CStr,
        undo: Option<&CStr>,
        argument: &Value,
        to_begin: Duration,
        to_end: Duration,
    ) -> Result<Value, BackendError> {
        let unavailable = |code: &str, message: String| {
            Err(BackendError::Unavailable { code: code.to_owned(), message })
        };
        // At the process's exit it may be gone, and a call to it would be a crash.
        if !self.api.runs() {
            return unavailable(
                "no_python",
                "the Python interpreter of this process has ended".to_owned(),
            );
        }
        // JSON has no NUL: it is written as an escape.
        let argument = CString::new(argument.to_string()).unwrap_or_default();
        let call = Arc::new(Call {
            api: self.api,
            script: script.to_owned(),
            argument,
            undo: undo.map(ToOwned::to_owned),
            process: std::process::id(),
            state: Mutex::new(State::Waiting),
            changed: Condvar::new(),
        });
        let given = Arc::into_raw(Arc::clone(&call));
        // SAFETY: may be called from any thread; the call owns one count of the value.
        let refused = unsafe { (self.api.add_pending_call)(run_call, given.cast_mut().cast()) };
        if refused != 0 {
            // SAFETY: the count that nobody took.
            drop(unsafe { Arc::from_raw(given) });
            return unavailable(
                "python_busy",
                "the queue of calls of the process's Python is full: try again".to_owned(),
            );
        }
        match call.wait(to_begin, to_end) {
            Ok(answer) => match serde_json::from_str(&answer) {
                Ok(Said::Done(value)) => Ok(value),
                Ok(Said::Failed { code, message }) => unavailable(&code, message),
                Err(error) => unavailable("python_failed", format!("{error} in {answer:?}")),
            },
            Err((code, message)) => unavailable(code, message),
        }
    }
}

impl Call {
    fn wait(&self, to_begin: Duration, to_end: Duration) -> Result<String, (&'static str, String)> {
        let begun = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let limit = match &mut *state {
                State::Over(Ok(answer)) => return Ok(std::mem::take(answer)),
                State::Over(Err(why)) => return Err(("python_failed", (*why).to_owned())),
                State::Waiting => to_begin,
                State::Running | State::CalledOff => to_end,
            };
            let waited = begun.elapsed();
            if waited >= limit {
                let is_waiting = matches!(*state, State::Waiting);
                if self.undo.is_some() {
                    *state = State::CalledOff;
                }
                let seconds = limit.as_secs_f64();
                return Err(match is_waiting {
                    true => (
                        "python_busy",
                        format!(
                            "the main thread of the process's Python ran no Python for {seconds:.1} \
                             s: it waits inside a library; start the capture while it works"
                        ),
                    ),
                    false => (
                        "python_hangs",
                        format!("torch_npu.profiler did not answer within {seconds:.1} s"),
                    ),
                });
            }
            let rest = self.changed.wait_timeout(state, limit - waited);
            state = rest.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Called by the interpreter, on its main thread, with the lock of all Python held.
extern "C" fn run_call(given: *mut c_void) -> c_int {
    // SAFETY: the count that `Python::run` gave to this call, which comes once.
    let call = unsafe { Arc::from_raw(given.cast_const().cast::<Call>()) };
    // A child that was forked with the queue in it: nobody waits there, and the lock may be held by
    // a thread that it does not have.
    if call.process != std::process::id() {
        return 0;
    }
    {
        let mut state = call.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::CalledOff) {
            return 0;
        }
        *state = State::Running;
    }
    let outcome = call.api.evaluate(&call.script, &call.argument);
    let before = std::mem::replace(
        &mut *call.state.lock().unwrap_or_else(PoisonError::into_inner),
        State::Over(outcome),
    );
    call.changed.notify_all();
    // The application is to end, by a signal that came while the script ran: this is its thread.
    if call.api.error_is_no_exception() {
        return -1;
    }
    if let (State::CalledOff, Some(undo)) = (before, &call.undo) {
        // Nobody hears of an error.
        drop(call.api.evaluate(undo, c"null"));
        if call.api.error_is_no_exception() {
            return -1;
        }
    }
    0
}

impl Api {
    fn find() -> Option<Self> {
        let process = Library::this();
        Some(Self {
            is_initialized: symbol(&process, b"Py_IsInitialized")?,
            add_pending_call: symbol(&process, b"Py_AddPendingCall")?,
            run_string: symbol(&process, b"PyRun_String")?,
            new_dict: symbol(&process, b"PyDict_New")?,
            builtins: symbol(&process, b"PyEval_GetBuiltins")?,
            set_item: symbol(&process, b"PyDict_SetItemString")?,
            item: symbol(&process, b"PyDict_GetItemString")?,
            new_text: symbol(&process, b"PyUnicode_FromString")?,
            text: symbol(&process, b"PyUnicode_AsUTF8")?,
            decrement: symbol(&process, b"Py_DecRef")?,
            clear_error: symbol(&process, b"PyErr_Clear")?,
            error: symbol(&process, b"PyErr_Occurred")?,
            error_is: symbol(&process, b"PyErr_ExceptionMatches")?,
            exception: symbol(&process, b"PyExc_Exception")?,
            is_finalizing: symbol(&process, b"Py_IsFinalizing")
                .or_else(|| symbol(&process, b"_Py_IsFinalizing")),
        })
    }

    fn runs(&self) -> bool {
        // SAFETY: may be called at any time, from any thread.
        if unsafe { (self.is_initialized)() } == 0 {
            return false;
        }
        let Some(is_finalizing) = self.is_finalizing else { return true };
        // SAFETY: as above.
        unsafe { is_finalizing() == 0 }
    }

    /// Whether what is raised asks the application to end, as `SystemExit` and `KeyboardInterrupt`
    /// do. The lock of all Python is held.
    fn error_is_no_exception(&self) -> bool {
        // SAFETY: the lock is held; a borrowed reference, or NULL.
        if unsafe { (self.error)() }.is_null() {
            return false;
        }
        // SAFETY: a variable of the interpreter, set as long as it runs.
        let exception = unsafe { *self.exception };
        // SAFETY: the lock is held, an error is raised, and the class lives as long as the
        // interpreter.
        unsafe { (self.error_is)(exception) == 0 }
    }

    /// Runs a script and takes its answer. The lock of all Python is held.
    fn evaluate(&self, script: &CStr, argument: &CStr) -> Result<String, &'static str> {
        // SAFETY: the lock is held, here and below.
        let scope = unsafe { (self.new_dict)() };
        if scope.is_null() {
            return Err("Python has no memory left");
        }
        let answer = self.evaluate_in(scope, script, argument);
        // SAFETY: the reference that `PyDict_New` gave.
        unsafe { (self.decrement)(scope) };
        if !self.error_is_no_exception() {
            // SAFETY: an error that is left would be raised in whatever the main thread does next.
            unsafe { (self.clear_error)() };
        }
        answer
    }

    fn evaluate_in(
        &self,
        scope: Object,
        script: &CStr,
        argument: &CStr,
    ) -> Result<String, &'static str> {
        // SAFETY: a borrowed reference to the builtins of the running frame, or the interpreter's.
        let builtins = unsafe { (self.builtins)() };
        // SAFETY: both objects live; the dictionary takes a reference of its own.
        unsafe { (self.set_item)(scope, c"__builtins__".as_ptr(), builtins) };
        // SAFETY: a C string of UTF-8.
        let text = unsafe { (self.new_text)(argument.as_ptr()) };
        if text.is_null() {
            return Err("Python refused the settings");
        }
        // SAFETY: both objects live.
        unsafe { (self.set_item)(scope, c"argument".as_ptr(), text) };
        // SAFETY: the reference that `PyUnicode_FromString` gave.
        unsafe { (self.decrement)(text) };
        // SAFETY: a C string, and a dictionary for both scopes.
        let ran = unsafe { (self.run_string)(script.as_ptr(), FILE_INPUT, scope, scope) };
        if ran.is_null() {
            return Err("the script that drives torch_npu.profiler failed");
        }
        // SAFETY: the reference that `PyRun_String` gave.
        unsafe { (self.decrement)(ran) };
        // SAFETY: a borrowed reference, or NULL.
        let answer = unsafe { (self.item)(scope, c"answer".as_ptr()) };
        if answer.is_null() {
            return Err("the script that drives torch_npu.profiler gave no answer");
        }
        // SAFETY: NULL where it is no text; else it lives as long as the object.
        let text = unsafe { (self.text)(answer) };
        if text.is_null() {
            return Err("the script that drives torch_npu.profiler answered no text");
        }
        // SAFETY: a C string that Python keeps with the object, which the scope holds.
        let text = unsafe { CStr::from_ptr(text) };
        Ok(text.to_string_lossy().into_owned())
    }
}

fn symbol<T: Copy>(process: &Library, name: &[u8]) -> Option<T> {
    // SAFETY: each caller names the type that Python's documentation gives the symbol since 3.8.
    let found = unsafe { process.get::<T>(name) };
    found.ok().map(|symbol| *symbol)
}
