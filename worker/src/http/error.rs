//! Errors as responses: `{"error": {"code": ..., "message": ...}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::controller::{SessionError, StartError, StopError, StopRequestError};
use crate::start_request::StartRequestError;

/// What every failed request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(clippy::exhaustive_structs, reason = "the shape of the answer")]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error for programs and people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(clippy::exhaustive_structs, reason = "the shape of the answer")]
pub struct ErrorDetail {
    /// A stable word.
    pub code: String,
    /// What happened, with its causes, and what to do.
    pub message: String,
}

/// A failed request.
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    detail: ErrorDetail,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, detail: ErrorDetail { code: code.to_owned(), message: message.into() } }
    }

    fn of(status: u16, code: &str, error: &dyn std::error::Error) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, code, profiler_core::error::chain(error))
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.detail })).into_response()
    }
}

impl From<StartRequestError> for HttpError {
    fn from(error: StartRequestError) -> Self {
        Self::of(error.status(), error.code(), &error)
    }
}

impl From<StopRequestError> for HttpError {
    fn from(error: StopRequestError) -> Self {
        Self::of(422, "invalid_field", &error)
    }
}

impl From<StartError> for HttpError {
    fn from(error: StartError) -> Self {
        Self::of(error.status(), error.code(), &error)
    }
}

impl From<StopError> for HttpError {
    fn from(error: StopError) -> Self {
        Self::of(error.status(), error.code(), &error)
    }
}

impl From<SessionError> for HttpError {
    fn from(error: SessionError) -> Self {
        Self::of(error.status(), error.code(), &error)
    }
}
