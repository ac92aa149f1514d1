//! The `routelet` agent: configuration, kernel, API, commands, and the lab.
//!
//! A library so that the tests package can use its parts; the binary is `main.rs`.

pub mod api;
pub mod app;
pub mod cli;
pub mod cni;
pub mod config;
pub mod kernel;
pub mod kube;
pub mod lab;
pub mod metrics;
mod netlink;
pub mod nft;
