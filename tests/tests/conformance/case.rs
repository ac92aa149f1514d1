//! A case: what is sent, and what must come of it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::daemon::{Daemon, PeerKind};
use crate::wire::{self, Attribute};

/// One case.
pub struct Case {
    pub name: String,
    pub kind: PeerKind,
    pub script: Script,
    pub expect: Expect,
}

/// Makes the octets that a case sends.
type Octets = Box<dyn Fn(&Context) -> Vec<u8> + Send>;
/// A case that does everything by itself.
type Play = Box<dyn Fn(&Daemon, &Context) -> anyhow::Result<()> + Send>;
/// What must be true of a route as `routelet routes -o json` shows it.
type Check = Box<dyn Fn(&Value) -> anyhow::Result<()> + Send>;

/// What the case's peer does.
pub enum Script {
    /// Sends these octets instead of its OPEN.
    InsteadOfOpen(Octets),
    /// Sends its OPEN, then these octets instead of its KEEPALIVE.
    InsteadOfKeepalive(Octets),
    /// Comes up, announces [`Context::prefix`] with clean attributes, then sends these octets.
    Established(Octets),
    /// Does it all by itself.
    Free(Play),
}

/// What must come of it.
pub enum Expect {
    /// This NOTIFICATION, with this data if it is given, then the end of the connection.
    Notification(u8, u8, Option<Vec<u8>>),
    /// The end of the connection without a NOTIFICATION (a fault in a NOTIFICATION, RFC 4271 §6.4).
    Closed,
    /// A NOTIFICATION with this code, whatever the subcode, then the end of the connection.
    Reset(u8),
    /// The end of the connection, with or without a NOTIFICATION.
    Ended,
    /// The session stays up and [`Context::prefix`] is gone (RFC 7606 treat-as-withdraw).
    TreatAsWithdraw,
    /// The session stays up and the route of [`Context::prefix`] passes this.
    Route(Check),
    /// The session comes up or stays up; nothing else is asked.
    Up,
    /// The script has checked everything.
    Checked,
}

/// What is a case's own.
pub struct Context {
    pub kind: PeerKind,
    pub number: usize,
    pub address: Ipv4Addr,
    pub asn: u16,
    pub prefix: Ipv4Addr,
    pub sentinel: Ipv4Addr,
}

pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl Context {
    fn new(kind: PeerKind, number: usize) -> Self {
        let [high, low] = u16::try_from(number).expect("fewer than 65536 cases").to_be_bytes();
        Self {
            kind,
            number,
            address: kind.address(number),
            asn: kind.asn(),
            prefix: Ipv4Addr::new(20, high, low, 0),
            sentinel: Ipv4Addr::new(21, high, low, 0),
        }
    }

    /// Mandatory attributes as a right neighbour sends them.
    pub fn clean(&self) -> Vec<Attribute> {
        let path = match self.kind {
            PeerKind::External => wire::as_path(&[u32::from(self.asn), 65200]),
            PeerKind::Internal => wire::as_path(&[65200]),
        };
        let mut attributes = vec![
            wire::attribute(wire::WELL_KNOWN, 1, &[0]),
            path,
            wire::attribute(wire::WELL_KNOWN, 3, &NEXT_HOP.octets()),
        ];
        if self.kind == PeerKind::Internal {
            attributes.push(wire::attribute(wire::WELL_KNOWN, 5, &100u32.to_be_bytes()));
        }
        attributes
    }

    /// An announcement of the case's prefix with these attributes.
    pub fn announce(&self, attributes: &[Attribute]) -> Vec<u8> {
        wire::update(&[], &wire::encode_all(attributes), &wire::nlri(self.prefix))
    }

    /// An announcement with one clean attribute replaced (same code) or one more added.
    pub fn announce_with(&self, attribute: Attribute) -> Vec<u8> {
        let mut attributes = self.clean();
        match attributes.iter_mut().find(|clean| clean.code == attribute.code) {
            Some(clean) => *clean = attribute,
            None => attributes.push(attribute),
        }
        self.announce(&attributes)
    }

    /// An announcement with a clean attribute left out.
    pub fn announce_without(&self, code: u8) -> Vec<u8> {
        let attributes: Vec<_> =
            self.clean().into_iter().filter(|clean| clean.code != code).collect();
        self.announce(&attributes)
    }

    pub fn usual_open(&self) -> wire::OpenFields {
        wire::OpenFields::usual(self.asn, self.address)
    }
}

