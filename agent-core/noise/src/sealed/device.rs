//! The device's side of the handshake.

use weft_wire::frame::{
    HELLO_OVERHEAD, Hello, MAX_FRAME, PROLOGUE_LEN, PskSelector, Retry, TAG_LEN, Welcome,
};
use weft_wire::id::{Inbox, PublicKey, Secret};

use super::session::{Direction, Session};
use super::{CHAIN, SealedError, hello_hash, mac1_key};
use crate::aead::Key;
use crate::entropy::Entropy;
use crate::hash::{hash, mac16};
use crate::key::{Shared, StaticSecret, WeakKey};
use crate::mac;
use crate::symmetric::Symmetric;

/// A device's identity key towards one coordinator key; holds what both share,
/// so that a handshake costs one X25519 less. A device that knows the
/// coordinator's current and next key has one of these for each.
pub struct Initiator {
    secret: StaticSecret,
    public: PublicKey,
    coordinator: PublicKey,
    static_static: Shared,
    mac1_key: [u8; 32],
}

/// The clear part of a HELLO.
#[derive(Clone, Copy)]
pub struct HelloHead {
    /// Which PSK.
    pub selector: PskSelector,
    /// The enrolment key's reference, or zero.
    pub reference: [u8; 8],
    /// Where the answer is to go.
    pub inbox: Inbox,
    /// The token of an earlier RETRY.
    pub token: Option<[u8; TAG_LEN]>,
}

impl Initiator {
    /// One X25519.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the coordinator's key has low order.
    pub fn new(secret: StaticSecret, coordinator: &PublicKey) -> Result<Self, WeakKey> {
        Ok(Self {
            public: secret.public(),
            static_static: secret.diffie_hellman(coordinator)?,
            secret,
            coordinator: *coordinator,
            mac1_key: mac1_key(coordinator),
        })
    }

    /// The device's identity.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The coordinator's key: the pin.
    pub const fn coordinator(&self) -> &PublicKey {
        &self.coordinator
    }

    /// Writes a HELLO around `payload` (two X25519) and returns its length.
    ///
    /// # Errors
    ///
    /// [`SealedError::NoRoom`].
    pub fn hello(
        &self,
        head: &HelloHead,
        psk: &Secret,
        payload: &[u8],
        entropy: &mut dyn Entropy,
        out: &mut [u8],
    ) -> Result<(usize, Pending), SealedError> {
        let len = payload.len() + HELLO_OVERHEAD;
        if len > MAX_FRAME {
            return Err(SealedError::NoRoom);
        }
        let frame = out.get_mut(..len).ok_or(SealedError::NoRoom)?;
        let ephemeral = StaticSecret::generate(entropy);
        let (handshake, macs) = frame.split_at_mut(len - 2 * TAG_LEN);
        let (prologue, message) =
            handshake.split_first_chunk_mut::<PROLOGUE_LEN>().ok_or(SealedError::NoRoom)?;
        Hello::emit_prologue(head.selector, head.reference, head.inbox, prologue);
        let state = self.write_message(&ephemeral, prologue, psk, payload, message);
        macs[..TAG_LEN].copy_from_slice(&head.token.unwrap_or_default());
        let mac1 = mac16(&self.mac1_key, &[handshake, &macs[..TAG_LEN]]);
        macs[TAG_LEN..].copy_from_slice(&mac1);
        let hello_hash = hello_hash(frame);
        let pending = Pending { secrets: Some(Secrets { state, ephemeral }), hello_hash };
        Ok((len, pending))
    }

