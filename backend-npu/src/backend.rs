//! The backend's two answers: what is here, and a session.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profiler_core::backend::{BackendId, ProfileSession, ProfilerBackend, SessionConfig};
use profiler_core::clock::ClockSource;
use profiler_core::error::{BackendError, chain};
use profiler_core::probe::{ProbeReport, UnavailableReason};
use profiler_core::sink::RecordSink;

use crate::aclprof::library::Aclprof;
use crate::decode::Devices;
use crate::machine::{CONTAINER_DEVICES, Machine, VISIBLE_DEVICES, VisibleDevices};
use crate::mspti::library::Mspti;
use crate::mspti::locate::{self, Homes};
use crate::options::{CapturePath, Options};
use crate::preflight::{self, Progress, Trial, Tried};
use crate::preload;
use crate::raw_dir::RawDir;
use crate::session::{NpuSession, Target};
use crate::trial::{Capabilities, Failure};
use crate::{aclprof, mspti, torch_npu};

/// The environment variable that names the folder below which devices and driver are looked for.
const ROOT_VARIABLE: &str = "OMNIPROF_NPU_ROOT";

/// How long a probe may wait for the process that tries a libmspti; it goes on afterwards.
const PROBE_PATIENCE: Duration = Duration::from_millis(800);

/// Records Ascend devices.
pub struct NpuBackend {
    root: PathBuf,
    visible: Option<String>,
    container: Option<String>,
    program: Option<PathBuf>,
    library: Option<PathBuf>,
    limit: Duration,
    state: Mutex<State>,
}

/// What was loaded and tried.
#[derive(Default)]
struct State {
    loaded: Option<Arc<Mspti>>,
    aclprof: Option<Arc<Aclprof>>,
    running: Option<(Tried, Trial)>,
    tried: Option<(Tried, Result<Capabilities, Failure>)>,
}

impl std::fmt::Debug for NpuBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NpuBackend").field("root", &self.root).finish_non_exhaustive()
    }
}

impl NpuBackend {
    /// The backend, looking at this machine and this process's environment.
    #[must_use]
    pub fn new() -> Self {
        let root = profiler_core::environment::variable(ROOT_VARIABLE)
            .map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let text = |name| {
            profiler_core::environment::variable(name).and_then(|text| text.into_string().ok())
        };
        Self::at(&root, text(VISIBLE_DEVICES)).with_container_devices(text(CONTAINER_DEVICES))
    }

    /// The backend, looking at a machine whose files lie below `root`, in a process where
    /// `ASCEND_RT_VISIBLE_DEVICES` is `visible`.
    #[must_use]
    pub fn at(root: &Path, visible: Option<String>) -> Self {
        Self {
            root: root.to_owned(),
            visible,
            container: None,
            program: None,
            library: None,
            limit: preflight::LIMIT,
            state: Mutex::default(),
        }
    }

    /// In a container whose `ASCEND_VISIBLE_DEVICES` is this.
    #[must_use]
    pub fn with_container_devices(mut self, list: Option<String>) -> Self {
        self.container = list;
        self
    }

    /// Tries libraries by this program, instead of the `omniprof` that is found.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Uses this libmspti where the process has none, as `OMNIPROF_LIBMSPTI` would.
    #[must_use]
    pub fn with_library(mut self, library: PathBuf) -> Self {
        self.library = Some(library);
        self
    }

