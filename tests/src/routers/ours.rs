//! The agent's table through its own command line, as documented: field names are taken by their
//! text, not by the agent's types, so that a renamed field fails here.

use anyhow::Context;
use ipnet::IpNet;
use routelet::lab::node::Node;
use serde_json::Value;

use crate::want::RibRoute;

pub(super) fn established(node: &Node) -> anyhow::Result<usize> {
    let peers = node.json(&["peers"])?;
    let peers = peers.as_array().context("peers is no array")?;
    Ok(peers.iter().filter(|peer| peer["state"] == "Established").count())
}

pub(super) fn routes(node: &Node, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>> {
    let routes = node.json(&["routes", &prefix.to_string()])?;
    let routes = routes.as_array().context("routes is no array")?;
    routes
        .iter()
        .filter(|route| route["prefix"] == prefix.to_string() && route["valid"] == true)
        .map(|route| read(route).with_context(|| format!("in {route}")))
        .collect()
}

fn read(route: &Value) -> anyhow::Result<RibRoute> {
    let number = |name: &str| route[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let words = |name: &str| -> anyhow::Result<Vec<String>> {
        let words = route[name].as_array().with_context(|| format!("{name} is no array"))?;
        Ok(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let path = route["asPath"].as_str().context("asPath is no text")?;
    Ok(RibRoute {
        best: route["best"].as_bool().context("best is no bool")?,
        next_hop: route["nextHop"].as_str().map(str::parse).transpose()?,
        as_path: path.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
        origin: route["origin"].as_str().context("origin is no text")?.to_owned(),
        med: number("med"),
        local_pref: number("localPref"),
        communities: words("communities")?.into_iter().collect(),
        large_communities: words("largeCommunities")?.into_iter().collect(),
        originator_id: route["originatorID"].as_str().map(str::to_owned),
        cluster_list: words("clusterList")?,
    })
}
