//! Where a controller listens for its workers.
//!
//! `<dir>/omniprof.sock`, where `dir` is the first of
//!
//! 1. `OMNIPROF_SOCKET`: an absolute directory, which may be shared between containers. It must
//!    exist, and only a sticky one may be writable by everybody;
//! 2. `$XDG_RUNTIME_DIR/omniprof/<8 hex of the root's path>`, where that variable names an
//!    absolute directory of this user;
//! 3. `<temporary folder>/omniprof-<user id>/<8 hex of the root's path>`.
//!
//! The directories of 2 and 3 are made by the controller with mode 0700; they must belong to this
//! user, so that nobody else can listen in a worker's stead. A launcher sets `OMNIPROF_SOCKET`
//! for its children.

use std::env;
use std::ffi::OsString;
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The variable that names the socket's directory.
pub const SOCKET_VARIABLE: &str = "OMNIPROF_SOCKET";

/// The socket's name.
pub const SOCKET_NAME: &str = "omniprof.sock";

/// The longest path of a Unix socket: `sun_path` less its closing zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// What of the environment decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the inputs of the rule, all of them")]
pub struct SocketEnvironment {
    /// `OMNIPROF_SOCKET`.
    pub socket_dir: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// The temporary folder.
    pub temporary_dir: PathBuf,
    /// The user.
    pub user: u32,
}

impl SocketEnvironment {
    /// That of this process. A variable that is set and empty counts as not set.
    #[must_use]
    pub fn of_this_process() -> Self {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            socket_dir: variable(SOCKET_VARIABLE),
            runtime_dir: variable("XDG_RUNTIME_DIR"),
            temporary_dir: env::temp_dir(),
            user: rustix::process::geteuid().as_raw(),
        }
    }
}

/// Which rule named the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOrigin {
    /// `OMNIPROF_SOCKET`.
    Variable,
    /// `XDG_RUNTIME_DIR`.
    RuntimeDir,
    /// The temporary folder.
    TemporaryDir,
}

/// The place of a controller's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath {
    dir: PathBuf,
    origin: SocketOrigin,
    user: u32,
}

impl SocketPath {
    /// The place for a root. Touches nothing; asks only whether `XDG_RUNTIME_DIR` is this user's.
    ///
    /// # Errors
    ///
    /// [`SocketPathError`] where the directory is not absolute or the path too long for a socket.
    pub fn resolve(root: &Path, environment: &SocketEnvironment) -> Result<Self, SocketPathError> {
        let user = environment.user;
        let (dir, origin) = if let Some(dir) = &environment.socket_dir {
            (PathBuf::from(dir), SocketOrigin::Variable)
        } else if let Some(runtime) = usable_runtime_dir(environment) {
            (runtime.join("omniprof").join(name_of(root)), SocketOrigin::RuntimeDir)
        } else {
            let ours = environment.temporary_dir.join(format!("omniprof-{user}"));
            (ours.join(name_of(root)), SocketOrigin::TemporaryDir)
        };
        if !dir.is_absolute() {
            return Err(SocketPathError::NotAbsolute { dir });
        }
        let place = Self { dir, origin, user };
        let bytes = place.socket().as_os_str().as_bytes().len();
        if bytes > MAX_SOCKET_PATH_BYTES {
            return Err(SocketPathError::TooLong { path: place.socket(), bytes });
        }
        Ok(place)
    }

