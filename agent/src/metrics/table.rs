//! Every metric there is: name, type, labels, meaning. docs/metrics.md, the dashboard and the alert
//! rules in deploy/ are tested against it.

use prometheus_client::metrics::MetricType;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, a counter's without `_total`.
    name: &'static str,
    kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, with its unit.
    pub help: &'static str,
}

/// Types of metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

impl Metric {
    /// The name as Prometheus stores it.
    #[must_use]
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
            Kind::Counter => format!("{}_total", self.name),
        }
    }

    /// The type in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }

    /// The name without the suffix that the format adds.
    pub(super) fn family(&self) -> &'static str {
        self.name
    }

    /// Whether it has buckets.
    #[must_use]
    pub fn is_histogram(&self) -> bool {
        self.kind == Kind::Histogram
    }

    pub(super) fn is_counter(&self) -> bool {
        self.kind == Kind::Counter
    }

    pub(super) fn type_(&self) -> MetricType {
        match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}

macro_rules! metrics {
    ($($const:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $const: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// Every one, in the order in which they are shown.
        pub const ALL: &[Metric] = &[$($const),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "routelet_build_info" ["version"] "Always 1; the label says which version runs.";
    UP_SECONDS: Gauge "routelet_uptime_seconds" [] "Seconds since the agent started.";
    READY: Gauge "routelet_ready" [] "1 if the agent is ready, as /readyz says; a peer that is down does not change it.";
    FIRST_SYNC: Gauge "routelet_first_sync_complete" [] "1 since every peer has sent End-of-RIB or its deferral has passed.";
    PROBLEMS: Gauge "routelet_problems" [] "Lines under Problems of `routelet status`.";
    CONFIG_GENERATION: Gauge "routelet_config_generation" [] "Configurations applied since the start, the first included.";
    CONFIG_OK: Gauge "routelet_config_last_reload_successful" [] "1 if what runs is what is written; 0 if a newer configuration is refused.";
    CONFIG_AGE: Gauge "routelet_config_age_seconds" [] "Seconds since the running configuration was applied.";
    CONFIG_RESTART: Gauge "routelet_config_needs_restart" [] "Changes of the configuration that wait for a restart.";
    PEERS: Gauge "routelet_peers" ["kind", "state"] "Peers by kind (mesh, internal, external) and FSM state; every combination is there, most of them 0.";
    PEER_UP: Gauge "routelet_peer_up" ["peer", "kind"] "1 if the session is Established.";
    PEER_STATE: Gauge "routelet_peer_state" ["peer", "kind"] "FSM state: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established (as in RFC 4273).";
    PEER_ENABLED: Gauge "routelet_peer_enabled" ["peer", "kind"] "0 while the peer is disabled by hand.";
    PEER_FLAPS: Counter "routelet_peer_flaps" ["peer", "kind"] "How often the session left Established.";
    PEER_ERROR: Gauge "routelet_peer_last_error_code" ["peer", "kind"] "Error code of the NOTIFICATION that ended the session or the last attempt (RFC 4271 section 4.5); 0: none was sent or received.";
    PEER_ERROR_SUBCODE: Gauge "routelet_peer_last_error_subcode" ["peer", "kind"] "Its error subcode.";
    PEER_RECEIVED: Gauge "routelet_peer_prefixes_received" ["peer", "kind", "family"] "Prefixes in Adj-RIB-In.";
    PEER_ACCEPTED: Gauge "routelet_peer_prefixes_accepted" ["peer", "kind", "family"] "Of those, passed by import policy.";
    PEER_ADVERTISED: Gauge "routelet_peer_prefixes_advertised" ["peer", "kind", "family"] "Prefixes in Adj-RIB-Out.";
    RECEIVED: Gauge "routelet_prefixes_received" ["kind", "family"] "Prefixes in Adj-RIB-In, all peers of a kind.";
    ACCEPTED: Gauge "routelet_prefixes_accepted" ["kind", "family"] "Of those, passed by import policy.";
    ADVERTISED: Gauge "routelet_prefixes_advertised" ["kind", "family"] "Prefixes in Adj-RIB-Out, all peers of a kind.";
    MESSAGES_RECEIVED: Counter "routelet_messages_received" ["kind", "type"] "BGP messages received, by kind of peer and type of message.";
    MESSAGES_SENT: Counter "routelet_messages_sent" ["kind", "type"] "BGP messages sent, by kind of peer and type of message.";
    KERNEL_ENABLED: Gauge "routelet_kernel_enabled" [] "1 if routes are programmed at all.";
    KERNEL_DESIRED: Gauge "routelet_kernel_routes_desired" [] "Routes wanted in the kernel.";
    KERNEL_INSTALLED: Gauge "routelet_kernel_routes_installed" [] "Of those, acknowledged by the kernel.";
    KERNEL_FAILED: Gauge "routelet_kernel_routes_failed" [] "Of those, refused, or somebody else's route is in their place.";
    KERNEL_ADOPTED: Gauge "routelet_kernel_routes_adopted" [] "Routes of an earlier life found at start.";
    KERNEL_REPAIRED: Counter "routelet_kernel_routes_repaired" [] "Routes put back because somebody else had removed or changed them.";
    KERNEL_SYNCED: Gauge "routelet_kernel_synced" [] "1 since the first routes are in the kernel and stale ones removed.";
    KERNEL_PROBLEMS: Gauge "routelet_kernel_problems" [] "Problems of the kernel side: forwarding off, a missing capability, a clash.";
    KERNEL_LATENCY: Histogram "routelet_update_to_kernel_seconds" [] "Times from the speaker's decision to the kernel's acknowledgement, one entry per route written or removed.";
    KERNEL_ERRORS: Counter "routelet_kernel_errors" ["error"] "What went wrong between the agent and the kernel and is tried again: refused and lost writes of routes, notification overruns, failed comparisons (dumps), next-hop objects that were given up.";
    KERNEL_DUMPS: Counter "routelet_kernel_dumps" [] "Comparisons of all routes with the kernel's that an event or an error made necessary.";
    KERNEL_OBJECTS: Gauge "routelet_kernel_nexthop_groups" [] "Groups of next hops that the kernel has as objects; 0 where it cannot or they are switched off.";
    FIREWALL_REPAIRED: Counter "routelet_firewall_repaired" [] "How often rules were put back because others had changed them.";
    FIREWALL_PROBLEMS: Gauge "routelet_firewall_problems" [] "Problems of the firewall: a chain of others that drops, a missing kernel feature.";
    KUBE_LIVE: Gauge "routelet_kubernetes_configuration_live" [] "In a cluster: 1 if the configuration is from the API server, 0 while it is the last good one from the disk.";
    KUBE_REFUSED: Gauge "routelet_kubernetes_objects_refused" [] "In a cluster: objects that are not part of the configuration as they are written.";
    KUBE_NODES: Gauge "routelet_kubernetes_nodes" [] "In a cluster: Nodes that the agent knows.";
    KUBE_ERRORS: Counter "routelet_kubernetes_watch_errors" ["resource"] "In a cluster: lists and watches that failed or broke off, by resource.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" [] "Resident memory.";
    PROCESS_CPU: Counter "process_cpu_seconds" [] "Processor time, user and system.";
    PROCESS_START: Gauge "process_start_time_seconds" [] "When the agent started, seconds since 1970.";
    PROCESS_FILES: Gauge "process_open_fds" [] "Open file descriptors.";
    PROCESS_MOST_FILES: Gauge "process_max_fds" [] "How many there may be.";
}