    /// Gives the process that tries a library so long, instead of 5 s.
    #[must_use]
    pub fn with_trial_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process's libmspti; opened once, never closed.
    fn mspti(
        &self,
        configured: Option<PathBuf>,
        patience: Duration,
    ) -> Result<Arc<Mspti>, Failure> {
        let mut state = self.state();
        if let Some(loaded) = &state.loaded {
            return Ok(Arc::clone(loaded));
        }
        let (path, is_mapped) = self.find(configured)?;
        if !is_mapped {
            let capabilities = self.try_first(&mut state, &path, patience)?;
            if capabilities.needs_preload() && !preload::is_preloaded() {
                return Err(Failure {
                    code: "needs_ld_preload".to_owned(),
                    message: preload::message(&path),
                    remedy: String::new(),
                });
            }
        }
        let opened = Mspti::open(&path, is_mapped).map_err(|error| Failure {
            code: error.code().to_owned(),
            message: chain(&error),
            remedy: String::new(),
        })?;
        let opened = Arc::new(opened);
        state.loaded = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// The process's aclprof; opened once, never closed.
    fn aclprof(&self) -> Result<Arc<Aclprof>, BackendError> {
        let mut state = self.state();
        if let Some(loaded) = &state.aclprof {
            return Ok(Arc::clone(loaded));
        }
        let opened = Arc::new(Aclprof::open(&Homes::of_this_process(None), &self.root)?);
        state.aclprof = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// The library's file, and whether the process has it already.
    fn find(&self, configured: Option<PathBuf>) -> Result<(PathBuf, bool), Failure> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        if let Some(path) = locate::mapped(&maps) {
            return Ok((path, true));
        }
        let homes = Homes::of_this_process(configured.or_else(|| self.library.clone()));
        let candidates = homes.candidates(&self.root);
        if let Some(path) = candidates.iter().find(|path| path.is_file()) {
            return Ok((path.clone(), false));
        }
        Err(Failure {
            code: "library_missing".to_owned(),
            message: format!(
                "no libmspti.so was found (looked for {})",
                candidates.first().map_or_else(String::new, |first| match candidates.len() {
                    1 => first.display().to_string(),
                    more => format!("{} and {} other places", first.display(), more - 1),
                })
            ),
            remedy: "install the CANN toolkit, 8.0 or later, and source its set_env.sh before the \
                     worker starts, or name the library by OMNIPROF_LIBMSPTI"
                .to_owned(),
        })
    }

    /// Has the library tried by another process, once for each state of its file.
    fn try_first(
        &self,
        state: &mut State,
        path: &Path,
        patience: Duration,
    ) -> Result<Capabilities, Failure> {
        let Some(tried) = Tried::look(path) else {
            return Err(Failure {
                code: "library_missing".to_owned(),
                message: format!("{} went away", path.display()),
                remedy: String::new(),
            });
        };
        if let Some((known, verdict)) = &state.tried
            && *known == tried
        {
            return verdict.clone();
        }
        if state.running.as_ref().is_none_or(|(running, _)| *running != tried) {
            let Some(program) = self.program.clone().or_else(profiler_core::program::locate) else {
                return Err(Failure {
                    code: "preflight_missing".to_owned(),
                    message: format!(
                        "{} is loaded only after another process has tried it, and no `omniprof` \
                         is found that could",
                        path.display()
                    ),
                    remedy: "set OMNIPROF_BIN_DIR to the folder of `omniprof`, or put it into PATH"
                        .to_owned(),
                });
            };
            state.running = Some((tried.clone(), Trial::begin(&program, path, self.limit)?));
        }
        let Some((_, trial)) = &mut state.running else {
            unreachable!("it was started just now");
        };
        match trial.wait(patience) {
            Progress::Running => Err(Failure {
                code: "preflight_running".to_owned(),
                message: format!("another process still tries {}", path.display()),
                remedy: "ask again in a few seconds".to_owned(),
            }),
            Progress::Over(verdict) => {
                state.running = None;
                state.tried = Some((tried, verdict.clone()));
                verdict
            }
        }
    }

    /// The machine's devices, or why there is none.
    fn devices(&self) -> Result<Machine, UnavailableReason> {
        let machine = Machine::look(&self.root, self.visible.clone());
        let none = |message: String, remedy: &str| UnavailableReason {
            code: "no_device".to_owned(),
            message,
            remedy: remedy.to_owned(),
        };
        let driver = machine.driver_text();
        if machine.devices.is_empty() {
            if let Some(list) = &self.container {
                return Err(none(
                    format!(
                        "no Ascend device: {CONTAINER_DEVICES}={list} asks Ascend's container \
                         runtime for some, but no /dev/davinci0 is here"
                    ),
                    "start the container with that runtime (`docker run --runtime=ascend`), or \
                     give it its devices (`--device /dev/davinci0 --device /dev/davinci_manager`)",
                ));
            }
            return Err(match machine.manager || machine.library {
                false => none("no Ascend device: no /dev/davinci0 and no driver".to_owned(), ""),
                true => none(
                    format!("no Ascend device: {driver}, but no /dev/davinci0 here"),
                    "give the container its devices (`docker run --device /dev/davinci0 --device \
                     /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc`)",
                ),
            });
        }
        if !machine.manager {
            return Err(none(
                format!(
                    "{} Ascend device node(s) found, but no /dev/davinci_manager, without which \
                     none can be opened",
                    machine.devices.len()
                ),
                "give the container that node too (`docker run --device /dev/davinci_manager`)",
            ));
        }
        if machine.is_hidden() {
            return Err(none(
                format!(
                    "{VISIBLE_DEVICES}={} hides every Ascend device from this process",
                    machine.visible.unwrap_or_default()
                ),
                "unset ASCEND_RT_VISIBLE_DEVICES or name a device in it",
            ));
        }
        Ok(machine)
    }

    fn look(&self) -> Result<ProbeReport, UnavailableReason> {
        let machine = self.devices()?;
        let reason = |failure: Failure| UnavailableReason {
            code: failure.code,
            message: format!(
                "{} {} device(s) found ({}), but {}",
                machine.devices.len(),
                machine.chip_name(),
                machine.driver_text(),
                failure.message
            ),
            remedy: failure.remedy,
        };
        let configured = Options::of_environment()?;
        let mut notes = vec![machine.driver_text()];
        notes.push(match machine.without_mspti() {
            None if machine.chips.is_empty() => "its paths: aclprof, torch_npu, and mspti if its \
                                                 chip, which the PCI bus does not show, has it"
                .to_owned(),
            None => "its paths: mspti, aclprof, torch_npu".to_owned(),
            Some(chip) => format!("its paths: aclprof, torch_npu; {chip} has no MSPTI"),
        });
        if let Some(list) = &self.container {
            notes.push(format!("{CONTAINER_DEVICES}={list} chose this container's devices"));
        }
        notes.extend(machine.seen_note());
        notes.extend(machine.numbers_note());
        match configured.choose(machine.without_mspti().is_none()) {
            // The environment sets a path and a library, which nothing else can contradict.
            Ok(CapturePath::Mspti) | Err(_) => {}
            Ok(CapturePath::Aclprof) => {
                notes.push(aclprof::note(&self.root).map_err(reason)?);
                return Ok(machine.available(notes));
            }
            Ok(CapturePath::TorchNpu) => {
                notes.push(torch_npu::note());
                return Ok(machine.available(notes));
            }
        }
        // MSPTI learns the names of kernels as they are registered: it is loaded before the
        // application registers them, and subscribed when a capture starts.
        let mspti = self.mspti(configured.library, PROBE_PATIENCE).map_err(reason)?;
        notes.push(format!("MSPTI by {}", mspti.path.display()));
        if !preload::is_preloaded() {
            notes.push(format!(
                "allocations and copies are recorded only if the worker starts with \
                 LD_PRELOAD={}",
                mspti.path.display()
            ));
        }
        Ok(machine.available(notes))
    }
}

impl Default for NpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl ProfilerBackend for NpuBackend {
    fn id(&self) -> BackendId {
        BackendId::parse("npu").unwrap_or_else(|_| unreachable!("`npu` is a valid id"))
    }

