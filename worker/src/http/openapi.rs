//! The description of the interface, from the code.

use utoipa::OpenApi as _;

use super::handlers;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "omniprof",
        description = "Starts and stops captures over all workers of a pipeline."
    ),
    paths(
        handlers::start_profile,
        handlers::stop_profile,
        handlers::status,
        handlers::launcher,
        handlers::sessions,
        handlers::session,
        handlers::file,
        handlers::healthz,
    )
)]
struct Description;

/// The description.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    Description::openapi()
}
