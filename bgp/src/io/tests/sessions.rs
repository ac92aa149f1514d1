//! Session tasks and listeners, with the test in the speaker's place.

use bytes::{Bytes, BytesMut};
use routelet_proto::{EncodeContext, Family};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::core::config::Password;
use crate::core::session::Stop;
use crate::io::queue::HIGH_WATER;

/// Octets of messages as a peer would send them.
fn octets(messages: &[Message]) -> BytesMut {
    let context = EncodeContext {
        four_octet_as: true,
        max_len: 4096,
        add_path: FamilySet::EMPTY,
        extended_next_hop: false,
    };
    let mut octets = BytesMut::new();
    for message in messages {
        message.encode(&context, &mut octets);
    }
    octets
}

fn end_of_rib(family: Family) -> BytesMut {
    let mut octets = BytesMut::new();
    routelet_proto::update::pack_end_of_rib(family, &mut octets);
    octets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_connect_to_each_other_have_one_session() {
    let (one, two) = (address("127.10.0.1"), address("127.10.0.2"));
    let (mut node_one, mut node_two) = (Node::new(one), Node::new(two));
    let commands_one = node_one.add(peer(one, node_two.listens_on()));
    let commands_two = node_two.add(peer(two, node_one.listens_on()));
    let up = tokio::join!(node_one.event(), node_two.event());
    assert!(matches!(up.0.1, PeerEvent::Up(..)) && matches!(up.1.1, PeerEvent::Up(..)));
    let view = wait_for_state(&commands_one, State::Established).await;
    wait_for_state(&commands_two, State::Established).await;
    let (local, remote) = view.endpoints.unwrap();
    assert_eq!((local.ip(), remote.ip()), (ip(one), ip(two)));
    let PeerEvent::Up(up, _) = up.0.1 else { unreachable!() };
    assert_ne!(up.interface, 0, "both are on the loopback interface's subnet");
}

#[tokio::test]
async fn one_octet_at_a_time() {
    let remote = address("127.10.1.2");
    let mut node = Node::new(address("127.10.1.1"));
    let commands = node.add_passive(remote);
    let mut stream = node.connect_from(remote).await;
    let mut all = octets(&[Message::Open(open_of(remote)), Message::Keepalive]);
    all.extend_from_slice(&end_of_rib(Family::Ipv6Unicast));
    for octet in &all {
        stream.write_all(std::slice::from_ref(octet)).await.unwrap();
        tokio::task::yield_now().await;
    }
    node.expect_up().await;
    let (_, PeerEvent::Updates(updates)) = node.event().await else { panic!("no UPDATE") };
    assert_eq!(updates[0].end_of_rib, Some(Family::Ipv6Unicast));
    assert_eq!(view(&commands).await.counters.octets_received, all.len() as u64);
}

#[tokio::test]
async fn messages_cut_at_every_boundary() {
    let remote = address("127.10.2.2");
    let mut node = Node::new(address("127.10.2.1"));
    let commands = node.add_passive(remote);
    let mut played = Played::new(node.connect_from(remote).await);
    played.establish(open_of(remote)).await;
    node.expect_up().await;
    let mut stream = played.into_stream();
    let mut all = octets(&[Message::Keepalive]);
    all.extend_from_slice(&end_of_rib(Family::Ipv4Unicast));
    all.extend_from_slice(&end_of_rib(Family::Ipv6Unicast));
    for cut in 1..all.len() {
        let before = view(&commands).await.counters.octets_received;
        stream.write_all(&all[..cut]).await.unwrap();
        until("the first part", || async {
            let received = view(&commands).await.counters.octets_received;
            (received == before + cut as u64).then_some(())
        })
        .await;
        stream.write_all(&all[cut..]).await.unwrap();
        let mut families = Vec::new();
        while families.len() < 2 {
            let (_, PeerEvent::Updates(updates)) = node.event().await else { panic!("at {cut}") };
            families.extend(updates.into_iter().filter_map(|update| update.end_of_rib));
        }
        assert_eq!(families, Family::ALL, "cut at {cut}");
    }
}

#[tokio::test]
async fn garbage_gets_the_notification_and_the_others_are_unharmed() {
    let (good, bad) = (address("127.10.3.2"), address("127.10.3.3"));
    let mut node = Node::new(address("127.10.3.1"));
    let good_commands = node.add_passive(good);
    let bad_commands = node.add_passive(bad);
    let mut played = Played::new(node.connect_from(good).await);
    played.establish(open_of(good)).await;
    node.expect_up().await;

    for (garbage, expected, words) in [
        (
            b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".to_vec(),
            (1, 1),
            "Connection Not Synchronized",
        ),
        ([[0xff; 16].as_slice(), &[0, 18, 4]].concat(), (1, 2), "Bad Message Length"),
        ([[0xff; 16].as_slice(), &[0, 19, 77]].concat(), (1, 3), "Bad Message Type"),
        (octets(&[Message::Keepalive]).to_vec(), (5, 1), "sent a KEEPALIVE in OpenSent"),
    ] {
        let mut stream = node.connect_from(bad).await;
        stream.write_all(&garbage).await.unwrap();
        // More than we will ever read must not turn the close into a reset.
        let _ = stream.write_all(&[0; 10_000]).await;
        let mut played = Played::new(stream);
        assert_eq!(played.expect_notification().await.code.octets(), expected);
        assert_eq!(played.receive().await, None, "and then the end");
        wait_for_error(&bad_commands, words).await;
    }
    // While Established too.
    let mut played_bad = Played::new(node.connect_from(bad).await);
    played_bad.establish(open_of(bad)).await;
    node.expect_up().await;
    let mut stream = played_bad.into_stream();
    stream.write_all(&[0; 64]).await.unwrap();
    let mut played_bad = Played::new(stream);
    assert_eq!(played_bad.expect_notification().await.code.octets(), (1, 1));
    assert!(matches!(node.event().await.1, PeerEvent::Down(_)));

    assert_eq!(view(&good_commands).await.state, State::Established);
    played.send(&Message::Keepalive).await;
    assert_eq!(view(&good_commands).await.flaps, 0);
}

#[tokio::test]
async fn the_wrong_as_is_told_to_both_sides() {
    let (one, two) = (address("127.10.4.1"), address("127.10.4.2"));
    let (mut node_one, mut node_two) = (Node::new(one), Node::new(two));
    let mut wrong = peer(one, node_two.listens_on());
    wrong.remote_as = Asn(65009);
    let commands_one = node_one.add(wrong);
    let mut right = peer(two, node_one.listens_on());
    right.passive = true;
    let commands_two = node_two.add(right);
    wait_for_error(&commands_one, "peer's AS is 65001, configured asNumber is 65009").await;
    wait_for_error(&commands_two, "received OPEN Message Error/Bad Peer AS (2/2)").await;
}

#[tokio::test]
async fn nobody_listening_is_said_in_words() {
    let (one, two) = (address("127.10.5.1"), address("127.10.5.2"));
    let mut node = Node::new(one);
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind((two, 0).into()).unwrap();
    let commands = node.add(peer(one, closed.local_addr().unwrap()));
    wait_for_error(&commands, "no BGP speaker listens there, or its ACL closes it").await;
    assert_eq!(view(&commands).await.state, State::Active);

    let mut elsewhere = peer(address("192.0.2.77"), (two, 1).into());
    elsewhere.name = "elsewhere".into();
    let commands = node.add(elsewhere);
    wait_for_error(&commands, "sourceAddress 192.0.2.77 is not an address of this host").await;
}

#[tokio::test]
async fn strangers_are_shut_out_and_do_no_harm() {
    let known = address("127.10.6.2");
    let mut node = Node::new(address("127.10.6.1"));
    let commands = node.add_passive(known);
    let mut played = Played::new(node.connect_from(known).await);
    played.establish(open_of(known)).await;
    node.expect_up().await;
    for _ in 0..2000 {
        let mut stream = node.connect_from(address("127.10.6.99")).await;
        let read = in_time("the end", stream.read(&mut [0; 16])).await;
        assert!(!matches!(read, Ok(1..)), "a stranger gets nothing");
    }
    assert_eq!(node.directory.strangers(), 2000);
    let view = view(&commands).await;
    assert_eq!((view.state, view.flaps), (State::Established, 0));
}

#[tokio::test]
async fn passwords_protect_and_a_wrong_one_is_named() {
    let (one, two, three) = (address("127.10.7.1"), address("127.10.7.2"), address("127.10.7.3"));
    let (mut node_one, mut node_two, mut node_three) =
        (Node::new(one), Node::new(two), Node::new(three));
    let password = |text: &str| Some(Password(text.as_bytes().into()));
    let with = |local, remote, key: Option<Password>, passive| PeerConfig {
        password: key,
        passive,
        ..peer(local, remote)
    };
    let (at_one, at_two, at_three) =
        (node_one.listens_on(), node_two.listens_on(), node_three.listens_on());
    node_one.add(with(one, at_two, password("right"), true));
    node_two.add(with(two, at_one, password("right"), false));
    tokio::join!(node_one.expect_up(), node_two.expect_up());

    let stays_out = node_one.add(with(one, at_three, password("right"), true));
    let commands = node_three.add(with(three, at_one, password("wrong"), false));
    wait_for_error(&commands, "timed out; check reachability, and that the password is the same")
        .await;
    assert_eq!(view(&stays_out).await.state, State::Active);

    // The key on the listener follows.
    node_one.listener.set_password(ip(three), password("wrong").as_ref()).unwrap();
    let mut corrected = with(one, at_three, password("wrong"), true);
    stays_out.send(Box::new(Command::Configure(Arc::new(corrected.clone()), None))).await.unwrap();
    wait_for_state(&commands, State::Established).await;
    // And can be taken away.
    corrected.password = None;
    node_one.listener.set_password(ip(three), None).unwrap();
    node_one.listener.set_password(ip(three), None).unwrap();
}

#[tokio::test]
async fn a_minimum_ttl_lets_neighbours_in_and_nobody_else() {
    let (one, near, far) = (address("127.10.8.1"), address("127.10.8.2"), address("127.10.8.3"));
    let (mut node, mut node_near, mut node_far) = (Node::new(one), Node::new(near), Node::new(far));
    let mut last = None;
    for (remote, ttl) in [(&mut node_near, 255), (&mut node_far, 254)] {
        let secured = PeerConfig {
            passive: true,
            minimum_received_ttl: Some(255),
            ..peer(one, remote.listens_on())
        };
        last = Some(node.add(secured));
        remote.add(PeerConfig { ttl, ..peer(remote.address, node.listens_on()) });
    }
    node_near.expect_up().await;
    assert_eq!(node.expect_up().await, PeerId(0));
    // The far one's SYN is answered, since a listener cannot know whose it is, but the connection is
    // dropped by the TTL that the SYN came with.
    let far_session = last.unwrap();
    for _ in 0..200 {
        assert_ne!(view(&far_session).await.state, State::Established);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(node.events.try_recv().is_err());
}

/// For the figure that a run prints; nothing is asserted of it.
fn resident_pages() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_come_up() {
    const COUNT: u16 = 1000;
    let hub = address("127.11.0.1");
    let mut node = Node::new(hub);
    let remotes: Vec<Ipv4Addr> = (0..COUNT)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(127, 12, high, low)
        })
        .collect();
    for remote in &remotes {
        node.add_passive(*remote);
    }
    let (sender, mut events) = mpsc::channel(EVENT_QUEUE);
    let at_hub = node.listens_on();
    let mut keep = Vec::new();
    let (started, pages_before) = (tokio::time::Instant::now(), resident_pages());
    for (number, remote) in remotes.iter().enumerate() {
        let (commands, receiver) = mpsc::channel(4);
        keep.push(commands);
        let task = SessionTask::new(
            Arc::new(peer(*remote, at_hub)),
            speaker(*remote),
            number as u64,
            EventSender::new(PeerId(number as u32), sender.clone(), Weak::new()),
            receiver,
            TaskTracker::new(),
        );
        tokio::spawn(task);
    }
    let (mut here, mut there) = (0, 0);
    in_time("all sessions", async {
        while here < COUNT || there < COUNT {
            tokio::select! {
                Some((_, event)) = node.events.recv() => {
                    assert!(matches!(event, PeerEvent::Up(..)), "{event:?}");
                    here += 1;
                }
                Some((_, event)) = events.recv() => {
                    assert!(matches!(event, PeerEvent::Up(..)), "{event:?}");
                    there += 1;
                }
            }
        }
    })
    .await;
    let (took, pages) = (started.elapsed(), resident_pages() - pages_before);
    println!("{COUNT} sessions, both ends: {took:?}, {} kB resident", pages * 4);
}

