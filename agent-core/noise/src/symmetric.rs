//! Noise's SymmetricState (revision 34, section 5.2) as far as IKpsk1 and
//! IKpsk2 need it: every cipher key seals exactly one message, so the nonce is
//! always zero.

use weft_wire::id::{PublicKey, Secret};
use zeroize::Zeroize;

use crate::aead::{Key, TAG_LEN};
use crate::hash::{hash, kdf};

/// Chaining key, hash and cipher key of a handshake. Erased when dropped.
pub(crate) struct Symmetric {
    chain: [u8; 32],
    hash: [u8; 32],
    key: [u8; 32],
}

impl Drop for Symmetric {
    fn drop(&mut self) {
        self.chain.zeroize();
        self.hash.zeroize();
        self.key.zeroize();
    }
}

impl Symmetric {
    pub(crate) const fn new(chain: [u8; 32], hash: [u8; 32]) -> Self {
        Self { chain, hash, key: [0; 32] }
    }

    /// A second state that goes on from here: a try that may fail works on it.
    pub(crate) const fn fork(&self) -> Self {
        Self { chain: self.chain, hash: self.hash, key: self.key }
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// MixKey, when something is sealed before the next MixKey.
    pub(crate) fn mix_key(&mut self, input: &[u8; 32]) {
        let [chain, key] = kdf(&self.chain, input);
        self.chain = *chain;
        self.key = *key;
    }

    /// MixKey, when the next token replaces the cipher key unused: it is not
    /// derived. What was derived before must not be used any more either.
    pub(crate) fn mix_chain(&mut self, input: &[u8; 32]) {
        let [chain] = kdf(&self.chain, input);
        self.chain = *chain;
        self.key = [0; 32];
    }

    /// Token "e" in a handshake with PSKs (section 9.2 of the Noise paper).
    /// Another token follows always.
    pub(crate) fn mix_ephemeral(&mut self, ephemeral: &PublicKey) {
        self.mix_hash(&ephemeral.0);
        self.mix_chain(&ephemeral.0);
    }

    /// Token "psk".
    pub(crate) fn mix_key_and_hash(&mut self, psk: &[u8; 32]) {
        let [chain, mixed, key] = kdf(&self.chain, psk);
        self.chain = *chain;
        self.mix_hash(&*mixed);
        self.key = *key;
    }

    /// EncryptAndHash, in place.
    pub(crate) fn seal(&mut self, data: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = Key::new(&self.key).seal(0, &self.hash, data);
        self.hash = hash(&[&self.hash, data, &tag]);
        tag
    }

    /// DecryptAndHash, in place; after `false` the state is of no use.
    #[must_use]
    pub(crate) fn open(&mut self, data: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        let next = hash(&[&self.hash, data, tag]);
        let authentic = Key::new(&self.key).open(0, &self.hash, data, tag);
        self.hash = next;
        authentic
    }

    /// Split: the key of the initiator's direction first.
    pub(crate) fn split(&self) -> (Key, Key) {
        let (first, second) = self.split_secrets();
        (Key::new(&first.0), Key::new(&second.0))
    }

    /// The same for who makes keys of them later: a backend's key may be many
    /// times as large.
    pub(crate) fn split_secrets(&self) -> (Secret, Secret) {
        let [first, second] = kdf(&self.chain, &[]);
        (Secret(*first), Secret(*second))
    }
}
