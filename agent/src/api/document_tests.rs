//! docs/api.md and the API say the same, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routelet_bgp::core::view::{PathReason, RouteSelector};
use serde::Serialize;
use serde_json::Value;

use super::testing::{Fake, path, rich_attributes};
use super::{Backend, convert, paths, views};
use crate::kernel::KernelLookup;

const DOCUMENT: &str = include_str!("../../../docs/api.md");

/// Types of fields by section and field, as documented.
type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// The tables under `## Types`.
fn documented() -> Sections {
    let (_, types) = DOCUMENT.split_once("\n## Types\n").unwrap();
    types
        .split("\n### ")
        .skip(1)
        .map(|section| {
            let name = section.lines().next().unwrap().to_owned();
            let fields = section.lines().filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split(" | ");
                let field = cells.next()?.trim_end_matches('`').to_owned();
                Some((field, unlinked(cells.next()?)))
            });
            (name, fields.collect())
        })
        .collect()
}

/// `[Peer](#peer)` as `Peer`.
fn unlinked(words: &str) -> String {
    let mut words = words.to_owned();
    while let (Some(start), Some(end)) = (words.find('['), words.find(')')) {
        let link = words[start..=end].to_owned();
        let name = link[1..link.find(']').unwrap()].to_owned();
        words = words.replace(&link, &name);
    }
    words
}

/// Samples of every type: between them each field that may be null is null once, and each that
/// is ever filled is filled once.
fn samples() -> Vec<(&'static str, Value)> {
    let fake = Fake::new();
    let now = fake.now;
    let mut samples = Vec::new();
    let mut add = |name, value: &dyn erased::Serialize| samples.push((name, value.value()));

    for mut peer in convert::peers(&fake.peers, now) {
        add("Peer", &peer);
        for family in &mut peer.families {
            family.disabled = Some("why".to_owned());
        }
        peer.interface = Some("eth0".to_owned());
        add("Peer", &peer);
        if let Some(negotiated) = &mut peer.negotiated {
            negotiated.graceful_restart = None;
            add("Negotiated", negotiated);
        }
        peer.timers.hold_seconds = None;
        add("Timers", &peer.timers);
        peer.timers.connect_retry_seconds = Some(1);
        add("Timers", &peer.timers);
    }
    let mut rich = path("10.0.0.0/8", "tor-1", PathReason::Best(None), now);
    rich.attributes = Arc::new(rich_attributes());
    add("Route", &convert::route(&rich, None, now));
    for route in &fake.routes {
        add("Route", &convert::route(route, None, now));
    }
    let way = crate::kernel::RouteWay {
        next_hop: "172.30.1.12".parse().unwrap(),
        device: "routelet-ipip".to_owned(),
        encapsulation: Some(crate::kernel::Encapsulation::IpIp),
    };
    let installed = crate::kernel::RouteStatus::Installed;
    let mut leading = convert::route(&fake.routes[1], Some(&installed), now);
    convert::lead(&mut leading, &[way]);
    add("Route", &leading);

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for address in ["10.244.2.7", "192.0.2.1"] {
        let address = address.parse().unwrap();
        let view = runtime.block_on(fake.explain(RouteSelector::Longest(address))).unwrap();
        let lookup = runtime.block_on(fake.lookup(address, None));
        for (lookup, covered_by) in
            [(Some(&lookup), view.prefix), (Some(&KernelLookup::default()), None)]
        {
            let explain =
                convert::explain("x", &view, covered_by, (address, lookup), (None, &[]), now);
            add("Explain", &explain);
        }
    }
    let peers = convert::peers(&fake.peers, now);
    add("Status", &convert::status(&fake.snapshot(), &peers, (&fake.kernel, &fake.firewall), now));
    let refused = Fake { refused: Some("why".to_owned()), ..fake };
    let mut status =
        convert::status(&refused.snapshot(), &peers, (&refused.kernel, &refused.firewall), now);
    status.config.needs_restart = vec!["node.name".to_owned()];
    status.config.warnings = vec!["words".to_owned()];
    status.kernel.problems = vec!["words".to_owned()];
    status.cni.mtu = Some(1480);
    status.cni.waiting = Some("words".to_owned());
    status.cni.problems = vec!["words".to_owned()];
    status.firewall.problems = vec!["words".to_owned()];
    status.pending = vec!["words".to_owned()];
    add("Status", &status);

    let change = views::Change { effect: "live".to_owned(), what: "words".to_owned() };
    add(
        "Plan",
        &views::Plan { applied: true, changes: vec![change], warnings: vec!["words".to_owned()] },
    );
    add("Version", &views::Version { version: "1".to_owned(), api: "v1".to_owned() });
    add("Done", &views::Done { done: "words".to_owned() });
    for hint in [None, Some("words".to_owned())] {
        add("Failure", &views::Failure { error: "words".to_owned(), hint: hint.clone() });
        add("PeerAction", &views::PeerAction { message: hint });
    }
    add("PlanRequest", &views::PlanRequest { file: "x".to_owned(), text: "y".to_owned() });
    samples
}

