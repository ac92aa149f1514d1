//! Our table as data, and the batch that puts it in place of whatever was there.
//!
//! In flow: a [`Table`], built by [`super::ruleset`]. Out flow: the messages of one transaction. The
//! table is replaced whole: connections live in the kernel's connection tracking, not in the table, so
//! they neither notice nor change their addresses; counters begin anew.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::{Expression, Version, address_octets};
use super::wire::{self, NFPROTO_INET};
use crate::netlink::wire::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

/// Name of our table; family inet.
pub const TABLE: &str = "routelet";

/// Elements per message: an attribute holds 64 kB.
const ELEMENTS: usize = 500;

/// A table of family inet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Table {
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

/// A named set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Set {
    pub name: String,
    pub version: Version,
    pub elements: Elements,
}

/// What a set holds, all of the set's family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Elements {
    Addresses(BTreeSet<IpAddr>),
    /// Without overlaps.
    Prefixes(Vec<IpNet>),
    /// Address, protocol, destination port.
    Ports(BTreeSet<(IpAddr, u8, u16)>),
}

/// A base chain; its policy is accept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Chain {
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
    pub rules: Vec<Rule>,
}

/// A rule with the words that `nft list` shows behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub expressions: Vec<Expression>,
    pub comment: String,
}

pub(super) const HOOK_INPUT: u32 = 1;
pub(super) const HOOK_FORWARD: u32 = 2;
pub(super) const HOOK_POSTROUTING: u32 = 4;

const SET_INTERVAL: u32 = 4;
const INTERVAL_END: u32 = 1;

/// A message of a batch, given its sequence number and further flags.
pub(super) type Message<'a> = Box<dyn Fn(&mut Vec<u8>, u32, u16) + 'a>;

/// The transaction that puts `table` in the place of ours, or removes ours.
pub(super) fn replace(table: Option<&Table>) -> Vec<Message<'_>> {
    // Making it first: what is not there cannot be deleted.
    let mut batch = vec![new_table(), delete_table()];
    let Some(table) = table else { return batch };
    batch.push(new_table());
    for (id, set) in (1_u32..).zip(&table.sets) {
        batch.push(Box::new(move |out, sequence, flags| new_set(out, sequence, flags, id, set)));
        let octets = set.octets();
        for chunk in octets.chunks(ELEMENTS) {
            let chunk = chunk.to_vec();
            batch.push(Box::new(move |out, sequence, flags| {
                new_elements(out, sequence, flags, &set.name, &chunk);
            }));
        }
    }
    for chain in &table.chains {
        batch.push(Box::new(move |out, sequence, flags| new_chain(out, sequence, flags, chain)));
        for rule in &chain.rules {
            batch.push(Box::new(move |out, sequence, flags| {
                let place = Place { family: NFPROTO_INET, table: TABLE, chain: chain.name };
                rule.write(out, sequence, flags | NLM_F_APPEND, place, None);
            }));
        }
    }
    batch
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub family: u8,
    pub table: &'a str,
    pub chain: &'a str,
}

impl Rule {
    /// Appends the message that adds it: before the rule with the handle `before`, or last with
    /// NLM_F_APPEND among the flags.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        flags: u16,
        place: Place<'_>,
        before: Option<u64>,
    ) {
        let flags = flags | NLM_F_REQUEST | NLM_F_CREATE;
        let kind = wire::kind(wire::NFT_MSG_NEWRULE);
        wire::message(out, (kind, flags, sequence), place.family, |out| {
            wire::text(out, wire::NFTA_TABLE, place.table);
            wire::text(out, wire::NFTA_RULE_CHAIN, place.chain);
            out.nested(wire::NFTA_RULE_EXPRESSIONS, |out| {
                self.expressions.iter().for_each(|expression| expression.write(out));
            });
            if let Some(before) = before {
                out.attribute(wire::NFTA_RULE_POSITION, &before.to_be_bytes());
            }
            out.attribute(wire::NFTA_RULE_USERDATA, &comment(&self.comment));
        });
    }
}

