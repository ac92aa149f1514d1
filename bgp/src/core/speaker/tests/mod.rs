//! Tests of the speaker as a whole: through its inputs and outputs only.

mod basics;
mod rig;
