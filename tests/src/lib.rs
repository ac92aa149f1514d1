//! Harness of the whole-system tests: the agent's binary and other people's routers in namespaces.
//!
//! In flow: configurations as a user would write them. Out flow: passed, failed with the logs of
//! everybody concerned, or skipped with the reason.
//!
//! [`harness`] runs the tests, inside a sandbox; [`scene`] builds networks; [`routers`] runs BIRD,
//! FRR and routelet behind one face; [`want`] says what a route should look like. [`load`] is the
//! load generator and [`sim`] the simulator of many speakers; both stand apart. [`uml`] runs tests
//! on a kernel booted for them. [`fakeapi`] and [`apiserver`] are API servers of Kubernetes, and
//! [`kube_side`] is what of an agent talks to them.

pub mod apiserver;
pub mod fakeapi;
pub mod harness;
pub mod kube_side;
pub mod load;
pub mod resilience;
pub mod routers;
pub mod scene;
pub mod sim;
pub mod uml;
pub mod want;
