//! The load generator: routelet, BIRD 2 and FRR driven identically, and measured from outside.
//!
//! In flow: a scenario, a device under test (DUT), a scale. Out flow: wall time until the last receiver holds
//! exactly what it must, CPU seconds and resident memory of the DUT, and tables of medians.
//!
//! ```text
//!  routelet-load field ──► one process per run: routelet-load measure --dut X --scenario Y
//!                            │ a network namespace of its own, loopback only
//!                            ├─► the DUT: routelet | bird | bgpd | the plain copier
//!                            └─► engine: all sessions, one thread ──► figures as JSON
//! ```
//!
//! - `wire`: octets, written by hand, encoded before the clock starts.
//! - `engine`: sessions, tables of the receivers, exact completion.
//! - `dut`: configurations, processes, CPU and memory.
//! - `copier`: the ceiling.
//! - `fib`: from the first octet into the kernel's table; `repair`: what happens to it there.
//! - `core`: routelet's codec and speaker alone, in this process: what sockets and threads add.
//! - `scenario`: what is announced and what is measured.
//! - `report`: many runs, medians, ratios, tables.
//! - `sys`: epoll, namespace, clocks; the only `unsafe`.

pub mod copier;
pub mod core;
pub mod dut;
pub mod engine;
pub mod fib;
pub mod repair;
pub mod report;
pub mod scenario;
pub mod sys;
pub mod wire;
