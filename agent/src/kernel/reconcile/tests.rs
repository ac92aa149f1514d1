//! Decisions without a kernel: events, results and time as arguments.

use routelet_bgp::core::forwarding::NextHopSet;
use smallvec::smallvec;

use super::super::desired::Have;
use super::super::link::{Address, Link, LinkKind};
use super::super::monitor::Event;
use super::super::route::{Hop, KernelRoute};
use super::super::writer::{JobDone, Snapshot};
use super::*;
use crate::kernel::{RouteStatus, TunnelConfig};
use crate::netlink::WriteError;
use crate::netlink::wire::KernelError;

const ETH0: u32 = 2;
const ETH1: u32 = 3;

struct Bench {
    reconciler: Reconciler,
    now: Instant,
}

fn config() -> KernelConfig {
    KernelConfig {
        enabled: true,
        table: 254,
        protocol: 179,
        metric: 1179,
        blackhole_metric: 65000,
        blackholes: Vec::new(),
        repair: true,
        nexthop_objects: NexthopObjects::Auto,
        memory: None,
        tunnels: TunnelConfig::default(),
    }
}

fn prefix(words: &str) -> IpNet {
    words.parse().unwrap()
}

fn foreign(words: &str, via: Option<&str>, interface: u32) -> KernelRoute {
    let via = via.map(|via| via.parse().unwrap());
    KernelRoute {
        key: RouteKey { prefix: prefix(words), metric: 0, table: 254 },
        protocol: 2,
        kind: 1,
        scope: 0,
        hops: smallvec![Hop { via, interface, onlink: false, hops: 0 }],
        preferred_source: None,
        nexthop_id: 0,
    }
}

fn ours(words: &str, via: &str, interface: u32) -> KernelRoute {
    let mut route = foreign(words, Some(via), interface);
    route.key.metric = 1179;
    route.protocol = 179;
    route
}

fn plain_link() -> Link {
    Link {
        index: 0,
        name: String::new(),
        up: true,
        carrier: true,
        loopback: false,
        mtu: 1500,
        mac: None,
        kind: LinkKind::Physical,
    }
}

fn next_hops(words: &[&str]) -> NextHopSet {
    words
        .iter()
        .map(|address| ForwardingNextHop { address: address.parse().unwrap(), interface: 0 })
        .collect()
}

fn snapshot(own: &[KernelRoute]) -> Snapshot {
    let link = |index: u32| Link { index, name: format!("eth{}", index - 2), ..plain_link() };
    let mut routes = vec![foreign("10.0.0.0/24", None, ETH0), foreign("10.0.1.0/24", None, ETH1)];
    routes.extend_from_slice(own);
    let address = "10.0.0.1".parse().unwrap();
    Snapshot {
        links: vec![link(ETH0), link(ETH1)],
        addresses: vec![Address { interface: ETH0, address }],
        routes,
        objects: None,
        neighbours: Vec::new(),
    }
}

impl Bench {
    fn new(own: &[KernelRoute]) -> Self {
        Self::with(config(), own)
    }

    fn with(config: KernelConfig, own: &[KernelRoute]) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let mut reconciler = Reconciler::new(config, &[], Duration::from_millis(250), now);
        reconciler.snapshot(snapshot(own), now);
        Self { reconciler, now }
    }

    fn want(&mut self, words: &str, hops: &[&str]) {
        let change =
            RouteChange { prefix: prefix(words), next_hops: next_hops(hops), decided: self.now };
        self.reconciler.change(change, self.now);
    }

    fn writes(&mut self) -> Vec<Write> {
        self.reconciler.next_writes(1000)
    }

    /// What is to be written now, in words.
    fn said(writes: &[Write]) -> Vec<String> {
        let via = |form: &Form| match form {
            Form::Group(group) => format!("by object {group:x}"),
            Form::Plain(target) => match &**target {
                Target::Unicast { hops, .. } => hops
                    .iter()
                    .map(|hop| hop.via.unwrap().to_string())
                    .collect::<Vec<_>>()
                    .join(","),
                other => format!("{other:?}"),
            },
        };
        let words = |write: &Write| match &write.action {
            Action::Create(target) => format!("create {} {}", write.key.prefix, via(target)),
            Action::Replace(target) => format!("replace {} {}", write.key.prefix, via(target)),
            Action::Delete => format!("delete {}", write.key.prefix),
        };
        writes.iter().map(words).collect()
    }

    fn done(&mut self, writes: Vec<Write>) {
        let results = writes.into_iter().map(|write| (write, Ok(()))).collect();
        self.reconciler.done(JobDone::Written(results), self.now);
    }

    fn fail(&mut self, writes: Vec<Write>, error: WriteError) {
        let results = writes.into_iter().map(|write| (write, Err(error.clone()))).collect();
        self.reconciler.done(JobDone::Written(results), self.now);
    }

    /// Writes until nothing is left; what was written, in words.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..10 {
            self.reconciler.advance(false, self.now);
            let writes = self.writes();
            if writes.is_empty() {
                return all;
            }
            all.extend(Self::said(&writes));
            self.done(writes);
        }
        panic!("it never settles: {all:?}");
    }

    fn event(&mut self, event: Event) {
        self.reconciler.events(vec![event], self.now);
    }

    fn status(&self, words: &str) -> Option<RouteStatus> {
        self.reconciler.route_status(prefix(words))
    }

    fn sync(&mut self) -> Vec<String> {
        self.reconciler.first_sync();
        self.now += Duration::from_millis(250);
        self.settle()
    }
}

