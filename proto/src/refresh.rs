//! ROUTE-REFRESH (RFC 2918) and its subtypes (RFC 7313).

use crate::types::AfiSafi;

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteRefresh {
    /// The family asked for.
    pub family: AfiSafi,
    /// What is meant.
    pub subtype: RefreshSubtype,
}

/// The octet that RFC 2918 left reserved.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RefreshSubtype {
    /// 0: a request.
    Request,
    /// 1: BoRR, a re-advertisement begins.
    BeginOfRefresh,
    /// 2: EoRR, it has ended; what was not repeated is stale.
    EndOfRefresh,
    /// Any other: ignored (RFC 7313 §5).
    Unknown(u8),
}
