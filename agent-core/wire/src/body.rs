//! Bodies of items, byte by byte.
//!
//! The bytes are postcard's, and the types keep serde's derives for whoever stores them.
//! They are written and read by hand because serde's visitors ask after every field whether
//! it came, in code of its own for each type: for a chip that is several times the size. A
//! [`Reader`] goes on with zeros after the first wrong byte, and is asked once at the end.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Writes into a caller's buffer, until that is full.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    /// `None`: something found no room.
    len: Option<usize>,
}

impl<'a> Writer<'a> {
    /// Starts at the buffer's front.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: Some(0) }
    }

    /// How many bytes were written; `None` when not all found room.
    pub const fn written(&self) -> Option<usize> {
        self.len
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let Some(len) = self.len else { return };
        let place = self.buffer.get_mut(len..).and_then(|room| room.get_mut(..bytes.len()));
        self.len = place.map(|place| {
            place.copy_from_slice(bytes);
            len + bytes.len()
        });
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    /// A varint of up to 32 bits.
    pub fn number(&mut self, mut number: u32) {
        while number > 0x7F {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// A varint of up to 64 bits.
    pub fn long(&mut self, mut number: u64) {
        while number > 0x7F {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// A length, and bytes.
    pub fn counted(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes(bytes);
    }
}

/// Reads from bytes; what does not come is zero.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    is_good: bool,
}

impl<'a> Reader<'a> {
    /// Starts at the front.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, is_good: true }
    }

    /// What was not read, if everything that was read was right.
    pub const fn rest(&self) -> Option<&'a [u8]> {
        if self.is_good { Some(self.rest) } else { None }
    }

    /// What was read is wrong.
    pub const fn fail(&mut self) {
        self.rest = &[];
        self.is_good = false;
    }

    /// This many bytes; none when there are fewer.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            self.fail();
            return &[];
        };
        self.rest = rest;
        bytes
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// A varint of up to `bits` bits, 32 at most.
    pub fn number(&mut self, bits: u32) -> u32 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            let part = u32::from(byte & 0x7F);
            if shift >= bits || bits - shift < 7 && part >> (bits - shift) != 0 {
                self.fail();
                return 0;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return number;
            }
            shift += 7;
        }
    }

    /// A varint of up to 64 bits.
    pub fn long(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            let part = u64::from(byte & 0x7F);
            if shift > 63 || shift == 63 && part > 1 {
                self.fail();
                return 0;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return number;
            }
            shift += 7;
        }
    }

    /// A length, and as many bytes.
    pub fn counted(&mut self) -> &'a [u8] {
        let len = self.number(32);
        self.bytes(len as usize)
    }

    fn fill(&mut self, place: &mut [u8]) {
        let bytes = self.bytes(place.len());
        if bytes.len() == place.len() {
            place.copy_from_slice(bytes);
        }
    }
}

/// What bodies are made of.
pub trait Body: Sized {
    /// Appends the value.
    fn put(&self, writer: &mut Writer<'_>);

    /// Reads a value, or says to the reader that there is none and returns any.
    fn take(reader: &mut Reader<'_>) -> Self;
}

impl Body for u8 {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.byte(*self);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        reader.byte()
    }
}

impl Body for u16 {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number((*self).into());
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        reader.number(16) as Self
    }
}

impl Body for u32 {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number(*self);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        reader.number(32)
    }
}

impl Body for u64 {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.long(*self);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        reader.long()
    }
}

/// Zigzag: 0, -1, 1, -2.
impl Body for i16 {
    fn put(&self, writer: &mut Writer<'_>) {
        let zigzag = (*self << 1) ^ (*self >> 15);
        (zigzag as u16).put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let zigzag = u16::take(reader);
        (zigzag >> 1) as Self ^ -((zigzag & 1) as Self)
    }
}

impl Body for bool {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.byte((*self).into());
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let byte = reader.byte();
        if byte > 1 {
            reader.fail();
        }
        byte == 1
    }
}

