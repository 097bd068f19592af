//! The control thread: config, keys, links to peers, ARP and neighbour discovery as RPC, ages, and the control socket.

pub mod action;
pub mod admin;
pub mod config;
pub mod confine;
mod deadlines;
pub mod gateway;
mod json;
pub mod keys;
pub mod limits;
pub mod link;
pub mod log;
pub mod macs;
pub mod notify;
pub mod path_mtu;
pub mod report;
pub mod resolution;
pub mod routes;
pub mod rpc;
