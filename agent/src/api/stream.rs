//! Tables as streamed bodies: converted and serialised piece by piece, as fast as the caller reads.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use ipnet::IpNet;
use routelet_bgp::core::view::RouteView;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::backend::Backend;
use super::convert;
use crate::kernel::{RouteStatus, RouteWay};

/// Paths converted between two waits.
const PIECE: usize = 512;

/// A caller that reads nothing for so long is cut off: it holds a copy of the table.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a table is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    /// One JSON array.
    Array,
    /// One JSON object a line (`application/x-ndjson`).
    Lines,
}

impl Format {
    /// What the caller accepts: lines only if it asks for them.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let lines = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.contains("application/x-ndjson"));
        if lines { Self::Lines } else { Self::Array }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Array => "application/json",
            Self::Lines => "application/x-ndjson",
        })
    }
}

/// What the producer hands to the connection.
enum Piece {
    Octets(Bytes),
    /// Without it the body ends in an error, so that nobody takes a part for the whole.
    End,
}

/// The answer with these routes. `permit` is held until all are sent.
pub(super) fn routes<B: Backend>(
    backend: Arc<B>,
    routes: Vec<RouteView>,
    format: Format,
    now: Instant,
    permit: Option<OwnedSemaphorePermit>,
) -> Response {
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        let _permit = permit;
        produce(&*backend, routes, format, now, &sender).await;
    });
    let body = Body::from_stream(stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Octets(octets)) => Some((Ok(octets), Some(receiver))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the table was not sent whole")), None)),
        }
    }));
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, format.content_type());
    response
}

async fn produce<B: Backend>(
    backend: &B,
    routes: Vec<RouteView>,
    format: Format,
    now: Instant,
    sender: &mpsc::Sender<Piece>,
) {
    let mut octets = Vec::with_capacity(PIECE * 512);
    if format == Format::Array {
        octets.push(b'[');
    }
    let mut first = true;
    let mut routes = routes.into_iter();
    loop {
        let piece: Vec<RouteView> = routes.by_ref().take(PIECE).collect();
        if piece.is_empty() {
            break;
        }
        let statuses = statuses(backend, &piece).await;
        for (route, (status, ways)) in piece.iter().zip(&statuses) {
            if format == Format::Array && !std::mem::take(&mut first) {
                octets.extend_from_slice(b",\n");
            }
            let mut view = convert::route(route, status.as_ref(), now);
            convert::lead(&mut view, ways);
            serde_json::to_writer(&mut octets, &view)
                .expect("invariant: views have string keys and a Vec takes every octet");
            if format == Format::Lines {
                octets.push(b'\n');
            }
        }
        if !send(sender, Piece::Octets(std::mem::take(&mut octets).into())).await {
            return;
        }
    }
    if format == Format::Array {
        octets.extend_from_slice(b"]\n");
    }
    if send(sender, Piece::Octets(octets.into())).await {
        send(sender, Piece::End).await;
    }
}

/// What became of each route's prefix, and by which ways it leads: asked once for each prefix, not
/// for each path.
async fn statuses<B: Backend>(
    backend: &B,
    routes: &[RouteView],
) -> Vec<(Option<RouteStatus>, Vec<RouteWay>)> {
    let mut prefixes: Vec<IpNet> = routes.iter().map(|route| route.prefix).collect();
    prefixes.dedup();
    let statuses = backend.route_status(prefixes.clone()).await;
    let answers = statuses.into_iter().zip(backend.route_ways(prefixes.clone()).await);
    let mut answers = prefixes.into_iter().zip(answers).peekable();
    routes
        .iter()
        .map(|route| {
            while answers.peek().is_some_and(|(prefix, _)| *prefix != route.prefix) {
                answers.next();
            }
            answers.peek().map(|(_, answer)| answer.clone()).unwrap_or_default()
        })
        .collect()
}

/// `false` if the caller is gone or reads nothing.
async fn send(sender: &mpsc::Sender<Piece>, piece: Piece) -> bool {
    matches!(tokio::time::timeout(PATIENCE, sender.send(piece)).await, Ok(Ok(())))
}
