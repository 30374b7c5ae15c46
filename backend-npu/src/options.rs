//! The settings that are this backend's alone, those of `torch_npu.profiler` among them.

use std::path::PathBuf;

use profiler_core::backend::{Preset, SessionConfig};
use profiler_core::error::BackendError;
use profiler_core::probe::UnavailableReason;
use serde_json::Value;

use crate::trial::Failure;

/// The environment variable that names a libmspti, for where none is loaded yet.
const LIBRARY_VARIABLE: &str = "OMNIPROF_LIBMSPTI";

/// The environment variable that names the path where a session does not; probes go by it.
const PATH_VARIABLE: &str = "OMNIPROF_NPU_PATH";

/// By which of Ascend's interfaces is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CapturePath {
    /// Records in memory, as they come.
    Mspti,
    /// Raw files, which `msprof` makes a trace of.
    Aclprof,
    /// The profiler of torch_npu, in the process's own Python.
    TorchNpu,
}

/// How much CANN's profiler records, as `torch_npu.profiler` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The device is not recorded.
    None,
    /// What ran on the device, and the calls of `acl`.
    Level0,
    /// That, with collectives; torch_npu adds counters of the AI cores by itself.
    Level1,
    /// That, with the runtime's calls and AI CPU's work.
    Level2,
}

impl Level {
    /// As `torch_npu.profiler.ProfilerLevel` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "Level_none",
            Self::Level0 => "Level0",
            Self::Level1 => "Level1",
            Self::Level2 => "Level2",
        }
    }
}

/// Counters of the AI cores: the name that `torch_npu.profiler.AiCMetrics` has, and aclprof's
/// number.
pub(crate) const METRICS: [(&str, i32); 9] = [
    ("ArithmeticUtilization", 0),
    ("PipeUtilization", 1),
    ("Memory", 2),
    ("MemoryL0", 3),
    ("ResourceConflictRatio", 4),
    ("MemoryUB", 5),
    ("L2Cache", 6),
    ("MemoryAccess", 8),
    NO_METRICS,
];

/// No counters.
pub(crate) const NO_METRICS: (&str, i32) = ("AiCoreNone", 0xff);

