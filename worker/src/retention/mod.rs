//! Which old sessions go: the oldest first, by size and number, and never a live one.

use profiler_core::trace_path::{SessionId, TraceRoot};
use serde::{Deserialize, Serialize};

/// How much stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the rule has these two numbers")]
pub struct RetentionPolicy {
    /// The most bytes of all sessions together.
    pub max_bytes: u64,
    /// The most sessions.
    pub max_sessions: usize,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { max_bytes: 20 << 30, max_sessions: 50 }
    }
}

/// A session that may have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the inputs of the rule, all of them")]
pub struct Candidate {
    /// The session.
    pub id: SessionId,
    /// The size of its files.
    pub bytes: u64,
    /// Whether something still writes or exports it.
    pub live: bool,
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pruned {
    /// The sessions, oldest first.
    pub removed: Vec<SessionId>,
    /// Their size.
    pub removed_bytes: u64,
    /// How many stay.
    pub kept: usize,
    /// The size of what stays.
    pub kept_bytes: u64,
    /// Sessions that should go and resist, with the reason.
    pub failed: Vec<(SessionId, String)>,
}

/// The sessions that go, by the rule. `sessions` stand oldest first.
#[must_use]
pub fn select<'a>(sessions: &'a [Candidate], policy: &RetentionPolicy) -> Vec<&'a Candidate> {
    let mut count = sessions.len();
    let mut bytes: u64 = sessions.iter().map(|session| session.bytes).sum();
    let mut selected = Vec::new();
    for session in sessions {
        if count <= policy.max_sessions && bytes <= policy.max_bytes {
            break;
        }
        if session.live {
            continue;
        }
        count -= 1;
        bytes -= session.bytes;
        selected.push(session);
    }
    selected
}

/// Removes what the rule selects; a dry run only says what it would.
#[must_use]
pub fn prune(
    root: &TraceRoot,
    sessions: &[Candidate],
    policy: &RetentionPolicy,
    dry_run: bool,
) -> Pruned {
    let mut pruned = Pruned {
        kept: sessions.len(),
        kept_bytes: sessions.iter().map(|session| session.bytes).sum(),
        ..Pruned::default()
    };
    for session in select(sessions, policy) {
        if !dry_run && let Err(error) = root.remove_session(&session.id) {
            pruned.failed.push((session.id.clone(), profiler_core::error::chain(&error)));
            continue;
        }
        pruned.removed.push(session.id.clone());
        pruned.removed_bytes += session.bytes;
        pruned.kept -= 1;
        pruned.kept_bytes -= session.bytes;
    }
    pruned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(sizes: &[(u64, bool)]) -> Vec<Candidate> {
        let id = |index: usize| SessionId::from_parts(index as u64 * 1_000_000, 7, None);
        let make = |(index, (bytes, live)): (usize, &(u64, bool))| Candidate {
            id: id(index),
            bytes: *bytes,
            live: *live,
        };
        sizes.iter().enumerate().map(make).collect()
    }

    #[test]
    fn the_oldest_go_first_and_a_live_one_stays() {
        let sessions = candidates(&[(10, true), (10, false), (10, false), (10, false)]);
        let policy = RetentionPolicy { max_bytes: 1000, max_sessions: 2 };
        let ids: Vec<_> = select(&sessions, &policy).iter().map(|s| s.id.clone()).collect();
        assert_eq!(ids, [sessions[1].id.clone(), sessions[2].id.clone()]);
        let policy = RetentionPolicy { max_bytes: 25, max_sessions: 50 };
        assert_eq!(select(&sessions, &policy).len(), 2);
    }

    #[test]
    fn a_dry_run_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = TraceRoot::create(&dir.path().join("root")).unwrap();
        let sessions = candidates(&[(10, false), (10, false)]);
        for session in &sessions {
            root.create_session(&session.id).unwrap();
        }
        let policy = RetentionPolicy { max_bytes: 1000, max_sessions: 1 };
        let dry = prune(&root, &sessions, &policy, true);
        assert_eq!((dry.removed.len(), dry.kept), (1, 1));
        assert_eq!(root.session_ids().unwrap().len(), 2);
        let wet = prune(&root, &sessions, &policy, false);
        assert_eq!(wet.removed, dry.removed);
        assert_eq!(root.session_ids().unwrap(), [sessions[1].id.clone()]);
    }

    proptest! {
        #[test]
        fn no_live_session_goes_and_no_more_than_needed(
            sizes in proptest::collection::vec((0_u64..100, any::<bool>()), 0..40),
            max_bytes in 0_u64..2000,
            max_sessions in 0_usize..40,
        ) {
            let sessions = candidates(&sizes);
            let policy = RetentionPolicy { max_bytes, max_sessions };
            let selected = select(&sessions, &policy);
            prop_assert!(selected.iter().all(|session| !session.live));
            let Some((_, before)) = selected.split_last() else { return Ok(()) };
            // Without the last one that goes, the rule is still broken.
            let count = sessions.len() - before.len();
            let total: u64 = sessions.iter().map(|s| s.bytes).sum();
            let bytes = total - before.iter().map(|s| s.bytes).sum::<u64>();
            prop_assert!(count > max_sessions || bytes > max_bytes);
        }
    }
}
