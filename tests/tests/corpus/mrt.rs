//! MRT files (RFC 6396 §4.4, RFC 8050): the BGP messages in them, read by us, give the lines of
//! `bgpdump -m`.

use std::collections::BTreeMap;

use bytes::Bytes;
use routelet_proto::{DecodeContext, FamilySet, Message, SessionKind};

use crate::files::Corpus;
use crate::{Check, Differences, Findings, lines};

/// By file, with the numbers of lines that only we and only bgpdump have.
const MRT: Differences = &[(
    "test_data-updates.20070211.0141.gz +0 -15",
    "AFI 1 SAFI 2: RFC 4760 §6, multicast routes are not negotiated and ignored",
)];

pub fn as_bgpdump(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(MRT);
    let mut messages = 0;
    for (name, octets, expected) in corpus.mrt() {
        let old = expected.iter().any(|line| line.starts_with("BGP|"));
        let form = |line: String| if old { lines::in_old_form(&line) } else { line };
        let theirs = count(expected.iter().filter_map(|line| route_of(line)).map(form));
        let mut read = Vec::new();
        for (octets, context) in records(&octets) {
            messages += 1;
            if let Ok(Message::Update(update)) = Message::decode(&octets, &context) {
                read.extend(lines::of(&update));
            }
        }
        if read.is_empty() {
            // Tables have no messages.
            continue;
        }
        let ours = count(read.into_iter().map(form));
        let only = |one: &BTreeMap<String, usize>, other: &BTreeMap<String, usize>| {
            let differ = one.iter().filter(|(line, times)| other.get(*line) != Some(times));
            differ.map(|(line, times)| format!("{times}x {line}")).collect::<Vec<_>>()
        };
        let (ours_only, theirs_only) = (only(&ours, &theirs), only(&theirs, &ours));
        let outcome = if ours_only.is_empty() && theirs_only.is_empty() {
            Ok(())
        } else {
            let sample = |lines: &[String]| lines[..lines.len().min(4)].join("\n    ");
            Err(format!(
                "{} lines are only ours\n    {}\n  {} are only bgpdump's\n    {}",
                ours_only.len(),
                sample(&ours_only),
                theirs_only.len(),
                sample(&theirs_only)
            ))
        };
        check.note(&format!("{name} +{} -{}", ours_only.len(), theirs_only.len()), outcome);
    }
    if messages < 10_000 {
        check.note("all", Err(format!("only {messages} messages in the MRT files")));
    }
    check.finish(5)
}

fn count(lines: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line).or_default() += 1;
    }
    counts
}

/// `BGP4MP|time|A|peer|AS|…` without time and peer; `None` for what is no route of a message.
fn route_of(line: &str) -> Option<String> {
    let mut fields = line.split('|');
    if !fields.next()?.starts_with("BGP") {
        return None;
    }
    let kind = fields.nth(1)?;
    if !matches!(kind, "A" | "W") {
        return None;
    }
    let route: Vec<&str> = fields.skip(2).collect();
    Some(lines::normal(&format!("{kind}|{}", route.join("|"))))
}

/// The BGP messages with what their session negotiated.
fn records(octets: &[u8]) -> Vec<(Bytes, DecodeContext)> {
    let mut messages = Vec::new();
    let mut rest = octets;
    while let Some((header, body)) = rest.split_first_chunk::<12>() {
        let kind = u16::from_be_bytes([header[4], header[5]]);
        let subtype = u16::from_be_bytes([header[6], header[7]]);
        let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let Some((body, next)) = body.split_at_checked(length as usize) else { break };
        rest = next;
        messages.extend(message(kind, subtype, body));
    }
    messages
}

fn message(kind: u16, subtype: u16, body: &[u8]) -> Option<(Bytes, DecodeContext)> {
    let context = |four_octet_as, add_path| DecodeContext {
        four_octet_as,
        add_path: if add_path { FamilySet::ALL } else { FamilySet::EMPTY },
        kind: SessionKind::Internal,
        ..DecodeContext::default()
    };
    let (four_octet_as, add_path) = match (kind, subtype) {
        // The old type BGP: an UPDATE without its header behind the two speakers.
        (5, 1) => {
            let body = body.get(12..)?;
            let mut octets = vec![0xff; 16];
            octets.extend_from_slice(&u16::try_from(19 + body.len()).ok()?.to_be_bytes());
            octets.push(2);
            octets.extend_from_slice(body);
            return Some((octets.into(), context(false, false)));
        }
        (16 | 17, 1 | 6) => (false, false),
        (16 | 17, 4 | 7) => (true, false),
        (16 | 17, 8 | 10) => (false, true),
        (16 | 17, 9 | 11) => (true, true),
        _ => return None,
    };
    let body = if kind == 17 { body.get(4..)? } else { body };
    let body = body.get(if four_octet_as { 8 } else { 4 }..)?;
    let addresses = match body.get(2..4)? {
        [0, 1] => 8,
        _ => 32,
    };
    let octets = Bytes::copy_from_slice(body.get(4 + addresses..)?);
    Some((octets, context(four_octet_as, add_path)))
}
