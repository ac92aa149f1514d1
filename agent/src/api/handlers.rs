//! One function per path: parse the request into typed values, ask the daemon, convert.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ipnet::IpNet;
use routelet_bgp::core::view::{
    PeerTableView, RouteQuery, RouteSelector, RouteSource, RouteTable, SessionView,
};
use routelet_bgp::io::{PeerCommand, RequestError, StopMode};
use routelet_proto::Family;
use serde::Deserialize;

use super::backend::Backend;
use super::{Api, convert, stream, views};

/// Longest message that a NOTIFICATION carries (RFC 9003 §2), in octets.
const MAX_MESSAGE: usize = 255;

/// A request that was not met.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    failure: views::Failure,
}

impl ApiError {
    /// With what went wrong and what to do about it.
    pub(crate) fn new(
        status: StatusCode,
        error: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, failure: views::Failure { error: error.into(), hint: Some(hint.into()) } }
    }

    fn bad_request(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure)).into_response()
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::UnknownPeer(name) => Self::new(
                StatusCode::NOT_FOUND,
                format!("no peer is named {name}"),
                "`routelet peers` lists them",
            ),
            RequestError::Stopped => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the BGP speaker has stopped",
                "routelet is stopping or has failed: see its log",
            ),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text(), "docs/api.md lists the parameters of each path")
    }
}

/// The present moment, once per answer.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) async fn peers<B: Backend>(
    State(api): State<Api<B>>,
) -> Result<Json<Vec<views::Peer>>, ApiError> {
    let peers = api.backend.peers().await?;
    Ok(Json(convert::peers(&peers, now())))
}

pub(super) async fn peer<B: Backend>(
    State(api): State<Api<B>>,
    Path(given): Path<String>,
) -> Result<Json<views::Peer>, ApiError> {
    let peers = api.backend.peers().await?;
    let (session, table) = find_peer(&peers, &given)?;
    Ok(Json(convert::peer(session, table, now())))
}

/// The peer of this name, else the only one with this address.
fn find_peer<'a>(
    peers: &'a [(SessionView, PeerTableView)],
    given: &str,
) -> Result<&'a (SessionView, PeerTableView), ApiError> {
    if let Some(peer) = peers.iter().find(|(session, _)| *session.config.name == *given) {
        return Ok(peer);
    }
    if let Ok(address) = given.parse::<IpAddr>() {
        let mut same = peers.iter().filter(|(session, _)| session.config.address == address);
        match (same.next(), same.next()) {
            (Some(peer), None) => return Ok(peer),
            (Some(_), Some(_)) => {
                return Err(ApiError::bad_request(
                    format!("several peers have the address {given}"),
                    "use the name; `routelet peers` lists them",
                ));
            }
            (None, _) => {}
        }
    }
    Err(RequestError::UnknownPeer(given.to_owned()).into())
}

/// The name of the peer that is meant by a name or an address.
async fn peer_name<B: Backend>(backend: &B, given: &str) -> Result<Arc<str>, ApiError> {
    let peers = backend.peers().await?;
    let (session, _) = find_peer(&peers, given)?;
    Ok(session.config.name.clone())
}

pub(super) async fn reset<B: Backend>(
    State(api): State<Api<B>>,
    Path(given): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<views::Done>, ApiError> {
    let message = message(body)?;
    let name = peer_name(&*api.backend, &given).await?;
    api.backend.command(&name, PeerCommand::Reset(message)).await?;
    Ok(done(format!("peer {name} is reset")))
}

pub(super) async fn disable<B: Backend>(
    State(api): State<Api<B>>,
    Path(given): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<views::Done>, ApiError> {
    let message = message(body)?;
    let name = peer_name(&*api.backend, &given).await?;
    api.backend.command(&name, PeerCommand::Disable(message)).await?;
    Ok(done(format!("peer {name} is disabled until `routelet enable {name}` or a restart")))
}

pub(super) async fn enable<B: Backend>(
    State(api): State<Api<B>>,
    Path(given): Path<String>,
) -> Result<Json<views::Done>, ApiError> {
    let name = peer_name(&*api.backend, &given).await?;
    api.backend.command(&name, PeerCommand::Enable).await?;
    Ok(done(format!("peer {name} is enabled")))
}

fn done(words: String) -> Json<views::Done> {
    Json(views::Done { done: words })
}

/// The message in the body of `reset` and `disable`; an empty body is an empty message.
fn message(body: Result<Bytes, BytesRejection>) -> Result<String, ApiError> {
    let body = body.map_err(|rejection| {
        ApiError::bad_request(rejection.body_text(), "the body is {\"message\": \"…\"}")
    })?;
    if body.is_empty() {
        return Ok(String::new());
    }
    let action: views::PeerAction = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(
            format!("the body is not what it should be: {error}"),
            "the body is {\"message\": \"…\"}",
        )
    })?;
    let message = action.message.unwrap_or_default();
    if message.len() > MAX_MESSAGE {
        return Err(ApiError::bad_request(
            format!("the message has {} octets", message.len()),
            format!("a NOTIFICATION carries at most {MAX_MESSAGE} (RFC 9003): make it shorter"),
        ));
    }
    Ok(message)
}

