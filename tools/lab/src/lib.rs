//! A laboratory for `ipop` on one machine: gateways, bridges and containers out of network namespaces.
//!
//! The demo, the end-to-end tests and the benchmarks build their topologies with it. It needs root; [`lab_available`],
//! [`lxc_available`] and [`ipop_available`] tell whether, and if not why not. Everything that is created belongs to a
//! [`Run`] and carries its name; dropping the values removes it, also when a test panics, and also after Ctrl-C if the
//! program called [`interrupt::install`]. What a killed program left behind, [`clean_stale`] removes.
//!
//! The drawing of the topology is at the top of [`topology`].
//!
//! ```no_run
//! # fn main() -> ipop_lab::Result<()> {
//! use ipop_lab::Lab;
//!
//! let lab = Lab::builder().gateways(2).build()?;
//! let _daemons = lab.start_ipop()?;
//! let c0 = lab.container(0, "c0", &["10.0.3.3/24"])?;
//! let _c1 = lab.container(1, "c1", &["10.0.3.104/24"])?;
//! c0.ping("10.0.3.104", 3)?;
//! # Ok(())
//! # }
//! ```

pub mod arp;
pub mod gateway;
pub mod interrupt;
pub mod ndp;
pub mod topology;
pub mod traffic;
pub mod trials;
pub mod vm;

mod command;
mod container;
mod daemon;
mod error;
mod link;
mod lxc;
mod netns;
mod open_dir;
mod raw;
mod requirement;
mod run;

pub use command::{Cmd, DEFAULT_TIMEOUT, Output, Process};
pub use container::{Container, ContainerBuilder, Kind};
pub use daemon::{Daemon, binary as ipop_binary};
pub use error::{Error, Result};
pub use gateway::Gateway;
pub use lxc::lxc_available;
pub use netns::Netns;
pub use open_dir::OpenDir;
pub use raw::{Direction, RawPort, udp_socket};
pub use requirement::{ipop_available, is_root, lab_available, tool, vlan_available, vxlan_available};
pub use run::{Run, clean_stale, exists, tear_down};
pub use topology::{BRIDGE, Builder, Family, Joint, Lab, PORT, TAP, UPLINK};