#[test]
fn the_latest_wish_is_written_and_only_one_write_is_in_flight() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.want("10.1.0.0/24", &["10.0.0.3"]);
    let first = bench.writes();
    assert_eq!(Bench::said(&first), ["create 10.1.0.0/24 10.0.0.3"]);
    bench.want("10.1.0.0/24", &["10.0.0.4"]);
    bench.want("10.1.0.0/24", &["10.0.0.5"]);
    assert!(bench.writes().is_empty());
    assert_eq!(bench.status("10.1.0.0/24"), Some(RouteStatus::Pending));
    bench.done(first);
    assert_eq!(bench.settle(), ["replace 10.1.0.0/24 10.0.0.5"]);
    assert_eq!(bench.status("10.1.0.0/24"), Some(RouteStatus::Installed));
    // A wish that comes back before it is written writes nothing.
    bench.want("10.1.0.0/24", &["10.0.0.6"]);
    bench.want("10.1.0.0/24", &["10.0.0.5"]);
    assert!(bench.settle().is_empty());
}

#[test]
fn routes_of_a_former_life_stay_until_the_first_sync() {
    let mut bench = Bench::new(&[
        ours("10.1.0.0/24", "10.0.0.2", ETH0),
        ours("10.2.0.0/24", "10.0.0.2", ETH0),
        ours("10.3.0.0/24", "10.0.0.2", ETH0),
    ]);
    assert_eq!(bench.reconciler.status().adopted, 3);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.want("10.2.0.0/24", &["10.0.1.2"]);
    // One is as it should be, one is changed in place, none removed.
    assert_eq!(bench.settle(), ["replace 10.2.0.0/24 10.0.1.2"]);
    bench.want("10.2.0.0/24", &[]);
    assert!(bench.settle().is_empty());
    let mut removed = bench.sync();
    removed.sort();
    assert_eq!(removed, ["delete 10.2.0.0/24", "delete 10.3.0.0/24"]);
    bench.settle();
    assert!(bench.reconciler.status().synced);
    bench.want("10.1.0.0/24", &[]);
    assert_eq!(bench.settle(), ["delete 10.1.0.0/24"]);
}

#[test]
fn the_sweep_ends_without_another_event() {
    let mut bench = Bench::new(&[ours("10.3.0.0/24", "10.0.0.2", ETH0)]);
    assert_eq!(bench.sync(), ["delete 10.3.0.0/24"]);
    assert!(!bench.reconciler.status().synced);
    // What the last answer has left in the queue is nothing to be written, so nobody answers.
    assert_eq!(bench.reconciler.deadline(false, bench.now), Some(bench.now));
    bench.reconciler.advance(false, bench.now);
    assert!(bench.reconciler.status().synced);
}

#[test]
fn nothing_goes_before_what_is_wanted_is_acknowledged() {
    let mut bench = Bench::new(&[ours("10.3.0.0/24", "10.0.0.2", ETH0)]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.reconciler.first_sync();
    bench.now += Duration::from_secs(1);
    let writes = bench.writes();
    bench.reconciler.advance(false, bench.now);
    assert!(bench.writes().is_empty(), "a write is still on its way");
    bench.done(writes);
    // The speaker has just been told about a next hop: what follows from that is waited for.
    let hop = next_hops(&["10.0.0.9"])[0];
    bench.reconciler.track(hop, true);
    assert_eq!(bench.reconciler.take_answers().len(), 1);
    bench.reconciler.advance(true, bench.now);
    assert!(bench.writes().is_empty());
    bench.reconciler.answered(bench.now);
    bench.reconciler.advance(false, bench.now);
    assert!(bench.writes().is_empty());
    assert_eq!(
        bench.reconciler.deadline(false, bench.now),
        Some(bench.now + Duration::from_millis(250))
    );
    bench.now += Duration::from_millis(250);
    assert_eq!(bench.settle(), ["delete 10.3.0.0/24"]);
}

#[test]
fn somebody_elses_route_is_never_replaced() {
    let mut bench = Bench::new(&[]);
    let mut theirs = ours("10.1.0.0/24", "10.0.0.9", ETH0);
    theirs.protocol = 12;
    let there = Event::Route { route: theirs.clone(), replaces: false, port: 7 };
    bench.event(there);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    assert!(bench.settle().is_empty());
    assert_eq!(
        bench.status("10.1.0.0/24"),
        Some(RouteStatus::Failed(
            "clash: proto bird via 10.0.0.9 has metric 1179; change kernel.metric".to_owned()
        ))
    );
    bench.event(Event::RouteGone { route: theirs, port: 7 });
    assert_eq!(bench.settle(), ["create 10.1.0.0/24 10.0.0.2"]);
}

#[test]
fn an_unknown_owner_is_looked_up_before_anything_is_replaced() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    let writes = bench.writes();
    let error = KernelError { errno: libc::EEXIST, text: None };
    bench.fail(writes, WriteError::Refused(error));
    assert!(bench.settle().is_empty());
    let job = bench.reconciler.next_dump(bench.now).expect("everything is listed");
    assert!(matches!(job, Job::DumpAll(_)));
    // It was one of ours, after all.
    let all = snapshot(&[ours("10.1.0.0/24", "10.0.0.7", ETH0)]);
    bench.reconciler.done(JobDone::Everything(Ok(Box::new(all))), bench.now);
    assert_eq!(bench.settle(), ["replace 10.1.0.0/24 10.0.0.2"]);
}

