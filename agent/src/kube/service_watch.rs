//! What the source keeps of Services and EndpointSlices while it watches them.
//!
//! In flow: changes of the two watches. Out flow: whether a change matters to what is advertised, and the
//! objects themselves for [`super::services::addresses`]. When the value goes, the watches end.

use std::collections::BTreeMap;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::objects::{Kind, Objects};
use super::services::{Service, Slice};
use super::watch::Change;

/// Services and their endpoints, where they are watched.
#[derive(Default)]
pub(super) struct ServiceWatch {
    /// The two watches; none where nobody asks for them.
    pub(super) tasks: Vec<OwnTask>,
    /// Until when a configuration waits for what they list first.
    pub(super) patience: Option<Instant>,
    /// By `namespace/name`.
    pub(super) services: BTreeMap<String, Service>,
    pub(super) slices: BTreeMap<String, Slice>,
}

/// Ends when it is dropped.
pub(super) struct OwnTask(pub(super) AbortHandle);

impl Drop for OwnTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ServiceWatch {
    pub(super) fn take_services(&mut self, change: Change<Service>) -> bool {
        match change {
            Change::All(list) => {
                let all = list.into_iter().map(|one| (one.key.clone(), one)).collect();
                std::mem::replace(&mut self.services, all) != self.services
            }
            Change::One(one) => {
                let before = self.services.insert(one.key.clone(), one.clone());
                before.as_ref() != Some(&one)
            }
            Change::Gone(key) => self.services.remove(&key).is_some(),
        }
    }

    /// Endpoints matter to Services with externalTrafficPolicy Local only: of the others they come and go
    /// all the time.
    pub(super) fn take_slices(&mut self, change: Change<Slice>) -> bool {
        let is_local = |services: &BTreeMap<String, Service>, slice: &Slice| {
            services.get(&slice.service).is_some_and(|service| service.local)
        };
        match change {
            Change::All(list) => {
                let all = list.into_iter().map(|one| (one.key.clone(), one)).collect();
                std::mem::replace(&mut self.slices, all) != self.slices
            }
            Change::One(one) => {
                let matters = is_local(&self.services, &one);
                let before = self.slices.insert(one.key.clone(), one.clone());
                matters && before.as_ref() != Some(&one)
            }
            Change::Gone(key) => {
                let gone = self.slices.remove(&key);
                gone.is_some_and(|slice| is_local(&self.services, &slice))
            }
        }
    }
}

/// Whether the BGPConfiguration has ranges of service addresses.
pub(super) fn advertises_services(objects: &Objects) -> bool {
    objects.of(Kind::BGPConfiguration).any(|(_, custom)| {
        ["serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"]
            .iter()
            .any(|key| custom.spec[key].as_array().is_some_and(|ranges| !ranges.is_empty()))
    })
}
