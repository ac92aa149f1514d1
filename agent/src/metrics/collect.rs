//! From snapshots to samples.
//!
//! In flow: what the daemon says of itself at one moment. Out flow: OpenMetrics text. Each metric of
//! [`super::table`] is written each time, with 0 where there is nothing, so that no series vanishes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use routelet_bgp::core::config::PeerKind;
use routelet_bgp::core::peer::State;
use routelet_bgp::core::view::{FamilyCounts, PeerTableView, SessionView};
use routelet_proto::Family;
use tokio::time::timeout;

use super::Subject;
use super::process::{Process, count};
use super::table::{self, Metric};
use crate::api::{Backend, Snapshot, convert, health};
use crate::kernel::{BOUNDS, KernelStatus, Latency};
use crate::nft::FirewallStatus;

/// How long the daemon's parts may take to answer, together.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(9);

/// Labels of a sample, by name.
type Labels = Vec<(&'static str, String)>;

/// The daemon at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) now: Instant,
    pub(super) began: jiff::Timestamp,
    pub(super) snapshot: Snapshot,
    pub(super) peers: Vec<(SessionView, PeerTableView)>,
    pub(super) kernel: KernelStatus,
    pub(super) firewall: FirewallStatus,
    pub(super) process: Process,
}

impl Sample {
    /// Asks the daemon.
    ///
    /// # Errors
    /// Why there is nothing to show, in words.
    pub(super) async fn take<B: Backend>(subject: &Subject<B>) -> Result<Self, String> {
        let daemon = subject
            .daemon()
            .ok_or_else(|| format!("not running yet: {}", subject.waiting().join("; ")))?;
        let parts = async {
            (daemon.peers().await, daemon.kernel_status().await, daemon.firewall_status().await)
        };
        let (peers, kernel, firewall) = timeout(PATIENCE, parts)
            .await
            .map_err(|_| format!("the daemon has not answered for {} s", PATIENCE.as_secs()))?;
        Ok(Self {
            now: tokio::time::Instant::now().into_std(),
            began: subject.began,
            snapshot: daemon.snapshot(),
            peers: peers.map_err(|error| error.to_string())?,
            kernel,
            firewall,
            process: Process::read(),
        })
    }

    fn seconds_since(&self, then: Instant) -> f64 {
        self.now.saturating_duration_since(then).as_secs_f64()
    }
}

/// The sample as OpenMetrics text.
pub(super) fn text(sample: Sample) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::new(sample)));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Writer(encoder);
        self.agent(&mut out)?;
        self.peers(&mut out)?;
        self.kernel(&mut out)?;
        self.kubernetes(&mut out)?;
        out.one(&table::PROCESS_MEMORY, self.process.resident)?;
        out.one(&table::PROCESS_CPU, self.process.cpu)?;
        out.one(&table::PROCESS_START, seconds(self.began))?;
        out.one(&table::PROCESS_FILES, self.process.files)?;
        out.one(&table::PROCESS_MOST_FILES, self.process.most_files)
    }
}

impl Sample {
    fn agent(&self, out: &mut Writer<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.many(&table::BUILD_INFO, [(version, 1.0)])?;
        out.one(&table::UP_SECONDS, self.seconds_since(snapshot.started))?;
        let pending = health::pending(snapshot, Some(&self.kernel));
        out.one(&table::READY, bit(pending.is_empty()))?;
        out.one(&table::FIRST_SYNC, bit(snapshot.first_sync))?;
        let peers = convert::peers(&self.peers, self.now);
        let status = convert::status(snapshot, &peers, (&self.kernel, &self.firewall), self.now);
        out.one(&table::PROBLEMS, count(status.problems.len()))?;
        out.one(&table::CONFIG_GENERATION, number(snapshot.generation))?;
        let failed = snapshot.cluster.as_ref().is_some_and(|cluster| cluster.failed);
        out.one(&table::CONFIG_OK, bit(snapshot.refused.is_none() && !failed))?;
        out.one(&table::CONFIG_AGE, self.seconds_since(snapshot.loaded))?;
        out.one(&table::CONFIG_RESTART, count(snapshot.needs_restart.len()))
    }

