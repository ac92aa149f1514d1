//! Seeded pseudo-random numbers (SplitMix64): the same everywhere, for ever.

use std::time::Duration;

/// A generator that repeats itself for an equal seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).expect("below a usize")
    }

    /// Whether something of this probability, in parts per million, happens.
    pub fn happens(&mut self, parts_per_million: u32) -> bool {
        self.bits() % 1_000_000 < u64::from(parts_per_million)
    }

    /// A duration between the two.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_nanos()).expect("a short span");
        least + Duration::from_nanos(if span == 0 { 0 } else { self.bits() % span })
    }
}
