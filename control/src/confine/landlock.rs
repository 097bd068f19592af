//! Landlock: which files a thread can reach, whatever rights its user has (Documentation/userspace-api/landlock.rst).

use std::os::fd::BorrowedFd;

use ipop_dataplane::feature::State;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::Role;

/// Where the ports of a bridge are listed: what /sys/class/net links to.
const INTERFACES: &str = "/sys/devices/virtual/net";

/// No file for a worker, no TCP for anybody; the control thread may look at the ports of bridges, and remove its socket in
/// `directory`. A kernel that knows less of it does that less.
pub(super) fn restrict(role: Role, directory: Option<BorrowedFd<'_>>) -> State {
    match enforce(role, directory) {
        Ok(RulesetStatus::NotEnforced) => State::Off("not in this kernel, or not switched on (lsm=)".to_owned()),
        Ok(_) => State::On,
        Err(error) => State::Off(error.to_string()),
    }
}

fn enforce(role: Role, directory: Option<BorrowedFd<'_>>) -> Result<RulesetStatus, RulesetError> {
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    if let Some(directory) = directory {
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    // Without it the port follows the bridge's own MTU only, as where there is no sysfs.
    if role == (Role::Control { bridge: true })
        && let Ok(interfaces) = PathFd::new(INTERFACES)
    {
        rules = rules.add_rule(PathBeneath::new(interfaces, AccessFs::ReadDir))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
