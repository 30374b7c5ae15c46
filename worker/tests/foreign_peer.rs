//! Whoever comes to the workers' socket as another user is no worker.
//!
//! The kernel keeps a user for each thread and shows that of the thread that connected, so that a
//! thread stands for a process of another user.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli_support;
mod support;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use profiler_agent::link::{Connection, LinkError};
use profiler_core::control::{FromAgent, ToAgent};
use profiler_worker::links::{SocketLink, WorkerLink as _};
use rustix::process::{Uid, geteuid};

use cli_support::{Place, Serving, until};
use support::{Behaviour, DEADLINE, skipped};

/// A user that the machine need not know.
const OTHER: u32 = 61_002;
/// The user that the kernel shows for all whom a user namespace does not know.
const UNKNOWN: u32 = 65_534;

/// A folder that every user may search.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

fn open_socket(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
}

/// Does something as another user; nothing where this process cannot be one.
fn as_user<T: Send>(user: u32, act: impl FnOnce() -> T + Send) -> Option<T> {
    let become_user = move || {
        let user = Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).ok()?;
        Some(act())
    };
    std::thread::scope(|scope| scope.spawn(become_user).join().unwrap())
}

/// Whether this process can be another user; says so where it cannot.
fn has_users() -> bool {
    let folder = open_folder();
    let reaches = as_user(OTHER, || folder.path().join(".").metadata().is_ok());
    let has = geteuid().is_root() && reaches == Some(true);
    if !has {
        skipped("only root can be another user, who must reach the temporary folder");
    }
    has
}

#[test]
fn a_peer_of_another_user_is_refused_and_both_users_are_named() {
    if !has_users() {
        return;
    }
    let own = geteuid().as_raw();
    let folder = open_folder();
    let path = folder.path().join("omniprof.sock");
    let listener = UnixListener::bind(&path).unwrap();
    open_socket(&path);
    let accepted = |user| {
        let theirs = as_user(user, || Connection::connect(&path).unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (SocketLink::accept(Connection::new(stream)), theirs)
    };

    let (refused, theirs) = accepted(OTHER);
    let error = refused.unwrap_err();
    let text = error.to_string();
    let LinkError::ForeignPeer { uid, own: named, .. } = error else { panic!("{text}") };
    assert_eq!((uid, named), (OTHER, own));
    assert_eq!(text, format!("the peer runs as user {OTHER}, this process as user {own}"));
    let answer = theirs.recv_timeout::<ToAgent>(DEADLINE);
    assert!(matches!(answer, Err(LinkError::Closed)), "{answer:?}");

    let (link, _theirs) = accepted(own);
    assert!(link.unwrap().is_trusted());
    // Of such a one nothing is known; what it says has to show the token.
    let (link, _theirs) = accepted(UNKNOWN);
    assert!(!link.unwrap().is_trusted());
}

#[test]
fn a_server_takes_no_worker_of_another_user() {
    if !has_users() {
        return;
    }
    let place = Place::new();
    let folder = open_folder();
    let log = place.join("log");
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--json"]);
    command.env("OMNIPROF_SOCKET", folder.path()).stderr(File::create(&log).unwrap());
    let serving = Serving::of(command);
    let path = folder.path().join("omniprof.sock");
    let connect = || as_user(OTHER, || Connection::connect(&path)).unwrap();

    // The socket's mode keeps others off.
    let Err(LinkError::Io { source, .. }) = connect() else { panic!("it is open to all") };
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);

    // Where that is undone, the server asks the kernel.
    open_socket(&path);
    let theirs = connect().unwrap();
    let hello = FromAgent::Hello(Box::new(Behaviour::new(0, "thinker", 0, 0).hello()));
    // It may be refused before it has said anything.
    let _said: Result<(), LinkError> = theirs.send(&hello, None);
    let answer = theirs.recv_timeout::<ToAgent>(DEADLINE);
    assert!(matches!(answer, Err(LinkError::Closed)), "{answer:?}");
    let users =
        format!("the peer runs as user {OTHER}, this process as user {}", geteuid().as_raw());
    until("the log names both users", || {
        let said = std::fs::read_to_string(&log).unwrap();
        (said.contains("a peer was refused") && said.contains(&users)).then_some(())
    });

    // It goes on taking its own.
    let mine = Connection::connect(&path).unwrap();
    mine.send(&hello, None).unwrap();
    let (answer, _) = mine.recv_timeout::<ToAgent>(DEADLINE).unwrap();
    assert!(matches!(answer, ToAgent::Welcome { .. }), "{answer:?}");
    let status = place.run(&["status", "--json", "--server", &serving.url]).json(0);
    assert_eq!(status["workers"].as_array().unwrap().len(), 1, "{status}");
    assert!(serving.end().success());
}