/// What was set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// A libmspti, for where none is loaded yet.
    pub(crate) library: Option<PathBuf>,
    /// The path that was asked for.
    pub(crate) path: Option<CapturePath>,
    /// Where raw files shall lie, instead of beside the spool.
    pub(crate) raw_dir: Option<PathBuf>,
    /// How much is recorded; else it follows from the preset.
    pub(crate) level: Option<Level>,
    /// The counters of the AI cores, one of [`METRICS`].
    pub(crate) metrics: Option<(&'static str, i32)>,
    /// Accesses of the L2 cache.
    pub(crate) l2_cache: bool,
    /// Ranges and marks of the application.
    pub(crate) msprof_tx: bool,
    /// What is given to `torch_npu.profiler` as it is.
    pub(crate) torch: Vec<(&'static str, Value)>,
}

/// Settings of `torch_npu.profiler` that are not had, and why.
const REFUSED: [(&str, &str); 12] = [
    ("op_attr", "attributes of operators have no rows: record them with `msprof`"),
    ("record_op_args", "it dumps the arguments of operators for AOE, which is no part of a trace"),
    ("host_sys", "the host is recorded by the `cpu` backend: `counters`, `samples`"),
    ("sys_io", "counters of network cards have no rows yet: record them with `msprof`"),
    (
        "sys_interconnection",
        "counters of HCCS and PCIe have no rows yet: record them with `msprof`",
    ),
    ("activities", "a session says what is recorded: `activities`, of `CPU`, `GPU` and `MEM`"),
    ("record_shapes", "it is a session's own: `record_shapes`, without `npu`"),
    ("with_stack", "it is a session's own: `with_stack`, without `npu`"),
    ("profile_memory", "a session calls it `memory`, without `npu`; `activities` has `MEM` for it"),
    (
        "on_trace_ready",
        "a session's manifest names its files: `formats` says which are exported, and `npu.raw_dir` \
         where the profiler's own lie",
    ),
    (
        "experimental_config",
        "its fields stand behind `npu.` themselves: `npu.level`, `npu.aic_metrics` and so on",
    ),
    ("schedule", "a session has one schedule for all workers: `wait_iterations` and so on"),
];

/// The names that may stand behind `npu.`.
const KNOWN: &str = "`path`, `libmspti`, `raw_dir`, `level`, `aic_metrics`, `l2_cache`, `msprof_tx`, \
                     `mstx`, `mstx_domain_include`, `mstx_domain_exclude`, `data_simplification`, \
                     `gc_detect_threshold`, `with_modules`, `with_flops` and `export_type`";

impl Options {
    /// What the environment sets: the path and a libmspti.
    ///
    /// # Errors
    ///
    /// [`UnavailableReason`] where the variable names no path.
    pub(crate) fn of_environment() -> Result<Self, UnavailableReason> {
        let mut options = Self {
            library: profiler_core::environment::variable(LIBRARY_VARIABLE).map(PathBuf::from),
            ..Self::default()
        };
        let Some(path) = profiler_core::environment::variable(PATH_VARIABLE) else {
            return Ok(options);
        };
        let path = path.to_string_lossy().into_owned();
        options.set("path", &path.as_str().into()).map_err(|reason| UnavailableReason {
            code: "invalid_config".to_owned(),
            message: format!("{PATH_VARIABLE}={path} names no path: {reason}"),
            remedy: format!("set {PATH_VARIABLE} to one of them, or unset it"),
        })?;
        Ok(options)
    }

    /// Reads the settings that begin with `npu.`.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidConfig`] that names the setting.
    pub(crate) fn parse(config: &SessionConfig) -> Result<Self, BackendError> {
        let mut options = Self::of_environment().map_err(Failure::from)?;
        for (field, value) in &config.options {
            let Some(name) = field.strip_prefix("npu.") else { continue };
            options
                .set(name, value)
                .map_err(|reason| BackendError::InvalidConfig { field: field.clone(), reason })?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "libmspti" => self.library = Some(text(value, "a path")?.into()),
            "raw_dir" => self.raw_dir = Some(text(value, "a path")?.into()),
            "path" => {
                self.path = Some(match value.as_str() {
                    Some("mspti") => CapturePath::Mspti,
                    Some("aclprof") => CapturePath::Aclprof,
                    Some("torch_npu") => CapturePath::TorchNpu,
                    _ => return Err("it is `mspti`, `aclprof` or `torch_npu`".to_owned()),
                });
            }
            "level" | "profiler_level" => {
                let levels = [Level::None, Level::Level0, Level::Level1, Level::Level2];
                let level = levels.into_iter().find(|level| value.as_str() == Some(level.name()));
                let wrong = || "it is `Level_none`, `Level0`, `Level1` or `Level2`".to_owned();
                self.level = Some(level.ok_or_else(wrong)?);
            }
            "aic_metrics" => {
                let found = METRICS.into_iter().find(|(name, _)| value.as_str() == Some(name));
                let names: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
                self.metrics = Some(found.ok_or_else(|| format!("it is {}", names.join(", ")))?);
            }
            "l2_cache" => self.l2_cache = flag(value)?,
            "msprof_tx" => self.msprof_tx = flag(value)?,
            "mstx" => self.keep("mstx", flag(value)?.into()),
            "data_simplification" => self.keep("data_simplification", flag(value)?.into()),
            "with_modules" => self.keep("with_modules", flag(value)?.into()),
            "with_flops" => self.keep("with_flops", flag(value)?.into()),
            "mstx_domain_include" => self.keep("mstx_domain_include", names(value)?),
            "mstx_domain_exclude" => self.keep("mstx_domain_exclude", names(value)?),
            "gc_detect_threshold" if value.as_f64().is_some_and(|ms| ms >= 0.0) => {
                self.keep("gc_detect_threshold", value.clone());
            }
            "gc_detect_threshold" => return Err("it is a number of milliseconds".to_owned()),
            "export_type" if value.as_str() == Some("Text") => {}
            "export_type" => {
                return Err(
                    "only `Text` is read after a capture: databases are read by `omniprof import`"
                        .to_owned(),
                );
            }
            other => {
                let refused = REFUSED.iter().find(|(name, _)| *name == other);
                return Err(match refused {
                    Some((_, why)) => (*why).to_owned(),
                    None => format!("the NPU backend has {KNOWN}"),
                });
            }
        }
        Ok(())
    }

    fn keep(&mut self, name: &'static str, value: Value) {
        self.torch.push((name, value));
    }

    /// How much CANN's profiler records.
    pub(crate) fn level_of(&self, preset: Preset) -> Level {
        self.level.unwrap_or(match preset {
            Preset::Gpu => Level::Level0,
            Preset::Full => Level::Level2,
            _ => Level::Level1,
        })
    }

    /// Whether counters of the AI cores were asked for.
    pub(crate) fn has_metrics(&self) -> bool {
        self.metrics.is_some_and(|chosen| chosen != NO_METRICS)
    }

    /// The path to take on a machine whose chip has MSPTI, or not.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidConfig`] where a setting is not had on the path that was asked for.
    pub(crate) fn choose(&self, has_mspti: bool) -> Result<CapturePath, BackendError> {
        let wants_counters = self.has_metrics() || self.l2_cache;
        let path = match self.path {
            Some(path) => path,
            None if !self.torch.is_empty() => CapturePath::TorchNpu,
            None if wants_counters || !has_mspti => CapturePath::Aclprof,
            None => CapturePath::Mspti,
        };
        let refuse = |field: &str, reason: &str| {
            Err(BackendError::InvalidConfig {
                field: format!("npu.{field}"),
                reason: reason.into(),
            })
        };
        if path == CapturePath::Mspti {
            if wants_counters {
                let field = if self.l2_cache { "l2_cache" } else { "aic_metrics" };
                return refuse(
                    field,
                    "MSPTI has no such counters: `npu.path` is `aclprof` for them",
                );
            }
            if self.level.is_some() {
                return refuse("level", "MSPTI has no levels: use `preset`");
            }
        }
        if path == CapturePath::Aclprof && self.level == Some(Level::None) {
            return refuse("level", "nothing would be recorded: use `device: false`");
        }
        if path != CapturePath::TorchNpu
            && let Some((name, _)) = self.torch.first()
        {
            return refuse(
                name,
                "it is a setting of `torch_npu.profiler`: `npu.path` is `torch_npu`",
            );
        }
        Ok(path)
    }
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, String> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| format!("it is {what}"))
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "it is true or false".to_owned())
}