#[test]
fn a_deleted_route_is_put_back_at_once_then_more_slowly() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.settle();
    bench.sync();
    let gone = || Event::RouteGone { route: ours("10.1.0.0/24", "10.0.0.2", ETH0), port: 4711 };
    bench.event(gone());
    assert_eq!(bench.settle(), ["create 10.1.0.0/24 10.0.0.2"]);
    bench.event(gone());
    assert!(bench.settle().is_empty());
    assert_eq!(bench.status("10.1.0.0/24"), Some(RouteStatus::Pending));
    bench.now += Duration::from_millis(10);
    assert_eq!(bench.settle(), ["create 10.1.0.0/24 10.0.0.2"]);
    assert_eq!(bench.reconciler.status().repaired, 2);
    // A new wish does not wait for the old one's hold.
    bench.event(gone());
    bench.want("10.1.0.0/24", &["10.0.1.2"]);
    assert_eq!(bench.settle(), ["create 10.1.0.0/24 10.0.1.2"]);
}

#[test]
fn what_goes_with_its_link_is_not_repaired_but_waits_for_it() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.settle();
    bench.sync();
    let down =
        Link { index: ETH0, name: "eth0".to_owned(), up: false, carrier: false, ..plain_link() };
    let up = Link { up: true, carrier: true, ..down.clone() };
    bench.event(Event::Link(down));
    assert!(bench.settle().is_empty());
    // IPv4 says nothing: the dump that the link asked for does.
    assert!(matches!(bench.reconciler.next_dump(bench.now), Some(Job::DumpOwn(_))));
    bench.reconciler.done(JobDone::OwnRoutes(Ok(Vec::new())), bench.now);
    assert!(bench.settle().is_empty());
    let Some(RouteStatus::Failed(reason)) = bench.status("10.1.0.0/24") else {
        panic!("failed");
    };
    assert!(reason.contains("10.0.0.2 unreachable"), "{reason}");
    let connected = foreign("10.0.0.0/24", None, ETH0);
    bench.reconciler.events(
        vec![Event::Link(up), Event::Route { route: connected, replaces: false, port: 0 }],
        bench.now,
    );
    assert_eq!(bench.settle(), ["create 10.1.0.0/24 10.0.0.2"]);
    assert_eq!(bench.reconciler.status().repaired, 0);
}

#[test]
fn a_new_interface_of_a_pod_asks_for_no_dump() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.settle();
    let pod = Link { index: 77, name: "cali0".to_owned(), ..plain_link() };
    bench.event(Event::Link(pod));
    bench.event(Event::Route {
        route: foreign("10.244.1.5/32", None, 77),
        replaces: false,
        port: 9,
    });
    bench.event(Event::LinkGone(77));
    assert!(bench.reconciler.next_dump(bench.now).is_none());
    assert!(bench.settle().is_empty());
}

#[test]
fn a_lost_answer_is_settled_by_a_dump() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.want("10.2.0.0/24", &["10.0.0.2"]);
    let writes = bench.writes();
    bench.fail(writes, WriteError::Lost("overrun".to_owned()));
    assert!(bench.settle().is_empty());
    assert!(matches!(bench.reconciler.next_dump(bench.now), Some(Job::DumpOwn(_))));
    assert!(bench.reconciler.next_dump(bench.now).is_none(), "one at a time");
    // The first was done, the second not.
    let routes = vec![ours("10.1.0.0/24", "10.0.0.2", ETH0)];
    bench.reconciler.done(JobDone::OwnRoutes(Ok(routes)), bench.now);
    assert_eq!(bench.settle(), ["create 10.2.0.0/24 10.0.0.2"]);
}

