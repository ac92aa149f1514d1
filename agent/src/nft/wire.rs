//! Octets of nf_tables: what its messages have beyond those of netlink in [`crate::netlink::wire`].
//!
//! In flow: values. Out flow: messages appended to a buffer. Numbers in nf_tables attributes are in
//! network order, headers in host order.
//!
//! What always holds: a batch begins and ends with its own messages, so that the kernel does all of
//! it or nothing. No published crate is used: those that are free enough lack masquerading, counters
//! and the owner's words of a rule, or need a C library or the `nft` program.

use crate::netlink::wire::{MessageWriter, NLM_F_REQUEST};

pub(super) const NFT_MSG_NEWTABLE: u8 = 0;
pub(super) const NFT_MSG_GETTABLE: u8 = 1;
pub(super) const NFT_MSG_DELTABLE: u8 = 2;
pub(super) const NFT_MSG_NEWCHAIN: u8 = 3;
pub(super) const NFT_MSG_GETCHAIN: u8 = 4;
pub(super) const NFT_MSG_DELCHAIN: u8 = 5;
pub(super) const NFT_MSG_NEWRULE: u8 = 6;
pub(super) const NFT_MSG_GETRULE: u8 = 7;
pub(super) const NFT_MSG_DELRULE: u8 = 8;
pub(super) const NFT_MSG_NEWSET: u8 = 9;
pub(super) const NFT_MSG_NEWSETELEM: u8 = 12;
pub(super) const NFT_MSG_NEWGEN: u8 = 15;

/// Families of tables.
pub(super) const NFPROTO_UNSPEC: u8 = 0;
pub(super) const NFPROTO_INET: u8 = 1;
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// In every kind of message the first attribute is the table's name.
pub(super) const NFTA_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_HANDLE: u16 = 3;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_POSITION: u16 = 6;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
pub(super) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_KEY_LEN: u16 = 5;
pub(super) const NFTA_SET_ID: u16 = 10;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_GEN_PROC_NAME: u16 = 3;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// The netlink type of a message of ours.
pub(super) const fn kind(message: u8) -> u16 {
    SUBSYSTEM << 8 | message as u16
}

/// The message that a netlink type stands for.
#[allow(clippy::cast_possible_truncation, reason = "the low octet is the message")]
pub(super) const fn message_of(kind: u16) -> Option<u8> {
    if kind >> 8 == SUBSYSTEM { Some(kind as u8) } else { None }
}

/// Appends one message.
pub(super) fn message(
    out: &mut Vec<u8>,
    (kind, flags, sequence): (u16, u16, u32),
    family: u8,
    attributes: impl FnOnce(&mut MessageWriter<'_>),
) {
    let subsystem = if kind < 0x100 { SUBSYSTEM } else { 0 };
    let mut writer = MessageWriter::new(out, kind, flags, sequence);
    writer.octets(&[family, 0]);
    writer.octets(&subsystem.to_be_bytes());
    attributes(&mut writer);
    writer.finish();
}

/// Appends what begins (`true`) or ends a batch.
pub(super) fn batch_mark(out: &mut Vec<u8>, begins: bool, sequence: u32) {
    let kind = if begins { BATCH_BEGIN } else { BATCH_END };
    message(out, (kind, NLM_F_REQUEST, sequence), NFPROTO_UNSPEC, |_| {});
}

/// Appends a text.
pub(super) fn text(out: &mut MessageWriter<'_>, kind: u16, value: &str) {
    out.attribute(kind, &[value.as_bytes(), &[0]].concat());
}

/// Appends a number.
pub(super) fn number(out: &mut MessageWriter<'_>, kind: u16, value: u32) {
    out.attribute(kind, &value.to_be_bytes());
}

/// The text in an attribute.
pub(super) fn read_text(value: &[u8]) -> &str {
    let end = value.iter().position(|octet| *octet == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).unwrap_or("?")
}

/// The number in an attribute.
pub(super) fn read_number(value: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes)
}

/// The handle in an attribute.
pub(super) fn read_handle(value: &[u8]) -> Option<u64> {
    <[u8; 8]>::try_from(value).ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wire::{attributes, messages};

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Vec::new();
        batch_mark(&mut out, true, 7);
        message(&mut out, (kind(NFT_MSG_NEWTABLE), 1, 8), NFPROTO_INET, |out| {
            text(out, NFTA_TABLE, "routelet");
            out.nested(4, |out| number(out, 1, 2));
        });
        let read: Vec<_> = messages(&out).collect();
        assert_eq!((read[0].0.kind, read[0].1), (BATCH_BEGIN, &[0, 0, 0, 10][..]));
        assert_eq!(message_of(read[1].0.kind), Some(NFT_MSG_NEWTABLE));
        assert_eq!(&read[1].1[..4], [NFPROTO_INET, 0, 0, 0]);
        let values: Vec<_> = attributes(&read[1].1[4..]).collect();
        assert_eq!(read_text(values[0].1), "routelet");
        let inner: Vec<_> = attributes(values[1].1).collect();
        assert_eq!(read_number(inner[0].1), Some(2));
    }
}
