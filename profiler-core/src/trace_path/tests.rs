//! What no other test sees: many workers, and hostile directories.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::clock::SystemClock;
use crate::identity::{KeyParts, WorkerIdentity, WorkerKey};

fn worker(stage: u32, role: &str, rank: u32) -> WorkerIdentity {
    WorkerIdentity {
        host: "node-1".to_owned(),
        pid: 7,
        key: "abcdefghij".to_owned(),
        ..WorkerIdentity::of_this_process(Some(stage), Some(role), Some(0), Some(rank))
    }
}

fn session() -> SessionId {
    let label = SessionLabel::parse("nightly").unwrap();
    SessionId::from_parts(1_795_518_487_123_000_000, 12_345, Some(&label))
}

#[test]
fn names_are_as_documented() {
    let policy = TracePathPolicy::new("/traces");
    let place = policy.worker_file(&session(), &worker(0, "thinker", 1), "spool");
    assert_eq!(
        place.to_str(),
        Some(
            "/traces/20261124T110807123Z-aaaaambz-nightly/stage0-thinker/replica0.rank1.node-1.7-abcdefghij.spool"
        )
    );
    let place = policy.host_file(&session(), &worker(0, "thinker", 1), "pftrace.gz");
    assert!(place.ends_with("host/node-1.7-abcdefghij.pftrace.gz"), "{place:?}");
    let unknown =
        WorkerIdentity { stage: None, role: None, replica: None, rank: None, ..worker(0, "", 0) };
    let place = TracePath::worker(&unknown).relative("spool");
    assert_eq!(place.to_str(), Some("stage_-_/replica_.rank_.node-1.7-abcdefghij.spool"));
}

/// One worker of a fleet in which all that can be equal is equal.
#[derive(Clone, Copy, Debug)]
struct Start {
    stage: u32,
    boot: u64,
    container: u64,
    pid: u32,
    start_ticks: u64,
}

fn start() -> impl Strategy<Value = Start> {
    // Few values each, so that host, pid, container and start time repeat: two stages on one rank
    // in one second, pids used again, containers alike, an exec (nothing differs but chance).
    (0..3_u32, 0..2_u64, 0..2_u64, 1..4_u32, 0..3_u64).prop_map(
        |(stage, boot, container, pid, start_ticks)| Start {
            stage,
            boot,
            container,
            pid,
            start_ticks,
        },
    )
}

fn key(start: Start, random: u64) -> String {
    let boot_id = format!("boot-{}", start.boot);
    let parts = KeyParts {
        boot_id: &boot_id,
        pid_namespace: start.container,
        pid: start.pid,
        start_ticks: start.start_ticks,
    };
    WorkerKey::new(&parts, random).to_string()
}

