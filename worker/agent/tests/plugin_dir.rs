//! Which directories and files plugins are taken from.
#![cfg(feature = "plugins")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use profiler_core::registry::RefusedPlugin;

/// A directory that may hold plugins.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    /// A file that is named as a plugin and is none.
    fn file(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, "no library").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refused(&self) -> Vec<RefusedPlugin> {
        refused(&self.path())
    }
}

const NAME: &str = "libomniprof_backend_test.so";

fn refused(dir: &Path) -> Vec<RefusedPlugin> {
    let registry = profiler_agent::backends(Some(dir));
    assert!(
        registry.iter().all(|backend| registry.origin(&backend.id()).is_none()),
        "nothing here is a plugin"
    );
    registry.refused_plugins().to_vec()
}

/// The code of the only refusal, which names this path.
fn code_of(dir: &Path, path: &Path) -> String {
    let refused = refused(dir);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].path, path, "{refused:?}");
    assert!(
        refused[0].reason.contains(path.to_str().unwrap()),
        "the reason names the place: {refused:?}"
    );
    refused[0].code.clone()
}

#[test]
fn a_file_that_is_no_library_is_told() {
    let dir = Dir::new();
    let path = dir.file(NAME, 0o644);
    assert_eq!(code_of(&dir.path(), &path), "not_loadable");
}

#[test]
fn a_library_without_the_entry_is_told() {
    let dir = Dir::new();
    let path = dir.path().join(NAME);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps
        .split_whitespace()
        .find(|word| word.starts_with('/') && word.contains("libc.so"))
        .expect("the C library is mapped");
    fs::copy(library, &path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(code_of(&dir.path(), &path), "no_entry");
}

#[test]
fn files_that_others_may_write_are_refused() {
    for mode in [0o664, 0o646, 0o666, 0o777] {
        let dir = Dir::new();
        let path = dir.file(NAME, mode);
        assert_eq!(code_of(&dir.path(), &path), "writable_by_others", "{mode:o}");
    }
}

#[test]
fn a_directory_that_others_may_write_is_refused_whole() {
    for mode in [0o775, 0o757, 0o1777] {
        let dir = Dir::new();
        dir.file(NAME, 0o644);
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        assert_eq!(code_of(&dir.path(), &dir.path()), "writable_by_others", "{mode:o}");
    }
}

#[test]
fn what_leads_to_the_directory_counts_too() {
    let dir = Dir::new();
    let above = dir.path().join("above");
    let below = above.join("plugins");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join(NAME), "no library").unwrap();
    fs::set_permissions(&below, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&above, Permissions::from_mode(0o777)).unwrap();
    let found = refused(&below);
    assert_eq!(
        (found[0].path.as_path(), found[0].code.as_str()),
        (below.as_path(), "writable_by_others")
    );
    assert!(found[0].reason.contains(above.to_str().unwrap()), "{found:?}");
    // Where nobody can rename what is another's, others may write.
    fs::set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(code_of(&below, &below.join(NAME)), "not_loadable");
}

#[test]
fn files_of_other_users_are_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give files away; root's tests show it.
        return;
    }
    let dir = Dir::new();
    let path = dir.file(NAME, 0o644);
    chown(&path, Some(12_345), None).unwrap();
    assert_eq!(code_of(&dir.path(), &path), "wrong_owner");
    chown(dir.path(), Some(12_345), None).unwrap();
    assert_eq!(code_of(&dir.path(), &dir.path()), "wrong_owner");
}

#[test]
fn links_do_not_lead_out_of_the_directory() {
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let target = elsewhere.file("library.so", 0o644);
    let link = dir.path().join(NAME);
    symlink(&target, &link).unwrap();
    assert_eq!(code_of(&dir.path(), &link), "symbolic_link");
    // A link to the directory is followed, and what counts is where it leads.
    let open = Dir::new();
    let way = open.path().join("way");
    symlink(dir.path(), &way).unwrap();
    assert_eq!(code_of(&way, &link), "symbolic_link");
}

#[test]
fn what_is_no_regular_file_is_refused_and_waits_for_nobody() {
    let dir = Dir::new();
    let pipe = dir.path().join(NAME);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(code_of(&dir.path(), &pipe), "wrong_type");
    fs::remove_file(&pipe).unwrap();
    fs::create_dir(&pipe).unwrap();
    assert_eq!(code_of(&dir.path(), &pipe), "wrong_type");
}

#[test]
fn directories_that_cannot_be_used_are_told() {
    let dir = Dir::new();
    let missing = dir.path().join("missing");
    assert_eq!(code_of(&missing, &missing), "not_readable");
    let file = dir.file("file", 0o644);
    assert_eq!(code_of(&file, &file), "not_readable");
    assert_eq!(code_of(Path::new("plugins"), Path::new("plugins")), "relative_path");
    assert_eq!(code_of(Path::new("./plugins"), Path::new("./plugins")), "relative_path");
    for count in 0..1025 {
        dir.file(&format!("file{count}"), 0o644);
    }
    assert_eq!(code_of(&dir.path(), &dir.path()), "too_many_files");
}

#[test]
fn files_of_other_names_are_left_alone() {
    let dir = Dir::new();
    for name in ["README.md", "libomniprof_backend_test.so.1", "libcupti.so.13", "libm.so"] {
        dir.file(name, 0o666);
    }
    assert_eq!(dir.refused(), []);
}

#[cfg(feature = "cuda")]
#[test]
fn a_plugin_of_a_linked_backend_is_not_even_looked_at() {
    let dir = Dir::new();
    // Not a library and open to all: what it is does not matter.
    let path = dir.file("libomniprof_backend_cuda.so", 0o666);
    assert_eq!(code_of(&dir.path(), &path), "duplicate");
}
