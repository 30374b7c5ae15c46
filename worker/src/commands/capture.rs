//! `omniprof start`, `stop` and `status`: over HTTP.

use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use profiler_worker::manifest::{LineState, Manifest};
use serde_json::{Map, Value, json};

use super::server::{Answer, Server};
use crate::cli::{
    CommandError, Exit, Interrupts, Output, Progress, StartArgs, StatusArgs, StopArgs, bytes_text,
};

/// How often a wait asks.
const POLL: Duration = Duration::from_millis(200);

/// How long a stop after a wait lets the server export.
const WAIT_STOP_MS: u64 = 60_000;

pub(super) fn start(args: &StartArgs, out: &Output) -> Result<Exit, CommandError> {
    let server = Server::find(&args.server)?;
    // Listened to from the start on, so that no capture is left running.
    let interrupts = args.wait.then(Interrupts::listen).transpose()?;
    let answer = server.post("/start_profile", &body(args), Duration::from_secs(60))?;
    if !answer.is_manifest_like() {
        return Err(answer.error());
    }
    let Some(interrupts) = interrupts else {
        if args.json {
            out.json(&answer.body)?;
        } else {
            out.text(&start_text(&answer.body))?;
        }
        let workers = answer.body.get("workers").and_then(Value::as_array);
        let is_less = |worker: &Value| worker.get("error").is_some_and(|error| !error.is_null());
        return Ok(exit_of(&answer, workers.into_iter().flatten().any(is_less)));
    };
    let interrupted = wait(&server, &interrupts, args.duration)?;
    let stopped = stop_session(&server, answer.body.get("session"), WAIT_STOP_MS)?;
    let exit = print_manifest(&stopped, args.json, out)?;
    Ok(if interrupted && exit == Exit::Done { Exit::Interrupted } else { exit })
}

pub(super) fn stop(args: &StopArgs, out: &Output) -> Result<Exit, CommandError> {
    let server = Server::find(&args.server)?;
    let progress = Progress::spinner("stopping");
    let answer = stop_session(&server, None, args.wait)?;
    drop(progress);
    print_manifest(&answer, args.json, out)
}

pub(super) fn status(args: &StatusArgs, out: &Output) -> Result<Exit, CommandError> {
    let server = Server::find(&args.server)?;
    let answer = server.get("/profile/status")?;
    if answer.exit() != Exit::Done {
        return Err(answer.error());
    }
    if args.json {
        out.json(&answer.body)?;
    } else {
        out.text(&status_text(server.base(), &answer.body))?;
    }
    Ok(Exit::Done)
}

/// The start's body: what was typed, and nothing else.
fn body(args: &StartArgs) -> Value {
    let mut body = Map::new();
    let mut put = |field: &str, value: Value| {
        if !value.is_null() && value != Value::Bool(false) {
            body.insert(field.to_owned(), value);
        }
    };
    put("stages", json!(args.stages));
    put("replicas", json!(args.replicas));
    put("ranks", json!(args.ranks));
    put("profile_prefix", json!(args.prefix));
    put("duration_ms", json!(args.duration));
    put("delay_iterations", json!(args.delay_iterations));
    put("max_iterations", json!(args.max_iterations));
    put("start_step", json!(args.start_step));
    put("activities", json!(args.activities));
    put("with_stack", json!(args.with_stack));
    put("record_shapes", json!(args.record_shapes));
    put("max_bytes", json!(args.max_bytes));
    put("formats", json!(args.formats));
    put("preset", json!(args.preset));
    put("backend", json!(args.backend));
    put("on_unavailable", json!(args.on_unavailable));
    put("allow_partial", json!(args.allow_partial));
    put("merge_profiles", json!(args.merge));
    Value::Object(body)
}

/// Waits until nobody records any more; says whether it was interrupted instead.
fn wait(
    server: &Server,
    interrupts: &Interrupts,
    duration_ms: Option<u64>,
) -> Result<bool, CommandError> {
    let progress = match duration_ms {
        Some(ms) => Progress::time(ms, "recording"),
        None => Progress::spinner("recording; Ctrl-C stops"),
    };
    let begun = Instant::now();
    loop {
        if interrupts.wait(POLL) {
            return Ok(true);
        }
        progress.set(begun.elapsed().as_millis() as u64);
        let answer = server.get("/profile/status")?;
        if answer.exit() != Exit::Done {
            return Err(answer.error());
        }
        let Some(session) = answer.body.get("session").filter(|session| !session.is_null()) else {
            return Ok(false);
        };
        let workers = session.get("workers").and_then(Value::as_array);
        let records = |worker: &Value| {
            let linked = worker.get("linked").and_then(Value::as_bool) != Some(false);
            linked && worker.get("stopped_by").is_none_or(Value::is_null)
        };
        if workers.is_some_and(|workers| !workers.iter().any(records)) {
            return Ok(false);
        }
        let sum = |field: &str| -> u64 {
            let values = workers.into_iter().flatten();
            values.filter_map(|worker| worker.get(field)?.as_u64()).sum()
        };
        let (rows, bytes) = (sum("rows"), bytes_text(sum("spool_bytes")));
        progress.say(&format!("recording: {rows} rows, {bytes}"));
    }
}

fn stop_session(
    server: &Server,
    session: Option<&Value>,
    wait_ms: u64,
) -> Result<Answer, CommandError> {
    let mut body = Map::new();
    body.insert("wait_ms".to_owned(), json!(wait_ms));
    if let Some(session) = session {
        body.insert("session".to_owned(), session.clone());
    }
    server.post("/stop_profile", &Value::Object(body), Duration::from_millis(wait_ms))
}

