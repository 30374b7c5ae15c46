//! Whose workers the command's processes become: of a controller in this process, or of a server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use profiler_core::error::chain;
use profiler_worker::Controller;
use profiler_worker::controller::{ProcessLine, StartError, StopRequest};
use profiler_worker::http::{HttpOptions, ServeError, Server as HttpServer};
use profiler_worker::manifest::{FileState, Manifest};
use profiler_worker::start_request::StartRequest;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::outside::{Called, Outside};
use super::signals::Signals;
use crate::cli::{CommandError, Exit};
use crate::commands::serve;
use crate::commands::server::Server;

/// How long the end waits for traces to be written.
const EXPORT_PATIENCE: Duration = Duration::from_secs(120);

/// How long requests may take that run as the end comes.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);

/// How often the end looks whether the traces are written.
const LOOK: Duration = Duration::from_millis(50);

/// What is called as a start begins.
pub(super) type Look = Arc<Mutex<Option<Arc<dyn Fn() + Send + Sync>>>>;

/// A controller.
pub(super) enum Host {
    Own(Own),
    Served(Served),
}

/// A controller in this process.
pub(super) struct Own {
    controller: Mutex<Option<Arc<Controller>>>,
    http: Mutex<Option<Http>>,
    url: String,
    root: PathBuf,
    socket_dir: PathBuf,
    /// Sessions that were there before.
    before: BTreeSet<String>,
}

/// A controller in another process.
pub(super) struct Served {
    server: Server,
    root: String,
    socket_dir: PathBuf,
}

struct Http {
    runtime: tokio::runtime::Runtime,
    end: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), ServeError>>,
}

impl Host {
    /// Serves this controller.
    pub(super) fn own(controller: Controller, options: HttpOptions) -> Result<Self, CommandError> {
        let socket_dir =
            controller.socket_dir().context("the controller does not listen for workers")?;
        let root = controller.root().to_owned();
        let before = controller.sessions()?.into_iter().map(|line| line.session).collect();
        let controller = Arc::new(controller);
        let http = Http::begin(&controller, options)?;
        let (http, url) = http;
        Ok(Self::Own(Own {
            controller: Mutex::new(Some(controller)),
            http: Mutex::new(Some(http)),
            url,
            root,
            socket_dir,
            before,
        }))
    }

    /// Joins a server.
    pub(super) fn served(server: Server) -> Result<Self, CommandError> {
        let answer = server.get("/profile/status")?;
        if answer.exit() != Exit::Done {
            return Err(answer.error());
        }
        let word = |key: &str| answer.body.get(key).and_then(Value::as_str).map(str::to_owned);
        let Some(socket_dir) = word("socket_dir").map(PathBuf::from) else {
            let text = format!(
                "{} listens for no workers on this machine, or is an older release",
                server.base()
            );
            return Err(CommandError::text(Exit::Failed, text));
        };
        if !socket_dir.is_dir() {
            let text = format!(
                "{}, where workers meet {}, is not to be seen from here: a server takes processes \
                 of its own machine; share that directory with this container",
                socket_dir.display(),
                server.base()
            );
            return Err(CommandError::text(Exit::Failed, text));
        }
        let root = word("root").unwrap_or_default();
        Ok(Self::Served(Served { server, root, socket_dir }))
    }

    pub(super) fn socket_dir(&self) -> &Path {
        match self {
            Self::Own(own) => &own.socket_dir,
            Self::Served(served) => &served.socket_dir,
        }
    }

    pub(super) fn url(&self) -> &str {
        match self {
            Self::Own(own) => &own.url,
            Self::Served(served) => served.server.base(),
        }
    }

    pub(super) fn root(&self) -> String {
        match self {
            Self::Own(own) => own.root.display().to_string(),
            Self::Served(served) => served.root.clone(),
        }
    }

    /// Samples a process from outside.
    pub(super) fn look_at(&self, pid: u32, called: &Called) -> anyhow::Result<Outside> {
        match self {
            Self::Own(own) => {
                let controller = own.controller().context("the controller has ended")?;
                Outside::local(pid, called, &controller)
            }
            Self::Served(served) => Outside::remote(pid, called, &served.socket_dir),
        }
    }

    /// Tells which processes have not joined.
    pub(super) fn report(&self, lines: Vec<ProcessLine>) {
        let own_pid = std::process::id();
        match self {
            Self::Own(own) => {
                if let Some(controller) = own.controller() {
                    controller.set_not_joined(own_pid, lines);
                }
            }
            Self::Served(served) => {
                let path = format!("/profile/launchers/{own_pid}");
                if let Err(error) = served.server.post(&path, &json!(lines), Duration::ZERO) {
                    tracing::warn!(error = %format!("{:#}", error.error), "the server was not told");
                }
            }
        }
    }

