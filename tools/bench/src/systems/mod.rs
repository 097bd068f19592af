//! What can join the bridges of two gateways, and how each is started for a comparison.
//!
//! All get the same lab: the same bridges, the same containers, the same underlay. A [`Kind`] knows how to start itself
//! on both gateways and how to go away again without a trace, so that the next one finds the lab as it was.

mod daemon;
mod fastd;
mod interface;
mod ipop;
mod n2n;
mod openvpn;
mod tinc;
mod veth;
mod vpncloud;
mod vxlan;

use ipop_lab::Lab;

use crate::error::{Error, Result};
use crate::result::{Category, System};

/// A system that can be started in a lab.
pub trait Kind {
    /// What it is called, and in which mode it runs.
    fn system(&self) -> System;

    /// What it needs and this machine lacks; `None` if it can run.
    fn missing(&self) -> Option<Missing>;

    /// Starts it on both gateways and joins their `lxcbr0`. Containers with this MTU must be able to talk. It need not
    /// wait until frames pass; whoever started it pings.
    fn start(&self, lab: &Lab, inner_mtu: u32) -> Result<Box<dyn Running>>;
}

/// A system that runs. Dropping it stops it and removes its interfaces.
pub trait Running {
    /// The processes that forward frames, one a gateway (and a relay where a system needs one): name and process id.
    fn processes(&self) -> Vec<(String, u32)>;

    /// Still alive? The error tells which process ended, with what it wrote last.
    fn check(&mut self) -> Result<()>;
}

/// What a system lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The reason, in a few words: `tincd is not installed`.
    pub reason: String,
    /// The command that installs it, as argument vector; `None` where no command helps.
    pub install: Option<Vec<String>>,
}

impl Missing {
    /// What no command helps against.
    fn beyond_help(reason: String) -> Self {
        Self { reason, install: None }
    }
}

/// All systems, from what the machine can do at most to the slowest, each first in clear text.
pub fn all() -> Vec<Box<dyn Kind>> {
    let mut all: Vec<Box<dyn Kind>> = vec![Box::new(veth::Veth), Box::new(vxlan::Vxlan)];
    all.extend(boxed(ipop::MODES));
    all.push(Box::new(interface::Interface));
    all.extend(boxed(tinc::MODES));
    all.extend(boxed(fastd::MODES));
    all.extend(boxed(vpncloud::MODES));
    all.extend(boxed(openvpn::MODES));
    all.extend(boxed(n2n::MODES));
    all
}

/// The systems with these ids, in this order, each once. `tinc` stands for `tinc-clear` and `tinc-encrypted`.
pub fn select(ids: &[String]) -> Result<Vec<Box<dyn Kind>>> {
    let mut rest: Vec<Option<(String, Box<dyn Kind>)>> =
        all().into_iter().map(|kind| Some((kind.system().id, kind))).collect();
    let known: Vec<String> = rest.iter().flatten().map(|(id, _)| id.clone()).collect();
    let mut selected = Vec::new();
    for wanted in ids {
        let names =
            |id: &str| id.strip_prefix(wanted.as_str()).is_some_and(|mode| mode.is_empty() || mode.starts_with('-'));
        if !known.iter().any(|id| names(id)) {
            return Err(Error::other(format!("no system is called {wanted:?}; there are {}", known.join(", "))));
        }
        let found = rest.iter_mut().filter_map(|slot| slot.take_if(|(id, _)| names(id)));
        selected.extend(found.map(|(_, kind)| kind));
    }
    Ok(selected)
}

fn boxed<K: Kind + 'static>(modes: impl IntoIterator<Item = K>) -> impl Iterator<Item = Box<dyn Kind>> {
    modes.into_iter().map(|mode| Box::new(mode) as Box<dyn Kind>)
}

/// A [`System`] with or without encryption, as its id tells.
fn system(id: &str, label: &str, category: Category, version: Option<String>) -> System {
    System { id: id.into(), label: label.into(), category, encrypted: id.ends_with("-encrypted"), version }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(wanted: &[&str]) -> Result<Vec<String>> {
        let wanted: Vec<String> = wanted.iter().map(|&id| id.to_owned()).collect();
        Ok(select(&wanted)?.iter().map(|kind| kind.system().id).collect())
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<String> = all().iter().map(|kind| kind.system().id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn selects_by_id_and_by_name() -> Result<()> {
        assert_eq!(ids(&["vxlan", "veth"])?, ["vxlan", "veth"]);
        assert_eq!(ids(&["tinc"])?, ["tinc-clear", "tinc-encrypted"]);
        assert_eq!(ids(&["tinc-encrypted", "tinc"])?, ["tinc-encrypted", "tinc-clear"]);
        Ok(())
    }

    #[test]
    fn says_what_there_is_when_asked_for_something_else() {
        for wrong in ["tin", "tinc-", "", "wireguard"] {
            let error = ids(&[wrong]).expect_err(wrong).to_string();
            assert!(
                error.contains("veth, vxlan, ipop-clear, ipop-encrypted, ipop-pinned, ipop-interface, tinc-clear"),
                "{error}"
            );
        }
    }
}
