//! `omniprof run`: a command that nobody changed, profiled on request.
//!
//! This process is the controller, or joins one. It starts the command with an environment by
//! which processes join as they use a device, follows all that the command starts, samples from
//! outside what does not join, hands signals on, and ends as the command ends. The command never
//! waits for it: killed, it leaves the command running.

mod args;
mod child;
mod environment;
mod host;
mod loader;
mod outside;
mod reap;
mod signals;
mod tree;
mod watch;

use std::io::Write as _;
use std::process::{ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use profiler_worker::start_request::StartRequest;

pub(crate) use args::RunArgs;

use args::JoinArg;
use child::Child;
use environment::{ChildEnvironment, Told};
use host::{Host, Look};
use outside::Called;
use signals::Signals;
use watch::{Watch, WatchOptions};

use super::serve;
use super::server::Server;
use crate::cli::{CommandError, ServerArgs};
use crate::config::Resolved;

/// Orphans that ended are looked for so often where no signal tells of one.
const REAP_PERIOD: Duration = Duration::from_secs(5);

/// Runs the command to its end.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode, CommandError> {
    let resolved = args.config.load()?;
    resolved.warn();
    let map = serve::map_rules(&args.map)?;
    let texts = map.texts();
    // Before the first thread, which would take them else.
    let signals = Signals::take()?;
    let look = Look::default();
    let host = Arc::new(host(args, &resolved, map, &look)?);
    let injected = environment::injected_file();
    let environment = ChildEnvironment::of(
        &Told {
            stage: args.stage,
            role: args.role.as_deref(),
            replica: args.replica,
            map: &texts,
            socket_dir: host.socket_dir(),
            token_file: args.token_file.as_deref(),
            plugin_dir: args.plugin_dir.as_deref(),
            join: args.join,
            injected: injected.as_deref(),
            within: within(&resolved),
        },
        |name| std::env::var_os(name),
    );
    for note in &environment.notes {
        say(note);
    }
    reap::adopt_orphans();
    let mut child = match Child::start(&args.command, &environment, &signals) {
        Ok(child) => child,
        Err(error) => {
            let program = args.command.first().map(|program| program.display().to_string());
            say(&format!("{}: {error}", program.unwrap_or_default()));
            return Ok(ExitCode::from(child::start_code(&error)));
        }
    };
    hint(args, &host);
    let options = WatchOptions {
        command: child.pid(),
        // Where nothing can join from within, all that is left is to look from outside.
        outside: match args.join {
            JoinArg::Auto | JoinArg::Outside => true,
            JoinArg::Device | JoinArg::Preload => injected.is_none(),
        },
        by_preload: environment.by_preload,
        within: args.join != JoinArg::Outside,
        injected,
        called: Called { stage: args.stage, role: args.role.clone(), replica: args.replica },
    };
    let (watch, watching) = Watch::begin(Arc::clone(&host), options)?;
    let looks = Arc::clone(&watch);
    *look.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(move || looks.look()));
    let is_over = Arc::new(AtomicBool::new(false));
    let starting = args
        .profile_at_start
        .then(|| start(args, Arc::clone(&host), Arc::clone(&is_over)))
        .transpose()?;

    let status = supervise(&mut child, &signals);

    is_over.store(true, Ordering::Release);
    drop(look.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Some(starting) = starting {
        // A thread that panicked has said so.
        let _ended: std::thread::Result<()> = starting.join();
    }
    watch.end("process_exit");
    let _ended: std::thread::Result<()> = watching.join();
    for line in host.end(&signals) {
        say(&line);
    }
    Ok(ExitCode::from(child::exit_code(status?)))
}

/// The controller that the processes become workers of.
fn host(
    args: &RunArgs,
    resolved: &Resolved,
    map: profiler_worker::who::MapRules,
    look: &Look,
) -> Result<Host, CommandError> {
    if let Some(url) = &args.server {
        let named = Some(url.clone()).filter(|url| !url.is_empty());
        let server = named.or_else(|| std::env::var("OMNIPROF_SERVER").ok());
        let dir = Some(resolved.root(args.root.dir.as_deref()));
        let token_file = args.token_file.clone();
        return Host::served(Server::find(&ServerArgs { server, token_file, dir })?);
    }
    let options =
        serve::http_options(args.listen.as_deref(), args.token_file.as_deref(), resolved)?;
    let root = resolved.root(args.root.dir.as_deref());
    let look = Arc::clone(look);
    let controller = serve::build(&root, resolved, &options, |options| {
        options.map = map;
        options.before_start = Some(Arc::new(move || {
            let look = look.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(look) = look {
                look();
            }
        }));
    })?;
    Host::own(controller, options)
}

/// Why processes are to join as they start, by what is configured and by the machine.
fn within(resolved: &Resolved) -> Option<&'static str> {
    let stages = std::iter::once(&resolved.all).chain(resolved.stages.values());
    for stage in stages {
        if stage.applied.effective.session.operators {
            return Some("the configuration asks for operators");
        }
        if stage.applied.effective.spans && stage.origins.contains_key("spans") {
            return Some("the configuration asks for spans");
        }
    }
    let has_ascend = std::fs::read_dir("/dev").is_ok_and(|devices| {
        devices.flatten().any(|device| {
            let name = device.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("davinci"));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
    });
    has_ascend.then_some("the host has Ascend devices")
}

/// Starts a capture as soon as somebody has joined.
fn start(
    args: &RunArgs,
    host: Arc<Host>,
    is_over: Arc<AtomicBool>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let stages = args.stage.filter(|_| args.server.is_some()).map(|stage| vec![stage]);
    let request = StartRequest { stages, duration_ms: args.duration, ..StartRequest::default() };
    std::thread::Builder::new().name("omniprof-start".to_owned()).spawn(move || {
        match host.start_when_joined(&request, || is_over.load(Ordering::Acquire)) {
            None => {}
            Some(Ok(session)) => say(&format!("session {session} records")),
            Some(Err(error)) => say(&format!("no capture was started: {error}")),
        }
    })
}

/// Hands signals on and reaps orphans until the command has ended.
fn supervise(child: &mut Child, signals: &Signals) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.ended()? {
            return Ok(status);
        }
        if let Some(signal) = signals.wait(Some(REAP_PERIOD))? {
            // What the terminal sends, it sends to the command as well.
            if !signal.of_terminal {
                child.signal(signal.number);
            }
            continue;
        }
        reap::reap_orphans(child.pid());
    }
}

/// How to start a capture.
fn hint(args: &RunArgs, host: &Host) {
    let url = host.url();
    let token = match args.token_file {
        Some(_) => " -H \"Authorization: Bearer $TOKEN\"",
        None => "",
    };
    say(&format!("profiling on request, traces below {}", host.root()));
    say(&format!("start a capture: curl -X POST{token} {url}/start_profile"));
    say(&format!("stop it:         curl -X POST{token} {url}/stop_profile"));
}

/// Tells a person something, on standard error: standard output is the command's.
fn say(text: &str) {
    // One write a line, so that it is not torn by what the command says.
    let line = format!("omniprof: {text}\n");
    // Nobody is left to tell where standard error is closed.
    let _told = std::io::stderr().write_all(line.as_bytes());
}
