use core::net::SocketAddr;

use super::*;

/// RFC 5769 section 2.2: sample IPv4 response.
const IPV4_RESPONSE: &[u8] = &[
    0x01, 0x01, 0x00, 0x3c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86,
    0xfa, 0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63,
    0x74, 0x6f, 0x72, 0x20, 0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
    0x00, 0x08, 0x00, 0x14, 0x2b, 0x91, 0xf5, 0x99, 0xfd, 0x9e, 0x90, 0xc3, 0x8c, 0x74, 0x89, 0xf9,
    0x2a, 0xf9, 0xba, 0x53, 0xf0, 0x6b, 0xe7, 0xd7, 0x80, 0x28, 0x00, 0x04, 0xc0, 0x7d, 0x4c, 0x96,
];

fn written(kind: u16, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 512];
    let mut writer = MessageWriter::new(kind, *b"transaction!", &mut buffer).unwrap();
    write(&mut writer);
    let len = writer.finish_bare();
    buffer[..len].to_vec()
}

#[test]
fn rfc_5769_ipv4_response() {
    let message = Message::parse(IPV4_RESPONSE).unwrap();
    assert_eq!(message.kind(), BINDING_SUCCESS);
    assert_eq!(message.mapped_address(), Some("192.0.2.1:32853".parse().unwrap()));
    let mut wrong = IPV4_RESPONSE.to_vec();
    wrong[44] ^= 1;
    assert_eq!(Message::parse(&wrong).err(), Some(StunError::Fingerprint));
}

#[test]
fn methods_and_classes_are_woven_into_the_type() {
    // RFC 8656 section 17, RFC 8489 section 18.2.
    let known = [
        (ALLOCATE_REQUEST, 0x0003),
        (kind_of(ALLOCATE, Class::Success), 0x0103),
        (kind_of(ALLOCATE, Class::Error), 0x0113),
        (kind_of(REFRESH, Class::Success), 0x0104),
        (SEND_INDICATION, 0x0016),
        (DATA_INDICATION, 0x0017),
        (CREATE_PERMISSION_REQUEST, 0x0008),
        (kind_of(CHANNEL_BIND, Class::Error), 0x0119),
    ];
    known.iter().for_each(|(ours, number)| assert_eq!(ours, number));
    for method in 0..0x1000 {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            let kind = kind_of(method, class);
            assert_eq!((method_of(kind), class_of(kind), kind >> 14), (method, class, 0));
        }
    }
}

#[test]
fn both_families_survive_the_round_trip() {
    for text in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"] {
        let address: SocketAddr = text.parse().unwrap();
        let mut buffer = [0; 128];
        let mut writer = MessageWriter::new(BINDING_SUCCESS, [7; 12], &mut buffer).unwrap();
        writer.xor_mapped_address(address).unwrap();
        writer.attribute(SOFTWARE, b"odd").unwrap();
        writer.address(OTHER_ADDRESS, address).unwrap();
        let len = writer.finish().unwrap();
        let message = Message::parse(&buffer[..len]).unwrap();
        assert_eq!(message.mapped_address(), Some(address));
        assert_eq!(message.address(OTHER_ADDRESS), Some(address));
        assert_eq!(message.unknown_required(&[]), Some(XOR_MAPPED_ADDRESS));
        assert_eq!(message.unknown_required(&[XOR_MAPPED_ADDRESS]), None);
    }
}

