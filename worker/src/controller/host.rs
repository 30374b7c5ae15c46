//! The counters of the host's devices: an agent of the controller's own process reads them, once
//! for all workers, into a spool of their own.

use std::sync::Arc;

use profiler_agent::Agent;
use profiler_core::backend::SessionConfig;
use profiler_core::control::{AgentRequest, CaptureConfig, OnUnavailable, Stop};
use profiler_core::error::chain;
use profiler_core::schedule::{Limits, Schedule, StepSource};

use super::ask::Ask;
use super::choose::Chosen;
use super::state::Inner;
use crate::links::{LocalLink, WorkerLink};
use crate::session::Session;
use crate::start_request::Plan;

/// The backend whose devices the counters are of.
const DEVICE_BACKEND: &str = "cuda";

/// How such an agent says that it came.
const JOINED_BY: &str = "host";

impl Inner {
    /// The host's part in a start whose workers record a device, `None` = it has none.
    pub(super) fn host(self: &Arc<Self>, chosen: &[Chosen]) -> Option<Chosen> {
        if !self.options.host_counters {
            return None;
        }
        let of_device = chosen.iter().find(|worker| {
            let state = self.lock();
            let joined = state.workers.get(&worker.identity.key);
            let has_device = joined.is_some_and(|joined| {
                let mut backends = joined.backends.iter();
                backends.any(|b| b.id.as_str() == DEVICE_BACKEND && b.report.is_available())
            });
            worker.plan.capture.device && has_device
        })?;
        let key = self.host_agent()?;
        let state = self.lock();
        let joined = state.workers.get(&key)?;
        Some(Chosen {
            identity: joined.identity.clone(),
            carries_files: joined.link.carries_files(),
            outside: false,
            plan: plan(&of_device.plan),
        })
    }

    /// The key of the agent, which joins at the first need.
    fn host_agent(self: &Arc<Self>) -> Option<String> {
        if let Some(key) = self.lock().host.clone() {
            return Some(key);
        }
        let agent = Agent::builder()
            .registry(profiler_agent::host_counters()?)
            .target_pid(std::process::id())
            .step_source(StepSource::None)
            .joined_by(JOINED_BY)
            .local();
        let agent = match agent {
            Ok(agent) => agent,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the host's counters are not read");
                return None;
            }
        };
        let key = agent.agent().worker().key;
        let link = match LocalLink::new(Arc::new(agent)) {
            Ok(link) => Arc::new(link) as Arc<dyn WorkerLink>,
            Err(error) => {
                tracing::warn!(%error, "the host's counters are not read");
                return None;
            }
        };
        // Known before it joins, so that it is never taken for a worker.
        self.lock().host = Some(key.clone());
        if let Err(error) = self.attach(link) {
            tracing::warn!(%error, "the host's counters are not read");
            self.lock().host = None;
            return None;
        }
        Some(key)
    }

    /// Ends the host's part of sessions whose workers have all come to their end by themselves.
    pub(super) fn stop_hosts(&self) {
        let mut asks = Vec::new();
        let t1 = self.clock.now();
        for session in self.lock().sessions.values_mut() {
            let fence = session.record.fence;
            for run in orphaned(session) {
                run.stop_sent = true;
                let stop = Stop { fence, t1, reason: "workers_ended".to_owned() };
                let request = AgentRequest::Stop(stop);
                asks.push(Ask { worker: run.key().to_owned(), request, file: None });
            }
        }
        if !asks.is_empty() {
            // What comes of it tells its result.
            let _answers = self.ask_all(asks, self.options.answer_deadline);
        }
    }
}

/// The runs of hosts that nothing will stop.
fn orphaned(session: &mut Session) -> impl Iterator<Item = &mut crate::session::WorkerRun> {
    let is_over = session.record.t0.is_some()
        && session.stop.is_none()
        && session.runs.iter().all(|run| run.record.host || run.is_settled());
    let hosts = move |run: &&mut crate::session::WorkerRun| {
        is_over && run.record.host && !run.stop_sent && !run.is_settled()
    };
    session.runs.iter_mut().filter(hosts)
}

/// What a worker's plan comes to for its host: counters alone, from T0 to the workers' end.
fn plan(worker: &Plan) -> Plan {
    let is_by_time = worker.counts_steps().is_none() && worker.schedule.delay_ms == 0;
    Plan {
        capture: CaptureConfig {
            device: false,
            device_required: false,
            host: true,
            spans: false,
            backend: None,
            on_unavailable: OnUnavailable::Degrade,
            // What is asked of the workers' own processes.
            session: SessionConfig {
                memory: false,
                operators: false,
                ..worker.capture.session.clone()
            },
        },
        schedule: Schedule::default(),
        limits: Limits {
            duration_ms: worker.limits.duration_ms.filter(|_| is_by_time),
            max_steps: None,
            ..worker.limits.clone()
        },
        formats: worker.formats.clone(),
        arguments: worker.arguments,
        note: None,
        is_host: true,
    }
}
