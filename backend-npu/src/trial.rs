//! Trying a libmspti, in a process that may die of it.
//!
//! `dlopen` of a libmspti whose companions are missing ends the process inside its static
//! constructors, and its first call may throw through C. So `omniprof probe-npu` does here what the
//! worker would do, and says each step before it takes it: if it dies, its last line says where.

#![expect(unsafe_code, reason = "loads a vendor library's companions")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use profiler_core::error::{BackendError, chain};
use profiler_core::probe::UnavailableReason;
use serde::{Deserialize, Serialize};

use crate::mspti::buffers::{buffer_completed, buffer_requested};
use crate::mspti::layout::kind;
use crate::mspti::library::{Mspti, SUCCESS};

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// What is done next.
    Step(String),
    /// The library works.
    Works(Capabilities),
    /// It does not.
    Fails(Failure),
}

/// What a libmspti can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    /// What `msptiActivityEnable` answered to each kind, in a process without LD_PRELOAD.
    pub(crate) kinds: BTreeMap<u32, i32>,
}

impl Capabilities {
    /// Whether it is that of a CANN before 9.0, which finds devices only where it was preloaded.
    pub(crate) fn needs_preload(&self) -> bool {
        self.kinds.get(&kind::RUNTIME_API).is_some_and(|code| *code != SUCCESS)
    }
}

/// Why a libmspti does not work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl From<UnavailableReason> for Failure {
    fn from(reason: UnavailableReason) -> Self {
        Self { code: reason.code, message: reason.message, remedy: reason.remedy }
    }
}

impl From<Failure> for BackendError {
    fn from(failure: Failure) -> Self {
        let message = match failure.remedy.as_str() {
            "" => failure.message,
            remedy => format!("{}: {remedy}", failure.message),
        };
        Self::Unavailable { code: failure.code, message }
    }
}

/// The libraries that libmspti needs, and functions that it calls.
const COMPANIONS: [(&str, &[&str]); 3] = [
    ("libprofapi.so", &["MsprofRegisterProfileCallback", "profSetProfCommand"]),
    ("libascendalog.so", &["CheckLogLevelForC", "DlogInnerForC"]),
    ("libascend_hal.so", &["halGetAPIVersion", "drvGetDevNum", "prof_drv_start"]),
];

/// Tries `library`; the body of `omniprof probe-npu`.
pub(crate) fn run(library: &Path, write: &mut dyn FnMut(&str)) {
    // Whoever started this kills it in time, unless it is dead itself.
    let watch = std::thread::Builder::new().name("omniprof-watch".to_owned());
    drop(watch.spawn(|| {
        std::thread::sleep(2 * crate::preflight::LIMIT);
        std::process::abort()
    }));
    let mut say = |line: &Line| {
        // A struct of strings and numbers is always JSON.
        write(&serde_json::to_string(line).unwrap_or_default());
    };
    let outcome = attempt(library, &mut |step| say(&Line::Step(step)));
    say(&match outcome {
        Ok(capabilities) => Line::Works(capabilities),
        Err(failure) => Line::Fails(failure),
    });
}

fn attempt(library: &Path, step: &mut dyn FnMut(String)) -> Result<Capabilities, Failure> {
    for (name, symbols) in COMPANIONS {
        step(format!("loading {name}"));
        companion(name, symbols)?;
    }
    step(format!("loading {}", library.display()));
    let failure = |error: &dyn std::error::Error, code: &str| Failure {
        code: code.to_owned(),
        message: chain(error),
        remedy: "name a libmspti of CANN 8.0 or later by OMNIPROF_LIBMSPTI".to_owned(),
    };
    let mspti = Mspti::open(library, false).map_err(|error| failure(&error, error.code()))?;
    step("subscribing".to_owned());
    let subscriber = mspti.subscribe().map_err(|error| failure(&error, error.code()))?;
    mspti
        .register_callbacks(buffer_requested, buffer_completed)
        .map_err(|error| failure(&error, error.code()))?;
    let mut capabilities = Capabilities::default();
    for kind in kind::MARKER..=kind::RUNTIME_API {
        step(format!("enabling kind {kind}"));
        let code = mspti.enable(kind);
        capabilities.kinds.insert(kind, code);
        if code == SUCCESS {
            // What cannot be disabled ends with this process.
            drop(mspti.disable(kind));
        }
    }
    step("unsubscribing".to_owned());
    mspti.unsubscribe(subscriber).map_err(|error| failure(&error, error.code()))?;
    mspti.flush_all().map_err(|error| failure(&error, error.code()))?;
    Ok(capabilities)
}

/// Loads a companion as libmspti does: of this CANN, else by its name alone.
fn companion(name: &str, symbols: &[&str]) -> Result<(), Failure> {
    let home = profiler_core::environment::variable("ASCEND_HOME_PATH").map(PathBuf::from);
    let beside = home.map(|home| home.join("lib64").join(name));
    let remedy = if name == "libascend_hal.so" {
        "install the Ascend driver, or give the container /usr/local/Ascend/driver and put its \
         lib64/driver into LD_LIBRARY_PATH"
    } else {
        "source the set_env.sh of CANN before the worker starts (it sets ASCEND_HOME_PATH and \
         LD_LIBRARY_PATH)"
    };
    let mut why = None;
    for path in beside.into_iter().chain([PathBuf::from(name)]) {
        // SAFETY: initialisers run, in a process that was started for that.
        let library = match unsafe { Library::open(Some(&path), RTLD_LAZY | RTLD_LOCAL) } {
            Ok(library) => library,
            Err(error) => {
                why = Some(error);
                continue;
            }
        };
        let missing = symbols.iter().find(|symbol| {
            // SAFETY: the symbol is only looked up.
            unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err()
        });
        let _loaded: *mut std::ffi::c_void = library.into_raw();
        return match missing {
            None => Ok(()),
            Some(symbol) => Err(Failure {
                code: "companion_too_old".to_owned(),
                message: format!(
                    "{} has no {symbol}, which libmspti calls: driver and CANN do not fit \
                     together",
                    path.display()
                ),
                remedy: "install the driver that CANN's release notes name".to_owned(),
            }),
        };
    }
    Err(Failure {
        code: "companion_missing".to_owned(),
        message: format!(
            "{name} cannot be loaded ({}), and loading libmspti without it ends a process",
            why.map_or_else(|| "not found".to_owned(), |error| chain(&error))
        ),
        remedy: remedy.to_owned(),
    })
}
