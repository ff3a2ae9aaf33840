//! The coordinator's side of the handshake, in stages: each costs more than
//! the one before and is reached by fewer senders.

use weft_wire::frame::{FRAME_VERSION, FrameKind, Hello, MAX_FRAME, TAG_LEN, WELCOME_OVERHEAD};
use weft_wire::id::{PublicKey, Secret};

use super::session::{Direction, Session};
use super::{CHAIN, SealedError, mac1_key};
use crate::entropy::Entropy;
use crate::hash::{hash, mac16};
use crate::key::StaticSecret;
use crate::mac;
use crate::symmetric::Symmetric;

/// One static key of the coordinator. During a planned change it has two; mac1
/// tells which of them a HELLO means.
pub struct CoordinatorKey {
    secret: StaticSecret,
    public: PublicKey,
    mac1_key: [u8; 32],
}

impl CoordinatorKey {
    /// Computes the public key and what follows from it.
    pub fn new(secret: StaticSecret) -> Self {
        let public = secret.public();
        Self { secret, public, mac1_key: mac1_key(&public) }
    }

    /// The public key: the devices' pin.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Whether the sender of this HELLO knows our public key (one hash). Asked
    /// before anything else is done with it.
    #[must_use]
    pub fn check_mac1(&self, hello: &Hello<'_>) -> bool {
        let expected = mac16(&self.mac1_key, &[hello.before_mac1()]);
        mac::verify(&expected, &hello.mac1())
    }

    /// Reads who sends a HELLO (one X25519). Nothing is proved yet.
    ///
    /// # Errors
    ///
    /// [`SealedError::Mac1`], [`SealedError::WeakKey`] or
    /// [`SealedError::Unauthentic`].
    pub fn open_hello(&self, hello: &Hello<'_>) -> Result<Opened, SealedError> {
        if !self.check_mac1(hello) {
            return Err(SealedError::Mac1);
        }
        let ephemeral = PublicKey(hello.ephemeral());
        let mut state = Symmetric::new(CHAIN, hash(&[&CHAIN, hello.prologue()]));
        state.mix_hash(&self.public.0);
        state.mix_ephemeral(&ephemeral);
        state.mix_key(&*self.secret.diffie_hellman(&ephemeral)?);
        let sealed = hello.sealed_static();
        let mut device = PublicKey::ZERO;
        let (key, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(SealedError::Unauthentic)?;
        device.0.copy_from_slice(key);
        if !state.open(&mut device.0, tag) {
            return Err(SealedError::Unauthentic);
        }
        Ok(Opened { state, ephemeral, device, hello_hash: super::hello_hash(hello.frame()) })
    }
}

/// A HELLO whose sender says who it is and has not proved it.
pub struct Opened {
    state: Symmetric,
    ephemeral: PublicKey,
    device: PublicKey,
    hello_hash: [u8; 8],
}

impl Opened {
    /// The identity key that the sender claims, to look the device and its PSK
    /// up.
    pub const fn device(&self) -> &PublicKey {
        &self.device
    }

    /// Proves the identity (one X25519) and the PSK, writes HELLO's payload to
    /// `out` and returns its length. `key` and `hello` are those of
    /// [`CoordinatorKey::open_hello`].
    ///
    /// # Errors
    ///
    /// [`SealedError`]; the HELLO is to be dropped without an answer.
    pub fn verify(
        mut self,
        key: &CoordinatorKey,
        hello: &Hello<'_>,
        psk: &Secret,
        out: &mut [u8],
    ) -> Result<(usize, Verified), SealedError> {
        let (sealed, tag) =
            hello.sealed_payload().split_last_chunk::<TAG_LEN>().ok_or(SealedError::Unauthentic)?;
        let text = out.get_mut(..sealed.len()).ok_or(SealedError::NoRoom)?;
        self.state.mix_chain(&*key.secret.diffie_hellman(&self.device)?);
        self.state.mix_key_and_hash(&psk.0);
        text.copy_from_slice(sealed);
        if !self.state.open(text, tag) {
            text.fill(0);
            return Err(SealedError::Unauthentic);
        }
        Ok((sealed.len(), Verified(self)))
    }
}

/// A HELLO of a device that holds its identity key and the PSK. It may still
/// be a replay: nothing is written before the session's first record.
pub struct Verified(Opened);

impl Verified {
    /// The device's identity.
    pub const fn device(&self) -> &PublicKey {
        &self.0.device
    }

    /// What answers to this HELLO name.
    pub const fn hello_hash(&self) -> [u8; 8] {
        self.0.hello_hash
    }

    /// Writes a WELCOME around `payload`, which names `session` too (three
    /// X25519, one of them with the base point), and returns its length.
    ///
    /// # Errors
    ///
    /// [`SealedError::NoRoom`].
    pub fn welcome(
        mut self,
        session: u32,
        payload: &[u8],
        entropy: &mut dyn Entropy,
        out: &mut [u8],
    ) -> Result<(usize, Session), SealedError> {
        let len = payload.len() + WELCOME_OVERHEAD;
        if len > MAX_FRAME {
            return Err(SealedError::NoRoom);
        }
        let frame = out.get_mut(..len).ok_or(SealedError::NoRoom)?;
        let ephemeral = StaticSecret::generate(entropy);
        let public = ephemeral.public();
        frame[0] = FRAME_VERSION;
        frame[1] = FrameKind::Welcome as u8;
        frame[2..10].copy_from_slice(&self.0.hello_hash);
        frame[10..42].copy_from_slice(&public.0);
        // Both of the device's keys were tried in the stages before.
        let state = &mut self.0.state;
        state.mix_ephemeral(&public);
        state.mix_chain(&ephemeral.diffie_hellman_tried(&self.0.ephemeral));
        state.mix_key(&ephemeral.diffie_hellman_tried(&self.0.device));
        let (text, place) = frame[42..].split_at_mut(payload.len());
        text.copy_from_slice(payload);
        place.copy_from_slice(&state.seal(text));
        let (receive, send) = state.split();
        Ok((len, Session::new(session, Direction { send, receive })))
    }
}