fn print_manifest(answer: &Answer, json: bool, out: &Output) -> Result<Exit, CommandError> {
    if !answer.is_manifest_like() {
        return Err(answer.error());
    }
    if json {
        out.json(&answer.body)?;
    }
    let Ok(manifest) = serde_json::from_value::<Manifest>(answer.body.clone()) else {
        if !json {
            out.json(&answer.body)?;
        }
        return Ok(answer.exit());
    };
    if !json {
        out.text(&profiler_worker::manifest::table(&manifest))?;
    }
    let whole = |line: LineState| {
        matches!(line, LineState::Complete | LineState::Exporting | LineState::Pending)
    };
    Ok(exit_of(answer, manifest.workers.iter().any(|worker| !whole(worker.state))))
}

/// How a command ends whose answer was printed. A start that accepts that workers record less gets
/// a 200, and so does its stop: the script that reads the code shall know.
fn exit_of(answer: &Answer, is_less: bool) -> Exit {
    match answer.exit() {
        Exit::Done if is_less => Exit::Partial,
        exit => exit,
    }
}

impl Answer {
    /// Whether the body is what was asked for; a 502 carries it too.
    pub(super) fn is_manifest_like(&self) -> bool {
        let good = matches!(self.exit(), Exit::Done | Exit::Partial);
        good && self.body.get("session").is_some_and(Value::is_string)
    }
}

fn start_text(body: &Value) -> String {
    let word = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("-");
    let mut text = format!("session {}\n", word("session"));
    let workers = body.get("workers").and_then(Value::as_array);
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["stage", "role", "replica", "rank", "pid", "backend", "why"]);
    for worker in workers.into_iter().flatten() {
        table.add_row(
            ["stage", "role", "replica", "rank", "pid", "backend", "why"]
                .map(|key| plain(worker.get(key))),
        );
    }
    text.push_str(&format!("{table}\n"));
    for worker in workers.into_iter().flatten() {
        if let Some(message) = worker.pointer("/error/message").and_then(Value::as_str) {
            text.push_str(&format!("pid {}: {message}\n", plain(worker.get("pid"))));
        }
    }
    for worker in body.get("left_out").and_then(Value::as_array).into_iter().flatten() {
        let word = |key: &str| plain(worker.get(key));
        let (pid, program, message) = (word("pid"), word("program"), word("message"));
        text.push_str(&format!("pid {pid} ({program}) was left out: {message}\n"));
    }
    for note in body.get("notes").and_then(Value::as_array).into_iter().flatten() {
        text.push_str(&format!("note: {}\n", plain(Some(note))));
    }
    // The limits that hold, named or not.
    if let Some(limits) = workers.and_then(|workers| workers.first()?.get("limits")) {
        text.push_str(&limits_text(limits));
    }
    text.push_str(&format!("files: {}\n", word("directory")));
    text
}

fn limits_text(limits: &Value) -> String {
    let number = |key: &str| limits.get(key).and_then(Value::as_u64).unwrap_or(0);
    format!(
        "ends after {} s or {} a worker at the latest; {} % of the disk stay free\n",
        number("max_session_ms") / 1000,
        bytes_text(number("max_bytes")),
        number("min_free_percent"),
    )
}

fn status_text(base: &str, body: &Value) -> String {
    let mut text =
        format!("{base}, pid {}, root {}\n", plain(body.get("pid")), plain(body.get("root")));
    match body.get("session").filter(|session| !session.is_null()) {
        Some(session) => text.push_str(&format!(
            "session {} ({})\n",
            plain(session.get("session")),
            plain(session.get("state"))
        )),
        None => text.push_str("nothing is recorded\n"),
    }
    let not_joined = not_joined_text(body);
    let workers = body.get("workers").and_then(Value::as_array);
    if workers.is_none_or(Vec::is_empty) {
        text.push_str("no worker has joined\n");
        text.push_str(&not_joined);
        return text;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "stage", "role", "replica", "rank", "pid", "joined", "state", "steps", "backends",
    ]);
    for worker in workers.into_iter().flatten() {
        let columns =
            ["stage", "role", "replica", "rank", "pid", "joined_by", "state", "step_source"];
        let mut row: Vec<String> = columns.iter().map(|column| plain(worker.get(column))).collect();
        let backends = worker.get("backends").and_then(Value::as_array);
        let available = backends
            .into_iter()
            .flatten()
            .filter(|backend| backend.get("available").and_then(Value::as_bool) == Some(true));
        let names: Vec<String> = available.map(|backend| plain(backend.get("id"))).collect();
        row.push(names.join(", "));
        table.add_row(row);
    }
    text.push_str(&format!("{table}\n"));
    for worker in workers.into_iter().flatten() {
        let refused = worker.get("refused_plugins").and_then(Value::as_array);
        for reason in refused.into_iter().flatten() {
            let (pid, reason) = (plain(worker.get("pid")), plain(Some(reason)));
            text.push_str(&format!("pid {pid} does not use a plugin: {reason}\n"));
        }
    }
    text.push_str(&not_joined);
    if let Some(limits) = body.get("default_limits") {
        text.push_str(&format!("a start that names no limits {}", limits_text(limits)));
    }
    text
}

/// Processes that use a device and have not joined.
fn not_joined_text(body: &Value) -> String {
    let lines = body.get("not_joined").and_then(Value::as_array);
    let mut text = String::new();
    for line in lines.into_iter().flatten() {
        let word = |key: &str| plain(line.get(key));
        text.push_str(&format!(
            "pid {} ({}) uses a device and has not joined: {}\n",
            word("pid"),
            word("title"),
            word("message")
        ));
    }
    text
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
