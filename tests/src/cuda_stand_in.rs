//! An NVIDIA machine that consists of a device node and a stand-in for libcupti.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
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

/// The stand-in, laid out for processes that load it.
#[derive(Debug)]
pub struct CudaStandIn {
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
    pub fn install(folder: &Path) -> anyhow::Result<Option<Self>> {
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
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// A command that runs this program on such a machine. Its process becomes the program.
    #[must_use]
    pub fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("unshare");
        command.args(OWN_MOUNTS).args(["sh", "-c", WITH_A_DEVICE, "sh"]).arg(&self.dev);
        command.arg(program).env_remove("CUDA_VISIBLE_DEVICES");
        command
    }
}
