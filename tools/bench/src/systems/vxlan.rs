//! The kernel's VXLAN over the underlay.

use ipop_lab::{Lab, vxlan_available};

use super::{Kind, Missing, Running, system};
use crate::error::Result;
use crate::result::{Category, System};

/// The only mode. Offloads are left as the kernel sets them: unlike systems that read a TAP it forwards the large
/// segments of TCP in one piece.
pub(super) struct Vxlan;

impl Kind for Vxlan {
    fn system(&self) -> System {
        system("vxlan", "VXLAN of the kernel", Category::Kernel, None)
    }

    fn missing(&self) -> Option<Missing> {
        vxlan_available().err().map(Missing::beyond_help)
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        Ok(Box::new(lab.vxlan_joint(Some(inner_mtu))?))
    }
}
