use smallvec::smallvec;

use super::super::desired::SetKey;
use super::super::route::Hops;
use super::super::tunnel::{Asked, NoTarget};
use super::*;
use crate::netlink::wire::KernelError;

fn target(hops: &[(&str, u32)]) -> Arc<Target> {
    let hop = |(via, interface): &(&str, u32)| Hop {
        via: Some(via.parse().unwrap()),
        interface: *interface,
        onlink: false,
        hops: 0,
    };
    let hops = hops.iter().map(hop).collect::<Hops>();
    Arc::new(Target::Unicast { hops, source: None })
}

fn table() -> (super::super::desired::RouteTable, Vec<SetId>) {
    let mut table = super::super::desired::RouteTable::new();
    let sets = (1..4).map(|number| {
        let address = format!("192.0.2.{number}").parse().unwrap();
        let next_hop = routelet_bgp::core::forwarding::ForwardingNextHop { address, interface: 0 };
        let next_hops = [next_hop].into_iter().collect();
        table.enter_set(SetKey { next_hops, asked: Asked::Nothing }, Err(NoTarget::wait("")))
    });
    let sets = sets.collect();
    (table, sets)
}

fn objects() -> Objects {
    let mut objects = Objects::new(true, 179);
    objects.set_supported(true);
    objects
}

fn accept(objects: &mut Objects, writes: Vec<ObjectWrite>) -> News {
    objects.done(writes.into_iter().map(|write| (write, Ok(()))).collect())
}

fn refuse(objects: &mut Objects, writes: Vec<ObjectWrite>, errno: i32) -> News {
    let error = || WriteError::Refused(KernelError { errno, text: None });
    objects.done(writes.into_iter().map(|write| (write, Err(error()))).collect())
}

fn single(id: u32, via: &str) -> KernelObject {
    let gate = Gate { via: via.parse().unwrap(), interface: 2, onlink: false };
    KernelObject { id, protocol: 179, content: Content::Single(gate) }
}

fn group(id: u32, protocol: u8, members: &[u32]) -> KernelObject {
    let members = members.iter().map(|id| Member { id: *id, hops: 0 }).collect();
    KernelObject { id, protocol, content: Content::Group(members) }
}

#[test]
fn singles_before_their_group_and_shared_by_groups() {
    let (_table, sets) = table();
    let mut objects = objects();
    let both = target(&[("10.0.0.2", 2), ("10.0.1.2", 3)]);
    let first = objects.claim(sets[0], &both, |_| 0);
    assert!(!objects.usable(first, &both));
    let writes = objects.next_writes();
    let kinds: Vec<_> = writes.iter().map(|write| write.id).collect();
    assert_eq!(kinds, [FIRST_ID + 1, FIRST_ID + 2, FIRST_ID]);
    assert!(objects.usable(first, &both) && !objects.ready(first, &both));
    assert_eq!(accept(&mut objects, writes).ready, [sets[0]]);
    assert!(objects.ready(first, &both));
    let one = target(&[("10.0.0.2", 2)]);
    objects.claim(sets[1], &one, |_| 0);
    let writes = objects.next_writes();
    assert_eq!(writes.len(), 1, "the single is there: {writes:?}");
    accept(&mut objects, writes);
    // Elsewhere: a new single, then one replacement of the group.
    objects.set_want(first, Some(target(&[("10.0.0.9", 2)])));
    let writes = objects.next_writes();
    assert!(matches!(writes[1].action, ObjectAction::Group { replace: true, .. }), "{writes:?}");
    accept(&mut objects, writes);
    // Nobody uses the second gate any more; the first one is the other group's.
    let gone = objects.next_deletions(|_| 1);
    assert_eq!(gone.iter().map(|write| write.id).collect::<Vec<_>>(), [FIRST_ID + 2]);
}