impl<const N: usize> Body for [u8; N] {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(self);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let mut bytes = [0; N];
        reader.fill(&mut bytes);
        bytes
    }
}

macro_rules! arrays {
    ($($number:ty),+) => {$(
        impl<const N: usize> Body for [$number; N] {
            fn put(&self, writer: &mut Writer<'_>) {
                self.iter().for_each(|number| number.put(writer));
            }

            fn take(reader: &mut Reader<'_>) -> Self {
                core::array::from_fn(|_| Body::take(reader))
            }
        }
    )+};
}
arrays!(u16, u64);

impl<T: Body> Body for Option<T> {
    fn put(&self, writer: &mut Writer<'_>) {
        self.is_some().put(writer);
        if let Some(value) = self {
            value.put(writer);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        bool::take(reader).then(|| T::take(reader))
    }
}

impl<A: Body, B: Body> Body for (A, B) {
    fn put(&self, writer: &mut Writer<'_>) {
        self.0.put(writer);
        self.1.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        (A::take(reader), B::take(reader))
    }
}

impl<T: Body, const N: usize> Body for heapless::Vec<T, N> {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.number(self.len() as u32);
        self.iter().for_each(|value| value.put(writer));
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let mut values = Self::new();
        for _ in 0..reader.number(32) {
            if values.push(T::take(reader)).is_err() || !reader.is_good {
                reader.fail();
                break;
            }
        }
        values
    }
}

impl<const N: usize> Body for heapless::String<N> {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.counted(self.as_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let text = core::str::from_utf8(reader.counted()).ok();
        let text = text.and_then(|text| Self::try_from(text).ok());
        if text.is_none() {
            reader.fail();
        }
        text.unwrap_or_default()
    }
}

impl Body for Ipv4Addr {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.octets());
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        <[u8; 4]>::take(reader).into()
    }
}

impl Body for Ipv6Addr {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.octets());
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        <[u8; 16]>::take(reader).into()
    }
}

