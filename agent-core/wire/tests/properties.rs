//! Decoders are total: any bytes give a value or an error, never a panic, and
//! what decodes is written back to an equal value.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use proptest::prelude::*;
use weft_wire::frame::{Hello, RecordHeader, Reset, Retry, Welcome};
use weft_wire::item::*;
use weft_wire::join::{JoinString, MAX_TEXT};
use weft_wire::map::*;
use weft_wire::signal::*;
use weft_wire::stun::{Algorithm, ChannelData, Deframer, Frame, Message, MessageWriter, frame_len};
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::topic::Topic;

/// Decodes a body; what decodes must be written back as an equal value (postcard
/// admits varints that are longer than needed, so the first bytes may shrink).
fn stable<T: Item>(body: &[u8]) {
    let raw = RawItem { tag: T::TAG, body };
    let Ok(value) = raw.decode::<T>() else { return };
    let mut first = [0; 8_192];
    let mut writer = ItemWriter::new(&mut first);
    writer.put(&value).expect("what was decoded fits");
    let len = writer.len();
    let again = Items::new(&first[..len]).next().expect("one item").expect("complete");
    let value = again.decode::<T>().expect("what was written decodes");
    let mut second = [0; 8_192];
    let mut writer = ItemWriter::new(&mut second);
    writer.put(&value).expect("the same fits again");
    let again = writer.len();
    assert_eq!(&first[..len], &second[..again]);
}

fn every_body(body: &[u8]) {
    stable::<HelloInfo>(body);
    stable::<WelcomeInfo>(body);
    stable::<Register>(body);
    stable::<Registered>(body);
    stable::<Refused>(body);
    stable::<State>(body);
    stable::<Command>(body);
    stable::<Page>(body);
    stable::<PeerUpsert>(body);
    stable::<PeerKey>(body);
    stable::<Rules>(body);
    stable::<Servers>(body);
    stable::<Settings>(body);
    stable::<DataBudget>(body);
    stable::<Call>(body);
    stable::<CallAck>(body);
    stable::<Heartbeat>(body);
    stable::<DataUsage>(body);
}

/// Bytes near real ones reach deeper than random ones: change and cut some of a
/// frozen format.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frozen: Vec<Vec<u8>> = include_str!("golden.txt")
        .lines()
        .filter_map(|line| {
            let text = line.split_once(' ')?.1;
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
                .collect()
        })
        .collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::sample::select(frozen), edits, any::<prop::sample::Index>()).prop_map(
        |(mut bytes, edits, cut)| {
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let keep = cut.index(bytes.len() * 2);
            bytes.truncate(keep.max(1));
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        every_body(&bytes);
        Items::new(&bytes).for_each(drop);
        let _ = (Hello::parse(&bytes).is_ok(), Welcome::parse(&bytes).is_ok());
        let _ = (RecordHeader::parse(&bytes), Retry::parse(&bytes), Reset::parse(&bytes));
        if let Ok(message) = Message::parse(&bytes) {
            let _ = (message.mapped_address(), message.unknown_required(&[]));
        }
        if let Ok(Some(len)) = frame_len(&bytes) && len == bytes.len() {
            // What a stream takes for a frame of its own is no longer than it says.
            let _ = Frame::parse(&bytes).is_ok();
        }
        if let Ok(frame) = ChannelData::parse(&bytes) {
            let mut out = [0; 604];
            let len = frame.emit(false, &mut out).unwrap();
            prop_assert_eq!(&out[..len], &bytes[..len]);
        }
    }

    #[test]
    fn what_a_writer_writes_a_view_reads(
        attributes in prop::collection::vec(
            (0x0040_u16..0x8000, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        kind in 0_u16..0x4000,
        room in 0_usize..400,
    ) {
        let mut buffer = vec![0; room];
        let written = MessageWriter::new(kind, [5; 12], &mut buffer).and_then(|mut writer| {
            attributes.iter().try_for_each(|(kind, value)| writer.attribute(*kind, value))?;
            writer.integrity(Algorithm::Sha1, |covered, mac| {
                mac.fill(covered.iter().fold(0, |sum, byte| sum ^ byte));
            })?;
            writer.finish()
        });
        let bodies: usize =
            attributes.iter().map(|(_, value)| 4 + value.len().next_multiple_of(4)).sum();
        prop_assert_eq!(written.is_ok(), room >= 20 + bodies + 24 + 8);
        let Ok(len) = written else { return Ok(()) };
        let message = Message::parse(&buffer[..len]).unwrap();
        let read: Vec<_> = message.attributes().map(|(kind, value)| (kind, value.to_vec())).collect();
        prop_assert_eq!(&read[..attributes.len()], &attributes[..]);
        let integrity = message.integrity(Algorithm::Sha1).unwrap();
        let covered = integrity.parts().concat();
        let sum = covered.iter().fold(0, |sum, byte| sum ^ byte);
        prop_assert_eq!(integrity.mac(), [sum; 20]);
        // The same through a stream, in pieces.
        let mut deframer = Deframer::new([0; 400]);
        for piece in buffer[..len].chunks(7) {
            deframer.room()[..piece.len()].copy_from_slice(piece);
            deframer.filled(piece.len());
        }
        prop_assert_eq!(deframer.next_frame(), Ok(Some(&buffer[..len])));
    }

    #[test]
    fn bytes_near_real_ones_too(bytes in mutated()) {
        for item in Items::new(&bytes).flatten() {
            every_body(item.body);
        }
    }

    #[test]
    fn any_text_is_a_join_string_or_an_error(text in "(WEFT1)?\\PC{0,64}") {
        if let Ok(join) = JoinString::parse(&text) {
            let mut out = [0; MAX_TEXT];
            prop_assert!(join.emit(&mut out).is_ok());
        }
        if let Some(topic) = Topic::parse(&text) {
            let written = topic.text();
            prop_assert_eq!(written.as_str(), text.as_str());
        }
    }
}
