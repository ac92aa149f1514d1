//! From the core's views and the kernel's status to what the API shows.
//!
//! Pure functions: values in, [`super::views`] out. `now` is an argument, so that ages are the same
//! for all rows of one answer and tests need no clock.

mod peer;
pub mod plan;
mod route;
mod status;

use std::cmp::Ordering;
use std::time::Instant;

use routelet_proto::{Family, FamilySet};

pub use self::peer::{peer, peers};
pub use self::route::{explain, lead, route};
pub use self::status::status;

/// Whole seconds from `then` to `now`.
fn seconds_since(now: Instant, then: Instant) -> u64 {
    now.saturating_duration_since(then).as_secs()
}

/// Names of the families in a set.
fn family_names(families: FamilySet) -> Vec<String> {
    Family::ALL
        .into_iter()
        .filter(|family| families.contains(*family))
        .map(|family| family.to_string())
        .collect()
}

/// A count for JSON.
fn count(number: usize) -> u64 {
    number as u64
}

/// Orders names as people do: `node-2` before `node-10`.
#[must_use]
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (number_a, rest_a) = leading_number(a);
                let (number_b, rest_b) = leading_number(b);
                // Without leading zeros, the longer number is the greater one.
                match number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b)) {
                    Ordering::Equal => (a, b) = (rest_a, rest_b),
                    unequal => return unequal,
                }
            }
            (Some(x), Some(y)) if x == y => (a, b) = (&a[1..], &b[1..]),
            (Some(x), Some(y)) => return x.cmp(y),
        }
    }
}

/// The digits at the start, without leading zeros, and what follows them.
fn leading_number(text: &[u8]) -> (&[u8], &[u8]) {
    let zeros = text.iter().take_while(|octet| **octet == b'0').count();
    let digits = text[zeros..].iter().take_while(|octet| octet.is_ascii_digit()).count();
    (&text[zeros..zeros + digits], &text[zeros + digits..])
}

#[cfg(test)]
mod tests {
    use super::natural_order;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["node-10", "node-2", "node-1b", "node-1", "tor-1", "node-02x", "node-"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["node-", "node-1", "node-1b", "node-2", "node-02x", "node-10", "tor-1"]);
    }
}
