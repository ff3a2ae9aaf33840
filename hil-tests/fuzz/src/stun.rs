//! STUN and TURN's formats against another implementation, and ChannelData in
//! datagrams and streams.

use stun_types::attribute::{Attribute, XorMappedAddress};
use stun_types::message::{self, IntegrityAlgorithm, ShortTermCredentials};
use weft_noise::legacy;
use weft_wire::stun::{
    Algorithm, BINDING_REQUEST, ChannelData, Deframer, Message, MessageWriter, StunError, frame_len,
};

/// A key of short-term credentials: the password itself.
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// What we take the other takes too, and reads the same in it; what we sign the
/// other verifies; a stream in pieces is what it is whole.
pub(crate) fn run(data: &[u8]) {
    compared(data);
    signed(data);
    framed(data);
}

fn compared(data: &[u8]) {
    let Ok(ours) = Message::parse(data) else { return };
    let theirs = message::Message::from_bytes(data).expect("what we take, they take");
    assert_eq!(theirs.transaction_id(), u128_of(ours.transaction()).into());
    assert_eq!(theirs.get_type().to_bytes(), ours.kind().to_be_bytes());
    // They end at the first attribute that does not count, we go on behind it.
    let mut own = ours.attributes();
    for (_, raw) in theirs.iter_attributes() {
        let (kind, value) = own.next().expect("no attribute of theirs is missing");
        assert_eq!((raw.get_type().value(), &*raw.value), (kind, value));
    }
    if let Ok(address) = theirs.attribute::<XorMappedAddress>() {
        assert_eq!(ours.mapped_address(), Some(address.addr(theirs.transaction_id())));
    }
}

fn u128_of(transaction: [u8; 12]) -> u128 {
    transaction.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The bytes as the attributes of a message that is signed.
fn signed(data: &[u8]) {
    let algorithms = [Algorithm::Sha1, Algorithm::Sha256];
    let theirs = [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256];
    let mut out = vec![0; data.len() * 2 + 256];
    for (algorithm, same) in algorithms.into_iter().zip(theirs) {
        let mut writer = MessageWriter::new(BINDING_REQUEST, [9; 12], &mut out).expect("room");
        for chunk in data.chunks(23) {
            // Types that say nothing of what they hold.
            let kind = 0x4000 | u16::from(chunk[0]);
            writer.attribute(kind, &chunk[1..]).expect("room");
        }
        let sign = |bytes: &[u8], mac: &mut [u8]| match algorithm {
            Algorithm::Sha1 => {
                mac.copy_from_slice(&legacy::hmac_sha1(PASSWORD.as_bytes(), &[bytes]))
            }
            Algorithm::Sha256 => {
                mac.copy_from_slice(&legacy::hmac_sha256(PASSWORD.as_bytes(), &[bytes]));
            }
        };
        let finished = writer.integrity(algorithm, sign).and_then(|()| writer.finish());
        let Ok(len) = finished else {
            assert_eq!(finished, Err(StunError::NoRoom));
            continue;
        };
        let message = message::Message::from_bytes(&out[..len]).expect("a message");
        let credentials = ShortTermCredentials::new(PASSWORD.to_owned());
        let verified = message.validate_integrity(&credentials.into());
        assert_eq!(verified.expect("a good MAC"), same);
        let ours = Message::parse(&out[..len]).expect("a message");
        let integrity = ours.integrity(algorithm).expect("a MAC");
        assert!(legacy::verify(PASSWORD.as_bytes(), algorithm, &integrity));
    }
}

fn framed(data: &[u8]) {
    if let Ok(frame) = ChannelData::parse(data) {
        let mut out = vec![0; data.len() + 4];
        let len = frame.emit(true, &mut out).expect("room");
        assert_eq!(frame_len(&out[..len]), Ok(Some(len)));
        assert_eq!(ChannelData::parse(&out[..len]), Ok(frame));
    }
    let Some((&piece, stream)) = data.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(frames(stream, usize::from(piece).max(1)), whole);
}

/// All frames of a stream that comes in pieces, and how it ended.
fn frames(mut stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<StunError>) {
    let mut deframer = Deframer::new([0; 512]);
    let mut found = Vec::new();
    while !stream.is_empty() {
        let room = deframer.room();
        let count = piece.min(stream.len()).min(room.len());
        assert!(count > 0, "a whole frame was left waiting");
        room[..count].copy_from_slice(&stream[..count]);
        deframer.filled(count);
        stream = &stream[count..];
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => found.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}
