//! The local API: HTTP/JSON over a Unix socket.
//!
//! In flow: requests of the commands (or `curl --unix-socket`), checked by the credentials of the
//! connection: root or the user that the daemon runs as. Out flow: [`views`] as JSON, documented in
//! docs/api.md; requests to the daemon through [`Backend`].
//!
//! What always holds: nothing here owns state; the speaker's thread only hands over values, and
//! conversion and serialisation happen in the caller's task, in pieces, so that a million routes
//! stall nobody; every error is a [`views::Failure`] that a person can act on.

pub mod backend;
pub mod convert;
mod handlers;
pub mod health;
mod socket;
mod stream;
pub mod views;

#[cfg(test)]
mod document_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, http::StatusCode};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

pub use self::backend::{Backend, ClusterSnapshot, Snapshot};
use self::handlers::ApiError;
pub use self::socket::{Caller, SocketGuard, bind};

/// Octets a request may have: the file of a large cluster fits.
const MAX_REQUEST: usize = 16 << 20;

/// Answers with a whole table that may be under way at once, each with a copy of it; others wait.
const MAX_TABLES: usize = 2;

/// What handlers share.
pub(crate) struct Api<B> {
    backend: Arc<B>,
    tables: Arc<Semaphore>,
}

impl<B> Clone for Api<B> {
    fn clone(&self) -> Self {
        Self { backend: self.backend.clone(), tables: self.tables.clone() }
    }
}

/// Who may use the API, besides root.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The user the daemon runs as.
    pub owner: u32,
}

impl Access {
    /// The user of this process.
    #[must_use]
    pub fn own() -> Self {
        Self { owner: nix::unistd::geteuid().as_raw() }
    }

    /// Whether a caller may use the API.
    fn allows(self, caller: Caller) -> bool {
        caller.uid.is_some_and(|uid| uid == 0 || uid == self.owner)
    }
}

/// Serves until `stop` completes; then requests under way are finished.
///
/// # Errors
/// None in practice: failures to accept are retried.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    access: Access,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = router(backend, access).into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

/// The paths of the API: method, path, handler.
fn paths<B: Backend>() -> Vec<(&'static str, &'static str, MethodRouter<Api<B>>)> {
    vec![
        ("GET", "/v1/peers", get(handlers::peers::<B>)),
        ("GET", "/v1/peers/{name}", get(handlers::peer::<B>)),
        ("POST", "/v1/peers/{name}/reset", post(handlers::reset::<B>)),
        ("POST", "/v1/peers/{name}/disable", post(handlers::disable::<B>)),
        ("POST", "/v1/peers/{name}/enable", post(handlers::enable::<B>)),
        ("GET", "/v1/routes", get(handlers::routes::<B>)),
        ("GET", "/v1/explain", get(handlers::explain::<B>)),
        ("GET", "/v1/status", get(handlers::status::<B>)),
        ("GET", "/v1/version", get(handlers::version)),
        ("POST", "/v1/reload", post(handlers::reload::<B>)),
        ("POST", "/v1/plan", post(handlers::plan::<B>)),
        ("POST", "/v1/stop", post(handlers::stop::<B>)),
    ]
}

fn router<B: Backend>(backend: Arc<B>, access: Access) -> Router {
    paths::<B>()
        .into_iter()
        .fold(Router::new(), |router, (_, path, handler)| router.route(path, handler))
        .fallback(handlers::unknown_path)
        .method_not_allowed_fallback(handlers::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .layer(middleware::from_fn_with_state(access, check_caller))
        .with_state(Api { backend, tables: Arc::new(Semaphore::new(MAX_TABLES)) })
}

/// Turns away whoever may not use the API.
async fn check_caller(
    State(access): State<Access>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    if access.allows(caller) {
        return next.run(request).await;
    }
    let who = caller.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"));
    ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{who} may not use this socket"),
        format!("run the command as root or as user {}, as which routelet runs", access.owner),
    )
    .into_response()
}
