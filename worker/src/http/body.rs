//! Calling the blocking controller from a handler.

use std::sync::Arc;

use axum::http::StatusCode;

use super::error::HttpError;
use crate::Controller;

/// Runs a call of the controller where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    controller: Arc<Controller>,
    call: impl FnOnce(&Controller) -> T + Send + 'static,
) -> Result<T, HttpError> {
    let called = tokio::task::spawn_blocking(move || call(&controller)).await;
    called.map_err(|error| {
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "panicked", error.to_string())
    })
}