    /// Message one: e, es, s, ss, psk, payload.
    fn write_message(
        &self,
        ephemeral: &StaticSecret,
        prologue: &[u8],
        psk: &Secret,
        payload: &[u8],
        message: &mut [u8],
    ) -> Symmetric {
        let public = ephemeral.public();
        let mut state = Symmetric::new(CHAIN, hash(&[&CHAIN, prologue]));
        state.mix_hash(&self.coordinator.0);
        message[..32].copy_from_slice(&public.0);
        state.mix_ephemeral(&public);
        // The coordinator's key was tried in `new`.
        state.mix_key(&ephemeral.diffie_hellman_tried(&self.coordinator));
        message[32..64].copy_from_slice(&self.public.0);
        let tag = state.seal(&mut message[32..64]);
        message[64..80].copy_from_slice(&tag);
        state.mix_chain(&self.static_static);
        state.mix_key_and_hash(&psk.0);
        let (text, place) = message[80..].split_at_mut(payload.len());
        text.copy_from_slice(payload);
        place.copy_from_slice(&state.seal(text));
        state
    }
}

/// A HELLO is on its way. Bad frames leave this untouched; the right WELCOME,
/// or dropping it, erases the ephemeral key.
pub struct Pending {
    /// `None` once it was answered: the same WELCOME read twice would make the
    /// same keys, and the same nonces, twice.
    secrets: Option<Secrets>,
    hello_hash: [u8; 8],
}

struct Secrets {
    state: Symmetric,
    ephemeral: StaticSecret,
}

impl Pending {
    /// What an answer to this HELLO names.
    pub const fn hello_hash(&self) -> [u8; 8] {
        self.hello_hash
    }

    /// The token of a RETRY that names this HELLO, to be put into the next
    /// one. RETRY is not authenticated: limit how often it is obeyed.
    ///
    /// # Errors
    ///
    /// [`SealedError::Frame`], or [`SealedError::Unexpected`] when it names
    /// another HELLO.
    pub fn retry(&self, frame: &[u8]) -> Result<[u8; TAG_LEN], SealedError> {
        let retry = Retry::parse(frame)?;
        if mac::verify(&retry.hello_hash, &self.hello_hash) {
            Ok(retry.token)
        } else {
            Err(SealedError::Unexpected)
        }
    }

    /// Reads a WELCOME (two X25519), writes its payload to `out` and returns
    /// the payload's length. `initiator` is the one that made the HELLO.
    ///
    /// # Errors
    ///
    /// [`SealedError`]; this handshake goes on waiting. After success every
    /// WELCOME is [`SealedError::Unexpected`].
    pub fn welcome(
        &mut self,
        initiator: &Initiator,
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<(usize, Accepted), SealedError> {
        let welcome = Welcome::parse(frame)?;
        if !mac::verify(&welcome.hello_hash(), &self.hello_hash) {
            return Err(SealedError::Unexpected);
        }
        let secrets = self.secrets.as_ref().ok_or(SealedError::Unexpected)?;
        let (sealed, tag) = welcome
            .sealed_payload()
            .split_last_chunk::<TAG_LEN>()
            .ok_or(SealedError::Unauthentic)?;
        let text = out.get_mut(..sealed.len()).ok_or(SealedError::NoRoom)?;
        let ephemeral = PublicKey(welcome.ephemeral());
        // Message two: e, ee, se, payload.
        let mut state = secrets.state.fork();
        state.mix_ephemeral(&ephemeral);
        state.mix_chain(&*secrets.ephemeral.diffie_hellman(&ephemeral)?);
        state.mix_key(&*initiator.secret.diffie_hellman(&ephemeral)?);
        text.copy_from_slice(sealed);
        if !state.open(text, tag) {
            text.fill(0);
            return Err(SealedError::Unauthentic);
        }
        let (send, receive) = state.split();
        self.secrets = None;
        Ok((sealed.len(), Accepted { send, receive }))
    }
}

/// A WELCOME was authentic; its payload names the session.
pub struct Accepted {
    send: Key,
    receive: Key,
}

impl Accepted {
    /// The session, under the id that the payload names.
    pub fn into_session(self, session: u32) -> Session {
        let Self { send, receive } = self;
        Session::new(session, Direction { send, receive })
    }
}
