//! This version beside another one: the agents of a cluster are never all upgraded at once.
//!
//! The other is the binary that `ROUTELET_PREVIOUS` names, a build of the previous release; without it
//! this build stands in for it, which tests the way back and forth and not the difference.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use routelet::lab::node::Node;
use routelet::lab::ping::PingStream;
use routelet_tests::harness::{self, Case, eventually};
use routelet_tests::scene::{Scene, pings};
use routelet_tests::want::ARRIVAL;
use serde_json::Value;

use super::setup::{NODES_AS, Yaml, in_kernel};

pub const CASES: &[Case] = &[("versions::mesh_upgrade_and_downgrade", mixed)];

fn previous() -> anyhow::Result<PathBuf> {
    match env::var_os("ROUTELET_PREVIOUS").map(PathBuf::from) {
        Some(path) if !path.is_file() => bail!("ROUTELET_PREVIOUS: no {}", path.display()),
        Some(path) => Ok(path),
        None => harness::routelet(),
    }
}

/// One node of each version in a mesh; then the older is upgraded, then the newer taken back, and no
/// packet between their pods is lost.
fn mixed(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let places = [fabric.place(1, 1)?, fabric.place(2, 1)?];
    let binaries = [harness::routelet()?, previous()?];
    let make = |here: usize, binary: &PathBuf| -> anyhow::Result<Node> {
        let (place, other) = (&places[here], &places[1 - here]);
        let yaml = Yaml { place, asn: NODES_AS, mesh: Some(&[other]), peers: vec![] }.text();
        // The same folder, and with it the same state, in every life of the node.
        Node::new(&place.name, &place.netns, binary, &scene.folder().join(&place.name), &yaml)
    };
    let mut nodes = [make(0, &binaries[0])?, make(1, &binaries[1])?];
    for node in &mut nodes {
        node.start()?;
    }
    let meshed = |nodes: &mut [Node; 2]| -> anyhow::Result<()> {
        for (here, there) in [(0, 1), (1, 0)] {
            nodes[here].wait_established(1, Duration::from_secs(60))?;
            for family in [0, 1] {
                let prefix = places[there].pod_cidr(family).to_string();
                in_kernel(&places[here].netns, &prefix, places[there].address(family))?;
                pings(&places[here].pod, places[there].pod_addresses[family])?;
            }
            eventually("the first sync", ARRIVAL, || {
                let status: Value = nodes[here].json(&["status"])?;
                ensure!(status["firstSync"] == true, "{status}");
                Ok(())
            })?;
        }
        Ok(())
    };
    meshed(&mut nodes)?;
    let streams: Vec<PingStream> = [0, 1]
        .into_iter()
        .map(|family| {
            let to = places[1].pod_addresses[family];
            PingStream::start(&places[0].pod, to, Duration::from_millis(10))
        })
        .collect::<Result<_, _>>()?;
    for (here, binary) in [(1, 0), (0, 1), (1, 1), (0, 0)] {
        nodes[here].stop()?;
        nodes[here] = make(here, &binaries[binary])?;
        nodes[here].start()?;
        meshed(&mut nodes)?;
    }
    for stream in streams {
        let report = stream.stop();
        ensure!(report.received > 0 && report.lost() == 0, "packets were lost: {report}");
    }
    Ok(())
}
