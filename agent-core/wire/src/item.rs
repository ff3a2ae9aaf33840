//! Sealed records are sequences of items `(tag varint, length varint, body)`.
//!
//! Tag 0 begins the zero padding that ends a record. Varints are LEB128, at
//! most 32 bits. A body is postcard; see the crate head for what may change.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::{Deserialize as De, Serialize as Ser};

use crate::body::{Body, Reader, Writer};
use crate::frame::PADDING;
use crate::id::{
    CommandId, DeviceId, Epoch, Inbox, Instance, Name, NetworkId, OrganisationId, PublicKey,
    ReplicaId, Revision, Secret, ShortSecret,
};

/// A type that is the body of an item.
pub trait Item: Body + Serialize + DeserializeOwned {
    /// The tag that names this body for ever.
    const TAG: u32;
}

/// Why bytes are not items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemError {
    /// An item's length reaches beyond the record, or a varint does not end.
    Truncated,
    /// Bytes of the padding are not zero.
    Padding,
    /// A body does not decode as its tag says.
    Body(u32),
    /// A body decodes and bytes remain.
    Trailing(u32),
    /// No room is left for another item.
    NoRoom,
}

/// One item, not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawItem<'a> {
    /// Which body.
    pub tag: u32,
    /// Its bytes.
    pub body: &'a [u8],
}

impl<'a> RawItem<'a> {
    /// Decodes the whole body.
    ///
    /// # Errors
    ///
    /// [`ItemError::Body`] when it does not decode (or the tag is another),
    /// [`ItemError::Trailing`] when bytes remain.
    pub fn decode<T: Item>(&self) -> Result<T, ItemError> {
        let (value, rest) = self.decode_head::<T>()?;
        if rest.is_empty() { Ok(value) } else { Err(ItemError::Trailing(self.tag)) }
    }

    /// Decodes a body that is followed by items of its own, like
    /// [`crate::map::Page`].
    ///
    /// # Errors
    ///
    /// [`ItemError::Body`] when it does not decode.
    pub fn decode_nested<T: Item>(&self) -> Result<(T, Items<'a>), ItemError> {
        let (value, rest) = self.decode_head::<T>()?;
        Ok((value, Items(rest)))
    }

    fn decode_head<T: Item>(&self) -> Result<(T, &'a [u8]), ItemError> {
        if self.tag != T::TAG {
            return Err(ItemError::Body(self.tag));
        }
        let mut reader = Reader::new(self.body);
        let value = T::take(&mut reader);
        Ok((value, reader.rest().ok_or(ItemError::Body(self.tag))?))
    }
}

/// Iterates over the items of a record's plain text. After an error it ends.
#[derive(Clone, Copy, Debug)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    /// Items of these bytes.
    pub const fn new(plain: &'a [u8]) -> Self {
        Self(plain)
    }

    /// What was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }

    fn item(&mut self) -> Option<RawItem<'a>> {
        let tag = self.varint()?;
        let len = usize::try_from(self.varint()?).ok()?;
        let (body, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(RawItem { tag, body })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<RawItem<'a>, ItemError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0 {
            [] => None,
            [0, padding @ ..] => {
                let clean = padding.iter().all(|&byte| byte == 0);
                self.0 = &[];
                (!clean).then_some(Err(ItemError::Padding))
            }
            _ => {
                let item = self.item().ok_or(ItemError::Truncated);
                // Tag 0 written longer than it is: padding is zero bytes alone.
                let item = item.and_then(|item| match item.tag {
                    0 => Err(ItemError::Padding),
                    _ => Ok(item),
                });
                if item.is_err() {
                    self.0 = &[];
                }
                Some(item)
            }
        }
    }
}