#[test]
fn attributes_of_turn_survive_the_round_trip() {
    let (a, b): (SocketAddr, SocketAddr) =
        ("192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap());
    let bytes = written(ALLOCATE_REQUEST, |writer| {
        writer.requested_transport(UDP).unwrap();
        writer.family(REQUESTED_ADDRESS_FAMILY, Family::V6).unwrap();
        writer.lifetime(3_600).unwrap();
        writer.channel_number(0x4ABC).unwrap();
        writer.xor_address(XOR_PEER_ADDRESS, a).unwrap();
        writer.xor_address(XOR_PEER_ADDRESS, b).unwrap();
        writer.attribute(XOR_PEER_ADDRESS, &[0; 5]).unwrap();
        writer.attribute(EVEN_PORT, &[0x80]).unwrap();
        writer.attribute(RESERVATION_TOKEN, b"reserved").unwrap();
        writer.error(code::QUOTA_REACHED).unwrap();
    });
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.method(), message.class()), (ALLOCATE, Class::Request));
    assert_eq!(message.requested_transport(), Some(UDP));
    assert_eq!(message.requested_family(), Some(Family::V6));
    assert_eq!(message.lifetime(), Some(3_600));
    assert_eq!(message.channel_number(), Some(0x4ABC));
    let peers: Vec<_> = message.xor_addresses(XOR_PEER_ADDRESS).collect();
    assert_eq!(peers, [Some(a), Some(b), None]);
    assert_eq!(message.even_port(), Some(true));
    assert_eq!(message.reservation_token(), Some(*b"reserved"));
    assert_eq!(message.error(), Some((486, "")));
}

#[test]
fn attributes_of_rfc_5780_are_read() {
    let bytes = written(BINDING_REQUEST, |writer| {
        writer.attribute(CHANGE_REQUEST, &[0, 0, 0, 4]).unwrap();
        writer.attribute(RESPONSE_PORT, &[0x1F, 0x90, 0, 0]).unwrap();
        writer.attribute(PADDING, &[0; 64]).unwrap();
    });
    let message = Message::parse(&bytes).unwrap();
    let wanted = ChangeRequest { address: true, port: false };
    assert_eq!(message.change_request(), Some(wanted));
    assert_eq!(message.response_port(), Some(8_080));
    assert_eq!(message.get(PADDING).map(<[u8]>::len), Some(64));
}

#[test]
fn nothing_counts_behind_the_integrity() {
    let bytes = written(ALLOCATE_REQUEST, |writer| {
        writer.lifetime(1).unwrap();
        writer.integrity(Algorithm::Sha1, |_, mac| mac.fill(1)).unwrap();
        writer.requested_transport(UDP).unwrap();
        writer.integrity(Algorithm::Sha1, |_, mac| mac.fill(9)).unwrap();
        writer.integrity(Algorithm::Sha256, |_, mac| mac.fill(2)).unwrap();
        writer.attribute(USERNAME, b"late").unwrap();
    });
    let message = Message::parse(&bytes).unwrap();
    let kinds: Vec<u16> = message.attributes().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [LIFETIME, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256]);
    assert_eq!((message.requested_transport(), message.get(USERNAME)), (None, None));
    let first = message.integrity(Algorithm::Sha1).unwrap();
    assert_eq!((first.mac(), first.parts()[0][3], first.parts()[1].len()), (&[1; 20][..], 32, 8));
    let second = message.integrity(Algorithm::Sha256).unwrap();
    assert_eq!((second.mac(), second.parts()[1].len()), (&[2; 32][..], 8 + 24 + 8 + 24));
}

#[test]
fn a_mac_of_another_length_is_refused() {
    for (kind, good) in
        [(MESSAGE_INTEGRITY, vec![20]), (MESSAGE_INTEGRITY_SHA256, vec![16, 20, 32])]
    {
        for len in 0..40 {
            let bytes =
                written(BINDING_REQUEST, |writer| writer.attribute(kind, &[0; 40][..len]).unwrap());
            let taken = Message::parse(&bytes).is_ok();
            assert!(taken || !good.contains(&len));
            assert!(!taken || (len.is_multiple_of(4) && len >= 16));
        }
    }
}

#[test]
fn cut_messages_are_refused_without_a_panic() {
    for len in 0..IPV4_RESPONSE.len() {
        assert!(Message::parse(&IPV4_RESPONSE[..len]).is_err());
    }
    // CVE-2026-54909's class: an empty XOR-MAPPED-ADDRESS.
    let bytes =
        written(BINDING_SUCCESS, |writer| writer.attribute(XOR_MAPPED_ADDRESS, &[]).unwrap());
    assert_eq!(Message::parse(&bytes).unwrap().mapped_address(), None);
}

