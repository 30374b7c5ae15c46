//! Processes that are recorded from outside: an agent each, in this process.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use profiler_agent::{Agent, AgentBuilder, LocalAgent};
use profiler_core::inject_env::JOINED_BY_LOOKING;
use profiler_core::registry::BackendRegistry;
use profiler_core::schedule::StepSource;
use profiler_worker::Controller;
use profiler_worker::links::LocalLink;

/// What the launcher was told of its processes, which their titles do not override.
#[derive(Clone, Debug, Default)]
pub(super) struct Called {
    pub(super) stage: Option<u32>,
    pub(super) role: Option<String>,
    pub(super) replica: Option<u32>,
}

/// An agent that looks at another process.
pub(super) enum Outside {
    /// Its controller lives in this process.
    Local { agent: Arc<LocalAgent>, link: Arc<LocalLink> },
    /// Its controller is another process.
    Remote(Agent),
}

impl Outside {
    /// Makes a process a worker of a controller in this process.
    pub(super) fn local(pid: u32, called: &Called, to: &Controller) -> anyhow::Result<Self> {
        let agent = Arc::new(builder(pid, called).local()?);
        let link = Arc::new(LocalLink::new(Arc::clone(&agent)).context("no thread can be had")?);
        to.attach(Arc::<LocalLink>::clone(&link))?;
        Ok(Self::Local { agent, link })
    }

    /// Makes a process a worker of the controller whose socket lies in that directory.
    pub(super) fn remote(pid: u32, called: &Called, socket_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self::Remote(builder(pid, called).socket_dir(socket_dir).connect()?))
    }

    /// Looks no more, for this reason; returns when a session's spool is closed.
    pub(super) fn end(self, reason: &str) {
        match self {
            Self::Local { agent, link } => {
                agent.agent().leave(reason);
                drop(agent);
                link.finish();
            }
            Self::Remote(agent) => agent.leave(reason),
        }
    }
}

fn builder(pid: u32, called: &Called) -> AgentBuilder {
    let mut builder = Agent::builder()
        .target_pid(pid)
        .joined_by(JOINED_BY_LOOKING)
        .step_source(StepSource::None)
        // A device backend would find this process's device, and record that.
        .registry(BackendRegistry::linked_hosts());
    if let Some(stage) = called.stage {
        builder = builder.stage(stage);
    }
    if let Some(role) = &called.role {
        builder = builder.role(role);
    }
    if let Some(replica) = called.replica {
        builder = builder.replica(replica);
    }
    builder
}