    fn peers(&self, out: &mut Writer<'_>) -> fmt::Result {
        let peers = self.peers.iter().map(|(session, _)| session);
        let counted = KINDS.into_iter().flat_map(|kind| STATES.map(|state| (kind, state)));
        out.many(
            &table::PEERS,
            counted.map(|(kind, state)| {
                let found =
                    peers.clone().filter(|one| one.config.kind == kind && one.state == state);
                let labels =
                    vec![("kind", kind_words(kind).to_owned()), ("state", state.to_string())];
                (labels, count(found.count()))
            }),
        )?;
        let shown = self.shown();
        let sessions = || shown.iter().map(|(session, _)| session);
        let each = |of: fn(&SessionView) -> f64| sessions().map(move |one| (labels(one), of(one)));
        out.many(&table::PEER_UP, each(|one| bit(one.state == State::Established)))?;
        out.many(&table::PEER_STATE, each(|one| f64::from(state_number(one.state))))?;
        out.many(&table::PEER_ENABLED, each(|one| bit(one.config.enabled)))?;
        out.many(&table::PEER_FLAPS, each(|one| number(one.flaps)))?;
        let code = |one: &SessionView| one.last_error_code.unwrap_or_default();
        out.many(&table::PEER_ERROR, sessions().map(|one| (labels(one), code(one).0.into())))?;
        let subcodes = sessions().map(|one| (labels(one), code(one).1.into()));
        out.many(&table::PEER_ERROR_SUBCODE, subcodes)?;
        for (each, sum, of) in PREFIXES {
            out.many(each, shown.iter().flat_map(|peer| families(peer, of)))?;
            out.many(sum, self.sums(of))?;
        }
        out.many(&table::MESSAGES_RECEIVED, self.messages(|one| one.counters.received))?;
        out.many(&table::MESSAGES_SENT, self.messages(|one| one.counters.sent))
    }

    /// The peers that have series of their own.
    fn shown(&self) -> Vec<&(SessionView, PeerTableView)> {
        let is_mesh = |session: &SessionView| session.config.kind == PeerKind::Mesh;
        let mesh = self.peers.iter().filter(|(session, _)| is_mesh(session)).count();
        let shows = self.snapshot.config.metrics.mesh_peers.shows(mesh);
        self.peers.iter().filter(|(session, _)| shows || !is_mesh(session)).collect()
    }

    /// A count of all peers of a kind, by family.
    fn sums(&self, of: Count) -> impl Iterator<Item = (Labels, f64)> {
        let pairs = KINDS.into_iter().flat_map(|kind| Family::ALL.map(|family| (kind, family)));
        pairs.map(move |(kind, family)| {
            let peers = self.peers.iter().filter(|(session, _)| session.config.kind == kind);
            let sum = peers.map(|(_, table)| of(&table.families[family.index()])).sum();
            let kind = kind_words(kind).to_owned();
            (vec![("kind", kind), ("family", family.to_string())], count(sum))
        })
    }

    /// Messages, summed over the peers of a kind: a series for each peer and type would be too many.
    fn messages(&self, of: fn(&SessionView) -> [u64; 5]) -> impl Iterator<Item = (Labels, f64)> {
        KINDS.into_iter().flat_map(move |kind| {
            let mut sums = [0_u64; 5];
            for (session, _) in self.peers.iter().filter(|(one, _)| one.config.kind == kind) {
                for (sum, count) in sums.iter_mut().zip(of(session)) {
                    *sum += count;
                }
            }
            MESSAGES.into_iter().zip(sums).map(move |(name, sum)| {
                let labels = vec![("kind", kind_words(kind).to_owned()), ("type", name.to_owned())];
                (labels, number(sum))
            })
        })
    }

    fn kernel(&self, out: &mut Writer<'_>) -> fmt::Result {
        let kernel = &self.kernel;
        out.one(&table::KERNEL_ENABLED, bit(self.snapshot.config.kernel.enabled))?;
        out.one(&table::KERNEL_DESIRED, count(kernel.desired))?;
        out.one(&table::KERNEL_INSTALLED, count(kernel.installed))?;
        out.one(&table::KERNEL_FAILED, count(kernel.failed))?;
        out.one(&table::KERNEL_ADOPTED, count(kernel.adopted))?;
        out.one(&table::KERNEL_REPAIRED, number(kernel.repaired))?;
        out.one(&table::KERNEL_SYNCED, bit(kernel.synced))?;
        out.one(&table::KERNEL_PROBLEMS, count(kernel.problems.len()))?;
        out.latency(&table::KERNEL_LATENCY, &kernel.latency)?;
        let errors = &kernel.errors;
        let errors = [
            ("refused", errors.refused),
            ("lost", errors.lost),
            ("overrun", errors.overruns),
            ("dump", errors.failed_dumps),
            ("nexthop_object", errors.surrendered),
        ];
        let errors =
            errors.map(|(error, times)| (vec![("error", error.to_owned())], number(times)));
        out.many(&table::KERNEL_ERRORS, errors)?;
        out.one(&table::KERNEL_DUMPS, number(kernel.errors.dumps))?;
        out.one(&table::KERNEL_OBJECTS, count(kernel.nexthop_objects.unwrap_or_default()))?;
        out.one(&table::FIREWALL_REPAIRED, number(self.firewall.repaired))?;
        out.one(&table::FIREWALL_PROBLEMS, count(self.firewall.problems.len()))
    }