#[tokio::test]
async fn a_speaker_that_does_not_keep_up_stops_the_reading_but_not_the_keepalives() {
    let remote = address("127.10.9.2");
    let mut node = Node::new(address("127.10.9.1"));
    let mut config = peer(node.address, (remote, 1).into());
    config.passive = true;
    config.hold_time = HoldTime::new(3).unwrap();
    let commands = node.add(config);
    let mut played = Played::new(node.connect_from(remote).await);
    played.establish(open_of(remote)).await;
    let stream = played.into_stream();
    let (mut reader, mut writer) = stream.into_split();

    // Nobody takes events: the queue fills, then the socket does.
    let flood = end_of_rib(Family::Ipv4Unicast).repeat(20_000);
    let mut written = 0_usize;
    in_time("the socket to fill", async {
        loop {
            let more = writer.write(&flood[written % 23..]);
            match tokio::time::timeout(Duration::from_millis(500), more).await {
                Ok(outcome) => written += outcome.unwrap(),
                Err(_) => break,
            }
        }
    })
    .await;
    // Longer than the hold time: it is we who do not read.
    let deadline = far_future().checked_sub(PATIENCE).unwrap() + Duration::from_secs(5);
    let mut keepalives = 0;
    let mut octets = [0; 19];
    while tokio::time::Instant::now().into_std() < deadline {
        in_time("a KEEPALIVE", reader.read_exact(&mut octets)).await.unwrap();
        assert_eq!(octets[18], 4);
        keepalives += 1;
    }
    assert!(keepalives >= 4, "{keepalives}");
    assert_eq!(view(&commands).await.state, State::Established);

    // The speaker wakes up, and nothing is lost.
    node.expect_up().await;
    let mut received = 0;
    while received < written / 23 {
        let (_, PeerEvent::Updates(updates)) = node.event().await else { panic!("ended") };
        received += updates.len();
    }
    assert_eq!(received, written / 23);
}

