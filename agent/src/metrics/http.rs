//! The listener: four paths, few connections, short ones.
//!
//! In flow: connections of anybody who can reach the address. Out flow: one answer each. A stranger
//! who connects and says nothing is cut off after [`PATIENCE`]; while [`CONNECTIONS`] are open, others
//! wait in the listen queue.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Subject;
use super::collect::{self, Sample};
use super::probe::{self, Report};
use crate::api::Backend;

/// Connections at once.
const CONNECTIONS: usize = 16;
/// How long the head of a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take from beginning to end.
const LONGEST: Duration = Duration::from_secs(30);
/// What OpenMetrics is called.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until it is dropped, and its connections with it.
pub(super) async fn serve<B: Backend>(listener: TcpListener, subject: &Arc<Subject<B>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("invariant: never closed");
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the connection is gone already.
                tracing::debug!(%error, "a connection for metrics cannot be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let subject = subject.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let subject = subject.clone();
                async move { Ok::<_, Infallible>(answer(&request, &subject).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that went away or was too slow is nobody's problem.
            let _ = timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

async fn answer<B: Backend>(
    request: &Request<Incoming>,
    subject: &Subject<B>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => match Sample::take(subject).await {
            Ok(sample) => {
                let mut response = text(StatusCode::OK, collect::text(sample));
                let kind = HeaderValue::from_static(OPEN_METRICS);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(words) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{words}\n")),
        },
        "/livez" => report(&probe::live(subject).await),
        "/readyz" => report(&probe::ready(subject).await),
        "/healthz" => report(&probe::healthy(subject).await),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez, /readyz and /healthz\n".to_owned(),
        ),
    }
}

fn report(report: &Report) -> Response<Full<Bytes>> {
    let status = if report.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, report.to_string())
}

fn text(status: StatusCode, words: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(words)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
