//! AS_PATH (RFC 4271 §4.3, §5.1.2; RFC 5065 §3; RFC 6793): the autonomous systems a route crossed.
//!
//! A path is held in its four-octet wire form. What goes in is validated once: by [`AsPath::read`]
//! from a message, by construction elsewhere. What always holds: the octets are a whole number of
//! segments, each of a known kind with 1 to 255 numbers, so that walking them cannot fail.

use std::fmt;

use smallvec::SmallVec;

use crate::types::{Asn, SessionKind};

/// Kinds of path segment (RFC 4271 §4.3, RFC 5065 §3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AsSegmentKind {
    /// 1
    Set,
    /// 2
    Sequence,
    /// 3
    ConfedSequence,
    /// 4
    ConfedSet,
}

impl AsSegmentKind {
    const fn octet(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Set,
            2 => Self::Sequence,
            3 => Self::ConfedSequence,
            4 => Self::ConfedSet,
            _ => return None,
        })
    }

    const fn is_confederation(self) -> bool {
        matches!(self, Self::ConfedSequence | Self::ConfedSet)
    }
}

/// One segment of an AS_PATH.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AsSegment {
    /// Which kind.
    pub kind: AsSegmentKind,
    /// Its numbers, 1 to 255 of them on the wire.
    pub asns: SmallVec<[Asn; 6]>,
}

/// An AS_PATH. Held in its four-octet wire form, so that equality, hash and encoding are
/// comparisons and copies of octets.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct AsPath {
    octets: SmallVec<[u8; 24]>,
}

/// Most numbers a segment can count.
const SEGMENT_MAX: usize = 255;

impl AsPath {
    /// A path of one AS_SEQUENCE; empty if there are no numbers. More than 255 numbers continue in
    /// further sequences.
    #[must_use]
    pub fn sequence(asns: &[Asn]) -> Self {
        let mut path = Self::default();
        path.push(AsSegmentKind::Sequence, asns);
        path
    }

    /// A path of these segments, empty ones left out, longer ones than 255 continued in another
    /// of their kind.
    #[must_use]
    pub fn from_segments(segments: &[AsSegment]) -> Self {
        let mut path = Self::default();
        for segment in segments {
            path.push(segment.kind, &segment.asns);
        }
        path
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = AsSegment> + '_ {
        self.raw().map(|raw| AsSegment { kind: raw.kind, asns: raw.asns().collect() })
    }

