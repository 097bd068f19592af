//! What the control thread's logic wants done; the gateway's loop does it.

use ipop_dataplane::addr::PeerId;

use crate::limits::Refusal;
use crate::rpc::Message;

/// Whom a message or a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Every peer that is up.
    All,
    /// One peer.
    Peer(PeerId),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write this frame to the port.
    Inject(Vec<u8>),
    /// Send a message.
    Message(To, Message),
    /// Send a frame as data.
    Frame(To, Vec<u8>),
    /// Count and log a claim that was refused.
    Refuse(Refusal),
}
