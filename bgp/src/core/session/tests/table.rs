//! The complete state-by-event table of RFC 4271 §8.2.2.
//!
//! A row per event, a cell per state: the state that follows, then the outputs in order. `N/M` is a
//! NOTIFICATION sent, `timer` a timer restarted and nothing else, `-` nothing at all: the event
//! cannot concern that state (a timer that never runs there, a message before there is a
//! connection), and one that comes late is ignored. Idle is the stopped one here; Idle while
//! IdleHold runs is in `lifetimes`.

use routelet_proto::{
    CeaseSubcode, ErrorCode, Family, HeaderSubcode, Message, MessageError, Notification,
    OpenSubcode, RefreshSubcode, RefreshSubtype, RouteRefresh, UpdateSubcode,
};

use super::*;
use crate::core::session::Stop;

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

/// The event's name, and what follows in each of [`STATES`].
type Row = (&'static str, [&'static str; 6]);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("ManualStart", ["Connect connect", "-", "-", "-", "-", "-"]),
    ("ManualStop", ["-", "Idle close", "Idle", "Idle 6/2 close failed", "Idle 6/2 close failed", "Idle 6/2 close down"]),
    ("AutomaticStart", ["Connect connect", "-", "-", "-", "-", "-"]),
    ("AutomaticStop", ["-", "Idle close", "Idle", "Idle 6/4 close failed", "Idle 6/4 close failed", "Idle 6/4 close down"]),
    ("ConnectRetryTimerExpires", ["-", "Connect close failed connect", "Connect connect", "-", "-", "-"]),
    ("HoldTimerExpires", ["-", "-", "-", "Idle 4/0 close failed", "Idle 4/0 close failed", "Idle 4/0 close down"]),
    ("KeepaliveTimerExpires", ["-", "-", "-", "-", "OpenConfirm KEEPALIVE", "Established KEEPALIVE"]),
    ("IdleHoldTimerExpires", ["-", "-", "-", "-", "-", "-"]),
    ("SendHoldTimerExpires", ["-", "-", "-", "Idle 8/0 close failed", "Idle 8/0 close failed", "Idle 8/0 close down"]),
    ("TcpCRAcked", ["-", "OpenSent OPEN", "-", "-", "-", "-"]),
    ("TcpConnectionConfirmed", ["Idle 6/5 close", "OpenSent OPEN", "OpenSent OPEN", "OpenSent OPEN", "OpenConfirm OPEN", "Established OPEN"]),
    ("TcpConnectionFails", ["-", "Active close failed", "-", "Active close failed", "Idle close failed", "Idle close down"]),
    ("BgpOpen", ["-", "-", "-", "OpenConfirm KEEPALIVE", "Idle 5/2 close failed", "Idle 5/3 close down"]),
    ("BgpHeaderErr", ["-", "-", "-", "Idle 1/1 close failed", "Idle 1/1 close failed", "Idle 1/1 close down"]),
    ("BgpOpenMsgErr", ["-", "-", "-", "Idle 2/6 close failed", "Idle 2/6 close failed", "Idle 5/3 close down"]),
    ("OpenCollisionDump", ["-", "-", "-", "Idle 6/7 close failed", "Idle 6/7 close failed", "Idle 6/7 close down"]),
    ("NotifMsgVerErr", ["-", "-", "-", "Idle close failed", "Idle close failed", "Idle close down"]),
    ("NotifMsg", ["-", "-", "-", "Idle close failed", "Idle close failed", "Idle close down"]),
    ("KeepAliveMsg", ["-", "-", "-", "Idle 5/1 close failed", "Established up", "timer"]),
    ("UpdateMsg", ["-", "-", "-", "Idle 5/1 close failed", "Idle 5/2 close failed", "Established updates:1"]),
    ("UpdateMsgErr", ["-", "-", "-", "Idle 5/1 close failed", "Idle 5/2 close failed", "Idle 3/1 close down"]),
    ("RouteRefreshMsg", ["-", "-", "-", "Idle 5/1 close failed", "Idle 5/2 close failed", "Established refresh"]),
    ("RouteRefreshMsgErr", ["-", "-", "-", "Idle 5/1 close failed", "Idle 5/2 close failed", "Idle 7/1 close down"]),
];

#[test]
fn every_event_in_every_state() {
    let mut failures = Vec::new();
    let events = events();
    let mut rows = TABLE.iter();
    for event in &events {
        let name = name(event);
        let seen: Vec<_> = STATES.into_iter().map(|state| outcome(state, event.clone())).collect();
        let expected = rows.next();
        if expected.is_none_or(|(row, cells)| *row != name || cells[..] != seen[..]) {
            failures.push(format!("    ({name:?}, {seen:?}),"));
        }
    }
    assert!(failures.is_empty(), "seen otherwise:\n{}", failures.join("\n"));
    assert_eq!(TABLE.len(), events.len(), "a row for every event");
}

