//! What must hold when nothing is under way any more.

use std::net::IpAddr;

use anyhow::{bail, ensure};
use ipnet::IpNet;
use routelet_bgp::core::peer::State;

use crate::sim::world::World;

impl World {
    /// Every living node forwards to every living origin, directly, and to nobody else: exactly the
    /// right routes, no loop, no route without a living origin.
    ///
    /// # Errors
    /// The first node where that is not so, and what it has instead.
    pub fn check(&self) -> anyhow::Result<()> {
        let living: Vec<(IpNet, IpAddr)> = self
            .nodes
            .iter()
            .filter(|node| node.alive)
            .filter_map(|node| {
                let prefix = node.spec.prefix?;
                Some((IpNet::V4(prefix), IpAddr::V4(node.spec.address)))
            })
            .collect();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            ensure!(node.synced, "node-{index} has not completed its first sync");
            let own = IpAddr::V4(node.spec.address);
            let mut expected = 0;
            for (prefix, origin) in living.iter().filter(|(_, origin)| *origin != own) {
                expected += 1;
                match node.forwarding.get(prefix).map(|hops| hops.as_slice()) {
                    Some([hop]) if hop.address == *origin => {}
                    other => bail!("node-{index} has {other:?} for {prefix} of {origin}"),
                }
            }
            if node.forwarding.len() != expected {
                let extra = node
                    .forwarding
                    .iter()
                    .find(|(prefix, _)| !living.iter().any(|(known, _)| known == *prefix));
                bail!(
                    "node-{index} has {} routes instead of {expected}, one of them {extra:?}",
                    node.forwarding.len()
                );
            }
        }
        Ok(())
    }

    /// Every session between living nodes is Established.
    ///
    /// # Errors
    /// The first that is not, and why.
    pub fn check_sessions(&self) -> anyhow::Result<()> {
        let dead: Vec<IpAddr> = self
            .nodes
            .iter()
            .filter(|node| !node.alive)
            .map(|node| IpAddr::V4(node.spec.address))
            .collect();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            for slot in node.sessions.values() {
                if slot.session.state() != State::Established && !dead.contains(&slot.peer_address)
                {
                    let view = slot.session.view();
                    bail!(
                        "node-{index}'s session with {} is {}: {:?}",
                        view.config.name,
                        view.state,
                        view.last_error
                    );
                }
            }
        }
        Ok(())
    }
}