impl Case {
    pub fn run(&self, daemon: &Daemon, number: usize) -> anyhow::Result<()> {
        let context = Context::new(self.kind, number);
        let mut peer = match &self.script {
            Script::Free(script) => return script(daemon, &context),
            Script::InsteadOfOpen(octets) => {
                let mut peer = daemon.connect(&context)?;
                peer.send(&octets(&context))?;
                peer
            }
            Script::InsteadOfKeepalive(octets) => {
                let mut peer = daemon.connect(&context)?;
                peer.send(&context.usual_open().encode())?;
                peer.expect_message(wire::OPEN)?;
                peer.expect_message(wire::KEEPALIVE)?;
                peer.send(&octets(&context))?;
                peer
            }
            Script::Established(octets) => {
                let mut peer = daemon.establish(&context)?;
                peer.send(&context.announce(&context.clean()))?;
                daemon
                    .wait_for_route(&context, context.prefix)
                    .context("the clean announcement that comes first")?;
                peer.send(&octets(&context))?;
                peer
            }
        };
        match &self.expect {
            Expect::Notification(code, subcode, data) => {
                peer.expect_notification(*code, *subcode, data.as_deref())
            }
            Expect::Reset(code) => peer.expect_notification_code(*code),
            Expect::Closed => peer.expect_closed(),
            Expect::Ended => peer.expect_ended(),
            Expect::Up => {
                if !matches!(self.script, Script::Established(_)) {
                    peer.finish_open()?;
                }
                peer.send_sentinel(&context)?;
                daemon.wait_for_route(&context, context.sentinel).map(drop)
            }
            Expect::TreatAsWithdraw => {
                peer.send_sentinel(&context)?;
                daemon.wait_for_route(&context, context.sentinel)?;
                let routes = daemon.routes(&context, context.prefix)?;
                ensure!(routes.is_empty(), "the route is still there: {routes:?}");
                Ok(())
            }
            Expect::Route(check) => {
                peer.send_sentinel(&context)?;
                daemon.wait_for_route(&context, context.sentinel)?;
                let routes = daemon.routes(&context, context.prefix)?;
                match routes.as_slice() {
                    [route] => check(route).with_context(|| format!("the route is {route}")),
                    other => bail!("expected one route for {}, got {other:?}", context.prefix),
                }
            }
            Expect::Checked => Ok(()),
        }
    }
}

/// A case on an Established session.
pub fn established(
    name: &str,
    kind: PeerKind,
    expect: Expect,
    octets: impl Fn(&Context) -> Vec<u8> + Send + 'static,
) -> Case {
    Case { name: name.to_owned(), kind, script: Script::Established(Box::new(octets)), expect }
}

/// A case that spoils the OPEN.
pub fn instead_of_open(
    name: &str,
    kind: PeerKind,
    expect: Expect,
    octets: impl Fn(&Context) -> Vec<u8> + Send + 'static,
) -> Case {
    Case { name: name.to_owned(), kind, script: Script::InsteadOfOpen(Box::new(octets)), expect }
}

/// A case that spoils what comes after the OPEN.
pub fn instead_of_keepalive(
    name: &str,
    kind: PeerKind,
    expect: Expect,
    octets: impl Fn(&Context) -> Vec<u8> + Send + 'static,
) -> Case {
    Case {
        name: name.to_owned(),
        kind,
        script: Script::InsteadOfKeepalive(Box::new(octets)),
        expect,
    }
}

/// A case that does it all by itself.
pub fn free(
    name: &str,
    kind: PeerKind,
    script: impl Fn(&Daemon, &Context) -> anyhow::Result<()> + Send + 'static,
) -> Case {
    Case {
        name: name.to_owned(),
        kind,
        script: Script::Free(Box::new(script)),
        expect: Expect::Checked,
    }
}

/// The route stands, whatever its attributes.
pub fn accepted() -> Expect {
    Expect::Route(Box::new(|_| Ok(())))
}

pub fn notification(code: u8, subcode: u8) -> Expect {
    Expect::Notification(code, subcode, None)
}
