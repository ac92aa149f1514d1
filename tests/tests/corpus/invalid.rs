//! Malformed messages: the treatment that the RFC demands, and never a panic.

use std::collections::BTreeSet;

use ipnet::IpNet;
use routelet_proto::{
    DecodeContext, FamilySet, Message, Nlri, SessionKind, Treatment, Update, frame_length,
};
use serde_json::Value;

use crate::files::{Corpus, Entry};
use crate::{Check, Differences, Findings, same};

const BY_CONSTRUCTION: Differences = &[];

/// Mutations of which the index says what RFC 4271 and RFC 7606 demand.
pub fn by_construction(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(BY_CONSTRUCTION);
    for entry in corpus.of("invalid") {
        let demanded = entry.text("rfc_by_construction");
        if !demanded.is_empty() {
            check.note(&entry.id, treated(entry, demanded));
        }
    }
    check.finish(110)
}

fn treated(entry: &Entry, demanded: &str) -> Result<(), String> {
    let outcome = entry.decode(SessionKind::External);
    let update = match (demanded, outcome) {
        ("reset", Err(_)) => return Ok(()),
        ("reset", Ok(_)) => return Err("not refused".to_owned()),
        (_, Ok(Message::Update(update))) => update,
        (_, Ok(_)) => return Err("no UPDATE".to_owned()),
        (_, Err(error)) => return Err(error.to_string()),
    };
    let routes: BTreeSet<IpNet> = entry.facts["prefixes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|text| text.parse().expect("a prefix"))
        .collect();
    match demanded {
        "withdraw" => {
            let worst = update.issues.iter().map(|issue| issue.treatment).max();
            same("treatment", &worst, &Some(Treatment::TreatAsWithdraw))?;
            same("announced", &announced(&update), &BTreeSet::new())?;
            contains("withdrawn", &withdrawn(&update), &routes)
        }
        "accept" => contains("announced", &announced(&update), &routes),
        other => Err(format!("the index demands {other:?}, which is not known here")),
    }
}

fn contains(what: &str, ours: &BTreeSet<IpNet>, theirs: &BTreeSet<IpNet>) -> Result<(), String> {
    let missing: Vec<_> = theirs.difference(ours).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("not {what}: {missing:?}")) }
}

fn announced(update: &Update) -> BTreeSet<IpNet> {
    update.announced.iter().flat_map(|one| one.nlri.iter_any()).map(|(_, prefix)| prefix).collect()
}

fn withdrawn(update: &Update) -> BTreeSet<IpNet> {
    update.withdrawn.iter().flat_map(Nlri::iter_any).map(|(_, prefix)| prefix).collect()
}

const REFUSED_BY_ALL: Differences = &[];

/// What BIRD, FRR, OpenBGPD and GoBGP all reset for is refused, or disables its family where
/// RFC 7606 leaves that choice.
pub fn refused_by_all(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(REFUSED_BY_ALL);
    for entry in corpus.of("invalid") {
        if entry.text("agreement") != "all reset" {
            continue;
        }
        let outcome = match entry.decode(SessionKind::External) {
            Err(_) => Ok(()),
            Ok(Message::Update(update)) => {
                let disables = |treatment| matches!(treatment, Treatment::DisableFamily(_));
                if update.issues.iter().any(|issue| disables(issue.treatment)) {
                    Ok(())
                } else {
                    Err(format!("taken with {:?}", update.issues))
                }
            }
            Ok(_) => Err("taken".to_owned()),
        };
        check.note(&entry.id, outcome);
    }
    check.finish(60)
}

/// In every kind of session, whole and cut at every octet.
pub fn never_panic(corpus: &Corpus) -> Result<(), Findings> {
    let mut check = Check::new(&[]);
    for entry in corpus.of("invalid").chain(corpus.of("disputed")) {
        for context in contexts() {
            let _ = frame_length(&entry.octets, context.extended_message);
            let _ = Message::decode(&entry.octets, &context);
            for end in 19..entry.octets.len() {
                let mut cut = entry.octets[..end].to_vec();
                let length = u16::try_from(end).expect("a message").to_be_bytes();
                cut[16..18].copy_from_slice(&length);
                let _ = Message::decode(&cut.into(), &context);
            }
        }
        check.note(&entry.id, Ok(()));
    }
    check.finish(250)
}

fn contexts() -> impl Iterator<Item = DecodeContext> {
    (0..32u8).map(|choice| {
        let bit = |number: u8| choice >> number & 1 != 0;
        DecodeContext {
            four_octet_as: bit(0),
            extended_message: bit(1),
            families: FamilySet::ALL,
            add_path: if bit(2) { FamilySet::ALL } else { FamilySet::EMPTY },
            extended_next_hop: bit(3),
            kind: if bit(4) { SessionKind::External } else { SessionKind::Internal },
        }
    })
}
