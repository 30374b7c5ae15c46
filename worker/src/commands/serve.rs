//! `omniprof serve`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use profiler_worker::Controller;
use profiler_worker::controller::{BuildError, ControllerOptions};
use profiler_worker::http::{HttpOptions, ServeError, Server};
use profiler_worker::who::{MapRule, MapRules};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::server::read_token;
use crate::cli::{CommandError, DEFAULT_LISTEN, Exit, Output, ServeArgs};
use crate::config::Resolved;

/// How many threads answer requests.
const HTTP_THREADS: usize = 2;

pub(super) fn run(args: &ServeArgs, out: &Output) -> Result<Exit, CommandError> {
    let resolved = args.config.load()?;
    resolved.warn();
    let map = map_rules(&args.map)?;
    let options = http_options(args.listen.as_deref(), args.token_file.as_deref(), &resolved)?;
    let root = resolved.root(args.root.dir.as_deref());
    let controller = Arc::new(build(&root, &resolved, &options, |options| options.map = map)?);
    let runtime = http_runtime()?;
    let served = runtime.block_on(async {
        let (mut int, mut term) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let server = Server::bind(Arc::clone(&controller), options).await.map_err(refused)?;
        let url = format!("http://{}", server.address());
        let root = root.canonicalize().unwrap_or(root);
        if args.json {
            let ready = json!({"url": url, "pid": std::process::id(), "root": root});
            out.json_line(&ready)?;
        } else {
            out.line(&format!("serving {url}, traces below {}", root.display()))?;
        }
        let until = async move {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        };
        server.serve(until).await.map_err(refused)
    });
    // A capture that still runs ends here, and its workers are told.
    drop(controller);
    served.map(|()| Exit::Done)
}

/// How HTTP is served, by the flags and the configuration.
pub(super) fn http_options(
    listen: Option<&str>,
    token_file: Option<&Path>,
    resolved: &Resolved,
) -> Result<HttpOptions, CommandError> {
    let listen = listen.or(resolved.settings.listen.as_deref());
    let address = with_port(parse_address(listen.unwrap_or(DEFAULT_LISTEN))?)?;
    let token_file = token_file.or(resolved.settings.token_file.as_deref());
    let token = token_file.map(read_token).transpose()?;
    if token.is_none() && !address.ip().is_loopback() {
        // Said here too, before a root is claimed.
        return Err(refused(ServeError::NoToken { address }));
    }
    Ok(HttpOptions { address, token, hosts: host_names() })
}

/// What HTTP is served by; captures run on threads of their own.
pub(super) fn http_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("omniprof-http")
        .enable_all()
        .build()
}

/// The rules that were typed.
pub(super) fn map_rules(texts: &[String]) -> Result<MapRules, CommandError> {
    let rules: Result<Vec<MapRule>, _> = texts.iter().map(|text| MapRule::parse(text)).collect();
    let context = "a `--map` cannot be applied";
    let rules = rules.map_err(|error| {
        CommandError::new(Exit::Usage, anyhow::Error::new(error).context(context))
    })?;
    Ok(MapRules::new(rules))
}

/// The controller of a root, reached by these options.
pub(super) fn build(
    root: &Path,
    resolved: &Resolved,
    http: &HttpOptions,
    change: impl FnOnce(&mut ControllerOptions),
) -> Result<Controller, CommandError> {
    let holder = format!("pid {}, http://{}", std::process::id(), http.address);
    let built = Controller::builder()
        .root(root)
        .defaults(resolved.defaults())
        .holder(holder)
        .options(|options| {
            options.token.clone_from(&http.token);
            options.retention = Some(resolved.retention());
            change(options);
        })
        .build();
    built.map_err(|error| match &error {
        BuildError::Root { .. } => error.into(),
        BuildError::Listen { .. } => CommandError::new(Exit::Conflict, error),
        _ => CommandError::new(Exit::Failed, error),
    })
}

/// The address with a port that is free, where none was named: the root's claim tells it.
fn with_port(address: SocketAddr) -> Result<SocketAddr, CommandError> {
    if address.port() != 0 {
        return Ok(address);
    }
    let free = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .with_context(|| format!("cannot listen on {address}"))?;
    Ok(free)
}

fn parse_address(text: &str) -> Result<SocketAddr, CommandError> {
    let named = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let named = named.replacen("localhost:", "127.0.0.1:", 1);
    let parsed = named.parse().with_context(|| {
        format!("{text:?} is no address to listen at: give IP:PORT, as {DEFAULT_LISTEN}")
    });
    parsed.map_err(|error| CommandError::new(Exit::Usage, error))
}

/// Names by which this host is reached.
fn host_names() -> Vec<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { Vec::new() } else { vec![name] }
}

pub(super) fn refused(error: ServeError) -> CommandError {
    let exit = match &error {
        ServeError::NoToken { .. } | ServeError::ShortToken { .. } => Exit::Usage,
        ServeError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            Exit::Conflict
        }
        _ => Exit::Failed,
    };
    CommandError::new(exit, error)
}