/// Parameters of `/v1/routes`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteParameters {
    prefix: Option<String>,
    address: Option<String>,
    table: Option<String>,
    peer: Option<String>,
    family: Option<String>,
}

pub(super) async fn routes<B: Backend>(
    State(api): State<Api<B>>,
    parameters: Result<Query<RouteParameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters?;
    let selector = selector(parameters.prefix.as_deref(), parameters.address.as_deref())?
        .unwrap_or(RouteSelector::All);
    let family = parameters.family.as_deref().map(family).transpose()?;
    let peer = match &parameters.peer {
        Some(given) => Some(peer_name(&*api.backend, given).await?),
        None => None,
    };
    let needs_peer = || {
        ApiError::bad_request(
            "this table is a peer's, and no peer is named",
            "add the parameter `peer`",
        )
    };
    let table = match parameters.table.as_deref() {
        None | Some("all") => RouteTable::All,
        Some("received") => RouteTable::Received(peer.clone().ok_or_else(needs_peer)?),
        Some("advertised") => RouteTable::Advertised(peer.clone().ok_or_else(needs_peer)?),
        Some(other) => {
            return Err(ApiError::bad_request(
                format!("there is no table {other}"),
                "the tables are all, received and advertised",
            ));
        }
    };
    // A single destination is small and waits for nobody.
    let permit = match selector {
        RouteSelector::All => api.tables.clone().acquire_owned().await.ok(),
        RouteSelector::Exact(_) | RouteSelector::Longest(_) => None,
    };
    let only_from = peer.filter(|_| table == RouteTable::All);
    let mut found = api.backend.routes(RouteQuery { table, selector, family }).await?;
    if let Some(name) = only_from {
        found.retain(|route| matches!(&route.source, RouteSource::Peer(_, from) if *from == name));
    }
    let format = stream::Format::accepted(&headers);
    Ok(stream::routes(api.backend.clone(), found, format, now(), permit))
}

/// What `prefix` or `address` select; `None` if neither is given.
fn selector(
    prefix: Option<&str>,
    address: Option<&str>,
) -> Result<Option<RouteSelector>, ApiError> {
    match (prefix, address) {
        (None, None) => Ok(None),
        (Some(prefix), None) => match prefix.parse::<IpNet>() {
            // Bits behind the length say nothing: 10.0.0.1/24 means 10.0.0.0/24.
            Ok(net) => Ok(Some(RouteSelector::Exact(net.trunc()))),
            Err(_) => Err(ApiError::bad_request(
                format!("{prefix} is not a prefix"),
                "write it like 10.244.1.0/24 or fd00:1::/64",
            )),
        },
        (None, Some(address)) => match address.parse() {
            Ok(address) => Ok(Some(RouteSelector::Longest(address))),
            Err(_) => Err(ApiError::bad_request(
                format!("{address} is not an address"),
                "write it like 10.244.1.7 or fd00:1::7",
            )),
        },
        (Some(_), Some(_)) => {
            Err(ApiError::bad_request("both a prefix and an address are given", "give one of them"))
        }
    }
}

fn family(given: &str) -> Result<Family, ApiError> {
    match given {
        "ipv4" | "ipv4-unicast" => Ok(Family::Ipv4Unicast),
        "ipv6" | "ipv6-unicast" => Ok(Family::Ipv6Unicast),
        other => Err(ApiError::bad_request(
            format!("there is no family {other}"),
            "the families are ipv4 and ipv6",
        )),
    }
}

