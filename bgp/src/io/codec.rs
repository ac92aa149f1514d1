//! Framing for tokio-util: octets of a connection into whole messages, messages into octets.
//!
//! In: what was read so far. Out: one framed message at a time, sharing the storage it was read
//! into. The header is validated by [`frame_length`] before anything waits for the rest of it, so
//! that no claimed length reserves memory.

use std::io;

use bytes::{Bytes, BytesMut};
use routelet_proto::{
    EncodeContext, FamilySet, MAX_STANDARD_LEN, Message, MessageError, frame_length,
};
use tokio_util::codec::{Decoder, Encoder};

/// The codec of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct BgpCodec {
    /// Messages of up to 65535 octets may come; true once both OPENs say so (RFC 8654).
    pub extended_message: bool,
}

/// Why framing cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The header is wrong; the error has the NOTIFICATION to send.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Decoder for BgpCodec {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, octets: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match frame_length(octets, self.extended_message)? {
            Some(length) if length <= octets.len() => Ok(Some(octets.split_to(length).freeze())),
            _ => Ok(None),
        }
    }
}

/// For the messages a session sends of itself. UPDATEs come encoded from the speaker.
impl Encoder<&Message> for BgpCodec {
    type Error = io::Error;

    fn encode(&mut self, message: &Message, octets: &mut BytesMut) -> io::Result<()> {
        let context = EncodeContext {
            four_octet_as: true,
            max_len: MAX_STANDARD_LEN,
            add_path: FamilySet::EMPTY,
            extended_next_hop: false,
        };
        message.encode(&context, octets);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalives(count: usize) -> BytesMut {
        let mut octets = BytesMut::new();
        for _ in 0..count {
            BgpCodec::default().encode(&Message::Keepalive, &mut octets).unwrap();
        }
        octets
    }

    #[test]
    fn messages_cut_anywhere_come_out_whole() {
        let whole = keepalives(3);
        for cut in 0..whole.len() {
            let mut codec = BgpCodec::default();
            let mut octets = BytesMut::from(&whole[..cut]);
            let mut frames = 0;
            while codec.decode(&mut octets).unwrap().is_some() {
                frames += 1;
            }
            assert_eq!(frames, cut / 19);
            octets.extend_from_slice(&whole[cut..]);
            while let Some(frame) = codec.decode(&mut octets).unwrap() {
                assert_eq!(frame.len(), 19);
                frames += 1;
            }
            assert_eq!((frames, octets.len()), (3, 0));
        }
    }

    #[test]
    fn a_wrong_header_is_refused_before_its_body_comes() {
        let mut octets = keepalives(1);
        octets[16..19].copy_from_slice(&[0xff, 0xff, 2]);
        let refused = BgpCodec::default().decode(&mut octets.clone()).unwrap_err();
        let FrameError::Message(error) = refused else { panic!("{refused}") };
        assert_eq!(error.notification.code.octets(), (1, 2));
        assert!(BgpCodec { extended_message: true }.decode(&mut octets).unwrap().is_none());
    }
}
