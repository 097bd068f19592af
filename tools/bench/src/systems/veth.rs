//! A veth pair from bridge to bridge: no overlay and no underlay, so nothing on this machine can be faster.

use ipop_lab::{Joint, Lab, lab_available};

use super::{Kind, Missing, Running, system};
use crate::error::Result;
use crate::result::{Category, System};

/// The only mode.
pub(super) struct Veth;

impl Kind for Veth {
    fn system(&self) -> System {
        system("veth", "veth pair", Category::Limit, None)
    }

    fn missing(&self) -> Option<Missing> {
        lab_available().err().map(Missing::beyond_help)
    }

    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>> {
        Ok(Box::new(lab.veth_joint(inner_mtu)?))
    }
}

/// What the kernel forwards has no processes, and does not end by itself.
impl Running for Joint {
    fn processes(&self) -> Vec<(String, u32)> {
        Vec::new()
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}