    /// Every number of every segment, in order.
    pub fn asns(&self) -> impl Iterator<Item = Asn> + '_ {
        self.raw().flat_map(RawSegment::asns)
    }

    /// Length for the decision process: a set counts 1 (RFC 4271 §9.1.2.2 (a)), confederation
    /// segments 0 (RFC 5065 §5.3).
    #[must_use]
    pub fn length(&self) -> u32 {
        self.raw().map(|raw| raw.length()).sum()
    }

    /// The neighbouring AS: the first number of a leading AS_SEQUENCE, confederation segments
    /// skipped. Decides which MEDs compare.
    #[must_use]
    pub fn first_as(&self) -> Option<Asn> {
        let first = self.raw().find(|raw| !raw.kind.is_confederation())?;
        if first.kind == AsSegmentKind::Sequence { first.asns().next() } else { None }
    }

    /// The AS the route started in: the last number of a trailing AS_SEQUENCE.
    #[must_use]
    pub fn origin_as(&self) -> Option<Asn> {
        let last = self.raw().last()?;
        if last.kind == AsSegmentKind::Sequence { last.asns().last() } else { None }
    }

    /// How often `asn` appears, in segments of any kind.
    #[must_use]
    pub fn occurrences(&self, asn: Asn) -> usize {
        self.asns().filter(|other| *other == asn).count()
    }

    /// Whether there is no segment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The path with `asn` in front `times` times (RFC 4271 §5.1.2 (b)): in the leading sequence
    /// while it has room, in a new one else.
    #[must_use]
    pub fn prepend(&self, asn: Asn, times: usize) -> Self {
        let (leading, rest) = match self.raw().next() {
            Some(raw) if raw.kind == AsSegmentKind::Sequence => {
                (raw.octets, &self.octets[2 + raw.octets.len()..])
            }
            _ => (&[][..], &self.octets[..]),
        };
        let total = times + leading.len() / 4;
        let mut path = Self::default();
        path.octets.reserve(2 * total.div_ceil(SEGMENT_MAX) + 4 * total + rest.len());
        // New numbers fill the leading segment from its end; what is over stands before it.
        let front = if leading.is_empty() {
            times
        } else {
            times - times.min(SEGMENT_MAX - leading.len() / 4)
        };
        path.push_repeated(asn, front);
        if !leading.is_empty() {
            path.push_header(AsSegmentKind::Sequence, total - front);
            for _ in front..times {
                path.octets.extend_from_slice(&asn.0.to_be_bytes());
            }
            path.octets.extend_from_slice(leading);
        }
        path.octets.extend_from_slice(rest);
        path
    }

    /// The path as AS_PATH is written to a four-octet peer.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Whether a two-octet AS_PATH can carry every number, so that AS4_PATH is not needed
    /// (RFC 6793 §4.2.2).
    #[must_use]
    pub fn fits_two_octets(&self) -> bool {
        self.asns().all(|asn| asn.0 <= 0xffff)
    }

    /// Reads the value of an AS_PATH attribute with numbers of two or four octets.
    pub(crate) fn read(
        value: &[u8],
        four_octet_as: bool,
        kind: SessionKind,
    ) -> Result<Self, AsPathFault> {
        let width = if four_octet_as { 4 } else { 2 };
        let mut rest = value;
        while !rest.is_empty() {
            let fault = |reason| AsPathFault { offset: value.len() - rest.len(), reason };
            let [segment_kind, count, body @ ..] = rest else {
                return Err(fault(AsPathFaultReason::Truncated));
            };
            let confederation = AsSegmentKind::from_octet(*segment_kind)
                .ok_or_else(|| fault(AsPathFaultReason::SegmentKind(*segment_kind)))?
                .is_confederation();
            if confederation && kind == SessionKind::External {
                return Err(fault(AsPathFaultReason::Confederation));
            }
            let octets = usize::from(*count) * width;
            if octets == 0 {
                return Err(fault(AsPathFaultReason::EmptySegment));
            }
            let Some((numbers, next)) = body.split_at_checked(octets) else {
                return Err(fault(AsPathFaultReason::Overrun));
            };
            if has_zero(numbers, width) {
                return Err(fault(AsPathFaultReason::AsZero));
            }
            rest = next;
        }
        if four_octet_as {
            return Ok(Self { octets: SmallVec::from_slice(value) });
        }
        let mut path = Self::default();
        let mut rest = value;
        while let [kind, count, body @ ..] = rest {
            let (numbers, next) = body.split_at(usize::from(*count) * 2);
            path.octets.extend_from_slice(&[*kind, *count]);
            for number in numbers.chunks_exact(2) {
                path.octets.extend_from_slice(&[0, 0, number[0], number[1]]);
            }
            rest = next;
        }
        Ok(path)
    }

    /// The path of an AS_PATH from a two-octet speaker, `self`, with the AS4_PATH that came along
    /// (RFC 6793 §4.2.3). Its confederation segments are dropped first (§6).
    pub(crate) fn merge_as4_path(self, as4_path: &Self) -> Self {
        let mut as4 = Self::default();
        for raw in as4_path.raw().filter(|raw| !raw.kind.is_confederation()) {
            as4.append_raw(raw.kind, raw.octets);
        }
        let Some(mut surplus) = self.length().checked_sub(as4.length()) else {
            // Somebody in between made the path shorter and did not know AS4_PATH.
            return self;
        };
        let mut path = Self::default();
        for raw in self.raw() {
            if raw.kind.is_confederation() {
                // Everything before it was kept: it leads, or stands beside what is prepended.
                path.append_raw(raw.kind, raw.octets);
                continue;
            }
            if surplus == 0 {
                break;
            }
            let length = raw.length();
            if length > surplus {
                // A set has length 1, so only a sequence is ever cut.
                path.append_raw(raw.kind, &raw.octets[..4 * surplus as usize]);
                break;
            }
            path.append_raw(raw.kind, raw.octets);
            surplus -= length;
        }
        for raw in as4.raw() {
            path.append_raw(raw.kind, raw.octets);
        }
        path
    }

    /// Appends the path in two-octet numbers, AS_TRANS for those that do not fit.
    pub(crate) fn write_two_octets(&self, out: &mut SmallVec<[u8; 256]>) {
        for raw in self.raw() {
            out.push(raw.kind.octet());
            out.push(raw.count());
            for asn in raw.asns() {
                out.extend_from_slice(&two_octets(asn).to_be_bytes());
            }
        }
    }

    /// Octets that [`Self::write_two_octets`] appends.
    pub(crate) fn two_octet_len(&self) -> usize {
        self.raw().map(|raw| 2 + raw.octets.len() / 2).sum()
    }

    /// The path without confederation segments, as AS4_PATH carries it (RFC 6793 §4.2.2).
    pub(crate) fn without_confederation(&self) -> Self {
        let mut path = Self::default();
        for raw in self.raw().filter(|raw| !raw.kind.is_confederation()) {
            path.push_header(raw.kind, raw.octets.len() / 4);
            path.octets.extend_from_slice(raw.octets);
        }
        path
    }

    fn raw(&self) -> RawSegments<'_> {
        RawSegments { rest: &self.octets }
    }

    fn push(&mut self, kind: AsSegmentKind, asns: &[Asn]) {
        for chunk in asns.chunks(SEGMENT_MAX) {
            self.push_header(kind, chunk.len());
            for asn in chunk {
                self.octets.extend_from_slice(&asn.0.to_be_bytes());
            }
        }
    }

    /// Sequences of `asn`, the first of them perhaps not full.
    fn push_repeated(&mut self, asn: Asn, times: usize) {
        let mut left = times;
        while left > 0 {
            let count = match left % SEGMENT_MAX {
                0 => SEGMENT_MAX,
                some => some,
            };
            self.push_header(AsSegmentKind::Sequence, count);
            for _ in 0..count {
                self.octets.extend_from_slice(&asn.0.to_be_bytes());
            }
            left -= count;
        }
    }

    fn push_header(&mut self, kind: AsSegmentKind, count: usize) {
        let count = u8::try_from(count).expect("callers split segments at 255 numbers");
        self.octets.extend_from_slice(&[kind.octet(), count]);
    }

    /// Appends a segment; two sequences in a row become one while it has room, so that a path put
    /// together from two attributes equals the one a four-octet peer would have sent.
    fn append_raw(&mut self, kind: AsSegmentKind, numbers: &[u8]) {
        if numbers.is_empty() {
            return;
        }
        if kind == AsSegmentKind::Sequence {
            let mut start = 0;
            let mut last = None;
            for raw in self.raw() {
                last = Some((start, raw.kind, raw.octets.len() / 4));
                start += 2 + raw.octets.len();
            }
            if let Some((start, AsSegmentKind::Sequence, count)) = last
                && let Ok(joined) = u8::try_from(count + numbers.len() / 4)
            {
                self.octets[start + 1] = joined;
                self.octets.extend_from_slice(numbers);
                return;
            }
        }
        self.push_header(kind, numbers.len() / 4);
        self.octets.extend_from_slice(numbers);
    }
}

