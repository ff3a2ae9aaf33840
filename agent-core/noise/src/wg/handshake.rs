//! The handshake (section 5.4.2 and 5.4.3), one type per state.
//!
//! ```text
//! LocalKey::initiate → InitiationSent ── receive_response ──► Answered { SessionKeys }
//! LocalKey::receive_initiation → ReceivedInitiation ── authenticate ──►
//!     AuthenticInitiation ── respond ──► SessionKeys
//! ```

use weft_wire::id::{PublicKey, Secret};

use super::keys::{CHAIN, LocalKey, Mac1Checked, RemoteKey, write_macs};
use super::{HandshakeError, INITIATION_LEN, Kind, RESPONSE_LEN, SessionKeys, Tai64n};
use crate::entropy::Entropy;
use crate::key::StaticSecret;
use crate::symmetric::Symmetric;

/// Writes a type and its reserved bytes.
fn write_kind(message: &mut [u8], kind: Kind) {
    message[..4].copy_from_slice(&[kind as u8, 0, 0, 0]);
}

impl LocalKey {
    /// Writes an initiation with a fresh ephemeral key (two X25519). mac2 is
    /// zero: [`super::cookie::Jar::attach`] writes it.
    ///
    /// `sender` is the index under which the response is awaited; `stamp` must
    /// be greater than that of every initiation before with this key.
    pub fn initiate(
        &self,
        remote: &RemoteKey,
        sender: u32,
        stamp: Tai64n,
        entropy: &mut dyn Entropy,
        out: &mut [u8; INITIATION_LEN],
    ) -> InitiationSent {
        let ephemeral = StaticSecret::generate(entropy);
        let public = ephemeral.public();
        let mut state = Symmetric::new(CHAIN, remote.initial_hash());
        write_kind(out, Kind::Initiation);
        out[4..8].copy_from_slice(&sender.to_le_bytes());
        out[8..40].copy_from_slice(&public.0);
        state.mix_ephemeral(&public);
        // The peer's key was tried when its `RemoteKey` was made.
        state.mix_key(&ephemeral.diffie_hellman_tried(remote.public()));
        out[40..72].copy_from_slice(&self.public().0);
        let tag = state.seal(&mut out[40..72]);
        out[72..88].copy_from_slice(&tag);
        state.mix_key(&remote.static_static);
        out[88..100].copy_from_slice(&stamp.to_bytes());
        let tag = state.seal(&mut out[88..100]);
        out[100..116].copy_from_slice(&tag);
        write_macs(out, &remote.mac1_key());
        InitiationSent { secrets: Some(Secrets { state, ephemeral }), sender }
    }

    /// Reads who sent an initiation (one X25519). Nothing is proved yet.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; the message is to be dropped.
    pub fn receive_initiation(
        &self,
        message: &Mac1Checked<'_>,
    ) -> Result<ReceivedInitiation, HandshakeError> {
        if message.kind() != Kind::Initiation {
            return Err(HandshakeError::Malformed);
        }
        let ephemeral = PublicKey(message.field(8));
        let mut state = Symmetric::new(CHAIN, self.initial_hash());
        state.mix_ephemeral(&ephemeral);
        state.mix_key(&*self.secret.diffie_hellman(&ephemeral)?);
        let mut peer = PublicKey(message.field(40));
        if !state.open(&mut peer.0, &message.field(72)) {
            return Err(HandshakeError::Unauthentic);
        }
        Ok(ReceivedInitiation {
            state,
            ephemeral,
            peer,
            sealed_stamp: message.field(88),
            stamp_tag: message.field(100),
            sender: message.sender(),
        })
    }
}

/// The initiator waits. Invalid responses leave this untouched; the right one,
/// or dropping it, erases the ephemeral key and the chaining key.
pub struct InitiationSent {
    /// `None` once it was answered: the same response read twice would make
    /// the same keys, and the same nonces, twice.
    secrets: Option<Secrets>,
    sender: u32,
}

struct Secrets {
    state: Symmetric,
    ephemeral: StaticSecret,
}

/// A response was authentic.
pub struct Answered {
    /// The session.
    pub keys: SessionKeys,
    /// Which of the PSKs given it was made with.
    pub psk: usize,
}

impl InitiationSent {
    /// The index under which the response is awaited.
    pub const fn sender(&self) -> u32 {
        self.sender
    }

