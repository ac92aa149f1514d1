//! Small readers and writers shared by all messages.
//!
//! Reading goes through nom's `complete` parsers over `&[u8]`: every one of them checks its length
//! against the octets that are there before it yields anything. What a failure means is the
//! caller's business (RFC 4271 §6 and RFC 7606 answer differently from field to field), so the
//! parsers' own error is empty. Writing appends to a `BytesMut` and patches lengths afterwards.

use bytes::{BufMut, BytesMut};
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16};
use nom::{IResult, Parser};

use crate::message::{HEADER_LEN, MessageType};
use crate::types::AfiSafi;

/// What a parser yields: the rest, and the value.
pub(crate) type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// One octet.
pub(crate) fn octet(input: &[u8]) -> Parsed<'_, u8> {
    be_u8.parse(input)
}

/// Octets behind a length of one octet.
pub(crate) fn short_block(input: &[u8]) -> Parsed<'_, &[u8]> {
    length_data(be_u8).parse(input)
}

/// Octets behind a length of two octets.
pub(crate) fn long_block(input: &[u8]) -> Parsed<'_, &[u8]> {
    length_data(be_u16).parse(input)
}

/// AFI and SAFI in three octets, as in MP_REACH_NLRI.
pub(crate) fn afi_safi(input: &[u8]) -> Parsed<'_, AfiSafi> {
    (be_u16, be_u8).map(|(afi, safi)| AfiSafi { afi, safi }).parse(input)
}

/// How many octets `part` stands behind the start of `whole`, of which it is a part.
pub(crate) fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    nom::Offset::offset(whole, part)
}

/// Appends a header whose length [`finish_message`] fills in; returns where the message starts.
pub(crate) fn start_message(kind: MessageType, out: &mut BytesMut) -> usize {
    let start = out.len();
    out.put_slice(&HEADER_TEMPLATE);
    out[start + HEADER_LEN - 1] = kind.octet();
    start
}

/// Writes the length of the message that began at `start` and ends here.
pub(crate) fn finish_message(start: usize, out: &mut BytesMut) {
    patch_length(start + 16, out.len() - start, out);
}

/// Writes a two-octet length at `place`. Callers keep it within two octets.
pub(crate) fn patch_length(place: usize, length: usize, out: &mut BytesMut) {
    debug_assert!(length <= usize::from(u16::MAX), "length {length} does not fit its field");
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out[place..place + 2].copy_from_slice(&length.to_be_bytes());
}

const HEADER_TEMPLATE: [u8; HEADER_LEN] = {
    let mut header = [0xff; HEADER_LEN];
    header[16] = 0;
    header[17] = 0;
    header[18] = 0;
    header
};
