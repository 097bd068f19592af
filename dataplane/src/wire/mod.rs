//! The protocols that a frame is made of, one file each: views on bytes, no I/O, no allocation.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod ip;
pub mod ndp;
pub mod tag;
pub mod traffic_class;
pub mod vnet;

pub use ethernet::Frame;
pub use vnet::VnetHeader;