    fn probe(&self) -> ProbeReport {
        self.look().unwrap_or_else(|reason| ProbeReport::Unavailable { reason })
    }

    /// By MSPTI alone: aclprof's and torch_npu's readings of memory stay in their own files.
    fn records_memory(&self, config: &SessionConfig) -> bool {
        let (Ok(options), Ok(machine)) = (Options::parse(config), self.devices()) else {
            return false;
        };
        let path = options.choose(machine.without_mspti().is_none());
        path.is_ok_and(|path| path == CapturePath::Mspti)
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        if config.target_pid.is_some_and(|pid| pid != std::process::id()) {
            return Err(BackendError::InvalidConfig {
                field: "target_pid".to_owned(),
                reason:
                    "Ascend's profilers record the process that they are loaded in, and no other"
                        .to_owned(),
            });
        }
        let options = Options::parse(config)?;
        refuse_beside_msprof()?;
        torch_npu::library::refuse_beside_its_profiler()?;
        let machine = self.devices().map_err(Failure::from)?;
        let visible = VisibleDevices::parse(machine.visible.as_deref());
        // Made now: whoever exports the spool asks for it once the session is armed.
        let facts = Arc::clone(&sink);
        let raw_dir = |options: &Options| {
            let made = RawDir::make(options.raw_dir.as_deref(), config.raw_dir.as_deref())?;
            // The agent looks there for how much is written.
            facts.fact("npu.raw_dir", &made.path().display().to_string());
            Ok::<_, BackendError>(Arc::new(made))
        };
        let target = match options.choose(machine.without_mspti().is_none())? {
            CapturePath::Mspti => Target::Mspti(mspti::capture::Target {
                mspti: self.mspti(options.library, self.limit)?,
                sink,
                clock,
                preset: config.preset,
                memory: config.memory,
                max_buffer_bytes: config.max_buffer_bytes,
                devices: Devices { name: machine.chip_name().to_owned(), visible },
            }),
            CapturePath::Aclprof => Target::Aclprof(aclprof::capture::Target {
                library: self.aclprof()?,
                sink,
                preset: config.preset,
                memory: config.memory,
                visible,
                raw: raw_dir(&options)?,
                options,
            }),
            CapturePath::TorchNpu => Target::TorchNpu(torch_npu::capture::Target {
                sink,
                raw: raw_dir(&options)?,
                config: config.clone(),
                options,
            }),
        };
        let session = NpuSession::open(target, Duration::from_millis(config.drain_ms))?;
        Ok(Box::new(session))
    }
}

/// `msprof` sets these for the processes that it records; a second profiler would lose its data.
fn refuse_beside_msprof() -> Result<(), BackendError> {
    for name in ["PROFILER_SAMPLECONFIG", "PROFILING_MODE"] {
        if profiler_core::environment::variable(name).is_some_and(|value| !value.is_empty()) {
            return Err(BackendError::Busy {
                holder: Some(format!(
                    "msprof records this process ({name} is set), and Ascend allows one profiler: \
                     start the worker without msprof"
                )),
            });
        }
    }
    Ok(())
}