#[tokio::test]
async fn a_peer_that_reads_slowly_is_told_full_and_writable() {
    let remote = address("127.10.10.2");
    let mut node = Node::new(address("127.10.10.1"));
    let commands = node.add_passive(remote);
    let mut played = Played::new(node.connect_from(remote).await);
    played.establish(open_of(remote)).await;
    let (_, PeerEvent::Up(_, queue)) = node.event().await else { panic!("not up") };
    let message = octets(&[Message::Keepalive]).freeze();
    let chunk = Bytes::from(message.repeat(1000));
    let mut pushed = 0;
    // Until the peer's window, our socket and our queue are full.
    until("a full queue", || {
        let full = queue.push(chunk.clone(), 1000);
        pushed += chunk.len();
        async move { full.then_some(()) }
    })
    .await;
    assert!(pushed > HIGH_WATER);
    // The peer begins to read, and gets it all in order.
    let mut received = 0;
    while received < pushed / 19 {
        assert_eq!(played.receive().await, Some(Message::Keepalive));
        received += 1;
    }
    assert!(matches!(node.event().await.1, PeerEvent::Writable));
    let counters = view(&commands).await.counters;
    assert_eq!(counters.sent[1], (pushed / 19) as u64);
}

#[tokio::test]
async fn the_end_of_a_task_says_goodbye() {
    let remote = address("127.10.11.2");
    let mut node = Node::new(address("127.10.11.1"));
    let commands = node.add_passive(remote);
    let mut played = Played::new(node.connect_from(remote).await);
    played.establish(open_of(remote)).await;
    node.expect_up().await;
    commands.send(Box::new(Command::End(Stop::Deconfigured))).await.unwrap();
    assert_eq!(played.expect_notification().await.code.octets(), (6, 3));
    assert_eq!(played.receive().await, None);
    in_time("the task to end", commands.closed()).await;
}