    /// Outside a cluster nothing is refused and nothing fails: the samples are there all the same, but
    /// for resources nobody watches.
    fn kubernetes(&self, out: &mut Writer<'_>) -> fmt::Result {
        let cluster = self.snapshot.cluster.clone().unwrap_or_default();
        out.one(&table::KUBE_LIVE, bit(cluster.live))?;
        out.one(&table::KUBE_REFUSED, count(cluster.refused))?;
        out.one(&table::KUBE_NODES, count(cluster.nodes))?;
        let errors = cluster.errors.into_iter();
        out.many(
            &table::KUBE_ERRORS,
            errors.map(|(resource, errors)| (vec![("resource", resource)], number(errors))),
        )
    }
}

/// Writes metrics of the table.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    /// A metric without labels.
    fn one(&mut self, metric: &Metric, value: f64) -> fmt::Result {
        sample(&mut self.start(metric)?, metric, value)
    }

    fn latency(&mut self, metric: &Metric, latency: &Latency) -> fmt::Result {
        let bounds = BOUNDS.iter().map(std::time::Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(latency.buckets).collect();
        let (sum, count) = (latency.sum.as_secs_f64(), latency.count);
        self.start(metric)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    /// A metric with a sample for each set of labels.
    fn many(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut encoder = self.start(metric)?;
        for (labels, value) in samples {
            debug_assert!(labels.iter().map(|(name, _)| name).eq(metric.labels), "{metric:?}");
            sample(&mut encoder.encode_family(&labels)?, metric, value)?;
        }
        Ok(())
    }

    fn start(&mut self, metric: &Metric) -> Result<MetricEncoder<'_>, fmt::Error> {
        self.0.encode_descriptor(metric.family(), metric.help, None, metric.type_())
    }
}

fn sample(encoder: &mut MetricEncoder<'_>, metric: &Metric, value: f64) -> fmt::Result {
    if metric.is_counter() {
        let no_exemplar = None::<&Exemplar<NoLabelSet, f64>>;
        encoder.encode_counter(&value, no_exemplar)
    } else {
        encoder.encode_gauge(&value)
    }
}

/// One of a family's counts.
type Count = fn(&FamilyCounts) -> usize;

/// The counts of prefixes: by peer, by kind, and where they stand.
const PREFIXES: [(&Metric, &Metric, Count); 3] = [
    (&table::PEER_RECEIVED, &table::RECEIVED, |counts| counts.received),
    (&table::PEER_ACCEPTED, &table::ACCEPTED, |counts| counts.accepted),
    (&table::PEER_ADVERTISED, &table::ADVERTISED, |counts| counts.advertised),
];

/// A count of the families that a peer is offered.
fn families(
    (session, table): &(SessionView, PeerTableView),
    of: Count,
) -> impl Iterator<Item = (Labels, f64)> {
    let offered = Family::ALL.into_iter().filter(|one| session.config.families.contains(*one));
    offered.map(move |family| {
        let mut labels = labels(session);
        labels.push(("family", family.to_string()));
        (labels, count(of(&table.families[family.index()])))
    })
}

/// Kinds of peer.
const KINDS: [PeerKind; 3] = [PeerKind::Mesh, PeerKind::Internal, PeerKind::External];

/// FSM states.
const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

/// Types of message, in the order of [`routelet_bgp::core::view::SessionCounters`].
const MESSAGES: [&str; 5] = ["open", "update", "notification", "keepalive", "route_refresh"];

fn kind_words(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Mesh => "mesh",
        PeerKind::Internal => "internal",
        PeerKind::External => "external",
    }
}

/// bgpPeerState of RFC 4273.
fn state_number(state: State) -> u8 {
    match state {
        State::Idle => 1,
        State::Connect => 2,
        State::Active => 3,
        State::OpenSent => 4,
        State::OpenConfirm => 5,
        State::Established => 6,
    }
}

fn labels(session: &SessionView) -> Labels {
    let kind = kind_words(session.config.kind).to_owned();
    vec![("peer", session.config.name.to_string()), ("kind", kind)]
}

fn bit(value: bool) -> f64 {
    f64::from(u8::from(value))
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}
