//! Speaking HTTP to a server.

use std::path::Path;
use std::time::Duration;

use profiler_core::trace_path::TraceRoot;
use serde_json::Value;

use crate::cli::{CommandError, DEFAULT_LISTEN, Exit, ServerArgs};
use crate::config::DEFAULT_ROOT;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take beyond what the request itself waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest token that is read.
const MAX_TOKEN_BYTES: u64 = 4096;

/// The longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    base: String,
    token: Option<String>,
    agent: ureq::Agent,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Server {
    /// The server that the arguments name, or the root's controller, or the default.
    pub(super) fn find(args: &ServerArgs) -> Result<Self, CommandError> {
        let base = match &args.server {
            Some(server) => server.clone(),
            None => {
                let root = args.dir.as_deref().unwrap_or(Path::new(DEFAULT_ROOT));
                claimed_address(root).unwrap_or_else(|| format!("http://{DEFAULT_LISTEN}"))
            }
        };
        let base = if base.contains("://") { base } else { format!("http://{base}") };
        if !base.starts_with("http://") {
            return Err(CommandError::text(
                Exit::Usage,
                format!("{base}: only http:// is spoken; reach a distant server through a tunnel"),
            ));
        }
        let token = args.token_file.as_deref().map(read_token).transpose()?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, agent })
    }

    /// Where it is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Asks for something.
    pub(super) fn get(&self, path: &str) -> Result<Answer, CommandError> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let sent = request.config().timeout_global(Some(ANSWER_TIMEOUT)).build().call();
        self.answer(sent)
    }

    /// Tells it to do something that may take so long.
    pub(super) fn post(
        &self,
        path: &str,
        body: &Value,
        takes: Duration,
    ) -> Result<Answer, CommandError> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let request = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let timeout = ANSWER_TIMEOUT + takes;
        let sent = request.config().timeout_global(Some(timeout)).build().send_json(body);
        self.answer(sent)
    }

    fn answer(
        &self,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, CommandError> {
        let mut response = sent.map_err(|error| self.unreachable(error))?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_string()
            .map_err(|error| self.unreachable(error))?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body })
    }

    fn unreachable(&self, error: ureq::Error) -> CommandError {
        let base = &self.base;
        let exit = match &error {
            ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => {
                Exit::NothingThere
            }
            ureq::Error::BadUri(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        let hint = format!(
            "no answer from {base}: start a server with `omniprof serve`, or name the one to \
             speak to with `--server`"
        );
        CommandError::new(exit, anyhow::Error::new(error).context(hint))
    }
}

impl Answer {
    /// The code for a status.
    pub(super) fn exit(&self) -> Exit {
        match self.status {
            200..=299 => Exit::Done,
            400 | 401 | 403 | 413 | 415 | 422 => Exit::Usage,
            404 => Exit::NothingThere,
            409 => Exit::Conflict,
            502 => Exit::Partial,
            _ => Exit::Failed,
        }
    }

    /// The error that the server told of.
    pub(super) fn error(&self) -> CommandError {
        let error = self.body.get("error").unwrap_or(&self.body);
        let word = |key: &str| error.get(key).and_then(Value::as_str);
        let mut message = match (word("message"), word("code"), error.as_str()) {
            (Some(message), Some(code), _) => format!("{message} [{code}]"),
            (Some(message), None, _) => message.to_owned(),
            (None, _, Some(text)) if !text.trim().is_empty() => text.trim().to_owned(),
            _ => format!("the server answered with status {}: {}", self.status, self.body),
        };
        if self.status == 401 || self.status == 403 {
            message.push_str(": is `--token-file` right?");
        }
        let exit = match self.exit() {
            // An error instead of what was asked for: no part of it is done.
            Exit::Partial => Exit::Failed,
            exit => exit,
        };
        CommandError::text(exit, message)
    }
}

/// The address in what the root's controller says of itself.
fn claimed_address(root: &Path) -> Option<String> {
    let holder = TraceRoot::open(root).ok()?.claimed_by().ok()??;
    let word = holder.split([' ', ',']).find(|word| word.starts_with("http://"))?;
    Some(word.to_owned())
}

pub(super) fn read_token(path: &Path) -> Result<String, CommandError> {
    use std::io::Read as _;
    let context = || format!("reading the token file {}", path.display());
    let failed = |error| CommandError::from(anyhow::Error::new(error).context(context()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim();
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain {
        let text = format!("{}: a token is one line of printable ASCII", path.display());
        return Err(CommandError::text(Exit::Usage, text));
    }
    Ok(token.to_owned())
}
