//! What is scraped, what the probes say, and that the documents name the same metrics.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::collect::{self, Sample};
use super::*;
use crate::api::ClusterSnapshot;
use crate::api::testing::Fake;
use crate::config;
use crate::config::metrics::MeshPeers;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

fn subject(fake: Fake) -> Subject<Fake> {
    Subject {
        daemon: watch::Sender::new(Some(Arc::new(fake))),
        waiting: watch::Sender::new(Vec::new()),
        began: jiff::Timestamp::UNIX_EPOCH,
    }
}

async fn scrape(fake: Fake) -> String {
    let mut sample = Sample::take(&subject(fake)).await.unwrap();
    let errors = vec![("nodes".to_owned(), 0), ("ippools".to_owned(), 3)];
    sample.snapshot.cluster = Some(ClusterSnapshot { errors, live: true, ..Default::default() });
    collect::text(sample)
}

#[tokio::test]
async fn every_metric_of_the_table_is_there_with_its_type_and_labels() {
    let text = scrape(Fake::new()).await;
    for metric in table::ALL {
        let kind = format!("# TYPE {} {}\n", metric.family(), metric.kind());
        assert!(text.contains(&kind), "{kind}");
        let name = metric.name();
        if metric.is_histogram() {
            for part in
                ["_sum 0.0", "_count 0", "_bucket{le=\"0.0001\"} 0", "_bucket{le=\"+Inf\"} 0"]
            {
                assert!(text.contains(&format!("\n{name}{part}\n")), "{name}{part} in {text}");
            }
            continue;
        }
        let sample = text.lines().find_map(|line| {
            let rest = line.strip_prefix(&name)?;
            rest.starts_with(['{', ' ']).then_some(rest)
        });
        let sample = sample.unwrap_or_else(|| panic!("no sample of {name} in {text}"));
        for label in metric.labels {
            assert!(sample.contains(&format!("{label}=\"")), "{name}{sample} has no {label}");
        }
        assert_eq!(sample.contains('{'), !metric.labels.is_empty(), "{name}{sample}");
    }
    let shown = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(shown, table::ALL.len(), "nothing that is not in the table");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn samples_say_what_is_the_case_and_zero_for_what_is_not() {
    let text = scrape(Fake::new()).await;
    for line in [
        "routelet_peer_up{peer=\"tor-1\",kind=\"external\"} 1.0",
        "routelet_peer_up{peer=\"tor-2\",kind=\"external\"} 0.0",
        "routelet_peer_state{peer=\"node-b\",kind=\"mesh\"} 6.0",
        "routelet_peer_last_error_code{peer=\"tor-1\",kind=\"external\"} 6.0",
        "routelet_peer_last_error_subcode{peer=\"tor-1\",kind=\"external\"} 4.0",
        "routelet_peer_last_error_code{peer=\"tor-2\",kind=\"external\"} 0.0",
        "routelet_peers{kind=\"mesh\",state=\"Established\"} 2.0",
        "routelet_peers{kind=\"internal\",state=\"Idle\"} 0.0",
        "routelet_prefixes_received{kind=\"internal\",family=\"ipv6-unicast\"} 0.0",
        "routelet_messages_sent_total{kind=\"internal\",type=\"update\"} 0.0",
        "routelet_kernel_routes_installed 2.0",
        "routelet_kernel_routes_failed 0.0",
        "routelet_config_generation 2.0",
        "routelet_config_last_reload_successful 1.0",
        "routelet_kubernetes_watch_errors_total{resource=\"nodes\"} 0.0",
        "routelet_kubernetes_watch_errors_total{resource=\"ippools\"} 3.0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    let refused = Fake { refused: Some("why".to_owned()), ..Fake::new() };
    assert!(scrape(refused).await.contains("routelet_config_last_reload_successful 0.0"));
}

#[tokio::test]
async fn a_large_mesh_is_summed_and_routers_are_not() {
    let mut fake = Fake::new();
    let mut config = config::Config::clone(&fake.config);
    config.metrics.mesh_peers = MeshPeers::Summed;
    fake.config = Arc::new(config);
    let text = scrape(fake).await;
    assert!(!text.contains("peer=\"node-b\""), "{text}");
    assert!(text.contains("peer=\"tor-1\""));
    assert!(text.contains("routelet_peers{kind=\"mesh\",state=\"Established\"} 2.0"));
}

/// What the table says of a metric, as the document does.
fn row(metric: &table::Metric) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
    format!("| `{}` | {} | {labels} | {} |", metric.name(), metric.kind(), metric.help)
}

#[test]
fn the_document_lists_every_metric_and_no_other() {
    let (_, metrics) = DOCUMENT.split_once("\n## Metrics\n").unwrap();
    let documented: Vec<&str> = metrics.lines().filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> = table::ALL.iter().map(row).collect();
    assert_eq!(documented, known);
}

#[test]
fn the_dashboard_and_the_alerts_use_metrics_that_there_are() {
    let known: BTreeSet<String> = table::ALL.iter().map(table::Metric::name).collect();
    for file in ["dashboards/routelet.json", "alerts.yaml"] {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", file].iter().collect();
        let text = std::fs::read_to_string(path).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: BTreeSet<&str> = words
            .filter(|word| word.starts_with("routelet_") || word.starts_with("process_"))
            .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
            .collect();
        let unknown: Vec<_> = used.iter().filter(|name| !known.contains(**name)).collect();
        assert!(used.len() > 8 && unknown.is_empty(), "{file}: {unknown:?} of {used:?}");
    }
    let dashboard = include_str!("../../../deploy/dashboards/routelet.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 10));
    let alerts = include_str!("../../../deploy/alerts.yaml");
    let alerts: serde_json::Value = serde_saphyr::from_str(alerts).unwrap();
    for rule in alerts["spec"]["groups"][0]["rules"].as_array().unwrap() {
        assert!(rule["expr"].is_string() && rule["annotations"]["summary"].is_string(), "{rule}");
    }
}

/// A request over TCP: status and body.
async fn get(address: SocketAddr, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The same, as soon as somebody listens there.
async fn get_soon(address: SocketAddr, request: &str) -> (u16, String) {
    for _ in 0..400 {
        if let Some(answer) = get(address, request).await {
            return answer;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("nobody listens on {address}");
}

/// An address that is free, as far as one can know.
async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn probes_say_what_is_missing_and_waiting_is_alive() {
    let (control, subject) = start::<Fake>(None);
    let address = free().await;
    control.listen(Some(address));
    subject.waits_for(vec!["nodes: 503".to_owned()]);
    assert_eq!(get_soon(address, "GET /livez").await, (200, "[+] process\nok\n".to_owned()));
    let (status, body) = get_soon(address, "GET /readyz").await;
    assert_eq!((status, body.as_str()), (503, "[-] configuration: nodes: 503\nnot ok\n"));
    assert_eq!(get_soon(address, "GET /metrics").await.0, 503);

    let mut fake = Fake::new();
    fake.kernel.synced = false;
    subject.set(Arc::new(fake));
    assert_eq!(get_soon(address, "GET /livez").await, (200, "[+] speaker\nok\n".to_owned()));
    let (status, body) = get_soon(address, "GET /readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("[+] first sync\n[-] kernel: the first routes in the kernel\n"),
        "{body}"
    );
    assert_eq!(get_soon(address, "GET /healthz").await.0, 503);

    // tor-2 is down there, too, and that is no reason.
    subject.set(Arc::new(Fake::new()));
    assert_eq!(get_soon(address, "GET /readyz").await.0, 200);
    let (status, body) = get_soon(address, "GET /healthz").await;
    assert_eq!(status, 200);
    assert_eq!(body, "[+] speaker\n[+] configuration\n[+] first sync\n[+] kernel\nok\n");
    let (status, body) = get_soon(address, "GET /metrics").await;
    assert!(status == 200 && body.contains("routelet_ready 1.0"), "{body}");
    assert_eq!(get_soon(address, "GET /").await.0, 404);
    assert_eq!(get_soon(address, "POST /metrics").await.0, 405);
}

#[tokio::test]
async fn the_address_changes_live_and_a_taken_one_is_a_problem_until_it_is_free() {
    let (control, subject) = start::<Fake>(None);
    subject.set(Arc::new(Fake::new()));
    let (one, two) = (free().await, free().await);
    control.listen(Some(one));
    get_soon(one, "GET /livez").await;
    let taken = TcpListener::bind(two).await.unwrap();
    control.listen(Some(two));
    let mut problem = control.problem.clone();
    let words = problem.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(words.contains(&two.to_string()) && words.contains("metrics.listen"), "{words}");
    assert_eq!(get(one, "GET /livez").await, None, "nobody listens in the old place");
    drop(taken);
    get_soon(two, "GET /livez").await;
    assert_eq!(control.problem(), None);
    control.listen(None);
    for _ in 0..400 {
        if get(two, "GET /livez").await.is_none() {
            return;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("still served");
}

#[tokio::test]
async fn the_command_line_goes_before_the_file() {
    let address = free().await;
    let (control, subject) = start::<Fake>(Some(Some(address)));
    subject.set(Arc::new(Fake::new()));
    control.listen(None);
    get_soon(address, "GET /livez").await;
}

#[tokio::test]
async fn strangers_who_say_nothing_are_cut_off() {
    let address = free().await;
    let (_control, subject) = start::<Fake>(Some(Some(address)));
    subject.set(Arc::new(Fake::new()));
    get_soon(address, "GET /livez").await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // They are served in turns, each for a few seconds; whoever asks is answered in the end.
    let (status, _) = get_soon(address, "GET /livez").await;
    assert_eq!(status, 200);
}