/// Parameters of `/v1/explain`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainParameters {
    prefix: Option<String>,
    address: Option<String>,
}

pub(super) async fn explain<B: Backend>(
    State(api): State<Api<B>>,
    parameters: Result<Query<ExplainParameters>, QueryRejection>,
) -> Result<Json<views::Explain>, ApiError> {
    let Query(parameters) = parameters?;
    let selector = selector(parameters.prefix.as_deref(), parameters.address.as_deref())?
        .ok_or_else(|| {
            ApiError::bad_request("nothing is asked for", "add the parameter `address` or `prefix`")
        })?;
    let (query, asked, address) = match selector {
        RouteSelector::Exact(net) => (net.to_string(), Some(net), first_host(net)),
        RouteSelector::Longest(address) => (address.to_string(), None, address),
        RouteSelector::All => unreachable!("invariant: selector() gives one of the other two"),
    };
    let view = api.backend.explain(selector).await?;
    let covered_by = match (view.prefix, asked) {
        (None, Some(net)) => {
            let longest = RouteSelector::Longest(net.network());
            api.backend.explain(longest).await?.prefix.filter(|found| found.contains(&net))
        }
        _ => None,
    };
    let prefix = view.prefix.or(asked);
    let lookup = if api.backend.snapshot().config.kernel.enabled {
        Some(api.backend.lookup(address, prefix).await)
    } else {
        None
    };
    let status = api.backend.route_status(prefix.into_iter().collect()).await.pop().flatten();
    let ways = api.backend.route_ways(prefix.into_iter().collect()).await.pop();
    Ok(Json(convert::explain(
        &query,
        &view,
        covered_by,
        (address, lookup.as_ref()),
        (status.as_ref(), &ways.unwrap_or_default()),
        now(),
    )))
}

/// An address to look up for a prefix: its first host, since the first address may be nobody's.
fn first_host(net: IpNet) -> IpAddr {
    net.hosts().next().unwrap_or_else(|| net.network())
}

pub(super) async fn status<B: Backend>(
    State(api): State<Api<B>>,
) -> Result<Json<views::Status>, ApiError> {
    let peers = api.backend.peers().await?;
    let kernel = api.backend.kernel_status().await;
    let firewall = api.backend.firewall_status().await;
    let now = now();
    let peers = convert::peers(&peers, now);
    Ok(Json(convert::status(&api.backend.snapshot(), &peers, (&kernel, &firewall), now)))
}

pub(super) async fn version() -> Json<views::Version> {
    Json(views::Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: "v1".to_owned() })
}

/// A refused configuration: its text already says what to do.
fn refused(words: String) -> ApiError {
    ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        failure: views::Failure { error: words, hint: None },
    }
}

pub(super) async fn reload<B: Backend>(
    State(api): State<Api<B>>,
) -> Result<Json<views::Plan>, ApiError> {
    api.backend.reload().await.map(Json).map_err(refused)
}

pub(super) async fn plan<B: Backend>(
    State(api): State<Api<B>>,
    request: Result<Json<views::PlanRequest>, JsonRejection>,
) -> Result<Json<views::Plan>, ApiError> {
    let Json(request) = request.map_err(|rejection| {
        ApiError::bad_request(
            rejection.body_text(),
            "the body is {\"file\": \"…\", \"text\": \"…\"}",
        )
    })?;
    api.backend.plan(&request.file, &request.text).map(Json).map_err(refused)
}

/// Parameters of `/v1/stop`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StopParameters {
    #[serde(default)]
    withdraw: bool,
}

pub(super) async fn stop<B: Backend>(
    State(api): State<Api<B>>,
    parameters: Result<Query<StopParameters>, QueryRejection>,
) -> Result<(StatusCode, Json<views::Done>), ApiError> {
    let Query(parameters) = parameters?;
    let (mode, words) = if parameters.withdraw {
        (StopMode::Withdraw, "stopping: routes are withdrawn and removed")
    } else {
        (StopMode::Restart, "stopping: routes stay in the kernel")
    };
    api.backend.stop(mode);
    Ok((StatusCode::ACCEPTED, done(words.to_owned())))
}

pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("there is no {}", uri.path()),
        "docs/api.md lists the paths; an older routelet may lack some",
    )
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} takes no {method}", uri.path()),
        "docs/api.md says which method each path takes",
    )
}