#[test]
fn dumps_are_limited_to_a_tenth_of_the_time() {
    let mut bench = Bench::new(&[]);
    bench.event(Event::Overrun);
    assert!(matches!(bench.reconciler.next_dump(bench.now), Some(Job::DumpAll(_))));
    bench.event(Event::Overrun);
    bench.event(Event::Overrun);
    bench.now += Duration::from_millis(30);
    let all = Box::new(snapshot(&[]));
    bench.reconciler.done(JobDone::Everything(Ok(all)), bench.now);
    assert!(bench.reconciler.next_dump(bench.now).is_none());
    let next = bench.reconciler.deadline(false, bench.now).unwrap();
    assert_eq!(next, bench.now + Duration::from_millis(300));
    assert!(bench.reconciler.next_dump(next).is_some());
    assert!(bench.reconciler.next_dump(next + Duration::from_secs(9)).is_none());
}

#[test]
fn a_refused_route_is_tried_again_when_its_next_hop_changes_and_by_time() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    let writes = bench.writes();
    let error = KernelError { errno: libc::ENETUNREACH, text: Some("no gateway".to_owned()) };
    bench.fail(writes, WriteError::Refused(error));
    assert!(bench.settle().is_empty());
    let failed = RouteStatus::Failed("no gateway (ENETUNREACH)".to_owned());
    assert_eq!(bench.status("10.1.0.0/24"), Some(failed));
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.settle(), ["create 10.1.0.0/24 10.0.0.2"]);
    assert_eq!(bench.status("10.1.0.0/24"), Some(RouteStatus::Installed));
}

#[test]
fn a_finding_about_a_route_in_flight_is_not_believed() {
    let mut bench = Bench::new(&[]);
    bench.want("10.1.0.0/24", &["10.0.0.2"]);
    bench.settle();
    bench.sync();
    bench.reconciler.recheck_own();
    assert!(bench.reconciler.next_dump(bench.now).is_some());
    bench.want("10.1.0.0/24", &["10.0.1.2"]);
    let writes = bench.writes();
    // The dump was made before the write and shows the former way.
    let routes = vec![ours("10.1.0.0/24", "10.0.0.2", ETH0)];
    bench.reconciler.done(JobDone::OwnRoutes(Ok(routes)), bench.now);
    bench.done(writes);
    assert!(bench.settle().is_empty());
    assert_eq!(bench.status("10.1.0.0/24"), Some(RouteStatus::Installed));
}

#[test]
fn an_answer_is_given_once_and_only_when_it_says_something_new() {
    let mut bench = Bench::new(&[]);
    let hop = next_hops(&["10.0.0.9"])[0];
    bench.reconciler.track(hop, true);
    let answers = bench.reconciler.take_answers();
    assert_eq!(answers[0].state, NextHopState::Reachable { metric: 0 });
    // A covering route that is not better, and one elsewhere.
    for words in ["10.0.0.0/8", "192.0.2.0/24"] {
        let route = foreign(words, Some("10.0.1.9"), ETH1);
        bench.event(Event::Route { route, replaces: false, port: 1 });
    }
    assert!(bench.reconciler.take_answers().is_empty());
    let route = foreign("10.0.0.0/24", None, ETH0);
    bench.event(Event::RouteGone { route, port: 0 });
    let answers = bench.reconciler.take_answers();
    assert_eq!(answers[0].state, NextHopState::Reachable { metric: 1 });
    bench.reconciler.track(hop, false);
    let route = foreign("10.0.0.0/8", Some("10.0.1.9"), ETH1);
    bench.event(Event::RouteGone { route, port: 1 });
    assert!(bench.reconciler.take_answers().is_empty());
}

#[test]
fn a_thousand_routes_of_a_node_move_with_its_next_hop() {
    let mut bench = Bench::new(&[]);
    let gateway = foreign("192.0.2.0/24", Some("10.0.0.9"), ETH0);
    bench.event(Event::Route { route: gateway, replaces: false, port: 1 });
    for number in 0..250 {
        bench.want(&format!("10.1.{number}.0/24"), &["192.0.2.7"]);
    }
    assert_eq!(bench.settle().len(), 250);
    let gateway = foreign("192.0.2.0/24", Some("10.0.1.9"), ETH1);
    bench.event(Event::Route { route: gateway, replaces: true, port: 1 });
    let moved = bench.settle();
    assert_eq!(moved.len(), 250);
    assert!(moved.iter().all(|line| line.ends_with("10.0.1.9")), "{moved:?}");
    let have = bench.reconciler.table.iter().map(|(_, route)| route.have());
    assert!(have.into_iter().all(|have| matches!(have, Have::Present { .. })));
}
