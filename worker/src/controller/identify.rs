//! What workers are called: what they say themselves, else what their processes show.

use std::collections::BTreeMap;

use profiler_core::control::CalledWorker;
use profiler_core::identity::WorkerIdentity;
use profiler_core::inject_env::JOINED_BY_PROGRAM;

use super::state::Inner;
use crate::links::WorkerLink;
use crate::who::ProcessText;

impl Inner {
    /// Looks at all processes that can be looked at, and calls the workers accordingly. One that
    /// cannot be looked at is known by what its agent said.
    pub(super) fn identify(&self) {
        let mut said = BTreeMap::new();
        let mut ids = BTreeMap::new();
        {
            let state = self.lock();
            // Processes of other namespaces have no id here: these are beyond all that there are.
            let mut elsewhere = u32::MAX;
            for (key, worker) in &state.workers {
                if worker.joined_by == JOINED_BY_PROGRAM || state.host.as_ref() == Some(key) {
                    continue;
                }
                let id = worker.local_pid.unwrap_or(elsewhere);
                elsewhere -= u32::from(worker.local_pid.is_none());
                ids.insert(key.clone(), id);
                said.insert(id, worker.facts.clone());
            }
        }
        if ids.is_empty() {
            return;
        }
        let pids: Vec<u32> = ids.values().copied().collect();
        let calls = self.options.map.call_with(&pids, |pid| {
            let said = said.get(&pid).map(ProcessText::of_facts);
            match (ProcessText::read(pid), said) {
                (Some(seen), Some(said)) => Some(seen.with_variables_of(said)),
                (seen, said) => seen.or(said),
            }
        });
        let mut state = self.lock();
        for (key, worker) in &mut state.workers {
            let called = ids.get(key).and_then(|id| calls.get(id));
            let Some(called) = called else { continue };
            let CalledWorker { stage, role, replica, rank } =
                worker.given.clone().or(called.clone());
            let identity = &mut worker.identity;
            (identity.stage, identity.role) = (stage, role);
            (identity.replica, identity.rank) = (replica, rank);
        }
    }
}

/// Under which id a worker's process is seen here, where it is.
pub(super) fn local_pid(worker: &WorkerIdentity, link: &dyn WorkerLink) -> Option<u32> {
    let own = WorkerIdentity::of_this_process(None, None, None, None);
    let same = own.boot_id == worker.boot_id && own.pid_namespace == worker.pid_namespace;
    let pid = if same { worker.pid } else { link.peer_pid()? };
    // A pid that was used again, or an agent that looks at a process of another namespace.
    let found = WorkerIdentity::of_process(pid).ok()?;
    (found.start_ticks == worker.start_ticks).then_some(pid)
}