/// Anything that serialises, as a JSON value.
mod erased {
    pub(super) trait Serialize {
        fn value(&self) -> serde_json::Value;
    }

    impl<T: super::Serialize> Serialize for T {
        fn value(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}

/// What was seen while samples were compared with the document.
#[derive(Default)]
struct Seen {
    sections: BTreeSet<String>,
    null: BTreeSet<(String, String)>,
    filled: BTreeSet<(String, String)>,
}

impl Seen {
    fn object(&mut self, documented: &Sections, section: &str, value: &Value) {
        self.sections.insert(section.to_owned());
        let fields = documented.get(section).unwrap_or_else(|| panic!("no section {section}"));
        let value = value.as_object().unwrap_or_else(|| panic!("{section} is no object: {value}"));
        let (said, there): (BTreeSet<_>, BTreeSet<_>) =
            (fields.keys().collect(), value.keys().collect());
        assert_eq!(said, there, "{section}: documented and real fields differ");
        for (field, value) in value {
            self.field(documented, section, field, &fields[field], value);
        }
    }

    fn field(
        &mut self,
        documented: &Sections,
        section: &str,
        field: &str,
        words: &str,
        value: &Value,
    ) {
        let place = (section.to_owned(), field.to_owned());
        let (words, nullable) = match words.strip_suffix(" or null") {
            Some(words) => (words, true),
            None => (words, false),
        };
        if value.is_null() {
            assert!(nullable, "{section}.{field} is null and the document does not say so");
            self.null.insert(place);
            return;
        }
        if let Some(element) = words.strip_prefix("array of ") {
            for value in value.as_array().unwrap_or_else(|| panic!("{section}.{field}: {value}")) {
                self.field(documented, section, field, element, value);
            }
            return;
        }
        self.filled.insert(place);
        match words {
            "string" => assert!(value.is_string(), "{section}.{field}: {value}"),
            "number" => assert!(value.is_u64(), "{section}.{field}: {value}"),
            "boolean" => assert!(value.is_boolean(), "{section}.{field}: {value}"),
            object => self.object(documented, object, value),
        }
    }
}

#[test]
fn every_field_is_documented_and_every_documented_field_is_there() {
    let documented = documented();
    let mut seen = Seen::default();
    for (section, value) in samples() {
        seen.object(&documented, section, &value);
    }
    let said: BTreeSet<String> = documented.keys().cloned().collect();
    assert_eq!(said, seen.sections, "documented and real types differ");
    for (section, fields) in &documented {
        for (field, words) in fields {
            let place = (section.clone(), field.clone());
            assert!(seen.filled.contains(&place), "{section}.{field} is filled in no sample");
            let nullable = words.ends_with(" or null");
            assert_eq!(nullable, seen.null.contains(&place), "{section}.{field}: null or not?");
        }
    }
}

#[test]
fn every_path_is_documented_and_every_documented_path_is_there() {
    let real: BTreeSet<String> =
        paths::<Fake>().iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let said: BTreeSet<String> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|line| line.starts_with("GET ") || line.starts_with("POST "))
        .map(|line| line.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(said, real);
}
