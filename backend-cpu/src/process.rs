//! The process that is recorded, seen through `/proc`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use profiler_core::descriptor::{Kept, raise};
use profiler_core::error::BackendError;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The target of a session.
///
/// Its `/proc` directory is held open: after the process's end every look-up fails, even where the
/// pid is used again.
#[derive(Debug)]
pub(crate) struct Process {
    /// As this process sees it.
    pub(crate) pid: u32,
    /// Whether it is the one we run in.
    pub(crate) own: bool,
    /// Becomes readable when it ends; `None` for our own, which we do not outlive.
    pub(crate) end: Option<Kept<OwnedFd>>,
    directory: Kept<OwnedFd>,
}

impl Process {
    /// The process of that id, or our own.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] where there is none.
    pub(crate) fn open(pid: Option<u32>) -> Result<Self, BackendError> {
        let own_pid = std::process::id();
        let own = pid.is_none_or(|pid| pid == own_pid);
        let pid = pid.unwrap_or(own_pid);
        let path = match own {
            true => "/proc/self".to_owned(),
            false => format!("/proc/{pid}"),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path.as_str(), flags, Mode::empty())
            .map_err(|error| unreachable_process(pid, &path, error))?;
        let mut end = None;
        if !own {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let raw = raw.ok_or_else(|| no_such_process(pid))?;
            // A kernel before 5.3 has none; then the end shows in failing reads.
            end = pidfd_open(raw, PidfdFlags::empty()).ok().map(Kept::new);
        }
        Ok(Self { pid, own, end, directory: Kept::new(raise(directory)) })
    }

    /// Opens a file below the process's directory.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File::from(openat(self.directory.get()?, name, flags, Mode::empty())?))
    }

    /// Reads a file below the process's directory, at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> io::Result<Vec<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = openat(self.directory.get()?, "task", flags, Mode::empty())?;
        let mut threads = Vec::new();
        for entry in rustix::fs::Dir::new(tasks)? {
            let name = entry?;
            let thread: Option<u32> =
                name.file_name().to_str().ok().and_then(|name| name.parse().ok());
            threads.extend(thread);
        }
        threads.sort_unstable();
        Ok(threads)
    }

    /// The name of a thread; `None` when it has ended.
    pub(crate) fn thread_name(&self, thread: u32) -> Option<Vec<u8>> {
        let mut name = self.read(&format!("task/{thread}/comm"), 64).ok()?;
        if name.last() == Some(&b'\n') {
            name.pop();
        }
        Some(name)
    }

    /// The processor time of a thread in ns; 0 where the kernel does not tell.
    pub(crate) fn thread_cpu_ns(&self, thread: u32) -> u64 {
        let text = self.read(&format!("task/{thread}/schedstat"), 128).unwrap_or_default();
        let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        std::str::from_utf8(first).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// What the kernel tells of a thread's seccomp filters, as text to compare; `None` where it
    /// tells nothing.
    pub(crate) fn filters(&self, thread: u32) -> Option<Vec<u8>> {
        let status = self.read(&format!("task/{thread}/status"), 16 << 10).ok()?;
        let mut filters = Vec::new();
        // `Seccomp:` and, since Linux 5.9, `Seccomp_filters:`, their number.
        for line in status.split(|byte| *byte == b'\n') {
            if line.starts_with(b"Seccomp") {
                filters.extend_from_slice(line);
            }
        }
        (!filters.is_empty()).then_some(filters)
    }

    /// Opens a file that the process has mapped, by the path it knows.
    pub(crate) fn mapped_file(&self, path: &str) -> io::Result<File> {
        // A pipe that was put in a file's place would make the opening wait for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = match self.own {
            true => open(path, flags, Mode::empty())?,
            // Its root may be another than ours (a container).
            false => openat(self.directory.get()?, format!("root{path}"), flags, Mode::empty())?,
        };
        let file = File::from(opened);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }
}

/// Whether a thread of that name is one of the profiler's.
pub(crate) fn is_profiler_thread(name: &[u8]) -> bool {
    name.starts_with(b"omniprof-")
}

fn unreachable_process(pid: u32, path: &str, error: Errno) -> BackendError {
    match error {
        Errno::NOENT | Errno::SRCH => no_such_process(pid),
        Errno::ACCESS | Errno::PERM => BackendError::Permission {
            what: format!("reading {path}"),
            remedy: "run as the owner of that process, or mount /proc without hidepid".to_owned(),
        },
        error => BackendError::Io { what: format!("open {path}"), source: error.into() },
    }
}

fn no_such_process(pid: u32) -> BackendError {
    BackendError::Unavailable {
        code: "no_such_process".to_owned(),
        message: format!(
            "there is no process {pid}: it has ended, or lives in another pid namespace"
        ),
    }
}