    /// Reads a response (two X25519) and tries the PSKs in order: while one is
    /// being changed, the new and then the previous one. An all-zero PSK stands
    /// for none (section 5.2).
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; the state goes on waiting. After success every
    /// response is [`HandshakeError::Unexpected`].
    pub fn receive_response(
        &mut self,
        local: &LocalKey,
        message: &Mac1Checked<'_>,
        psks: &[&Secret],
    ) -> Result<Answered, HandshakeError> {
        if message.kind() != Kind::Response {
            return Err(HandshakeError::Malformed);
        }
        if message.receiver() != Some(self.sender) {
            return Err(HandshakeError::Unexpected);
        }
        let secrets = self.secrets.as_ref().ok_or(HandshakeError::Unexpected)?;
        let ephemeral = PublicKey(message.field(12));
        let mut state = secrets.state.fork();
        state.mix_ephemeral(&ephemeral);
        state.mix_chain(&*secrets.ephemeral.diffie_hellman(&ephemeral)?);
        state.mix_chain(&*local.secret.diffie_hellman(&ephemeral)?);
        for (index, psk) in psks.iter().enumerate() {
            let mut state = state.fork();
            state.mix_key_and_hash(&psk.0);
            if state.open(&mut [], &message.field(44)) {
                let (send, receive) = state.split_secrets();
                self.secrets = None;
                let keys = SessionKeys::new(send, receive, self.sender, message.sender());
                return Ok(Answered { keys, psk: index });
            }
        }
        Err(HandshakeError::Unauthentic)
    }
}

/// An initiation whose sender says who it is and has not proved it.
pub struct ReceivedInitiation {
    state: Symmetric,
    ephemeral: PublicKey,
    peer: PublicKey,
    sealed_stamp: [u8; Tai64n::LEN],
    stamp_tag: [u8; 16],
    sender: u32,
}

impl ReceivedInitiation {
    /// The static key that the sender claims, to look the peer up.
    pub const fn peer(&self) -> &PublicKey {
        &self.peer
    }

    /// Checks that the sender owns that key (hashes only, no X25519).
    ///
    /// # Errors
    ///
    /// [`HandshakeError::WrongPeer`] when `remote` is another key,
    /// [`HandshakeError::Unauthentic`] when the proof fails.
    pub fn authenticate(
        mut self,
        remote: &RemoteKey,
    ) -> Result<AuthenticInitiation, HandshakeError> {
        if *remote.public() != self.peer {
            return Err(HandshakeError::WrongPeer);
        }
        self.state.mix_key(&remote.static_static);
        let mut stamp = self.sealed_stamp;
        if !self.state.open(&mut stamp, &self.stamp_tag) {
            return Err(HandshakeError::Unauthentic);
        }
        Ok(AuthenticInitiation {
            state: self.state,
            ephemeral: self.ephemeral,
            peer: self.peer,
            mac1_key: remote.mac1_key(),
            stamp: Tai64n::from_bytes(stamp),
            sender: self.sender,
        })
    }
}

/// An initiation of a known peer. It may still be a replay: the caller compares
/// [`AuthenticInitiation::stamp`] with the greatest of that peer before.
pub struct AuthenticInitiation {
    state: Symmetric,
    ephemeral: PublicKey,
    peer: PublicKey,
    mac1_key: [u8; 32],
    stamp: Tai64n,
    sender: u32,
}

impl AuthenticInitiation {
    /// The peer.
    pub const fn peer(&self) -> &PublicKey {
        &self.peer
    }

    /// Must be strictly greater than every stamp of this peer before.
    pub const fn stamp(&self) -> Tai64n {
        self.stamp
    }

    /// The peer's index.
    pub const fn sender(&self) -> u32 {
        self.sender
    }

    /// Writes the response (three X25519, one of them with the base point).
    /// mac2 is zero: [`super::cookie::Jar::attach`] writes it.
    ///
    /// `sender` is the own index of the new session. The session must not be
    /// used to send before its first packet came in, which confirms the keys
    /// (section 5).
    pub fn respond(
        mut self,
        sender: u32,
        psk: &Secret,
        entropy: &mut dyn Entropy,
        out: &mut [u8; RESPONSE_LEN],
    ) -> SessionKeys {
        let ephemeral = StaticSecret::generate(entropy);
        let public = ephemeral.public();
        write_kind(out, Kind::Response);
        out[4..8].copy_from_slice(&sender.to_le_bytes());
        out[8..12].copy_from_slice(&self.sender.to_le_bytes());
        out[12..44].copy_from_slice(&public.0);
        self.state.mix_ephemeral(&public);
        // Both of the peer's keys were tried before: its ephemeral key in
        // `receive_initiation`, its static key when `RemoteKey` was made.
        self.state.mix_chain(&ephemeral.diffie_hellman_tried(&self.ephemeral));
        self.state.mix_chain(&ephemeral.diffie_hellman_tried(&self.peer));
        self.state.mix_key_and_hash(&psk.0);
        let tag = self.state.seal(&mut []);
        out[44..60].copy_from_slice(&tag);
        write_macs(out, &self.mac1_key);
        let (receive, send) = self.state.split_secrets();
        SessionKeys::new(send, receive, sender, self.sender)
    }
}
