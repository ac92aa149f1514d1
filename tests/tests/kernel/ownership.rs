//! .

use routelet_tests::harness::Case;

pub const CASES: &[Case] = &[];
