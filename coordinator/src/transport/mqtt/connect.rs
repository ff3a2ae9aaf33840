//! Whether a CONNECT is admitted: one pure function.

use weft_noise::mac;
use weft_wire::id::{Inbox, KeyId};
use weft_wire::login;

use super::packet::{Connect, ConnectCode, IN_FLIGHT, KEEP_ALIVE_S};
use crate::service::bus::Class;
use crate::service::secrets::Secrets;

/// Recomputes the passwords that this coordinator has given out.
pub trait Passwords: Send + Sync {
    /// Whether `mac` is the one for an enrolled device's inbox and this expiry.
    /// Compares in constant time.
    fn device(&self, inbox: Inbox, expiry: u32, mac: &[u8; 16]) -> bool;

    /// Whether `mac` is the one for an enrolment key and this expiry. Compares
    /// in constant time.
    fn enrolment(&self, key: KeyId, expiry: u32, mac: &[u8; 16]) -> bool;
}

impl Passwords for Secrets {
    fn device(&self, inbox: Inbox, expiry: u32, mac: &[u8; 16]) -> bool {
        mac::verify(&self.broker_password(&inbox, expiry).0, mac)
    }

    fn enrolment(&self, key: KeyId, expiry: u32, mac: &[u8; 16]) -> bool {
        self.is_enrol_password(key, expiry, mac)
    }
}

/// What an admitted client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its inbox: the only one in its topics.
    pub inbox: Inbox,
    /// Device or enrolling device.
    pub class: Class,
    /// Seconds between packets that it promises, within [`KEEP_ALIVE_S`].
    pub keep_alive_s: u16,
    /// QoS 1 packets to it that may wait for a PUBACK, at least 1.
    pub receive_maximum: u16,
    /// The longest packet it takes, in bytes.
    pub maximum_packet: u32,
}

/// Why a CONNECT is not admitted. Clean start is no reason: 0 is accepted and
/// answered with "no session".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// It holds a last will, which would be an unauthenticated message.
    Will,
    /// It asks for MQTT 5's extended authentication.
    ExtendedAuthentication,
    /// The client id is not an inbox.
    ClientId,
    /// The user name is neither the client id nor `e.<key id>`.
    User,
    /// The password has not the form of one.
    PasswordForm,
    /// The password is not the one for this inbox or key.
    Password,
    /// The password was right and its time is over.
    Expired,
    /// Keep alive outside [`KEEP_ALIVE_S`].
    KeepAlive,
    /// Receive maximum or maximum packet size of 0 (3.1.2.11.3, 3.1.2.11.4).
    Limits,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = Self::Limits as usize + 1;

    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Will,
        Self::ExtendedAuthentication,
        Self::ClientId,
        Self::User,
        Self::PasswordForm,
        Self::Password,
        Self::Expired,
        Self::KeepAlive,
        Self::Limits,
    ];

    /// What the client is told: enough to try again rightly, nothing about
    /// which half of the credentials was wrong.
    pub const fn code(self) -> ConnectCode {
        match self {
            Self::ClientId => ConnectCode::ClientId,
            Self::User | Self::PasswordForm | Self::Password | Self::Expired => {
                ConnectCode::Credentials
            }
            Self::Will | Self::ExtendedAuthentication | Self::KeepAlive | Self::Limits => {
                ConnectCode::NotAuthorized
            }
        }
    }
}