fn outcome(state: State, event: Event) -> String {
    let (mut bench, id) = in_state(state);
    let before = bench.session.view().timers;
    process(&mut bench.session, bench.now, id, event);
    let outputs = brief(&bench.outputs());
    let after = bench.session.state();
    if after == state && outputs.is_empty() {
        // Nothing visible; a restarted timer is visible.
        let moved = bench.session.view().timers != before;
        return if moved { "timer".to_owned() } else { "-".to_owned() };
    }
    [after.to_string(), outputs].join(" ").trim_end().to_owned()
}

/// A fresh session in `state`, a second after it got there, and its connection.
fn in_state(state: State) -> (Bench, Option<ConnectionId>) {
    let mut bench = Bench::new(peer(LOCAL_AS, REMOTE_AS));
    if state == State::Idle {
        return (bench, None);
    }
    let id = bench.connect();
    match state {
        State::Idle | State::Connect => {}
        State::Active => {
            bench.session.handle_closed(bench.now, id, "connection refused".to_owned());
        }
        State::OpenSent | State::OpenConfirm | State::Established => {
            bench.session.handle_connected(bench.now, id, endpoints());
            if state != State::OpenSent {
                bench.open(id);
            }
            if state == State::Established {
                bench.message(id, Message::Keepalive);
            }
        }
    }
    bench.outputs();
    assert_eq!(bench.session.state(), state);
    bench.now += Duration::from_millis(200);
    (bench, (state != State::Active).then_some(id))
}

fn events() -> Vec<Event> {
    let session = Bench::new(peer(LOCAL_AS, REMOTE_AS)).session;
    let error = |code| MessageError {
        notification: Notification::new(code),
        offset: 18,
        detail: "made up".to_owned(),
    };
    let reset = ErrorCode::Cease(CeaseSubcode::AdministrativeReset);
    vec![
        Event::ManualStart,
        Event::ManualStop(Stop::Shutdown(String::new())),
        Event::AutomaticStart,
        Event::AutomaticStop(Notification::new(reset), "reset".to_owned()),
        Event::ConnectRetryTimerExpires,
        Event::HoldTimerExpires,
        Event::KeepaliveTimerExpires,
        Event::IdleHoldTimerExpires,
        Event::SendHoldTimerExpires,
        Event::TcpCRAcked(endpoints()),
        Event::TcpConnectionConfirmed(endpoints()),
        Event::TcpConnectionFails("reset".to_owned()),
        Event::BgpOpen(Box::new(open_from(&session, [10, 0, 0, 2]))),
        Event::BgpHeaderErr(error(ErrorCode::Header(HeaderSubcode::ConnectionNotSynchronized))),
        Event::BgpOpenMsgErr(error(ErrorCode::Open(OpenSubcode::UnacceptableHoldTime))),
        Event::OpenCollisionDump,
        Event::NotifMsgVerErr(Notification::new(ErrorCode::Open(
            OpenSubcode::UnsupportedVersionNumber,
        ))),
        Event::NotifMsg(Notification::new(reset)),
        Event::KeepAliveMsg,
        Event::UpdateMsg(Box::default()),
        Event::UpdateMsgErr(error(ErrorCode::Update(UpdateSubcode::MalformedAttributeList))),
        Event::RouteRefreshMsg(RouteRefresh {
            family: Family::Ipv4Unicast.afi_safi(),
            subtype: RefreshSubtype::Request,
        }),
        Event::RouteRefreshMsgErr(error(ErrorCode::RouteRefresh(
            RefreshSubcode::InvalidMessageLength,
        ))),
    ]
}

/// Names every event; a new one does not compile without a name, nor pass without a row.
fn name(event: &Event) -> &'static str {
    match event {
        Event::ManualStart => "ManualStart",
        Event::ManualStop(_) => "ManualStop",
        Event::AutomaticStart => "AutomaticStart",
        Event::AutomaticStop(..) => "AutomaticStop",
        Event::ConnectRetryTimerExpires => "ConnectRetryTimerExpires",
        Event::HoldTimerExpires => "HoldTimerExpires",
        Event::KeepaliveTimerExpires => "KeepaliveTimerExpires",
        Event::IdleHoldTimerExpires => "IdleHoldTimerExpires",
        Event::SendHoldTimerExpires => "SendHoldTimerExpires",
        Event::TcpCRAcked(_) => "TcpCRAcked",
        Event::TcpConnectionConfirmed(_) => "TcpConnectionConfirmed",
        Event::TcpConnectionFails(_) => "TcpConnectionFails",
        Event::BgpOpen(_) => "BgpOpen",
        Event::BgpHeaderErr(_) => "BgpHeaderErr",
        Event::BgpOpenMsgErr(_) => "BgpOpenMsgErr",
        Event::OpenCollisionDump => "OpenCollisionDump",
        Event::NotifMsgVerErr(_) => "NotifMsgVerErr",
        Event::NotifMsg(_) => "NotifMsg",
        Event::KeepAliveMsg => "KeepAliveMsg",
        Event::UpdateMsg(_) => "UpdateMsg",
        Event::UpdateMsgErr(_) => "UpdateMsgErr",
        Event::RouteRefreshMsg(_) => "RouteRefreshMsg",
        Event::RouteRefreshMsgErr(_) => "RouteRefreshMsgErr",
    }
}
