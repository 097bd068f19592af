//! What can go wrong at the start of a gateway, and end it.

use std::io;

use ipop_dataplane::packet::PacketError;
use ipop_dataplane::tap::TapError;
use ipop_dataplane::underlay::UnderlayError;

use crate::admin::AdminError;
use crate::confine::UserError;

/// Why the gateway did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The port.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The port, if it is a whole interface.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The port would carry its own datagrams.
    #[error(
        "the peer {peer} is reached through '{interface}', which \"af_packet\" makes the port: every datagram would be \
         sent again as a frame; the port needs an interface of its own"
    )]
    PortIsUnderlay {
        /// The port.
        interface: String,
        /// The peer.
        peer: String,
    },
    /// The UDP socket.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The control socket.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The user that it should be.
    #[error(transparent)]
    User(#[from] UserError),
    /// A worker did not start.
    #[error("worker {lane} cannot start: {error}{hint}")]
    Worker {
        /// Which.
        lane: u8,
        /// The kernel's answer.
        error: io::Error,
        /// What may be the matter.
        hint: &'static str,
    },
    /// A worker had to stop.
    #[error("a worker had to stop: {0}")]
    WorkerFailed(String),
    /// Another call failed.
    #[error("{what}: {error}")]
    Call {
        /// The operation.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

pub(super) fn call(what: &'static str) -> impl Fn(io::Error) -> GatewayError {
    move |error| GatewayError::Call { what, error }
}
