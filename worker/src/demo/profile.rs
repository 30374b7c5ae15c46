//! Profiling the pipeline as any user would: over HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_worker::Controller;
use profiler_worker::http::{HttpOptions, Server};
use profiler_worker::manifest::Manifest;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::interrupt::Interrupt;
use crate::config::Resolved;

/// How long the workers may take to join.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);

/// How long a stop waits for the exports.
const WAIT_MS: u64 = 60_000;

/// A controller of the demo's own, and its HTTP interface. Dropping it ends both.
pub(super) struct Service {
    controller: Arc<Controller>,
    address: SocketAddr,
    quit: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts a controller of that configuration on a root, and serves it on a port of 127.0.0.1
    /// (0 = a free one).
    pub(super) fn start(root: &Path, resolved: &Resolved, port: u16) -> anyhow::Result<Self> {
        let controller = Controller::builder()
            .root(root)
            .defaults(resolved.defaults())
            .options(|options| options.retention = Some(resolved.retention()))
            .build()
            .with_context(|| format!("no controller on {}", root.display()))?;
        let controller = Arc::new(controller);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("demo-http")
            .enable_all()
            .build()?;
        let options = HttpOptions {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            token: None,
            hosts: Vec::new(),
        };
        let server = runtime.block_on(Server::bind(Arc::clone(&controller), options))?;
        let address = server.address();
        let (quit, quitted) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("demo-server".to_owned()).spawn(move || {
                let until = async {
                    // A dropped sender asks for the end as well.
                    drop(quitted.await);
                };
                if let Err(error) = runtime.block_on(server.serve(until)) {
                    tracing::error!("{error}");
                }
            })?;
        Ok(Self { controller, address, quit: Some(quit), thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The controller.
    pub(super) fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Waits until all stages have joined.
    pub(super) fn wait_for(&self, workers: usize, interrupt: &Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + JOIN_DEADLINE;
        while !self.controller.wait_for_workers(workers, Duration::from_millis(100)) {
            interrupt.check()?;
            anyhow::ensure!(Instant::now() < deadline, "the stages do not join the controller");
        }
        Ok(())
    }

    /// `POST /start_profile`.
    pub(super) fn start_profile(&self, body: &serde_json::Value) -> anyhow::Result<()> {
        let answer: Answer<serde_json::Value> = self.post("/start_profile", body)?;
        anyhow::ensure!(answer.status == 200, "the start was refused: {}", answer.body);
        Ok(())
    }

    /// `POST /stop_profile`.
    pub(super) fn stop_profile(&self) -> anyhow::Result<Manifest> {
        let body = serde_json::json!({ "wait_ms": WAIT_MS });
        let answer: Answer<serde_json::Value> = self.post("/stop_profile", &body)?;
        // 502 carries a manifest as well: the one that says which worker failed.
        anyhow::ensure!(
            matches!(answer.status, 200 | 502),
            "the stop was refused: {}",
            answer.body
        );
        serde_json::from_value(answer.body).context("the stop's answer is no manifest")
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<Answer<T>> {
        let url = format!("{}{path}", self.url());
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The address is this process's own.
            .proxy(None)
            .timeout_global(Some(Duration::from_millis(WAIT_MS) + Duration::from_secs(30)))
            .build()
            .into();
        let mut response =
            agent.post(&url).send_json(body).with_context(|| format!("POST {url}"))?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_json().with_context(|| format!("POST {url}"))?;
        Ok(Answer { status, body })
    }
}

struct Answer<T> {
    status: u16,
    body: T,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(quit) = self.quit.take() {
            // The server may have ended by itself.
            let _heard: Result<(), ()> = quit.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the server's thread panicked");
        }
    }
}
