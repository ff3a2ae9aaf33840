//! Numbers that IANA keeps: methods, classes, attributes, error codes.

/// Length of a STUN header.
pub const HEADER_LEN: usize = 20;
/// RFC 8489 section 5.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;
/// First of the attributes that may be ignored (RFC 8489 section 14).
pub const COMPREHENSION_OPTIONAL: u16 = 0x8000;

/// What a message is within its method (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Asks for an answer.
    Request,
    /// Asks for none.
    Indication,
    /// The answer to what was done.
    Success,
    /// The answer to what was not.
    Error,
}

/// The message type of a method and a class: the class's two bits stand at 4
/// and 8 (RFC 8489 figure 3).
pub const fn kind_of(method: u16, class: Class) -> u16 {
    let bits = match class {
        Class::Request => 0,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2 | bits
}

/// The class of a message type.
pub const fn class_of(kind: u16) -> Class {
    match kind & 0x110 {
        0 => Class::Request,
        0x010 => Class::Indication,
        0x100 => Class::Success,
        _ => Class::Error,
    }
}

/// The method of a message type.
pub const fn method_of(kind: u16) -> u16 {
    (kind & 0xF) | (kind >> 1) & 0x70 | (kind >> 2) & 0xF80
}

/// Method Binding (RFC 8489).
pub const BINDING: u16 = 0x001;
/// Method Allocate (RFC 8656 section 17, as those that follow).
pub const ALLOCATE: u16 = 0x003;
/// Method Refresh.
pub const REFRESH: u16 = 0x004;
/// Method Send; indications only.
pub const SEND: u16 = 0x006;
/// Method Data; indications only.
pub const DATA: u16 = 0x007;
/// Method CreatePermission.
pub const CREATE_PERMISSION: u16 = 0x008;
/// Method ChannelBind.
pub const CHANNEL_BIND: u16 = 0x009;

/// Binding request.
pub const BINDING_REQUEST: u16 = kind_of(BINDING, Class::Request);
/// Binding success response.
pub const BINDING_SUCCESS: u16 = kind_of(BINDING, Class::Success);
/// Binding error response.
pub const BINDING_ERROR: u16 = kind_of(BINDING, Class::Error);
/// Allocate request.
pub const ALLOCATE_REQUEST: u16 = kind_of(ALLOCATE, Class::Request);
/// Refresh request.
pub const REFRESH_REQUEST: u16 = kind_of(REFRESH, Class::Request);
/// CreatePermission request.
pub const CREATE_PERMISSION_REQUEST: u16 = kind_of(CREATE_PERMISSION, Class::Request);
/// ChannelBind request.
pub const CHANNEL_BIND_REQUEST: u16 = kind_of(CHANNEL_BIND, Class::Request);
/// Send indication.
pub const SEND_INDICATION: u16 = kind_of(SEND, Class::Indication);
/// Data indication.
pub const DATA_INDICATION: u16 = kind_of(DATA, Class::Indication);

/// MAPPED-ADDRESS.
pub const MAPPED_ADDRESS: u16 = 0x0001;
/// CHANGE-REQUEST (RFC 5780).
pub const CHANGE_REQUEST: u16 = 0x0003;
/// USERNAME.
pub const USERNAME: u16 = 0x0006;
/// MESSAGE-INTEGRITY.
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
/// ERROR-CODE.
pub const ERROR_CODE: u16 = 0x0009;
/// UNKNOWN-ATTRIBUTES.
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
/// CHANNEL-NUMBER.
pub const CHANNEL_NUMBER: u16 = 0x000C;
/// LIFETIME.
pub const LIFETIME: u16 = 0x000D;
/// XOR-PEER-ADDRESS.
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
/// DATA, the attribute.
pub const DATA_ATTRIBUTE: u16 = 0x0013;
/// REALM.
pub const REALM: u16 = 0x0014;
/// NONCE.
pub const NONCE: u16 = 0x0015;
/// XOR-RELAYED-ADDRESS.
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
/// REQUESTED-ADDRESS-FAMILY.
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
/// EVEN-PORT.
pub const EVEN_PORT: u16 = 0x0018;
/// REQUESTED-TRANSPORT.
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
/// DONT-FRAGMENT.
pub const DONT_FRAGMENT: u16 = 0x001A;
/// MESSAGE-INTEGRITY-SHA256.
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
/// XOR-MAPPED-ADDRESS.
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RESERVATION-TOKEN.
pub const RESERVATION_TOKEN: u16 = 0x0022;
/// PADDING (RFC 5780).
pub const PADDING: u16 = 0x0026;
/// RESPONSE-PORT (RFC 5780).
pub const RESPONSE_PORT: u16 = 0x0027;
/// ADDITIONAL-ADDRESS-FAMILY.
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
/// ADDRESS-ERROR-CODE.
pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
/// SOFTWARE.
pub const SOFTWARE: u16 = 0x8022;
/// ALTERNATE-SERVER.
pub const ALTERNATE_SERVER: u16 = 0x8023;
/// FINGERPRINT.
pub const FINGERPRINT: u16 = 0x8028;
/// RESPONSE-ORIGIN (RFC 5780).
pub const RESPONSE_ORIGIN: u16 = 0x802B;
/// OTHER-ADDRESS (RFC 5780).
pub const OTHER_ADDRESS: u16 = 0x802C;

/// Error codes, by the names that their RFCs give them.
pub mod code {
    /// Another server takes the request.
    pub const TRY_ALTERNATE: u16 = 300;
    /// The request does not hold together.
    pub const BAD_REQUEST: u16 = 400;
    /// Credentials are missing or wrong.
    pub const UNAUTHENTICATED: u16 = 401;
    /// The peer's address is not one that may be sent to.
    pub const FORBIDDEN: u16 = 403;
    /// An attribute that must be understood is not.
    pub const UNKNOWN_ATTRIBUTE: u16 = 420;
    /// The five-tuple has no allocation, or has one already.
    pub const ALLOCATION_MISMATCH: u16 = 437;
    /// The nonce is too old; another one comes with the answer.
    pub const STALE_NONCE: u16 = 438;
    /// The server has no address of this family.
    pub const ADDRESS_FAMILY_NOT_SUPPORTED: u16 = 440;
    /// Credentials of somebody else than who made the allocation.
    pub const WRONG_CREDENTIALS: u16 = 441;
    /// Only UDP is relayed.
    pub const UNSUPPORTED_TRANSPORT: u16 = 442;
    /// The peer is of another family than the allocation.
    pub const PEER_FAMILY_MISMATCH: u16 = 443;
    /// The user has as many allocations as allowed.
    pub const QUOTA_REACHED: u16 = 486;
    /// No port, no memory, or about to end.
    pub const INSUFFICIENT_CAPACITY: u16 = 508;
}

/// The protocol number of UDP, as in REQUESTED-TRANSPORT.
pub const UDP: u8 = 17;
