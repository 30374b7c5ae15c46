//! The socket at which workers meet their controller.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use profiler_agent::link::Connection;
use profiler_core::socket_path::{SocketPath, SocketPathError};

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another controller listens there.
    #[error(
        "a controller already listens on {}: talk to it with `--server`, or give another directory \
         with `--dir` or OMNIPROF_SOCKET",
        path.display()
    )]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error("the socket's directory cannot be used")]
    Directory {
        /// Why.
        #[source]
        source: SocketPathError,
    },
    /// Something else lies in the socket's place.
    #[error(
        "{} is no socket: remove it, or give another directory with OMNIPROF_SOCKET",
        path.display()
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error("{what} {} failed", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

/// The listening socket. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Listens there, in a directory that is made where it is ours to make. A socket that nobody
    /// listens on any more is replaced.
    pub(crate) fn bind(place: &SocketPath) -> Result<Self, ListenError> {
        place.prepare().map_err(|source| ListenError::Directory { source })?;
        let path = &place.socket();
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(io_error("listening on", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(io_error("setting the mode of", path))?;
        let inode = fs::symlink_metadata(path).map_err(io_error("looking at", path))?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> io::Result<Connection> {
        self.listener.accept().map(|(stream, _)| Connection::new(stream))
    }

    /// Wakes whoever waits in [`Listener::accept`].
    pub(crate) fn wake(&self) {
        // A connection that cannot be made means that nobody waits.
        let _woken: io::Result<UnixStream> = UnixStream::connect(&self.path);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another controller may have put its own there since.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode);
        if ours {
            let _removed: io::Result<()> = fs::remove_file(&self.path);
        }
    }
}

fn clear(path: &Path) -> Result<(), ListenError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("looking at", path)(error)),
    };
    if !meta.file_type().is_socket() {
        return Err(ListenError::NoSocket { path: path.to_owned() });
    }
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::Busy { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(io_error("removing the old socket", path))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use profiler_core::socket_path::SocketEnvironment;

    use super::*;

    fn place(dir: &Path) -> SocketPath {
        let environment = SocketEnvironment {
            socket_dir: Some(dir.into()),
            ..SocketEnvironment::of_this_process()
        };
        SocketPath::resolve(Path::new("/root/of/traces"), &environment).unwrap()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let path = place.socket();
        let first = Listener::bind(&place).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Listener::bind(&place).unwrap_err();
        assert!(matches!(error, ListenError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("--server"));
        drop(first);
        assert!(!path.exists());

        // What a killed controller leaves behind.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&place).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_the_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        fs::write(place.socket(), "precious").unwrap();
        assert!(matches!(Listener::bind(&place), Err(ListenError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
    }
}