fn identity(start: Start, random: u64) -> WorkerIdentity {
    let key = key(start, random);
    WorkerIdentity { pid: start.pid, key, ..worker(start.stage, "stage", 0) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn no_two_of_ten_thousand_workers_meet(
        starts in proptest::collection::vec(start(), 10_000),
        with_prefix: bool,
        seed: u64,
    ) {
        let policy = TracePathPolicy::new("/traces");
        let label = with_prefix.then(|| SessionLabel::parse("run").unwrap());
        // All in one session: what different sessions hold cannot meet at all.
        let session = SessionId::from_parts(1_795_518_487_000_000_000, 1, label.as_ref());
        let mut paths = BTreeSet::new();
        for (index, start) in starts.iter().enumerate() {
            // Any sequence of different numbers; no two worlds draw the same one but by chance.
            let random = (index as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let path = policy.worker_file(&session, &identity(*start, random), "spool");
            let name = path.file_name().unwrap().len();
            prop_assert!(name <= MAX_NAME_BYTES);
            prop_assert!(paths.insert(path), "two workers meet");
        }
    }

    /// Chance is alike for all here, so that only the one part can tell them apart.
    #[test]
    fn each_part_of_the_key_tells_workers_apart(start in start(), random: u64) {
        type Change = fn(Start, u64, u64) -> (Start, u64);
        let changes: [(&str, Change); 5] = [
            ("boot id", |start, random, n| (Start { boot: n, ..start }, random)),
            ("pid namespace", |start, random, n| (Start { container: n, ..start }, random)),
            ("pid", |start, random, n| (Start { pid: n as u32, ..start }, random)),
            ("start time", |start, random, n| (Start { start_ticks: n, ..start }, random)),
            ("chance", |start, random, n| (start, random ^ n)),
        ];
        for (part, change) in changes {
            let keys: BTreeSet<_> = (0..10_000)
                .map(|n| {
                    let (start, random) = change(start, random, n);
                    key(start, random)
                })
                .collect();
            prop_assert_eq!(keys.len(), 10_000, "workers that differ in their {} meet", part);
        }
    }

    #[test]
    fn ten_thousand_sessions_of_one_instant_differ(with_prefix: bool) {
        let label = with_prefix.then(|| SessionLabel::parse("run").unwrap());
        let clock = crate::clock::ManualClock::new(crate::clock::Instant::default());
        let ids: BTreeSet<_> =
            (0..10_000).map(|_| SessionId::generate(&clock, label.as_ref())).collect();
        // 10,000 draws of 40 bits meet once in 22,000 runs, and the directory is made exclusively.
        prop_assert!(ids.len() >= 9_999);
    }
}

proptest! {
    #[test]
    fn any_identity_gives_one_plain_place(
        host in ".{0,300}", role in ".{0,300}", key in ".{0,300}", extension in ".{0,300}",
        stage: Option<u32>, replica: Option<u32>, rank: Option<u32>, pid: u32,
    ) {
        let worker = WorkerIdentity {
            stage, replica, rank, host, pid, key, role: Some(role), ..worker(0, "", 0)
        };
        for place in [TracePath::worker(&worker), TracePath::host(&worker)] {
            let relative = place.relative(&extension);
            let names: Vec<_> = relative.components().collect();
            prop_assert_eq!(names.len(), 2);
            for name in names {
                prop_assert!(matches!(name, std::path::Component::Normal(_)));
                prop_assert!(name.as_os_str().len() <= MAX_NAME_BYTES);
                prop_assert!(name.as_os_str().is_ascii());
            }
        }
    }
}

fn root() -> (tempfile::TempDir, TraceRoot) {
    let folder = tempfile::tempdir().unwrap();
    let root = TraceRoot::create(&folder.path().join("a/traces")).unwrap();
    (folder, root)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o777
}

#[test]
fn directories_and_files_are_their_owners_alone() {
    let (_folder, root) = root();
    let session = root.create_session(&session()).unwrap();
    let place = TracePath::worker(&worker(0, "thinker", 0));
    let (_file, relative) = session.create_file(&place, "spool").unwrap();
    assert_eq!(mode(root.path()), 0o700);
    assert_eq!(mode(session.path()), 0o700);
    assert_eq!(mode(&session.path().join(place.dir())), 0o700);
    assert_eq!(mode(&session.path().join(relative)), 0o600);
}

#[test]
fn nothing_is_made_twice() {
    let (_folder, root) = root();
    let session = root.create_session(&session()).unwrap();
    let again = root.create_session(session.id());
    assert!(matches!(again, Err(TraceRootError::Exists { .. })));
    let place = TracePath::worker(&worker(0, "thinker", 0));
    session.create_file(&place, "spool").unwrap();
    let again = session.create_file(&place, "spool");
    assert!(matches!(again, Err(TraceRootError::Exists { .. })));
}

#[test]
fn planted_symlinks_are_refused_and_nothing_beyond_is_touched() {
    let (folder, root) = root();
    let beyond = folder.path().join("beyond");
    std::fs::create_dir(&beyond).unwrap();
    std::fs::write(beyond.join("file"), "theirs").unwrap();
    let place = TracePath::worker(&worker(0, "thinker", 0));

    // In the session's place.
    symlink(&beyond, root.path().join(session().as_str())).unwrap();
    let refused = root.create_session(&session());
    assert!(matches!(refused, Err(TraceRootError::Exists { .. })), "{refused:?}");
    let refused = root.open_session(&session());
    assert!(matches!(refused, Err(TraceRootError::Symlink { .. })), "{refused:?}");
    let refused = root.remove_session(&session());
    assert!(matches!(refused, Err(TraceRootError::Symlink { .. })), "{refused:?}");
    std::fs::remove_file(root.path().join(session().as_str())).unwrap();

    // In the stage's place.
    let session = root.create_session(&session()).unwrap();
    symlink(&beyond, session.path().join(place.dir())).unwrap();
    let refused = session.create_file(&place, "spool");
    assert!(matches!(refused, Err(TraceRootError::Symlink { .. })), "{refused:?}");
    let refused = session.open_file(&Path::new(place.dir()).join("file"));
    assert!(matches!(refused, Err(TraceRootError::Symlink { .. })), "{refused:?}");
    assert_eq!(session.files().unwrap(), []);
    std::fs::remove_file(session.path().join(place.dir())).unwrap();

    // In the file's place, dangling and not.
    std::fs::create_dir(session.path().join(place.dir())).unwrap();
    for target in ["file", "new"] {
        let planted = session.path().join(place.relative("spool"));
        symlink(beyond.join(target), &planted).unwrap();
        let refused = session.create_file(&place, "spool");
        assert!(matches!(refused, Err(TraceRootError::Exists { .. })), "{refused:?}");
        let refused = session.open_file(&place.relative("spool"));
        assert!(matches!(refused, Err(TraceRootError::Symlink { .. })), "{refused:?}");
        std::fs::remove_file(&planted).unwrap();
    }

    // Removed with its session, a symlink takes nothing along.
    symlink(&beyond, session.path().join("link")).unwrap();
    root.remove_session(session.id()).unwrap();
    assert_eq!(std::fs::read_to_string(beyond.join("file")).unwrap(), "theirs");
    assert_eq!(beyond.read_dir().unwrap().count(), 1);
}

#[test]
fn paths_from_outside_stay_inside() {
    let (folder, root) = root();
    std::fs::write(folder.path().join("secret"), "x").unwrap();
    let session = root.create_session(&session()).unwrap();
    session.write("manifest.json", b"{}").unwrap();
    assert!(session.open_file(Path::new("manifest.json")).is_ok());
    for path in ["", "..", "../../secret", "/etc/passwd", "a/../../x", "./..", "manifest.json/x"] {
        let refused = session.open_file(Path::new(path)).unwrap_err();
        let code = refused.code();
        assert!(["bad_name", "not_a_directory", "not_found"].contains(&code), "{path}: {refused}");
    }
    let fifo = session.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let refused = session.open_file(Path::new("fifo"));
    assert!(matches!(refused, Err(TraceRootError::Name { .. })), "{refused:?}");
}

#[test]
fn a_root_that_cannot_be_used_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let missing = TraceRoot::open(&folder.path().join("missing"));
    assert!(matches!(missing, Err(TraceRootError::NotFound { .. })), "{missing:?}");

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = TraceRoot::open(&file);
    assert!(matches!(refused, Err(TraceRootError::NotADirectory { .. })), "{refused:?}");
    let refused = TraceRoot::create(&file.join("below"));
    assert!(matches!(refused, Err(TraceRootError::NotADirectory { .. })), "{refused:?}");

    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let refused = TraceRoot::create(&open);
    assert!(
        matches!(refused, Err(TraceRootError::WritableByOthers { mode: 0o777, .. })),
        "{refused:?}"
    );
    assert_eq!(open.read_dir().unwrap().count(), 0);

    // `/proc` takes no directories, for no user: the nearest to a read-only file system that
    // needs no mount.
    let refused = TraceRoot::create(Path::new("/proc/omniprof"));
    assert!(refused.is_err());
}

#[test]
fn another_owners_root_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let user = rustix::process::geteuid();
    let (path, owner): (PathBuf, u32) = if user.is_root() {
        let theirs = folder.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(12_345), None).unwrap();
        (theirs, 12_345)
    } else {
        (PathBuf::from("/usr"), 0)
    };
    match TraceRoot::create(&path) {
        Err(TraceRootError::OtherOwner { owner: found, user: us, .. }) => {
            assert_eq!((found, us), (owner, user.as_raw()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn publishing_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let aside = AsideFile::create(&path).unwrap();
    aside.file().write_all(b"ours").unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "theirs").unwrap();
    let refused = aside.publish();
    assert!(matches!(refused, Err(TraceRootError::Exists { .. })), "{refused:?}");
    let refused = AsideFile::create(&path);
    assert!(matches!(refused, Err(TraceRootError::Exists { .. })), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing is left behind");

    std::fs::remove_file(&path).unwrap();
    let aside = AsideFile::create(&path).unwrap();
    aside.file().write_all(b"ours").unwrap();
    assert_eq!(aside.publish().unwrap(), path);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "ours");
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_root_has_one_controller_and_fences_grow() {
    let (_folder, root) = root();
    let second = TraceRoot::open(root.path()).unwrap();
    assert_eq!(second.claimed_by().unwrap(), None);
    let claim = root.claim("pid 1, http://127.0.0.1:8790").unwrap();
    match second.claim("pid 2") {
        Err(TraceRootError::Claimed { holder, .. }) => {
            assert_eq!(holder, "pid 1, http://127.0.0.1:8790");
        }
        other => panic!("{other:?}"),
    }
    let holder = second.claimed_by().unwrap();
    assert_eq!(holder.as_deref(), Some("pid 1, http://127.0.0.1:8790"));
    let fences: Vec<u64> = (0..3).map(|_| root.next_fence(&claim).unwrap()).collect();
    assert_eq!(fences, [1, 2, 3]);
    drop(claim);
    let claim = second.claim("pid 2").unwrap();
    assert_eq!(second.next_fence(&claim).unwrap(), 4);
}

#[test]
fn sessions_are_listed_and_removed() {
    let (_folder, root) = root();
    std::fs::create_dir(root.path().join("not-a-session")).unwrap();
    let mut ids: Vec<SessionId> =
        (0..3).map(|_| SessionId::generate(&SystemClock::new(), None)).collect();
    ids.sort();
    for id in &ids {
        let session = root.create_session(id).unwrap();
        let place = TracePath::worker(&worker(0, "thinker", 0));
        let (mut file, _) = session.create_file(&place, "spool").unwrap();
        file.write_all(&[0; 1000]).unwrap();
        session.write("manifest.json", b"{}").unwrap();
        session.write("manifest.json", b"{ }").unwrap();
    }
    let sessions = root.sessions().unwrap();
    assert_eq!(sessions.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), ids);
    assert!(sessions.iter().all(|s| s.bytes == 1003 && s.files == 2 && !s.live));
    root.remove_session(&ids[1]).unwrap();
    assert_eq!(root.session_ids().unwrap(), [ids[0].clone(), ids[2].clone()]);
    let gone = root.open_session(&ids[1]);
    assert!(matches!(gone, Err(TraceRootError::NotFound { .. })), "{gone:?}");
}

#[test]
fn a_session_that_this_process_writes_is_live_and_keeps_its_lock() {
    let (_folder, root) = root();
    let session = root.create_session(&session()).unwrap();
    let place = TracePath::worker(&worker(0, "thinker", 0));
    let (file, relative) = session.create_file(&place, "spool").unwrap();
    assert!(!root.sessions().unwrap()[0].live);
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    for _ in 0..2 {
        assert!(root.sessions().unwrap()[0].live, "looking does not end the lock");
    }
    drop(session.open_file(&relative).unwrap());
    assert!(!root.sessions().unwrap()[0].live, "closing a descriptor does");
}