/// The number a two-octet field carries for `asn` (RFC 6793 §4.2.2).
pub(crate) fn two_octets(asn: Asn) -> u16 {
    u16::try_from(asn.0).unwrap_or(23456)
}

fn has_zero(numbers: &[u8], width: usize) -> bool {
    if width == 4 {
        numbers.chunks_exact(4).any(|number| number == [0; 4])
    } else {
        numbers.chunks_exact(2).any(|number| number == [0; 2])
    }
}

/// Why a value is no AS_PATH, and where in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsPathFault {
    /// Octets from the start of the value.
    pub(crate) offset: usize,
    pub(crate) reason: AsPathFaultReason,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum AsPathFaultReason {
    Truncated,
    SegmentKind(u8),
    EmptySegment,
    Overrun,
    Confederation,
    AsZero,
}

impl AsPathFaultReason {
    /// The RFC section that makes it a fault.
    pub(crate) const fn section(self) -> &'static str {
        match self {
            Self::Confederation => "RFC 5065 §5",
            Self::AsZero => "RFC 7607 §2",
            _ => "RFC 7606 §7.2",
        }
    }
}

impl fmt::Display for AsPathFaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("one octet is left behind the last segment"),
            Self::SegmentKind(kind) => write!(f, "segment type {kind} is not known"),
            Self::EmptySegment => f.write_str("a segment counts no AS number"),
            Self::Overrun => f.write_str("a segment counts more AS numbers than there are"),
            Self::Confederation => {
                f.write_str("a confederation segment from outside the confederation")
            }
            Self::AsZero => f.write_str("AS 0 in a segment"),
        }
    }
}

/// One segment, its numbers still in wire form.
#[derive(Clone, Copy)]
struct RawSegment<'a> {
    kind: AsSegmentKind,
    octets: &'a [u8],
}

impl<'a> RawSegment<'a> {
    fn asns(self) -> impl Iterator<Item = Asn> + 'a {
        self.octets
            .chunks_exact(4)
            .map(|number| Asn(u32::from_be_bytes([number[0], number[1], number[2], number[3]])))
    }

    fn count(self) -> u8 {
        u8::try_from(self.octets.len() / 4).expect("the count was one octet")
    }

    fn length(self) -> u32 {
        match self.kind {
            AsSegmentKind::Sequence => u32::from(self.count()),
            AsSegmentKind::Set => 1,
            AsSegmentKind::ConfedSequence | AsSegmentKind::ConfedSet => 0,
        }
    }
}

struct RawSegments<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawSegments<'a> {
    type Item = RawSegment<'a>;

    fn next(&mut self) -> Option<RawSegment<'a>> {
        let [kind, count, body @ ..] = self.rest else {
            return None;
        };
        let kind = AsSegmentKind::from_octet(*kind)?;
        let (octets, rest) = body.split_at_checked(usize::from(*count) * 4)?;
        self.rest = rest;
        Some(RawSegment { kind, octets })
    }
}

impl fmt::Display for AsPath {
    /// `65001 65002 {65003,65004}`, confederation segments in parentheses and brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, raw) in self.raw().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let (open, separator, close) = match raw.kind {
                AsSegmentKind::Sequence => ("", " ", ""),
                AsSegmentKind::Set => ("{", ",", "}"),
                AsSegmentKind::ConfedSequence => ("(", " ", ")"),
                AsSegmentKind::ConfedSet => ("[", ",", "]"),
            };
            f.write_str(open)?;
            for (index, asn) in raw.asns().enumerate() {
                if index > 0 {
                    f.write_str(separator)?;
                }
                asn.fmt(f)?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
