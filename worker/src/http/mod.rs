//! The controller over HTTP: handlers parse, call the controller and map; nothing else.

mod body;
mod error;
mod guard;
mod handlers;
mod openapi;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::Controller;
use crate::start_request::MAX_BODY_BYTES;

pub use error::{ErrorBody, ErrorDetail, HttpError};
pub use openapi::openapi;

/// Where the controller listens where nothing else is said.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8790";

/// The shortest token that is taken, in bytes.
pub const MIN_TOKEN_BYTES: usize = 16;

/// How the controller is reached.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "filled by whoever reads the command line")]
pub struct HttpOptions {
    /// The address to listen on.
    pub address: SocketAddr,
    /// What a request must carry as `Authorization: Bearer …`, where anything.
    pub token: Option<String>,
    /// Names by which this host is reached, beside its address and `localhost`.
    pub hosts: Vec<String>,
}

/// Why the controller cannot be reached over HTTP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Everybody who reaches the address could start captures.
    #[error(
        "{address} is reachable from other machines: give a token with --token-file, or listen on 127.0.0.1"
    )]
    NoToken {
        /// The address.
        address: SocketAddr,
    },
    /// The token is easily guessed.
    #[error("the token has {len} bytes, at least {MIN_TOKEN_BYTES} are needed")]
    ShortToken {
        /// Its length.
        len: usize,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Serving ended by itself.
    #[error("serving failed")]
    Serve {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound server that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; in particular an address that other machines reach needs a token.
    pub async fn bind(
        controller: Arc<Controller>,
        options: HttpOptions,
    ) -> Result<Self, ServeError> {
        let asked = options.address;
        match &options.token {
            None if !asked.ip().is_loopback() => {
                return Err(ServeError::NoToken { address: asked });
            }
            Some(token) if token.len() < MIN_TOKEN_BYTES => {
                return Err(ServeError::ShortToken { len: token.len() });
            }
            _ => {}
        }
        let listener = TcpListener::bind(asked)
            .await
            .map_err(|source| ServeError::Bind { address: asked, source })?;
        let address =
            listener.local_addr().map_err(|source| ServeError::Bind { address: asked, source })?;
        let options = HttpOptions { address, ..options };
        Ok(Self { listener, address, router: router(controller, options) })
    }

    /// The address, with the port that the system chose where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `until` is over; requests that run then are answered.
    ///
    /// # Errors
    ///
    /// [`ServeError::Serve`].
    pub async fn serve(
        self,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        axum::serve(self.listener, self.router)
            .with_graceful_shutdown(until)
            .await
            .map_err(|source| ServeError::Serve { source })
    }
}

/// The routes, for a server of the caller's.
pub fn router(controller: Arc<Controller>, options: HttpOptions) -> Router {
    Router::new()
        .route("/start_profile", post(handlers::start_profile))
        .route("/stop_profile", post(handlers::stop_profile))
        .route("/profile/status", get(handlers::status))
        .route("/profile/launchers/{pid}", post(handlers::launcher))
        .route("/profile/sessions", get(handlers::sessions))
        .route("/profile/sessions/{id}", get(handlers::session))
        .route("/profile/sessions/{id}/files/{*path}", get(handlers::file))
        .route("/healthz", get(handlers::healthz))
        .route("/openapi.json", get(handlers::openapi))
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(Arc::new(options), guard::guard))
        .with_state(controller)
}