    /// Starts a capture as soon as somebody has joined; `None` where the end came before.
    pub(super) fn start_when_joined(
        &self,
        request: &StartRequest,
        is_over: impl Fn() -> bool,
    ) -> Option<Result<String, String>> {
        /// How long to wait for the first worker before looking whether the end came.
        const WAIT: Duration = Duration::from_millis(200);
        /// How often a start is tried that a worker could not follow.
        const TRIES: u32 = 20;
        let mut tries = 0;
        loop {
            if is_over() {
                return None;
            }
            match self {
                Self::Own(own) => {
                    let controller = own.controller()?;
                    if !controller.wait_for_workers(1, WAIT) {
                        continue;
                    }
                    match controller.start(request) {
                        Ok(answer) => return Some(Ok(answer.session)),
                        // It joined and left, or runs another program since.
                        Err(
                            StartError::NoWorkers { .. }
                            | StartError::Unknown { .. }
                            | StartError::NoneSelected { .. },
                        ) => {}
                        Err(StartError::NotArmed { .. }) if tries < TRIES => {
                            tries += 1;
                            std::thread::sleep(WAIT);
                        }
                        Err(error) => return Some(Err(chain(&error))),
                    }
                }
                Self::Served(served) => {
                    let body = match serde_json::to_value(request) {
                        Ok(body) => body,
                        Err(error) => return Some(Err(error.to_string())),
                    };
                    let answer = match served.server.post("/start_profile", &body, WAIT) {
                        Ok(answer) => answer,
                        Err(error) => return Some(Err(format!("{:#}", error.error))),
                    };
                    match answer.exit() {
                        // It records; what some worker records less is in the manifest.
                        _ if answer.is_manifest_like() => {
                            let session = answer.body.get("session").and_then(Value::as_str);
                            return Some(Ok(session.unwrap_or_default().to_owned()));
                        }
                        Exit::NothingThere => std::thread::sleep(WAIT),
                        Exit::Partial if tries < TRIES => {
                            tries += 1;
                            std::thread::sleep(WAIT);
                        }
                        _ => return Some(Err(format!("{:#}", answer.error().error))),
                    }
                }
            }
        }
    }

    /// Ends a capture that runs, waits until the traces are written (a signal ends the wait), and
    /// tells where they are. Gives up the controller.
    pub(super) fn end(&self, signals: &Signals) -> Vec<String> {
        match self {
            Self::Own(own) => own.end(signals),
            Self::Served(served) => {
                self.report(Vec::new());
                vec![format!(
                    "the traces are the server's ({}): below {}",
                    served.server.base(),
                    served.root
                )]
            }
        }
    }
}

impl Own {
    fn controller(&self) -> Option<Arc<Controller>> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self, signals: &Signals) -> Vec<String> {
        let Some(controller) = self.controller() else { return Vec::new() };
        if controller.status().session.is_some() {
            // That there is none any more is no failure.
            let _stopped = controller.stop(&StopRequest { wait_ms: 0, ..StopRequest::default() });
        }
        let begun = std::time::Instant::now();
        while begun.elapsed() < EXPORT_PATIENCE && !controller.wait_until_idle(LOOK) {
            let interrupted = signals.wait(Some(Duration::ZERO)).ok().flatten();
            if interrupted.is_some_and(|signal| signal.is_wish_to_end()) {
                break;
            }
        }
        if let Some(http) = self.http.lock().unwrap_or_else(PoisonError::into_inner).take() {
            http.end();
        }
        let lines = self.traces(&controller);
        // The last one that holds it gives up the root and the socket.
        drop(self.controller.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(controller);
        lines
    }

    /// Where the traces of this run are.
    fn traces(&self, controller: &Controller) -> Vec<String> {
        let sessions = match controller.sessions() {
            Ok(sessions) => sessions,
            Err(error) => return vec![format!("the traces cannot be listed: {}", chain(&error))],
        };
        let mut lines = Vec::new();
        for session in sessions.iter().filter(|line| !self.before.contains(&line.session)) {
            match controller.manifest(&session.session) {
                Ok(manifest) => lines.extend(told(&manifest)),
                Err(error) => lines.push(format!("{}: {}", session.session, chain(&error))),
            }
        }
        if lines.is_empty() {
            lines.push("nothing was recorded: no capture was started".to_owned());
        }
        lines
    }
}

/// A session's files, for people.
fn told(manifest: &Manifest) -> Vec<String> {
    let mut lines = vec![format!("traces in {}", manifest.directory)];
    for worker in &manifest.workers {
        for file in worker.files.iter().filter(|file| file.format != "spool") {
            let state = match (file.state, &file.command) {
                (FileState::Complete, _) => String::new(),
                (FileState::Pending, Some(command)) => format!(" (to be written by `{command}`)"),
                (FileState::Exporting, _) => {
                    " (not whole: `omniprof recover` writes it)".to_owned()
                }
                _ => " (failed; its spool is there)".to_owned(),
            };
            lines.push(format!("  {}: {}{state}", worker.name(), file.path));
        }
        if let Some(error) = &worker.error {
            lines.push(format!("  {}, pid {}: {}", worker.name(), worker.pid, error.message));
        }
    }
    for file in &manifest.files {
        lines.push(format!("  all: {}", file.path));
    }
    lines
}

impl Http {
    fn begin(
        controller: &Arc<Controller>,
        options: HttpOptions,
    ) -> Result<(Self, String), CommandError> {
        let address = options.address;
        let runtime = serve::http_runtime()?;
        let bound = runtime.block_on(HttpServer::bind(Arc::clone(controller), options));
        let server = bound.map_err(|error| taken(serve::refused(error), address))?;
        let url = format!("http://{}", server.address());
        let (end, ended) = oneshot::channel();
        let until = async move {
            // A sender that is gone means the end, too.
            let _told: Result<(), oneshot::error::RecvError> = ended.await;
        };
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name("omniprof-serve".to_owned())
            .spawn(move || handle.block_on(server.serve(until)))?;
        Ok((Self { runtime, end, thread }, url))
    }

    fn end(self) {
        // A server that ended by itself does not listen.
        let _told: Result<(), ()> = self.end.send(());
        let begun = std::time::Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < HTTP_PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.runtime.shutdown_timeout(HTTP_PATIENCE);
    }
}

/// What to do where the address is another program's.
fn taken(error: CommandError, address: std::net::SocketAddr) -> CommandError {
    if error.exit != Exit::Conflict {
        return error;
    }
    let hint = format!(
        "the command was not started: if an omniprof server listens on {address}, join it with \
         `--server http://{address}`; else give this run another address, as `--listen 127.0.0.1:0`"
    );
    CommandError::new(error.exit, error.error.context(hint))
}
