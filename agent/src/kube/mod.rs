//! Kubernetes: objects and Nodes become the same validated configuration as a file does.

pub mod address;
pub mod crd;
pub mod objects;
pub mod secrets;
pub mod selector;
pub mod translate;