    /// The directory, by which a launcher tells its children.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The socket itself.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET_NAME)
    }

    /// Which rule named the directory.
    #[must_use]
    pub fn origin(&self) -> SocketOrigin {
        self.origin
    }

    /// Makes the directory where it is ours to make, and checks it: before listening.
    ///
    /// # Errors
    ///
    /// [`SocketPathError`] where it cannot be made, is somebody else's or open to everybody.
    pub fn prepare(&self) -> Result<(), SocketPathError> {
        if self.origin != SocketOrigin::Variable {
            for dir in self.own_dirs() {
                make(dir)?;
                self.check_own(dir)?;
            }
        }
        self.check()
    }

    /// Checks the directory without making it: before connecting.
    ///
    /// # Errors
    ///
    /// As [`SocketPath::prepare`]; `Missing` where no controller ever listened there.
    pub fn check(&self) -> Result<(), SocketPathError> {
        if self.origin == SocketOrigin::Variable {
            let metadata = look(&self.dir)?;
            let open_to_all = metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0;
            return refuse_mode(&self.dir, &metadata, open_to_all);
        }
        for dir in self.own_dirs() {
            self.check_own(dir)?;
        }
        Ok(())
    }

    /// The directory and the one above, whose owner could swap the one below.
    fn own_dirs(&self) -> impl Iterator<Item = &Path> {
        self.dir.parent().into_iter().chain([self.dir.as_path()])
    }

    fn check_own(&self, dir: &Path) -> Result<(), SocketPathError> {
        let metadata = look(dir)?;
        if metadata.uid() != self.user {
            return Err(SocketPathError::OtherOwner {
                dir: dir.to_owned(),
                owner: metadata.uid(),
                user: self.user,
            });
        }
        refuse_mode(dir, &metadata, metadata.mode() & 0o022 != 0)
    }
}

fn make(dir: &Path) -> Result<(), SocketPathError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(SocketPathError::Make { dir: dir.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

/// `XDG_RUNTIME_DIR` after `su` or in a container may be another user's, or not be there.
fn usable_runtime_dir(environment: &SocketEnvironment) -> Option<PathBuf> {
    let dir = PathBuf::from(environment.runtime_dir.as_ref()?);
    let metadata = dir.metadata().ok()?;
    (dir.is_absolute() && metadata.is_dir() && metadata.uid() == environment.user).then_some(dir)
}

/// 8 hexadecimal digits of a root's path, made absolute; of the real path where it exists.
fn name_of(root: &Path) -> String {
    let path = root
        .canonicalize()
        .or_else(|_| std::path::absolute(root))
        .unwrap_or_else(|_| root.to_owned());
    format!("{:08x}", crc32fast::hash(path.as_os_str().as_bytes()))
}

fn look(dir: &Path) -> Result<Metadata, SocketPathError> {
    // A symlink is somebody's way to lead us elsewhere.
    let metadata = match dir.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SocketPathError::Missing { dir: dir.to_owned() });
        }
        Err(source) => return Err(SocketPathError::Look { dir: dir.to_owned(), source }),
    };
    if !metadata.is_dir() {
        return Err(SocketPathError::NotADirectory { dir: dir.to_owned() });
    }
    Ok(metadata)
}

fn refuse_mode(dir: &Path, metadata: &Metadata, refuse: bool) -> Result<(), SocketPathError> {
    if refuse {
        let mode = metadata.mode() & 0o7777;
        return Err(SocketPathError::WritableByOthers { dir: dir.to_owned(), mode });
    }
    Ok(())
}