/// Writes items into a caller's buffer.
pub struct ItemWriter<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> ItemWriter<'a> {
    /// Starts at the buffer's front.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Bytes written so far.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes still free.
    pub const fn free(&self) -> usize {
        self.buffer.len() - self.len
    }

    /// Appends one item; on an error nothing was written.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`].
    pub fn put<T: Item>(&mut self, body: &T) -> Result<(), ItemError> {
        self.append(T::TAG, &mut |writer| body.put(writer), &mut |_| Ok(()))
    }

    /// Appends one item as it came; on an error nothing was written.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`].
    pub fn put_raw(&mut self, raw: &RawItem<'_>) -> Result<(), ItemError> {
        let length = u32::try_from(raw.body.len()).map_err(|_| ItemError::NoRoom)?;
        let mut at = self.len;
        put_varint(self.buffer, &mut at, raw.tag)?;
        put_varint(self.buffer, &mut at, length)?;
        let room = self.buffer.get_mut(at..at + raw.body.len()).ok_or(ItemError::NoRoom)?;
        room.copy_from_slice(raw.body);
        self.len = at + raw.body.len();
        Ok(())
    }

    /// Appends one item whose body is followed by items of its own.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`], or what `inner` returns; nothing was written then.
    pub fn put_nested<T: Item>(
        &mut self,
        body: &T,
        mut inner: impl FnMut(&mut ItemWriter<'_>) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        self.append(T::TAG, &mut |writer| body.put(writer), &mut inner)
    }

    /// The same for every type of body.
    fn append(
        &mut self,
        tag: u32,
        body: &mut dyn FnMut(&mut Writer<'_>),
        inner: &mut dyn FnMut(&mut ItemWriter<'_>) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        let mut at = self.len;
        put_varint(self.buffer, &mut at, tag)?;
        // The length's own length is known only afterwards: write the body
        // where a one-byte length would end and move it if that was too short.
        let start = at + 1;
        let room = self.buffer.get_mut(start..).ok_or(ItemError::NoRoom)?;
        let mut writer = Writer::new(room);
        body(&mut writer);
        let head = writer.written().ok_or(ItemError::NoRoom)?;
        let mut nested = ItemWriter::new(&mut room[head..]);
        inner(&mut nested)?;
        let len = head + nested.len;
        let length = u32::try_from(len).map_err(|_| ItemError::NoRoom)?;
        let extra = varint_len(length) - 1;
        if start + len + extra > self.buffer.len() {
            return Err(ItemError::NoRoom);
        }
        self.buffer.copy_within(start..start + len, start + extra);
        put_varint(self.buffer, &mut at, length)?;
        self.len = at + len;
        Ok(())
    }

    /// Fills up with zero bytes to a multiple of [`PADDING`], as far as the
    /// buffer reaches, and returns the whole length.
    pub fn finish(self) -> usize {
        let padded = self.len.next_multiple_of(PADDING).min(self.buffer.len());
        self.buffer[self.len..padded].fill(0);
        padded
    }
}

const fn varint_len(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

fn put_varint(buffer: &mut [u8], at: &mut usize, mut value: u32) -> Result<(), ItemError> {
    loop {
        let slot = buffer.get_mut(*at).ok_or(ItemError::NoRoom)?;
        *at += 1;
        if value < 0x80 {
            *slot = value as u8;
            return Ok(());
        }
        *slot = value as u8 | 0x80;
        value >>= 7;
    }
}

/// Declares an item's body and its tag in one place.
macro_rules! item {
    ($(#[$doc:meta])* $tag:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(::serde::Serialize, ::serde::Deserialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        $crate::body!(struct $name { $($field),* });

        impl $crate::item::Item for $name {
            const TAG: u32 = $tag;
        }
    };
}
pub(crate) use item;

/// A request's id, drawn by its sender; a repeated id is the same request.
pub type RequestId = u32;

item!(
    /// Payload of HELLO: what the coordinator must know before it answers.
    1 HelloInfo {
        /// Lowest protocol version the device speaks.
        wire_min: u8,
        /// Highest protocol version the device speaks.
        wire_max: u8,
        /// Tells two machines with one identity apart.
        instance: Instance,
        /// Starts of the device since it was made.
        boot_count: u32,
        /// The longest frame the device takes, in bytes.
        max_rx: u16,
        /// Slots for peers that are asked for on demand; 0 = wants all peers.
        on_demand: u16,
        /// Epoch of the map that the device holds; 0 = none.
        epoch: Epoch,
        /// Revision of the map that the device holds.
        revision: Revision,
    }
);

item!(
    /// Payload of WELCOME.
    2 WelcomeInfo {
        /// The session's id, to be put into every RECORD.
        session: u32,
        /// The protocol version chosen.
        wire: u8,
        /// Which replica the device's records go to.
        replica: ReplicaId,
        /// Unix time in milliseconds; 0 = the coordinator's clock is not set.
        time_ms: u64,
        /// Epoch of the map.
        epoch: Epoch,
        /// Newest revision of the device's map.
        revision: Revision,
        /// Where the device receives from the next connection on.
        inbox: Inbox,
        /// MQTT password for that inbox.
        password: ShortSecret,
        /// Unix time in seconds after which the broker refuses the password.
        password_expiry: u32,
        /// Earliest reconnection after a loss, in seconds.
        reconnect_min_s: u16,
        /// Latest reconnection after a loss, in seconds.
        reconnect_max_s: u16,
        /// Seconds between heartbeats.
        heartbeat_s: u16,
    }
);

/// Address families a device has, as bits.
pub mod family {
    /// IPv4.
    pub const IPV4: u8 = 1;
    /// IPv6.
    pub const IPV6: u8 = 2;
}

/// What moves a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum Backend {
    /// Weft's own tunnel in user space.
    User,
    /// The kernel's WireGuard.
    Kernel,
    /// A microcontroller's network stack.
    Chip,
}

crate::body!(enum Backend, else Self::User; { 0 = User, 1 = Kernel, 2 = Chip });

/// What a device's network and build can do.
#[derive(Clone, Debug, PartialEq, Eq, Ser, De)]
pub struct Abilities {
    /// Bits of [`family`].
    pub families: u8,
    /// Bit `n - 1` for carrier `n` of [`crate::join::Carrier`].
    pub carriers: u8,
    /// Largest packet of the mesh interface, in bytes.
    pub mtu: u16,
    /// What moves packets.
    pub backend: Backend,
    /// Peers it can hold at once.
    pub peer_slots: u16,
    /// Routes it can hold per peer.
    pub peer_routes: u8,
    /// Filter rules it can hold.
    pub rules: u8,
    /// The agent's version, `0.1.0`.
    pub agent: heapless::String<16>,
    /// Target and board, `linux-x86_64`, `esp32c3`.
    pub platform: heapless::String<32>,
    /// Local addresses of the WireGuard socket.
    pub endpoints: heapless::Vec<core::net::SocketAddr, 4>,
}

crate::body!(struct Abilities {
    families, carriers, mtu, backend, peer_slots, peer_routes, rules, agent, platform,
    endpoints,
});

item!(
    /// Request: take this device in. Only in a session made with an enrolment
    /// key's PSK. Idempotent by the device's identity key (Noise's static).
    3 Register {
        /// Id of this request.
        request: RequestId,
        /// The device's WireGuard key.
        wg_key: PublicKey,
        /// Salted hash of machine id, board serial or eFuse MAC.
        fingerprint: [u8; 32],
        /// The name it would like; the coordinator makes it unique.
        name: Name,
        /// Host number it held before (restored database), or 0.
        host: u32,
        /// Network and build.
        abilities: Abilities,
    }
);

/// Whether an operator still has to say yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum Standing {
    /// A full member.
    Active,
    /// Waits for approval: holds a session, sees nothing but its own state.
    Pending,
    /// Refused for now by an operator; its peers do not hear of it.
    Blocked,
    /// Two machines use its identity.
    Quarantined,
    /// An operator said no.
    Rejected,
}

crate::body!(enum Standing, else Self::Active; {
    0 = Active, 1 = Pending, 2 = Blocked, 3 = Quarantined, 4 = Rejected,
});

item!(
    /// Answer to [`Register`].
    4 Registered {
        /// Of the request.
        request: RequestId,
        /// The device's id.
        device: DeviceId,
        /// Its network.
        network: NetworkId,
        /// Its organisation.
        organisation: OrganisationId,
        /// Its name, made unique.
        name: Name,
        /// The network's name.
        network_name: Name,
        /// Member already, or waiting.
        standing: Standing,
        /// Host number: both addresses follow from it. 0 while pending.
        host: u32,
        /// The overlay.
        overlay: crate::map::Overlay,
        /// Where the device receives from the next connection on.
        inbox: Inbox,
        /// MQTT password for that inbox.
        password: ShortSecret,
        /// Unix time in seconds after which the broker refuses the password.
        password_expiry: u32,
        /// The device's own PSK for HELLO with kind "device".
        psk: Secret,
        /// Version of the master that the PSK is derived from.
        master: u8,
        /// Name of the enrolment key.
        key_name: Name,
        /// Uses of the key, this one counted.
        key_uses: u32,
        /// Most uses of the key; 0 = no limit.
        key_max_uses: u32,
    }
);

item!(
    /// Answer: the request was understood and refused.
    5 Refused {
        /// Of the request.
        request: RequestId,
        /// Why, see [`crate::verdict::Refusal`].
        code: u16,
        /// Unix time in milliseconds that belongs to the reason, or 0.
        at_ms: u64,
        /// Two numbers that belong to the reason.
        numbers: (u32, u32),
        /// A name or an operator's sentence that belongs to the reason.
        text: heapless::String<96>,
    }
);

item!(
    /// Answer: the tag of this request is unknown here.
    6 Unsupported {
        /// The tag.
        tag: u32,
    }
);

item!(
    /// Request: this device leaves the network for good.
    7 Leave {
        /// Id of this request.
        request: RequestId,
    }
);

item!(
    /// Answer: done, nothing more to say.
    8 Done {
        /// Of the request.
        request: RequestId,
    }
);

item!(
    /// The coordinator says how the device stands; sent on every change and
    /// first in each session of a device that is not active.
    9 State {
        /// The standing.
        standing: Standing,
        /// Since when, Unix time in milliseconds.
        since_ms: u64,
        /// An operator's sentence, or empty.
        reason: heapless::String<96>,
    }
);

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum CommandKind {
    /// Restart the agent's process (the chip's application decides).
    Restart,
}

crate::body!(enum CommandKind, else Self::Restart; { 0 = Restart });

item!(
    /// A command to the device.
    10 Command {
        /// Repeated commands keep their id and are done once.
        id: CommandId,
        /// Not to be done after this Unix time in milliseconds.
        expires_ms: u64,
        /// What to do.
        kind: CommandKind,
    }
);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum Outcome {
    /// Taken and being done, or done.
    Accepted,
    /// Its time had passed.
    Expired,
    /// This device cannot do it.
    Unsupported,
}

crate::body!(enum Outcome, else Self::Accepted; { 0 = Accepted, 1 = Expired, 2 = Unsupported });

item!(
    /// The device's word on a command.
    11 CommandDone {
        /// Which.
        id: CommandId,
        /// How it went.
        outcome: Outcome,
    }
);

item!(
    /// Nothing but a sign of life; renews the lease. Sent as first record of a
    /// session that has nothing else to say, and in answer.
    12 Ping {
        /// Repeated in the answer.
        request: RequestId,
    }
);

/// Where a device receives from now on.
#[derive(Ser, De)]
pub struct NewInbox {
    /// Its inbox.
    pub inbox: Inbox,
    /// MQTT password for that inbox.
    pub password: ShortSecret,
    /// Unix time in seconds after which the broker refuses the password.
    pub password_expiry: u32,
}

crate::body!(struct NewInbox { inbox, password, password_expiry });

item!(
    /// Another machine uses this device's identity. The copy that is
    /// quarantined hears it before its [`State`]; the one that is kept hears it
    /// when that is found out (with a new inbox, where it reconnects at once),
    /// and when the other was quarantined.
    13 Duplicate {
        /// The name that both go by.
        name: Name,
        /// From where the other was heard last, if the carrier knows.
        address: Option<core::net::IpAddr>,
        /// When the other was heard last, Unix time in milliseconds.
        heard_ms: u64,
        /// Only to the one that is kept.
        moved: Option<NewInbox>,
    }
);

item!(
    /// The stamps of WireGuard handshakes are to be at least this far ahead of
    /// real time: another machine used this device's key, and peers take no
    /// stamp that is not newer than its last.
    14 Stamps {
        /// Seconds.
        ahead_s: u32,
    }
);

item!(
    /// The database knows this device no more, and its handshake proves that this
    /// coordinator once took it in: a backup was restored. It may be taken back in
    /// this session by [`Returning`] and [`Register`], and do nothing else.
    15 Lost {}
);

item!(
    /// What a device was before the database lost it; right before its
    /// [`Register`], which names the host number that it holds.
    16 Returning {
        /// The id it had.
        device: DeviceId,
        /// Its network.
        network: NetworkId,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_survive_the_round_trip_and_padding() {
        let mut buffer = [0xFF; 256];
        let mut writer = ItemWriter::new(&mut buffer);
        writer.put(&Done { request: 5 }).unwrap();
        writer.put(&Ping { request: 900_000 }).unwrap();
        let len = writer.finish();
        assert_eq!(len % PADDING, 0);
        let items: Vec<_> = Items::new(&buffer[..len]).collect::<Result<_, _>>().unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].decode::<Done>().unwrap().request, 5);
        assert_eq!(items[1].decode::<Ping>().unwrap().request, 900_000);
        assert_eq!(items[1].decode::<Done>().err(), Some(ItemError::Body(12)));
    }

    /// Found by the fuzzer: tag 0 in two bytes was an item, which nobody could
    /// write again.
    #[test]
    fn padding_has_one_form() {
        for long in [&[0x80, 0, 0][..], &[0x80, 0x80, 0, 1, 7]] {
            let mut items = Items::new(long);
            assert_eq!(items.next(), Some(Err(ItemError::Padding)));
            assert_eq!(items.next(), None);
        }
    }

    #[test]
    fn a_full_buffer_keeps_what_it_holds() {
        for size in 0..64 {
            let mut buffer = [0; 64];
            let mut writer = ItemWriter::new(&mut buffer[..size]);
            let mut written = 0;
            while writer.put(&Ping { request: u32::MAX }).is_ok() {
                written += 1;
            }
            let len = writer.finish();
            assert_eq!(Items::new(&buffer[..len]).count(), written, "size {size}");
        }
    }

    #[test]
    fn long_bodies_get_long_lengths() {
        let reason = heapless::String::try_from("x".repeat(96).as_str()).unwrap();
        let state = State { standing: Standing::Blocked, since_ms: u64::MAX, reason };
        let mut buffer = [0; 512];
        let mut writer = ItemWriter::new(&mut buffer);
        writer
            .put_nested(&state, |inner| (0..8).try_for_each(|request| inner.put(&Done { request })))
            .unwrap();
        let len = writer.len();
        let item = Items::new(&buffer[..len]).next().unwrap().unwrap();
        assert!(item.body.len() > 127);
        let (back, nested) = item.decode_nested::<State>().unwrap();
        assert_eq!(back.reason.len(), 96);
        assert_eq!(nested.count(), 8);
        assert_eq!(item.decode::<State>().err(), Some(ItemError::Trailing(9)));
    }

    #[test]
    fn a_raw_item_is_the_same_item() {
        let mut buffer = [0; 64];
        let mut writer = ItemWriter::new(&mut buffer);
        writer.put(&Ping { request: u32::MAX }).unwrap();
        let len = writer.len();
        let raw = Items::new(&buffer[..len]).next().unwrap().unwrap();
        for room in 0..=len {
            let mut copy = [0; 64];
            let mut writer = ItemWriter::new(&mut copy[..room]);
            assert_eq!(writer.put_raw(&raw).is_ok(), room == len);
            assert_eq!(writer.len(), if room == len { len } else { 0 });
            if room == len {
                assert_eq!(copy[..len], buffer[..len]);
            }
        }
    }

    #[test]
    fn refuses_what_does_not_end() {
        let errors = |bytes: &[u8]| Items::new(bytes).map(|item| item.err()).collect::<Vec<_>>();
        assert_eq!(errors(&[12]), [Some(ItemError::Truncated)]);
        assert_eq!(errors(&[12, 2, 0]), [Some(ItemError::Truncated)]);
        assert_eq!(errors(&[0x80, 0x80, 0x80, 0x80, 0x80, 1]), [Some(ItemError::Truncated)]);
        assert_eq!(errors(&[12, 1, 0, 0, 0, 1]), [None, Some(ItemError::Padding)]);
        assert_eq!(errors(&[0, 0, 0]), []);
    }
}