#[test]
fn every_small_buffer_is_an_error() {
    let room = HEADER_LEN + 12 + 24 + 36 + 8;
    for size in 0..room + 8 {
        let mut buffer = [0; 128];
        let written = MessageWriter::new(BINDING_REQUEST, [1; 12], &mut buffer[..size]).and_then(
            |mut writer| {
                writer.xor_mapped_address("192.0.2.1:1".parse().unwrap())?;
                writer.integrity(Algorithm::Sha1, |_, mac| mac.fill(0))?;
                writer.integrity(Algorithm::Sha256, |_, mac| mac.fill(0))?;
                writer.finish()
            },
        );
        assert_eq!(written.is_ok(), size >= room);
    }
}

#[test]
fn channel_data_is_padded_in_streams_and_may_be_in_datagrams() {
    let sent = ChannelData { channel: 0x4001, data: b"hello" };
    let mut out = [0xFF; 16];
    assert_eq!(sent.emit(false, &mut out), Ok(9));
    assert_eq!(ChannelData::parse(&out[..9]), Ok(sent));
    assert_eq!(sent.emit(true, &mut out), Ok(12));
    for len in 0..16 {
        let read = ChannelData::parse(&out[..len]);
        assert_eq!(read.ok(), (9..=12).contains(&len).then_some(sent), "{len}");
    }
    (0..12).for_each(|len| assert!(sent.emit(true, &mut [0; 12][..len]).is_err()));
    for channel in [0, 0x3FFF, 0x8000, 0xFFFF] {
        let bytes = ChannelData::header(channel, 0);
        assert_eq!(ChannelData::parse(&bytes), Err(StunError::NotStun));
    }
}

#[test]
fn a_stream_in_pieces_of_any_size_is_the_same_frames() {
    let mut stream = IPV4_RESPONSE.to_vec();
    let mut out = [0; 64];
    for data in [&b"hello"[..], b"", b"four"] {
        let len = ChannelData { channel: 0x4001, data }.emit(true, &mut out).unwrap();
        stream.extend_from_slice(&out[..len]);
    }
    for piece in 1..stream.len() {
        let mut deframer = Deframer::new([0; 80]);
        let (mut rest, mut frames) = (&stream[..], Vec::new());
        while !rest.is_empty() {
            let room = deframer.room();
            let count = piece.min(rest.len()).min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            deframer.filled(count);
            rest = &rest[count..];
            while let Some(frame) = deframer.next_frame().unwrap() {
                frames.push(frame.to_vec());
            }
        }
        assert_eq!((frames.len(), deframer.waiting()), (4, 0), "{piece}");
        assert_eq!(frames.concat(), stream);
        assert!(matches!(Frame::parse(&frames[0]), Ok(Frame::Message(_))));
        assert!(matches!(Frame::parse(&frames[1]), Ok(Frame::Channel(c)) if c.data == b"hello"));
    }
}

#[test]
fn a_stream_of_something_else_ends_at_once() {
    for (bytes, error) in [
        (&b"\xFF"[..], StunError::NotStun),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", StunError::Length),
        (b"\x16\x03\x01\x00\x00\x01\x00\x01", StunError::NotStun),
        (b"POST / HTTP/1.1", StunError::NoRoom),
        (b"\x00\x01\x00\x03", StunError::Length),
        (b"\x40\x01\xFF\xFF", StunError::NoRoom),
    ] {
        let mut deframer = Deframer::new([0; 64]);
        deframer.room()[..bytes.len()].copy_from_slice(bytes);
        deframer.filled(bytes.len());
        assert_eq!(deframer.next_frame(), Err(error), "{bytes:?}");
    }
}