/// Why a socket's directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketPathError {
    /// The directory is relative.
    #[error("the socket's directory {} is not absolute: set {SOCKET_VARIABLE} to an absolute one", dir.display())]
    NotAbsolute {
        /// The directory.
        dir: PathBuf,
    },
    /// No Unix socket can have that path.
    #[error("the socket's path {} has {bytes} bytes, at most {MAX_SOCKET_PATH_BYTES} are possible: set {SOCKET_VARIABLE} to a shorter directory", path.display())]
    TooLong {
        /// The socket's path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The directory is not there.
    #[error("the socket's directory {} does not exist: no controller listens there", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// There is something else, perhaps a symlink.
    #[error("the socket's directory {} is not a directory", dir.display())]
    NotADirectory {
        /// The path.
        dir: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error("the socket's directory {} belongs to user {owner} and this process runs as user {user}: remove it, or set {SOCKET_VARIABLE}", dir.display())]
    OtherOwner {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others could put a socket of theirs there.
    #[error("others may write into the socket's directory {} (mode {mode:04o}): `chmod go-w` it", dir.display())]
    WritableByOthers {
        /// The directory.
        dir: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The directory could not be made.
    #[error("the socket's directory {} cannot be made: set {SOCKET_VARIABLE} to another", dir.display())]
    Make {
        /// The directory.
        dir: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The directory could not be looked at.
    #[error("the socket's directory {} cannot be looked at", dir.display())]
    Look {
        /// The directory.
        dir: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn environment(temporary_dir: &Path) -> SocketEnvironment {
        SocketEnvironment {
            temporary_dir: temporary_dir.to_owned(),
            user: rustix::process::geteuid().as_raw(),
            ..SocketEnvironment::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_names_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("traces");
        let mut environment = environment(folder.path());
        let place = SocketPath::resolve(&root, &environment).unwrap();
        assert_eq!(place.origin(), SocketOrigin::TemporaryDir);
        let user = environment.user;
        assert!(place.dir().starts_with(folder.path().join(format!("omniprof-{user}"))));

        environment.runtime_dir = Some("/does/not/exist".into());
        let place = SocketPath::resolve(&root, &environment).unwrap();
        assert_eq!(place.origin(), SocketOrigin::TemporaryDir);

        environment.runtime_dir = Some(folder.path().into());
        let place = SocketPath::resolve(&root, &environment).unwrap();
        assert_eq!(place.origin(), SocketOrigin::RuntimeDir);
        assert_eq!(place.dir().parent(), Some(folder.path().join("omniprof").as_path()));

        environment.socket_dir = Some("/run/shared".into());
        let place = SocketPath::resolve(&root, &environment).unwrap();
        assert_eq!(place.origin(), SocketOrigin::Variable);
        assert_eq!(place.socket(), Path::new("/run/shared/omniprof.sock"));
    }

    #[test]
    fn two_roots_have_two_sockets_and_one_root_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(folder.path());
        let place = |root: PathBuf| SocketPath::resolve(&root, &environment).unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        symlink(folder.path().join("a"), folder.path().join("same")).unwrap();
        let one = place(folder.path().join("a"));
        assert_eq!(one, place(folder.path().join("same")));
        assert_eq!(one, place(folder.path().join("a/../a")));
        assert_ne!(one, place(folder.path().join("b")));
    }

    #[test]
    fn what_no_socket_can_have_is_refused() {
        let mut environment = environment(Path::new("/tmp"));
        environment.socket_dir = Some("sockets".into());
        let refused = SocketPath::resolve(Path::new("."), &environment);
        assert!(matches!(refused, Err(SocketPathError::NotAbsolute { .. })));
        let room = MAX_SOCKET_PATH_BYTES - SOCKET_NAME.len() - 2;
        environment.socket_dir = Some(format!("/{}", "x".repeat(room)).into());
        assert!(SocketPath::resolve(Path::new("."), &environment).is_ok());
        environment.socket_dir = Some(format!("/{}", "x".repeat(room + 1)).into());
        let refused = SocketPath::resolve(Path::new("."), &environment);
        assert!(matches!(refused, Err(SocketPathError::TooLong { bytes: 108, .. })));
    }

    #[test]
    fn a_directory_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(folder.path());
        let place = SocketPath::resolve(Path::new("."), &environment).unwrap();
        assert!(matches!(place.check(), Err(SocketPathError::Missing { .. })));
        place.prepare().unwrap();
        place.prepare().unwrap();
        assert_eq!(place.dir().metadata().unwrap().mode() & 0o777, 0o700);

        std::fs::set_permissions(place.dir(), PermissionsExt::from_mode(0o770)).unwrap();
        assert!(matches!(
            place.check(),
            Err(SocketPathError::WritableByOthers { mode: 0o770, .. })
        ));
    }

    #[test]
    fn a_planted_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let mut environment = environment(folder.path());
        let ours = folder.path().join(format!("omniprof-{}", environment.user));
        symlink(elsewhere.path(), ours).unwrap();
        let place = SocketPath::resolve(Path::new("."), &environment).unwrap();
        assert!(matches!(place.prepare(), Err(SocketPathError::NotADirectory { .. })));
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);

        environment.user += 1;
        let place = SocketPath::resolve(Path::new("."), &environment).unwrap();
        assert!(matches!(place.prepare(), Err(SocketPathError::OtherOwner { .. })));
    }

    #[test]
    fn a_shared_directory_may_be_open_only_if_sticky() {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = environment(Path::new("/tmp"));
        environment.socket_dir = Some(folder.path().into());
        let place = SocketPath::resolve(Path::new("."), &environment).unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o1777)).unwrap();
        place.prepare().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(place.prepare(), Err(SocketPathError::WritableByOthers { .. })));
    }
}
