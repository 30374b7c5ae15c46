//! An NVIDIA machine that consists of a device node and a stand-in for libcupti, and an application
//! that launches on it.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]

use std::ffi::{CStr, OsStr, c_char};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::conformance::build_plugin;

/// Gives the process a /dev that has `nvidia0`, and becomes the program: `sh -c SCRIPT sh DEV PROGRAM`.
const WITH_A_DEVICE: &str = r#"
set -e
dev=$1; shift
mount -t tmpfs none "$dev"
for node in null zero full random urandom tty; do
    touch "$dev/$node"; mount --bind "/dev/$node" "$dev/$node"
done
mkdir "$dev/shm"; mount --bind /dev/shm "$dev/shm"
touch "$dev/nvidia0"
mount --move "$dev" /dev
exec "$@"
"#;

/// Makes a process one that may mount what it likes, for itself alone.
const OWN_MOUNTS: [&str; 3] = ["--user", "--map-root-user", "--mount"];
const KERNEL: &CStr = c"void add<float>(float*)";
const STREAM: u32 = 7;

/// The stand-in, laid out for processes that load it.
#[derive(Debug)]
pub(super) struct CudaStandIn {
    library: PathBuf,
    dev: PathBuf,
}

impl CudaStandIn {
    /// Lays it out below a folder; nothing where this user can give no process a device of its own.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    ///
    /// # Panics
    ///
    /// It cannot be built.
    pub(super) fn install(folder: &Path) -> anyhow::Result<Option<Self>> {
        let dev = folder.join("dev");
        std::fs::create_dir(&dev)?;
        let script = ["sh", "-c", WITH_A_DEVICE, "sh"];
        let tried = Command::new("unshare")
            .args(OWN_MOUNTS)
            .args(script)
            .arg(&dev)
            .arg("true")
            .stdin(Stdio::null())
            .output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            return Ok(None);
        }
        // Named as the vendor names its library.
        let library = folder.join("libcupti.so.13");
        let built = build_plugin("fake-cupti");
        std::fs::copy(&built, &library).with_context(|| built.display().to_string())?;
        Ok(Some(Self { library, dev }))
    }

    /// The file that stands in for the vendor's library.
    pub(super) fn library(&self) -> &Path {
        &self.library
    }

    /// A command that runs this program on such a machine. Its process becomes the program.
    pub(super) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("unshare");
        command.args(OWN_MOUNTS).args(["sh", "-c", WITH_A_DEVICE, "sh"]).arg(&self.dev);
        command.arg(program).env_remove("CUDA_VISIBLE_DEVICES");
        command
    }
}

/// An application that has loaded the stand-in.
pub(super) struct Application {
    launch: extern "C" fn(*const c_char, u64, u32, u32),
    violations: extern "C" fn() -> usize,
}

impl Application {
    /// Loads the stand-in into this process, for as long as it lives.
    ///
    /// # Errors
    ///
    /// It is not there, or is another library.
    pub(super) fn load(library: &OsStr) -> anyhow::Result<Self> {
        // SAFETY: a library of this workspace, which does nothing as it is loaded.
        let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }?;
        // SAFETY: the type that the stand-in gives the symbol.
        let launch = *unsafe { library.get::<extern "C" fn(_, _, _, _)>(b"fake_launch") }?;
        // SAFETY: the type that the stand-in gives the symbol.
        let violations = *unsafe { library.get::<extern "C" fn() -> usize>(b"fake_violations") }?;
        // It stays loaded: the symbols outlive the handle.
        let _handle = library.into_raw();
        Ok(Self { launch, violations })
    }

    /// Launches so many kernels.
    pub(super) fn launch(&self, kernels: u64) {
        (self.launch)(KERNEL.as_ptr(), kernels, STREAM, 4);
    }

    /// How often the library was called as its documentation forbids.
    pub(super) fn violations(&self) -> usize {
        (self.violations)()
    }
}