impl Body for IpAddr {
    fn put(&self, writer: &mut Writer<'_>) {
        writer.byte(self.is_ipv6().into());
        match self {
            Self::V4(ip) => ip.put(writer),
            Self::V6(ip) => ip.put(writer),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        match reader.number(32) {
            0 => Self::V4(Body::take(reader)),
            1 => Self::V6(Body::take(reader)),
            _ => {
                reader.fail();
                Self::V4(Ipv4Addr::UNSPECIFIED)
            }
        }
    }
}

impl Body for SocketAddrV4 {
    fn put(&self, writer: &mut Writer<'_>) {
        self.ip().put(writer);
        self.port().put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let ip = Body::take(reader);
        Self::new(ip, Body::take(reader))
    }
}

/// Without flow and scope.
impl Body for SocketAddrV6 {
    fn put(&self, writer: &mut Writer<'_>) {
        self.ip().put(writer);
        self.port().put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let ip = Body::take(reader);
        Self::new(ip, Body::take(reader), 0, 0)
    }
}

impl Body for SocketAddr {
    fn put(&self, writer: &mut Writer<'_>) {
        self.ip().put(writer);
        self.port().put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let ip = IpAddr::take(reader);
        Self::new(ip, Body::take(reader))
    }
}

/// Makes a [`Body`] of a type: a struct's fields in their order; an enum's number and then
/// what the variant holds, with the variant that stands for a wrong number.
#[macro_export]
macro_rules! body {
    (struct $name:ident { $($field:tt),* $(,)? }) => {
        impl $crate::body::Body for $name {
            fn put(&self, _writer: &mut $crate::body::Writer<'_>) {
                $($crate::body::Body::put(&self.$field, _writer);)*
            }

            fn take(_reader: &mut $crate::body::Reader<'_>) -> Self {
                Self { $($field: $crate::body::Body::take(_reader)),* }
            }
        }
    };
    (enum $name:ident, else $other:expr; {
        $($number:literal = $variant:ident
            $(($($part:ident),+))? $({$($field:ident),+})?),+ $(,)?
    }) => {
        impl $crate::body::Body for $name {
            fn put(&self, writer: &mut $crate::body::Writer<'_>) {
                match self {
                    $(Self::$variant $(($($part),+))? $({$($field),+})? => {
                        writer.byte($number);
                        $($($crate::body::Body::put($part, writer);)+)?
                        $($($crate::body::Body::put($field, writer);)+)?
                    })+
                }
            }

            fn take(reader: &mut $crate::body::Reader<'_>) -> Self {
                match reader.number(32) {
                    $($number => {
                        $($(let $part = $crate::body::Body::take(reader);)+)?
                        $($(let $field = $crate::body::Body::take(reader);)+)?
                        Self::$variant $(($($part),+))? $({$($field),+})?
                    })+
                    _ => {
                        reader.fail();
                        $other
                    }
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What postcard makes of a value, and back.
    fn as_postcard<T>(value: T)
    where
        T: Body + serde::Serialize + serde::de::DeserializeOwned + PartialEq + core::fmt::Debug,
    {
        let (mut ours, mut theirs) = ([0; 128], [0; 128]);
        let len = postcard::to_slice(&value, &mut theirs).unwrap().len();
        for room in 0..=len {
            let mut writer = Writer::new(&mut ours[..room]);
            value.put(&mut writer);
            assert_eq!(writer.written(), (room == len).then_some(len));
        }
        assert_eq!(ours[..len], theirs[..len]);
        for cut in 0..=len {
            let mut reader = Reader::new(&ours[..cut]);
            let read = T::take(&mut reader);
            assert_eq!(reader.rest().is_some(), cut == len, "{value:?}");
            assert!(cut < len || read == value);
        }
    }

    #[test]
    fn the_bytes_are_those_of_postcard() {
        for number in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, !0 >> bit]) {
            as_postcard(number);
            as_postcard(number as u32);
            as_postcard(number as u16);
            as_postcard(number as i16);
            as_postcard((number as u8, number as u32));
        }
        as_postcard([Some(true), Some(false), None].into_iter().collect::<heapless::Vec<_, 3>>());
        as_postcard(heapless::String::<8>::try_from("gw-ü").unwrap());
        let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 7), Ipv6Addr::LOCALHOST);
        as_postcard(SocketAddrV4::new(v4, 51_871));
        for ip in [v4.into(), IpAddr::from(v6)] {
            as_postcard(ip);
            as_postcard(SocketAddr::new(ip, 300));
        }
        as_postcard([7u16, 300]);
        as_postcard([1u64, u64::MAX, 0]);
        as_postcard([9u8; 32]);
    }

    /// Whether postcard and we take the same bytes, and read the same of them.
    fn taken_alike<T>(bytes: &[u8])
    where
        T: Body + serde::de::DeserializeOwned + PartialEq + core::fmt::Debug,
    {
        let theirs = postcard::take_from_bytes::<T>(bytes).ok();
        let mut reader = Reader::new(bytes);
        let value = T::take(&mut reader);
        assert_eq!(reader.rest().map(|rest| (value, rest)), theirs, "{bytes:?}");
    }

    proptest::proptest! {
        #[test]
        fn wrong_bytes_are_refused_as_by_postcard(
            bytes in proptest::collection::vec(
                proptest::prop_oneof![0u8..4, 0x7Eu8..0x82, proptest::prelude::any::<u8>()], 0..24,
            ),
        ) {
            taken_alike::<u16>(&bytes);
            taken_alike::<u32>(&bytes);
            taken_alike::<u64>(&bytes);
            taken_alike::<i16>(&bytes);
            taken_alike::<Option<bool>>(&bytes);
            taken_alike::<SocketAddr>(&bytes);
            taken_alike::<crate::map::Prefix>(&bytes);
            taken_alike::<crate::map::Overlay>(&bytes);
            taken_alike::<crate::path::Way>(&bytes);
            taken_alike::<crate::signal::Mapping>(&bytes);
            taken_alike::<crate::network::NatMapping>(&bytes);
        }
    }
}
