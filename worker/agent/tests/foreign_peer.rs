//! Whoever listens at the controller's socket as another user is no controller.
//!
//! The kernel keeps a user for each thread and shows that of the thread that listened or
//! connected, so that a thread stands for a process of another user.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{FakeController, PATIENCE, builder, turn};
use profiler_agent::link::{Connection, LinkError};
use rustix::process::{Uid, geteuid};

/// Users that the machine need not know.
const THIS: u32 = 61_001;
const OTHER: u32 = 61_002;

/// A folder in which every user may listen, as one that containers share.
fn shared_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    folder
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("omniprof.sock")
}

/// Does something as another user.
fn as_user<T: Send>(user: u32, act: impl FnOnce() -> T + Send) -> T {
    let become_user = move || {
        let user = Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        act()
    };
    std::thread::scope(|scope| scope.spawn(become_user).join().unwrap())
}

fn listen_as(user: u32, folder: &Path) -> UnixListener {
    as_user(user, || {
        let listener = UnixListener::bind(socket(folder)).unwrap();
        std::fs::set_permissions(socket(folder), Permissions::from_mode(0o666)).unwrap();
        listener
    })
}

/// Whether this process can be another user; says so where it cannot.
fn has_users() -> bool {
    let folder = shared_folder();
    let changes = || {
        let user = Uid::from_raw(OTHER);
        let changed = rustix::thread::set_thread_res_uid(user, user, user);
        changed.is_ok() && folder.path().join(".").metadata().is_ok()
    };
    let has = geteuid().is_root() && std::thread::scope(|s| s.spawn(changes).join().unwrap());
    if !has {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let line = format!(
            "skipped: {test}: only root can be another user, who must reach the temporary folder\n"
        );
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    has
}

/// What comes over a connection until its peer closes it.
fn heard(listener: &UnixListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_listener_of_another_user_is_refused_and_both_users_are_named() {
    if !has_users() {
        return;
    }
    let own = geteuid().as_raw();
    for (listening, meeting, expected) in [
        (OTHER, own, Some((OTHER, own))),
        (OTHER, THIS, Some((OTHER, THIS))),
        (THIS, THIS, None),
        // Root could do as it likes anyhow.
        (own, THIS, None),
    ] {
        let folder = shared_folder();
        let listener = listen_as(listening, folder.path());
        let (checked, closed) = as_user(meeting, || {
            let link = Connection::connect(&socket(folder.path())).unwrap();
            (link.check_peer(), link.is_closed())
        });
        let Some((theirs, ours)) = expected else {
            assert_eq!(checked.unwrap().uid, listening);
            assert!(!closed);
            continue;
        };
        let error = checked.unwrap_err();
        let text = error.to_string();
        let LinkError::ForeignPeer { uid, own } = error else { panic!("{text}") };
        assert_eq!((uid, own), (theirs, ours));
        assert_eq!(text, format!("the peer runs as user {theirs}, this process as user {ours}"));
        assert!(closed);
        assert_eq!(heard(&listener), b"");
    }
}

#[test]
fn an_agent_says_nothing_to_another_users_controller_and_goes_on_looking() {
    if !has_users() {
        return;
    }
    let _turn = turn();
    let folder = shared_folder();
    let foreign = listen_as(OTHER, folder.path());
    let agent = builder().socket_dir(folder.path()).connect().unwrap();
    // Not even a hello, which would tell who this process is; and the same each second.
    for _ in 0..2 {
        assert_eq!(heard(&foreign), b"");
    }
    let refused = agent.wait_for_controller(PATIENCE).unwrap_err();
    assert_eq!(refused.code, "foreign_controller");
    let users = format!("user {OTHER}, this process as user {}", geteuid().as_raw());
    assert!(refused.message.contains(&users), "{refused}");

    drop(foreign);
    std::fs::remove_file(socket(folder.path())).unwrap();
    let own = UnixListener::bind(socket(folder.path())).unwrap();
    let (stream, _) = own.accept().unwrap();
    let (_controller, hello) = FakeController::welcome(Connection::new(stream));
    assert_eq!(hello.worker, agent.worker());
    assert!(common::eventually(|| {
        agent.wait_for_controller(Duration::from_millis(1)) == Ok(true)
    }));
}

/// Names the folder to the process that the test below starts.
const FOLDER: &str = "FOREIGN_PEER_FOLDER";

/// The user by whom the kernel also shows those whom a user namespace does not know.
const NOBODY: u32 = 65_534;

#[test]
fn the_token_is_not_told_to_nobody_where_all_users_are_known() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let agent = builder().socket_dir(PathBuf::from(folder)).connect().unwrap();
        let refused = agent.wait_for_controller(PATIENCE).unwrap_err();
        assert_eq!(refused.code, "foreign_controller");
        return;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if !map.trim_end().ends_with("4294967295") {
        let name = "the_token_is_not_told_to_nobody_where_all_users_are_known";
        let line = format!("skipped: {name}: this user namespace does not know all users\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    if !has_users() {
        return;
    }
    let folder = shared_folder();
    let token = folder.path().join("token");
    std::fs::write(&token, "a secret").unwrap();
    let listener = listen_as(NOBODY, folder.path());
    let agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_token_is_not_told_to_nobody_where_all_users_are_known"])
        .env("OMNIPROF_TOKEN_FILE", &token)
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&heard(&listener)), "");
    assert!(agent.wait_with_output().unwrap().status.success());
}
