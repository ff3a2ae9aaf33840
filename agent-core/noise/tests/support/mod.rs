//! What the tests share: a reproducible random source.
#![allow(dead_code, reason = "each test binary uses a part")]

use weft_noise::entropy::Entropy;

/// SplitMix64: reproducible bytes, and no secret ever.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

use weft_noise::key::StaticSecret;
use weft_noise::wg::{
    CHIP_WINDOW_WORDS, HEADER_LEN, INITIATION_LEN, InitiationSent, LocalKey, Opener, RESPONSE_LEN,
    RemoteKey, Sealer, SessionKeys, TAILROOM, Tai64n,
};
use weft_wire::id::Secret;

/// Index of the initiator's session, and of the responder's.
pub(crate) const INDEX_A: u32 = 0x0A0B_0C0D;
pub(crate) const INDEX_B: u32 = 0x1A2B_3C4D;
pub(crate) const MTU: usize = 1280;

/// Two WireGuard peers.
pub(crate) struct Pair {
    pub(crate) rng: Seeded,
    pub(crate) a: LocalKey,
    pub(crate) b: LocalKey,
    pub(crate) a_sees_b: RemoteKey,
    pub(crate) b_sees_a: RemoteKey,
    pub(crate) psk: Secret,
    stamp: u64,
}

/// One direction of a session, as its two ends own it.
pub(crate) struct Lane {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener<CHIP_WINDOW_WORDS>,
}

impl Pair {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Seeded(seed);
        let a = LocalKey::new(StaticSecret::generate(&mut rng));
        let b = LocalKey::new(StaticSecret::generate(&mut rng));
        let (a_sees_b, b_sees_a) = (a.remote(b.public()).unwrap(), b.remote(a.public()).unwrap());
        let psk = Secret(rng.bytes());
        Self { rng, a, b, a_sees_b, b_sees_a, psk, stamp: 0 }
    }

    pub(crate) fn initiate(&mut self) -> ([u8; INITIATION_LEN], InitiationSent) {
        self.stamp += 1;
        let mut message = [0xEE; INITIATION_LEN];
        let stamp = Tai64n::from_steps(self.stamp);
        let sent = self.a.initiate(&self.a_sees_b, INDEX_A, stamp, &mut self.rng, &mut message);
        (message, sent)
    }

    pub(crate) fn respond(&mut self, initiation: &[u8]) -> ([u8; RESPONSE_LEN], SessionKeys) {
        let psk = self.psk.duplicate();
        self.respond_with(initiation, &psk)
    }

    pub(crate) fn respond_with(
        &mut self,
        initiation: &[u8],
        psk: &Secret,
    ) -> ([u8; RESPONSE_LEN], SessionKeys) {
        let checked = self.b.check_mac1(initiation).unwrap();
        let received = self.b.receive_initiation(&checked).unwrap();
        let authentic = received.authenticate(&self.b_sees_a).unwrap();
        let mut message = [0xEE; RESPONSE_LEN];
        let keys = authentic.respond(INDEX_B, psk, &mut self.rng, &mut message);
        (message, keys)
    }

    /// A whole handshake: the lane from a to b, and the one from b to a.
    pub(crate) fn lanes(&mut self) -> (Lane, Lane) {
        let (initiation, mut sent) = self.initiate();
        let (response, b_keys) = self.respond(&initiation);
        let checked = self.a.check_mac1(&response).unwrap();
        let answered = sent.receive_response(&self.a, &checked, &[&self.psk]).unwrap();
        let (a_sealer, a_opener) = answered.keys.split();
        let (b_sealer, b_opener) = b_keys.split();
        (Lane { sealer: a_sealer, opener: b_opener }, Lane { sealer: b_sealer, opener: a_opener })
    }
}

/// Seals a packet into a datagram of its own.
pub(crate) fn seal(sealer: &mut Sealer, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xEE; HEADER_LEN + packet.len() + TAILROOM];
    buffer[HEADER_LEN..][..packet.len()].copy_from_slice(packet);
    let len = sealer.seal(&mut buffer, packet.len(), MTU).unwrap();
    buffer.truncate(len);
    buffer
}

/// All messages that differ from this one in one bit.
pub(crate) fn single_bit_flips(message: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..message.len() * 8).map(|bit| {
        let mut flipped = message.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (bit / 8, flipped)
    })
}

/// Low-order points of Curve25519 and its twist, with their non-canonical
/// encodings (the list of libsodium).
pub(crate) const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    modulus_plus(0xEC),
    modulus_plus(0xED),
    modulus_plus(0xEE),
];

/// 2^255 - 19 with another lowest byte: p - 1, p and p + 1.
const fn modulus_plus(lowest: u8) -> [u8; 32] {
    let mut bytes = [0xFF; 32];
    bytes[0] = lowest;
    bytes[31] = 0x7F;
    bytes
}
