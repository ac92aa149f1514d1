//! Octets of netlink: message headers, attributes, acknowledgements.
//!
//! In flow: buffers read from a netlink socket, or values to be sent. Out flow: borrowed slices of
//! messages and attributes, or messages appended to a buffer.
//!
//! What always holds: walking a buffer never panics and never reads past its end, whatever it
//! contains. Only the attributes somebody asks for are looked at; one that a newer kernel has
//! changed cannot make a whole message unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// In an acknowledgement: attributes with the kernel's own words follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// In an acknowledgement: the request was not copied, only its header.
const NLM_F_CAPPED: u16 = 0x100;
/// Attribute of an acknowledgement: the kernel's words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Flag of the type of an attribute that holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;

pub(crate) const HEADER_LENGTH: usize = 16;

/// Header of a netlink message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Netlink port of whoever caused it; 0: the kernel itself.
    pub port: u32,
}

/// The messages in one datagram; ends at the first that is cut off.
pub(crate) fn messages(mut buffer: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = read_u32(buffer, 0)? as usize;
        if length < HEADER_LENGTH || length > buffer.len() {
            return None;
        }
        let header = Header {
            kind: read_u16(buffer, 4)?,
            flags: read_u16(buffer, 6)?,
            sequence: read_u32(buffer, 8)?,
            port: read_u32(buffer, 12)?,
        };
        let payload = &buffer[HEADER_LENGTH..length];
        buffer = &buffer[align(length).min(buffer.len())..];
        Some((header, payload))
    })
}

/// The attributes in a payload, by type without its flag bits; ends at the first that is cut off.
pub(crate) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(buffer, 0)?);
        let kind = read_u16(buffer, 2)? & 0x3fff;
        if length < 4 || length > buffer.len() {
            return None;
        }
        let value = &buffer[4..length];
        buffer = &buffer[align(length).min(buffer.len())..];
        Some((kind, value))
    })
}

/// An acknowledgement: `None` when the request was done, else the error and the kernel's words.
pub(crate) fn acknowledgement(header: Header, payload: &[u8]) -> Option<KernelError> {
    let code = read_u32(payload, 0).map_or(0, |code| code.cast_signed());
    if code == 0 {
        return None;
    }
    Some(KernelError { errno: -code, text: acknowledgement_text(header, payload) })
}

fn acknowledgement_text(header: Header, payload: &[u8]) -> Option<String> {
    if header.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    // The copied request comes first: its header alone when capped, else all of it.
    let request = payload.get(4..)?;
    let copied = if header.flags & NLM_F_CAPPED != 0 {
        HEADER_LENGTH
    } else {
        align(read_u32(request, 0)? as usize)
    };
    let text = attributes(request.get(copied..)?)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| value)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What the kernel answered to a request it did not do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KernelError {
    /// Error number, positive.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement), where it has any.
    pub text: Option<String>,
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.errno == libc::EPERM || self.errno == libc::EACCES {
            return write!(f, "not permitted: routelet needs the capability NET_ADMIN");
        }
        let name = nix::errno::Errno::from_raw(self.errno);
        match &self.text {
            Some(text) => write!(f, "{} ({name:?})", text.trim_end_matches('.')),
            None => write!(f, "{} ({name:?})", name.desc()),
        }
    }
}

impl std::error::Error for KernelError {}