#[tokio::test]
async fn octets_for_an_ended_session_do_not_reach_the_next() {
    let remote = address("127.10.12.2");
    let mut node = Node::new(address("127.10.12.1"));
    node.add_passive(remote);
    let mut played = Played::new(node.connect_from(remote).await);
    played.establish(open_of(remote)).await;
    let (_, PeerEvent::Up(_, old)) = node.event().await else { panic!("not up") };
    drop(played);
    assert!(matches!(node.event().await.1, PeerEvent::Down(_)));
    let mut played = Played::new(node.connect_from(remote).await);
    played.establish(open_of(remote)).await;
    let (_, PeerEvent::Up(_, new)) = node.event().await else { panic!("not up") };
    old.push(end_of_rib(Family::Ipv4Unicast).freeze(), 1);
    new.push(end_of_rib(Family::Ipv6Unicast).freeze(), 1);
    let Some(Message::Update(update)) = played.receive().await else { panic!("no UPDATE") };
    assert_eq!(update.end_of_rib, Some(Family::Ipv6Unicast));
}

#[test]
fn an_address_in_use_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let first = Listener::bind("127.10.13.1:0".parse().unwrap()).unwrap();
    let error = Listener::bind(first.address()).unwrap_err().to_string();
    assert!(error.contains(&first.address().to_string()), "{error}");
    assert!(error.contains("is another BGP daemon running?"), "{error}");
    // An address that is not here yet is no error.
    Listener::bind("192.0.2.1:0".parse().unwrap()).unwrap();
}