/// A comment as `nft` keeps it: type 0, length, text with its end.
fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(120)];
    let length = u8::try_from(text.len() + 1).expect("invariant: cut above");
    [&[0, length], text, &[0]].concat()
}

/// The comment in the user data of a rule.
pub(super) fn read_comment(mut userdata: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(wire::read_text(value));
        }
        userdata = &rest[value.len()..];
    }
    None
}

impl Set {
    /// Each element as key and flags, in the order the kernel wants.
    fn octets(&self) -> Vec<(Vec<u8>, u32)> {
        match &self.elements {
            Elements::Addresses(addresses) => {
                addresses.iter().map(|address| (address_octets(*address), 0)).collect()
            }
            Elements::Prefixes(prefixes) => prefixes
                .iter()
                .flat_map(|prefix| {
                    let end = after(prefix.broadcast()).map(|end| (end, INTERVAL_END));
                    [Some((address_octets(prefix.network()), 0)), end]
                })
                .flatten()
                .collect(),
            Elements::Ports(ports) => ports
                .iter()
                .map(|(address, protocol, port)| {
                    let mut key = address_octets(*address);
                    // Each part fills whole words of four octets.
                    key.extend_from_slice(&[*protocol, 0, 0, 0]);
                    key.extend_from_slice(&port.to_be_bytes());
                    key.extend_from_slice(&[0, 0]);
                    (key, 0)
                })
                .collect(),
        }
    }

    /// Type of the key, for those who list it, and its octets.
    fn key(&self) -> (u32, u32) {
        const PROTOCOL_AND_PORT: u32 = 12 << 6 | 13;
        let address = match self.version {
            Version::V4 => 7,
            Version::V6 => 8,
        };
        match self.elements {
            Elements::Ports(_) => (address << 12 | PROTOCOL_AND_PORT, self.version.length() + 8),
            _ => (address, self.version.length()),
        }
    }
}

/// The address after that one, if there is any.
fn after(address: IpAddr) -> Option<Vec<u8>> {
    Some(match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1)?.to_be_bytes().to_vec(),
        IpAddr::V6(address) => u128::from(address).checked_add(1)?.to_be_bytes().to_vec(),
    })
}

fn new_table() -> Message<'static> {
    Box::new(|out, sequence, flags| {
        let flags = flags | NLM_F_REQUEST | NLM_F_CREATE;
        wire::message(
            out,
            (wire::kind(wire::NFT_MSG_NEWTABLE), flags, sequence),
            NFPROTO_INET,
            |out| wire::text(out, wire::NFTA_TABLE, TABLE),
        );
    })
}

fn delete_table() -> Message<'static> {
    Box::new(|out, sequence, flags| {
        let kind = wire::kind(wire::NFT_MSG_DELTABLE);
        wire::message(out, (kind, flags | NLM_F_REQUEST, sequence), NFPROTO_INET, |out| {
            wire::text(out, wire::NFTA_TABLE, TABLE);
        });
    })
}

fn new_set(out: &mut Vec<u8>, sequence: u32, flags: u16, id: u32, set: &Set) {
    let flags = flags | NLM_F_REQUEST | NLM_F_CREATE;
    let kind = wire::kind(wire::NFT_MSG_NEWSET);
    let (key_type, key_length) = set.key();
    wire::message(out, (kind, flags, sequence), NFPROTO_INET, |out| {
        wire::text(out, wire::NFTA_TABLE, TABLE);
        wire::text(out, wire::NFTA_SET_NAME, &set.name);
        if matches!(set.elements, Elements::Prefixes(_)) {
            wire::number(out, wire::NFTA_SET_FLAGS, SET_INTERVAL);
        }
        wire::number(out, wire::NFTA_SET_KEY_TYPE, key_type);
        wire::number(out, wire::NFTA_SET_KEY_LEN, key_length);
        wire::number(out, wire::NFTA_SET_ID, id);
    });
}

