//! The settings that are this backend's alone.

use std::path::PathBuf;

use profiler_core::backend::SessionConfig;
use profiler_core::error::BackendError;

/// The environment variable that names a libmspti, for where none is loaded yet.
const LIBRARY_VARIABLE: &str = "OMNIPROF_LIBMSPTI";

/// What was set.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// A libmspti, for where none is loaded yet.
    pub(crate) library: Option<PathBuf>,
}

impl Options {
    /// The library that the environment names.
    pub(crate) fn library_of_environment() -> Option<PathBuf> {
        profiler_core::environment::variable(LIBRARY_VARIABLE).map(PathBuf::from)
    }

    /// Reads the settings that begin with `npu.`.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidConfig`] that names the setting.
    pub(crate) fn parse(config: &SessionConfig) -> Result<Self, BackendError> {
        let mut options = Self { library: Self::library_of_environment() };
        for (name, value) in config.options.iter().filter(|(name, _)| name.starts_with("npu.")) {
            let wrong = |reason: &str| BackendError::InvalidConfig {
                field: name.clone(),
                reason: reason.to_owned(),
            };
            match (name.as_str(), value.as_str()) {
                ("npu.libmspti", Some(path)) => options.library = Some(PathBuf::from(path)),
                ("npu.libmspti", None) => return Err(wrong("it is a path")),
                ("npu.path", Some("mspti")) => {}
                ("npu.path", Some(path @ ("aclprof" | "torch_npu"))) => {
                    return Err(wrong(&format!(
                        "the path `{path}` is not there yet: `mspti` is the only one"
                    )));
                }
                ("npu.path", _) => return Err(wrong("it is `mspti`, `aclprof` or `torch_npu`")),
                _ => return Err(wrong("the NPU backend has `npu.libmspti` and `npu.path`")),
            }
        }
        Ok(options)
    }
}
