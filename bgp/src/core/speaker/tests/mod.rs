//! Tests of the speaker as a whole: through its inputs and outputs only.

mod basics;
mod config;
mod default_policy;
mod groups;
mod mesh;
mod next_hops;
mod reflection;
mod restart;
mod restarted;
mod rig;