fn new_elements(
    out: &mut Vec<u8>,
    sequence: u32,
    flags: u16,
    set: &str,
    elements: &[(Vec<u8>, u32)],
) {
    let flags = flags | NLM_F_REQUEST | NLM_F_CREATE;
    let kind = wire::kind(wire::NFT_MSG_NEWSETELEM);
    wire::message(out, (kind, flags, sequence), NFPROTO_INET, |out| {
        wire::text(out, wire::NFTA_TABLE, TABLE);
        wire::text(out, wire::NFTA_SET_NAME, set);
        out.nested(wire::NFTA_SET_ELEM_LIST_ELEMENTS, |out| {
            for (key, flags) in elements {
                out.nested(wire::NFTA_LIST_ELEM, |out| {
                    if *flags != 0 {
                        wire::number(out, wire::NFTA_SET_ELEM_FLAGS, *flags);
                    }
                    out.nested(wire::NFTA_SET_ELEM_KEY, |out| {
                        out.attribute(wire::NFTA_DATA_VALUE, key);
                    });
                });
            }
        });
    });
}

fn new_chain(out: &mut Vec<u8>, sequence: u32, flags: u16, chain: &Chain) {
    let flags = flags | NLM_F_REQUEST | NLM_F_CREATE;
    let kind = wire::kind(wire::NFT_MSG_NEWCHAIN);
    wire::message(out, (kind, flags, sequence), NFPROTO_INET, |out| {
        wire::text(out, wire::NFTA_TABLE, TABLE);
        wire::text(out, wire::NFTA_CHAIN_NAME, chain.name);
        out.nested(wire::NFTA_CHAIN_HOOK, |out| {
            wire::number(out, wire::NFTA_HOOK_HOOKNUM, chain.hook);
            wire::number(out, wire::NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
        });
        wire::number(out, wire::NFTA_CHAIN_POLICY, 1);
        wire::text(out, wire::NFTA_CHAIN_TYPE, chain.kind);
    });
}

impl fmt::Display for Table {
    /// Near to `nft list table`, for tests and for people who read them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for set in &self.sets {
            let elements: Vec<String> = match &set.elements {
                Elements::Addresses(addresses) => {
                    addresses.iter().map(ToString::to_string).collect()
                }
                Elements::Prefixes(prefixes) => prefixes.iter().map(ToString::to_string).collect(),
                Elements::Ports(ports) => ports
                    .iter()
                    .map(|(address, protocol, port)| format!("{address} . {protocol} . {port}"))
                    .collect(),
            };
            writeln!(f, "set {} {{ {} }}", set.name, elements.join(", "))?;
        }
        for chain in &self.chains {
            let Chain { name, kind, hook, priority, .. } = chain;
            writeln!(f, "chain {name} type {kind} hook {hook} priority {priority}")?;
            for rule in &chain.rules {
                let words: Vec<String> = rule.expressions.iter().map(ToString::to_string).collect();
                writeln!(f, "  {}", words.join(" "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_reads_back() {
        assert_eq!(read_comment(&comment("routelet: pods")), Some("routelet: pods"));
        assert_eq!(read_comment(&[9, 1, 5, 0, 2, b'a', 0]), Some("a"));
        assert_eq!(read_comment(&[0, 200, b'a']), None);
        assert_eq!(read_comment(&comment(&"x".repeat(500))).map(str::len), Some(120));
    }

    #[test]
    fn a_prefix_is_its_first_address_and_the_one_behind() {
        let prefixes = ["10.0.0.0/8", "255.0.0.0/8"].map(|prefix| prefix.parse().unwrap());
        let set = Set {
            name: "s".to_owned(),
            version: Version::V4,
            elements: Elements::Prefixes(prefixes.to_vec()),
        };
        // Nothing stands behind the last address there is.
        let octets = [(vec![10, 0, 0, 0], 0), (vec![11, 0, 0, 0], 1), (vec![255, 0, 0, 0], 0)];
        assert_eq!(set.octets(), octets);
    }
}
