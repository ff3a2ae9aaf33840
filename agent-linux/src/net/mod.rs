//! Sockets, the mesh interface and the host's routing tables. The second place
//! where `unsafe` is allowed (see [`crate::os`]): one system call a block.

pub(crate) mod host;
pub(crate) mod icmp;
pub(crate) mod link;
pub(crate) mod monitor;
pub(crate) mod nat64;
pub(crate) mod netlink;
pub(crate) mod resolver;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod tun;
pub(crate) mod udp;
