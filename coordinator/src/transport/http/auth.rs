//! Who calls, and what they may.

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::domain::audit::Actor;
use crate::failure::{Code, Failure};

use super::error::Rejected;

/// What a route's caller must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Nothing: the sealed frame inside says who it is.
    Device,
    /// See devices.
    DeviceRead,
    /// Approve, reject, rename, add and delete devices.
    DeviceManage,
    /// Block and unblock devices.
    DeviceBlock,
    /// Send commands to devices.
    DeviceCommand,
    /// See enrolment keys.
    KeyRead,
    /// Make and end enrolment keys.
    KeyManage,
    /// See policies.
    PolicyRead,
    /// Put policies in force.
    PolicyManage,
    /// See relays.
    RelayRead,
    /// Add, drain and remove relays.
    RelayManage,
    /// See networks.
    NetworkRead,
    /// Announce the coordinator's next key.
    CoordinatorManage,
    /// See the audit trail.
    AuditRead,
    /// See what was counted.
    MetricsRead,
}

impl Permission {
    /// The word in problems.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::DeviceRead => "device.read",
            Self::DeviceManage => "device.manage",
            Self::DeviceBlock => "device.block",
            Self::DeviceCommand => "device.command",
            Self::KeyRead => "key.read",
            Self::KeyManage => "key.manage",
            Self::PolicyRead => "policy.read",
            Self::PolicyManage => "policy.manage",
            Self::RelayRead => "relay.read",
            Self::RelayManage => "relay.manage",
            Self::NetworkRead => "network.read",
            Self::CoordinatorManage => "coordinator.manage",
            Self::AuditRead => "audit.read",
            Self::MetricsRead => "metrics.read",
        }
    }
}

/// The process at the other end of the Unix socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPeer {
    /// Its user; `None` = the kernel did not say.
    pub uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for SocketPeer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

/// Lets a request through if its caller may. Without word of a connection to
/// the Unix socket nobody is known, and only sealed frames are let through.
pub(super) async fn guard(permission: Permission, mut request: Request, next: Next) -> Response {
    if permission == Permission::Device {
        return next.run(request).await;
    }
    // The socket is its owner's alone: who may open it may do everything.
    let peer = request.extensions().get::<ConnectInfo<SocketPeer>>().copied();
    if let Some(ConnectInfo(SocketPeer { uid: Some(uid) })) = peer {
        request.extensions_mut().insert(Caller(Actor::socket(uid)));
        return next.run(request).await;
    }
    let failure = Failure::new(Code::ApiSignIn, "nobody is signed in");
    Rejected::new(failure, &request).requires(permission).into_response()
}

/// Who calls; only behind [`guard`].
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Actor);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Rejected;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejected> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Rejected::of_parts(Failure::new(Code::ApiSignIn, "nobody is signed in"), parts)
        })
    }
}
