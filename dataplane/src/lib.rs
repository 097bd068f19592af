//! All that touches a frame: the port, the underlay, the datagram format, the MAC table, forwarding and the workers.
//!
//! The numbered way of a frame stands in ARCHITECTURE.md; comments here refer to its steps as (1) to (12).

pub mod addr;
pub mod budget;
pub mod circle;
pub mod claims;
pub mod datagram;
pub mod ending;
pub mod event;
pub mod feature;
mod flow;
pub mod forward;
pub mod interface;
pub mod mac_table;
pub mod merge;
pub mod offloads;
pub mod packet;
pub mod peers;
pub mod port;
pub mod raw_ports;
mod ring;
pub mod session;
mod sync;
pub mod tap;
pub mod underlay;
pub mod wire;
pub mod worker;

/// How long a start waits for what a killed process still holds.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
/// Between two looks at what a killed process still holds.
pub const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
