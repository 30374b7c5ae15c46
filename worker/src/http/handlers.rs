//! The handlers.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

use super::body::blocking;
use super::error::{ErrorBody, HttpError};
use crate::Controller;
use crate::controller::{ProcessLine, SessionLine, StartAnswer, Status, StopRequest};
use crate::manifest::Manifest;
use crate::start_request::StartRequest;

type Shared = State<Arc<Controller>>;

/// Starts a capture. An empty body means all stages.
#[utoipa::path(post, path = "/start_profile", request_body = StartRequest, responses(
    (status = 200, description = "Every selected worker records", body = StartAnswer),
    (status = 404, description = "A stage, replica or rank names nothing", body = ErrorBody),
    (status = 409, description = "A session is running", body = ErrorBody),
    (status = 422, description = "A field is unknown, refused or wrong", body = ErrorBody),
    (status = 502, description = "A worker could not be armed or did not begin, and nothing records: the body is \
     the error. Or a worker records less than was asked, which the start did not accept \
     (`on_unavailable`, `allow_partial`): the body is the answer, and the session records until it \
     is stopped", body = NotAsAsked),
))]
pub(super) async fn start_profile(
    State(controller): Shared,
    body: Bytes,
) -> Result<Response, HttpError> {
    let request = StartRequest::parse(&body)?;
    let answer = blocking(controller, move |controller| controller.start(&request)).await??;
    let status = if answer.is_good() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    Ok((status, Json(answer)).into_response())
}

/// What a start answers that is not as it was asked, for the schema.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes two bodies of one status")]
enum NotAsAsked {
    /// Nothing records.
    Error(ErrorBody),
    /// The session records.
    Started(StartAnswer),
}

/// Ends the capture, or tells again what came of the last one.
#[utoipa::path(post, path = "/stop_profile", request_body = StopRequest, responses(
    (status = 200, description = "Every worker did what was asked", body = Manifest),
    (status = 404, description = "There is no such session", body = ErrorBody),
    (status = 422, description = "A field is unknown or wrong", body = ErrorBody),
    (status = 502, description = "A worker failed or is missing", body = Manifest),
))]
pub(super) async fn stop_profile(
    State(controller): Shared,
    body: Bytes,
) -> Result<Response, HttpError> {
    let request = StopRequest::parse(&body)?;
    let manifest = blocking(controller, move |controller| controller.stop(&request)).await??;
    let status = if manifest.is_good() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    Ok((status, Json(manifest)).into_response())
}

/// What goes on.
#[utoipa::path(get, path = "/profile/status", responses(
    (status = 200, description = "Workers and sessions", body = Status),
))]
pub(super) async fn status(State(controller): Shared) -> Result<Json<Status>, HttpError> {
    Ok(Json(blocking(controller, Controller::status).await?))
}

/// All sessions, oldest first.
#[utoipa::path(get, path = "/profile/sessions", responses(
    (status = 200, description = "The sessions", body = Vec<SessionLine>),
))]
pub(super) async fn sessions(
    State(controller): Shared,
) -> Result<Json<Vec<SessionLine>>, HttpError> {
    Ok(Json(blocking(controller, Controller::sessions).await??))
}

/// What came, or comes, of a session.
#[utoipa::path(get, path = "/profile/sessions/{id}", params(
    ("id" = String, Path, description = "The session's id"),
), responses(
    (status = 200, description = "The manifest", body = Manifest),
    (status = 404, description = "There is no such session", body = ErrorBody),
))]
pub(super) async fn session(
    State(controller): Shared,
    Path(id): Path<String>,
) -> Result<Json<Manifest>, HttpError> {
    Ok(Json(blocking(controller, move |controller| controller.manifest(&id)).await??))
}

/// A file that the session's manifest names.
#[utoipa::path(get, path = "/profile/sessions/{id}/files/{path}", params(
    ("id" = String, Path, description = "The session's id"),
    ("path" = String, Path, description = "The path, as the manifest has it"),
), responses(
    (status = 200, description = "The file", content_type = "application/octet-stream"),
    (status = 404, description = "There is no such file", body = ErrorBody),
    (status = 409, description = "The file is not whole yet", body = ErrorBody),
))]
pub(super) async fn file(
    State(controller): Shared,
    Path((id, path)): Path<(String, String)>,
) -> Result<Response, HttpError> {
    let file = blocking(controller, move |controller| controller.open_file(&id, &path)).await??;
    let length = file.metadata().map_or(0, |meta| meta.len());
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    let kind = "application/octet-stream".to_owned();
    Ok(([(CONTENT_TYPE, kind), (CONTENT_LENGTH, length.to_string())], body).into_response())
}

/// Takes what a launcher of this machine says of its processes that have not joined.
#[utoipa::path(post, path = "/profile/launchers/{pid}", params(
    ("pid" = u32, Path, description = "The launcher's process"),
), request_body = Vec<ProcessLine>, responses(
    (status = 204, description = "The status tells it, until the launcher ends"),
    (status = 422, description = "The body is no list of such processes", body = ErrorBody),
))]
pub(super) async fn launcher(
    State(controller): Shared,
    Path(pid): Path<u32>,
    body: Bytes,
) -> Result<StatusCode, HttpError> {
    let lines: Vec<ProcessLine> = serde_json::from_slice(&body).map_err(|error| {
        let message = format!("the body is no list of processes: {error}");
        HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", message)
    })?;
    blocking(controller, move |controller| controller.set_not_joined(pid, lines)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether the controller answers.
#[utoipa::path(get, path = "/healthz", responses(
    (status = 200, description = "It does", body = String, content_type = "text/plain"),
))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// This description.
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::openapi())
}

/// No such route.
pub(super) async fn not_found(uri: Uri) -> HttpError {
    let message = format!("there is no {}; /openapi.json says what there is", uri.path());
    HttpError::new(StatusCode::NOT_FOUND, "no_route", message)
}

/// A route that is asked in the wrong way.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> HttpError {
    let message = format!("{} does not take {method}", uri.path());
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}