#[test]
fn a_released_group_stays_while_it_is_used() {
    let (_table, sets) = table();
    let mut objects = objects();
    let one = target(&[("10.0.0.2", 2)]);
    let id = objects.claim(sets[0], &one, |_| 0);
    let writes = objects.next_writes();
    accept(&mut objects, writes);
    objects.next_deletions(|_| 1);
    objects.release(id);
    assert!(objects.next_deletions(|_| 1).is_empty());
    let writes = objects.next_deletions(|_| 0);
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert!(!objects.idle());
    accept(&mut objects, writes);
    // Then its single.
    let writes = objects.next_deletions(|_| 0);
    assert_eq!(writes.len(), 1, "{writes:?}");
    accept(&mut objects, writes);
    assert!(objects.idle() && !objects.superfluous(|_| 0));
    assert_eq!(objects.counts(), (0, 0));
}

#[test]
fn a_group_of_a_former_life_is_claimed_the_one_with_most_routes() {
    let (_table, sets) = table();
    let mut objects = objects();
    let list = vec![
        single(FIRST_ID, "10.0.0.2"),
        group(FIRST_ID + 1, 179, &[FIRST_ID]),
        group(FIRST_ID + 2, 179, &[FIRST_ID]),
        // Somebody else's, and one of ours with a member that is not.
        group(FIRST_ID + 3, 12, &[FIRST_ID]),
        group(FIRST_ID + 4, 179, &[77]),
    ];
    objects.observe(list, |protocol| protocol == 179);
    let one = target(&[("10.0.0.2", 2)]);
    let id = objects.claim(sets[0], &one, |id| id - FIRST_ID);
    assert_eq!(id, FIRST_ID + 2);
    assert!(objects.ready(id, &one) && objects.next_writes().is_empty());
    let other = objects.claim(sets[1], &target(&[("10.0.0.3", 2)]), |_| 0);
    assert_eq!(other, FIRST_ID + 5, "the foreign id is left out");
    let writes = objects.next_writes();
    assert_eq!(writes.len(), 2);
    accept(&mut objects, writes);
    let gone = objects.next_deletions(|_| 0);
    let mut gone: Vec<_> = gone.iter().map(|write| write.id).collect();
    gone.sort_unstable();
    assert_eq!(gone, [FIRST_ID + 1, FIRST_ID + 4]);
}

#[test]
fn what_the_kernel_refuses_is_tried_three_times() {
    let (_table, sets) = table();
    let mut objects = objects();
    let one = target(&[("10.0.0.2", 2)]);
    let id = objects.claim(sets[0], &one, |_| 0);
    for attempt in 1..=3 {
        let writes = objects.next_writes();
        assert_eq!(writes.len(), 2, "attempt {attempt}");
        let news = refuse(&mut objects, writes, libc::ENETDOWN);
        assert_eq!(news.surrendered.len(), usize::from(attempt == 3));
        assert!(objects.next_writes().is_empty(), "what is there is not known");
        assert!(objects.begin_recheck());
        objects.observe(Vec::new(), |_| true);
    }
    objects.release(id);
    assert!(objects.next_writes().is_empty() && objects.idle());
}

#[test]
fn a_list_shows_what_is_gone_and_who_did_it() {
    let (_table, sets) = table();
    let mut objects = objects();
    let one = target(&[("10.0.0.2", 2)]);
    let id = objects.claim(sets[0], &one, |_| 0);
    let writes = objects.next_writes();
    let ids: Vec<_> = writes.iter().map(|write| write.id).collect();
    accept(&mut objects, writes);
    let present = vec![single(ids[0], "10.0.0.2"), group(id, 179, &[ids[0]])];
    let news = objects.observe(present.clone(), |_| true);
    assert!(news.gone.is_empty() && news.changed.is_empty());
    objects.doubt(Some((id, 4711)));
    assert!(objects.begin_recheck());
    let news = objects.observe(present[..1].to_vec(), |_| true);
    assert_eq!(news.gone, [Finding { group: id, set: Some(sets[0]), port: Some(4711) }]);
    // Made anew under the same id, by the same single.
    let writes = objects.next_writes();
    assert_eq!(writes.len(), 1);
    assert!(matches!(writes[0].action, ObjectAction::Group { replace: false, .. }));
    // A list that was on its way meanwhile is not believed.
    assert!(objects.observe(Vec::new(), |_| true).gone.is_empty());
    accept(&mut objects, writes);
    assert!(objects.begin_recheck(), "but asked for again");
    objects.observe(present, |_| true);
    assert!(objects.ready(id, &one) && objects.next_writes().is_empty());
    let _: Members = smallvec![];
}