fn names(value: &Value) -> Result<Value, String> {
    let is_list = value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    is_list.then(|| value.clone()).ok_or_else(|| "it is a list of names".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[(&str, Value)]) -> Result<Options, BackendError> {
        let options = settings.iter().map(|(name, value)| (format!("npu.{name}"), value.clone()));
        let config = SessionConfig { options: options.collect(), ..SessionConfig::default() };
        Options::parse(&config)
    }

    #[test]
    fn the_path_follows_from_what_is_asked_and_what_the_chip_has() {
        let choose = |settings: &[(&str, Value)], has_mspti| {
            parse(settings).expect("parses").choose(has_mspti).map_err(|error| error.to_string())
        };
        assert_eq!(choose(&[], true), Ok(CapturePath::Mspti));
        assert_eq!(choose(&[], false), Ok(CapturePath::Aclprof));
        assert_eq!(
            choose(&[("aic_metrics", "PipeUtilization".into())], true),
            Ok(CapturePath::Aclprof)
        );
        assert_eq!(choose(&[("aic_metrics", "AiCoreNone".into())], true), Ok(CapturePath::Mspti));
        assert_eq!(choose(&[("with_modules", true.into())], true), Ok(CapturePath::TorchNpu));
        for (settings, why) in [
            (vec![("path", "mspti".into()), ("l2_cache", true.into())], "no such counters"),
            (vec![("path", "mspti".into()), ("level", "Level1".into())], "no levels"),
            (vec![("path", "aclprof".into()), ("level", "Level_none".into())], "device: false"),
            (vec![("path", "aclprof".into()), ("mstx", true.into())], "`torch_npu.profiler`"),
        ] {
            let error = choose(&settings, true).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn each_setting_of_torch_npu_is_taken_or_refused_with_a_reason() {
        for (name, value) in [
            ("profiler_level", "Level2".into()),
            ("aic_metrics", "MemoryUB".into()),
            ("l2_cache", true.into()),
            ("msprof_tx", true.into()),
            ("mstx", true.into()),
            ("mstx_domain_include", serde_json::json!(["decode"])),
            ("mstx_domain_exclude", serde_json::json!([])),
            ("data_simplification", false.into()),
            ("gc_detect_threshold", 1.5.into()),
            ("export_type", "Text".into()),
            ("with_modules", true.into()),
            ("with_flops", false.into()),
        ] {
            assert!(parse(&[(name, value)]).is_ok(), "{name}");
        }
        for (name, value, why) in [
            ("export_type", "Db".into(), "omniprof import"),
            ("op_attr", true.into(), "`msprof`"),
            ("record_op_args", true.into(), "AOE"),
            ("host_sys", true.into(), "`cpu` backend"),
            ("sys_io", true.into(), "`msprof`"),
            ("sys_interconnection", true.into(), "`msprof`"),
            ("schedule", true.into(), "wait_iterations"),
            ("activities", serde_json::json!(["CPU", "NPU"]), "`MEM`"),
            ("record_shapes", true.into(), "`record_shapes`, without `npu`"),
            ("with_stack", true.into(), "`with_stack`, without `npu`"),
            ("profile_memory", true.into(), "`memory`, without `npu`"),
            ("on_trace_ready", "./result".into(), "`npu.raw_dir`"),
            ("experimental_config", serde_json::json!({}), "`npu.aic_metrics`"),
            ("aic_metrics", "Nothing".into(), "PipeUtilization"),
            ("level", 1.into(), "Level0"),
            ("l2_cache", "yes".into(), "true or false"),
            ("gc_detect_threshold", (-1).into(), "milliseconds"),
            ("mstx_domain_include", "decode".into(), "list"),
            ("raw_dir", "".into(), "a path"),
            ("nothing", true.into(), "aic_metrics"),
        ] {
            let error = parse(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains(why) && error.contains(name), "{error}");
        }
    }
}
