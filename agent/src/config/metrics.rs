//! `metrics`: where metrics and probes are served, and which series there are.
//!
//! In flow: texts of the file or of the command line. Out flow: [`MetricsConfig`], which
//! [`crate::metrics`] serves by.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Port unless somebody says otherwise.
pub const PORT: u16 = 9179;
/// Where metrics and probes are served; nowhere if `None`.
pub type Listen = Option<SocketAddr>;

/// Where they are served by default: for this host only.
#[must_use]
pub fn default_listen() -> Listen {
    Some(SocketAddr::from(([127, 0, 0, 1], PORT)))
}

/// What can be configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MetricsConfig {
    /// Where metrics and probes are served.
    pub listen: Listen,
    /// Whether peers of the mesh have series of their own.
    pub mesh_peers: MeshPeers,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: default_listen(), mesh_peers: MeshPeers::default() }
    }
}

/// Whether each peer of the mesh has series of its own: in a mesh of N nodes these are N² in all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MeshPeers {
    /// Up to [`MeshPeers::FEW`] of them.
    #[default]
    Auto,
    /// Always.
    Each,
    /// Never: only the sums that are there for every kind of peer.
    Summed,
}

impl MeshPeers {
    /// How many peers of the mesh are few.
    pub const FEW: usize = 100;

    /// Whether so many have series of their own.
    pub(crate) fn shows(self, peers: usize) -> bool {
        match self {
            Self::Auto => peers <= Self::FEW,
            Self::Each => true,
            Self::Summed => false,
        }
    }
}

impl fmt::Display for MeshPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "Auto",
            Self::Each => "Each",
            Self::Summed => "Summed",
        })
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `none`.
///
/// # Errors
/// Anything else, in words.
pub fn parse_listen(text: &str) -> Result<Listen, String> {
    if text == "none" {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(address, PORT)));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        _ => Err(format!(
            "`{text}` is not an address to listen on: write 127.0.0.1:{PORT}, [::1]:{PORT}, an \
             address alone, or `none` for no metrics and no probes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_is_written_in_four_ways() {
        let listen = |text: &str| parse_listen(text).map(|listen| listen.map(|at| at.to_string()));
        for (text, meaning) in [
            ("none", None),
            ("192.0.2.1", Some("192.0.2.1:9179")),
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("fd00::1", Some("[fd00::1]:9179")),
            ("[fd00::1]", Some("[fd00::1]:9179")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
        ] {
            assert_eq!(listen(text), Ok(meaning.map(str::to_owned)), "{text}");
        }
        for text in ["", "node-a", "192.0.2.1:0", "192.0.2.1:x", ":9179"] {
            assert!(listen(text).unwrap_err().contains("none"), "{text}");
        }
    }

    #[test]
    fn few_peers_of_a_mesh_have_series_of_their_own() {
        assert!(
            MeshPeers::Auto.shows(MeshPeers::FEW) && !MeshPeers::Auto.shows(MeshPeers::FEW + 1)
        );
    }
}