/// Judges a CONNECT at `now_s` (Unix time in seconds; 0 = the clock is not set,
/// and then no password is too old).
///
/// # Errors
///
/// The first [`Refusal`] found; cheap checks come before the MAC.
pub fn verdict(
    connect: &Connect,
    passwords: &dyn Passwords,
    now_s: u64,
) -> Result<Admission, Refusal> {
    if connect.will {
        return Err(Refusal::Will);
    }
    if connect.extended_authentication {
        return Err(Refusal::ExtendedAuthentication);
    }
    if !KEEP_ALIVE_S.contains(&connect.keep_alive_s) {
        return Err(Refusal::KeepAlive);
    }
    if connect.receive_maximum == Some(0) || connect.maximum_packet == Some(0) {
        return Err(Refusal::Limits);
    }
    let inbox: Inbox = connect.client_id.parse().map_err(|_| Refusal::ClientId)?;
    let (expiry, mac) = login::parse_password(&connect.password).ok_or(Refusal::PasswordForm)?;
    let (class, genuine) = if connect.user == connect.client_id {
        (Class::Device, passwords.device(inbox, expiry, &mac.0))
    } else {
        let key = connect.user.strip_prefix("e.").and_then(|key| key.parse::<KeyId>().ok());
        let key = key.ok_or(Refusal::User)?;
        (Class::Enrolling(key), passwords.enrolment(key, expiry, &mac.0))
    };
    if !genuine {
        return Err(Refusal::Password);
    }
    // After the MAC: a forged expiry must not learn that it was one.
    if u64::from(expiry) < now_s {
        return Err(Refusal::Expired);
    }
    Ok(Admission {
        inbox,
        class,
        keep_alive_s: connect.keep_alive_s,
        receive_maximum: connect.receive_maximum.unwrap_or(IN_FLIGHT).min(IN_FLIGHT),
        maximum_packet: connect.maximum_packet.unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use weft_wire::id::ShortSecret;

    use super::*;

    fn password(expiry: u32, mac: [u8; 16]) -> String {
        login::password(expiry, &ShortSecret(mac)).as_str().to_owned()
    }

    const EXPIRY: u32 = 2_000;

    /// Passwords without cryptography: the MAC is the id's first byte, repeated.
    struct Known;

    impl Passwords for Known {
        fn device(&self, inbox: Inbox, expiry: u32, mac: &[u8; 16]) -> bool {
            expiry == EXPIRY && *mac == [inbox.0[0]; 16]
        }

        fn enrolment(&self, key: KeyId, expiry: u32, mac: &[u8; 16]) -> bool {
            expiry == EXPIRY && *mac == [key.to_bytes()[7]; 16]
        }
    }

    fn key() -> KeyId {
        KeyId::from_random([9; 8])
    }

    fn device() -> Connect {
        let inbox = Inbox([7; 16]).to_string();
        Connect {
            client_id: inbox.clone(),
            user: inbox,
            password: password(EXPIRY, [7; 16]),
            keep_alive_s: 300,
            ..Connect::default()
        }
    }

    fn enrolling() -> Connect {
        Connect {
            user: weft_wire::topic::enrolment_user(key()).to_string(),
            password: password(EXPIRY, [9; 16]),
            ..device()
        }
    }

    fn judge(connect: &Connect) -> Result<Admission, Refusal> {
        verdict(connect, &Known, 1_000)
    }

    #[test]
    fn admits_devices_and_enrolling_devices() {
        let admission = judge(&device()).unwrap();
        assert_eq!(admission.inbox, Inbox([7; 16]));
        assert_eq!(admission.class, Class::Device);
        assert_eq!((admission.receive_maximum, admission.maximum_packet), (8, u32::MAX));
        let admission = judge(&enrolling()).unwrap();
        assert_eq!(admission.class, Class::Enrolling(key()));
        let small = Connect { receive_maximum: Some(1), maximum_packet: Some(512), ..device() };
        let admission = judge(&small).unwrap();
        assert_eq!((admission.receive_maximum, admission.maximum_packet), (1, 512));
        let large = Connect { receive_maximum: Some(u16::MAX), ..device() };
        assert_eq!(judge(&large).unwrap().receive_maximum, 8);
    }

    #[test]
    fn refuses_by_table() {
        type Change = fn(&mut Connect);
        let table: &[(&str, Change, Refusal)] = &[
            ("will", |c| c.will = true, Refusal::Will),
            ("method", |c| c.extended_authentication = true, Refusal::ExtendedAuthentication),
            ("no keep alive", |c| c.keep_alive_s = 0, Refusal::KeepAlive),
            ("long keep alive", |c| c.keep_alive_s = 1_201, Refusal::KeepAlive),
            ("no window", |c| c.receive_maximum = Some(0), Refusal::Limits),
            ("no packet", |c| c.maximum_packet = Some(0), Refusal::Limits),
            ("no client id", |c| c.client_id.clear(), Refusal::ClientId),
            ("upper case", |c| c.client_id = c.client_id.to_uppercase(), Refusal::ClientId),
            ("other client id", |c| c.client_id = "weft".to_owned(), Refusal::ClientId),
            ("no user", |c| c.user.clear(), Refusal::User),
            ("other inbox", |c| c.user = Inbox([8; 16]).to_string(), Refusal::User),
            ("bad key", |c| c.user = "e.key_".to_owned(), Refusal::User),
            ("no password", |c| c.password.clear(), Refusal::PasswordForm),
            ("long password", |c| c.password.push('a'), Refusal::PasswordForm),
            ("other expiry", |c| c.password = password(1, [7; 16]), Refusal::Password),
            ("other mac", |c| c.password = password(EXPIRY, [8; 16]), Refusal::Password),
            (
                "another's client id with the own password",
                |c| {
                    c.client_id = Inbox([8; 16]).to_string();
                    c.user = c.client_id.clone();
                },
                Refusal::Password,
            ),
            (
                "an enrolment password as device",
                |c| c.password = password(EXPIRY, [9; 16]),
                Refusal::Password,
            ),
        ];
        for (name, change, refusal) in table {
            let mut connect = device();
            change(&mut connect);
            assert_eq!(judge(&connect), Err(*refusal), "{name}");
        }
        let mut connect = enrolling();
        connect.password = device().password;
        assert_eq!(judge(&connect), Err(Refusal::Password));
    }

    #[test]
    fn passwords_age_unless_the_clock_is_not_set() {
        assert!(verdict(&device(), &Known, 2_000).is_ok());
        assert_eq!(verdict(&device(), &Known, 2_001), Err(Refusal::Expired));
        assert_eq!(verdict(&enrolling(), &Known, 2_001), Err(Refusal::Expired));
        assert!(verdict(&device(), &Known, 0).is_ok());
    }
}
