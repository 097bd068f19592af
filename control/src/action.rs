//! What the control thread's logic wants done; the gateway's loop does it.

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::mac_table::{MacKey, Owner};

use crate::limits::Refusal;
use crate::rpc::{MacQuery, Message};

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
    /// Ask a peer whether a MAC still lives there, because of the claim of another (or our own). Peers know each other by
    /// their uids, which the loop fills in.
    MacQuery(PeerId, MacQuery, Option<PeerId>),
    /// Count and log a claim that was refused.
    Refuse(Refusal),
    /// Log that a MAC is frozen, and where it is.
    Frozen(MacKey, Option<Owner>),
}