/// Appends one message to a buffer; the length is patched in by [`MessageWriter::finish`].
pub(crate) struct MessageWriter<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> MessageWriter<'a> {
    pub(crate) fn new(buffer: &'a mut Vec<u8>, kind: u16, flags: u16, sequence: u32) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&0u32.to_ne_bytes());
        buffer.extend_from_slice(&kind.to_ne_bytes());
        buffer.extend_from_slice(&flags.to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0u32.to_ne_bytes());
        Self { buffer, start }
    }

    /// Octets as they are: the fixed part of a message.
    pub(crate) fn octets(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// An attribute with this value, filled up to the next multiple of four.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("invariant: attributes are short");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    pub(crate) fn attribute_address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    /// An attribute that holds attributes.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.position();
        self.octets(&0u16.to_ne_bytes());
        self.octets(&(kind | NLA_F_NESTED).to_ne_bytes());
        content(self);
        self.patch_length(start);
    }

    /// Where the next octet goes; for [`MessageWriter::patch_length`].
    pub(crate) fn position(&self) -> usize {
        self.buffer.len()
    }

    /// Writes the number of octets since `position` there, as a 16-bit length.
    pub(crate) fn patch_length(&mut self, position: usize) {
        let length = u16::try_from(self.buffer.len() - position)
            .expect("invariant: lists are cut before 64 kB");
        self.buffer[position..position + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        let length = self.buffer.len() - self.start;
        self.buffer.resize(self.start + align(length), 0);
    }

    /// Writes the length into the header.
    pub(crate) fn finish(self) {
        let length =
            u32::try_from(self.buffer.len() - self.start).expect("invariant: messages are short");
        self.buffer[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

pub(crate) fn read_u16(buffer: &[u8], at: usize) -> Option<u16> {
    buffer.get(at..at + 2).map(|octets| u16::from_ne_bytes([octets[0], octets[1]]))
}

pub(crate) fn read_u32(buffer: &[u8], at: usize) -> Option<u32> {
    buffer
        .get(at..at + 4)
        .map(|octets| u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]))
}

pub(crate) fn read_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(value).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// A text that may end in NUL.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTM_NEWROUTE: u16 = 24;
    const RTM_DELROUTE: u16 = 25;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let mut buffer = Vec::new();
        let mut writer = MessageWriter::new(&mut buffer, RTM_NEWROUTE, NLM_F_REQUEST, 7);
        writer.octets(&[0; 12]);
        writer.attribute_u32(6, 1179);
        writer.attribute(3, b"eth0\0");
        writer.finish();
        MessageWriter::new(&mut buffer, RTM_DELROUTE, 0, 8).finish();
        let read: Vec<_> = messages(&buffer).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0.kind, read[0].0.sequence), (RTM_NEWROUTE, 7));
        let values: Vec<_> = attributes(&read[0].1[12..]).collect();
        assert_eq!(values, [(6, &1179u32.to_ne_bytes()[..]), (3, b"eth0\0")]);
        assert_eq!(read[1].0.kind, RTM_DELROUTE);
    }

    #[test]
    fn cut_or_senseless_lengths_end_the_walk() {
        let mut buffer = Vec::new();
        let mut writer = MessageWriter::new(&mut buffer, RTM_NEWROUTE, 0, 1);
        writer.attribute_u32(6, 1);
        writer.finish();
        for cut in 0..buffer.len() {
            assert_eq!(messages(&buffer[..cut]).count(), 0, "cut at {cut}");
        }
        assert_eq!(messages(&[3, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_copied_request() {
        let mut request = Vec::new();
        let mut writer = MessageWriter::new(&mut request, RTM_NEWROUTE, NLM_F_REQUEST, 9);
        writer.attribute(3, b"eth0\0");
        writer.finish();
        let mut payload = (-libc::ENETUNREACH).to_ne_bytes().to_vec();
        payload.extend_from_slice(&request);
        let words = b"Nexthop has invalid gateway\0";
        payload.extend_from_slice(&(u16::try_from(words.len()).unwrap() + 4).to_ne_bytes());
        payload.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend_from_slice(words);
        let header = Header { kind: NLMSG_ERROR, flags: NLM_F_ACK_TLVS, sequence: 9, port: 1 };
        let error = acknowledgement(header, &payload).unwrap();
        assert_eq!(error.to_string(), "Nexthop has invalid gateway (ENETUNREACH)");
        // Without the flag the same octets are no words.
        let header = Header { flags: 0, ..header };
        assert_eq!(acknowledgement(header, &payload).unwrap().text, None);
    }

    #[test]
    fn a_missing_capability_is_named() {
        let error = KernelError { errno: libc::EPERM, text: None };
        assert!(error.to_string().contains("NET_ADMIN"));
    }
}
