//! Requests to a controller, as its user makes them.

use std::time::Duration;

use serde_json::Value;

/// The JSON that a request is answered with.
///
/// # Errors
///
/// It is not answered in time, not with success, or not with JSON.
pub(crate) fn ask(
    method: &str,
    url: &str,
    body: Option<&Value>,
    patience: Duration,
) -> anyhow::Result<Value> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(patience))
        .build()
        .into();
    let request = ureq::http::Request::builder().method(method).uri(url);
    let mut response = match body {
        None => agent.run(request.body(())?)?,
        Some(body) => {
            let request = request.header("content-type", "application/json");
            agent.run(request.body(body.to_string())?)?
        }
    };
    let status = response.status();
    let answer: Value = response.body_mut().read_json()?;
    anyhow::ensure!(status.is_success(), "{method} {url}: {status}: {answer}");
    Ok(answer)
}
