//! Landlock: which files a thread can reach, whatever rights its user has (Documentation/userspace-api/landlock.rst).

use std::os::fd::BorrowedFd;

use ipop_dataplane::feature::State;
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Keeps, Role};

/// Where the ports of a bridge are listed, and what interfaces count: what /sys/class/net links to.
const INTERFACES: &str = "/sys/devices/virtual/net";

/// What is asked of it: all of this version.
const WANTED: ABI = ABI::V6;
/// What came after the first version, and with which. (Moving files from one directory to another came with the second, and
/// is always refused before.)
const LATER: [(ABI, &str); 4] = [
    (ABI::V3, "truncating files (Linux 6.2)"),
    (ABI::V4, "TCP (Linux 6.7)"),
    (ABI::V5, "ioctls on devices (Linux 6.10)"),
    (ABI::V6, "abstract UNIX sockets and signals (Linux 6.12)"),
];

/// No file for a worker, no TCP for anybody; the control thread may look at the ports of bridges, and remove its socket in
/// `directory`. A kernel that knows less of it does that less.
pub(super) fn restrict(role: Role, directory: Option<BorrowedFd<'_>>) -> State {
    match enforce(role, directory) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. }) => {
            State::Off("not in this kernel, or not switched on (lsm=)".to_owned())
        }
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => state(effective_abi),
        Ok(_) => State::On,
        Err(error) => State::Off(error.to_string()),
    }
}

/// What a kernel of this version leaves free.
fn state(version: ABI) -> State {
    let free: Vec<&str> = LATER.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect();
    if free.is_empty() { State::On } else { State::Partly(format!("this kernel leaves free: {}", free.join(", "))) }
}

fn enforce(role: Role, directory: Option<BorrowedFd<'_>>) -> Result<RestrictionStatus, RulesetError> {
    let abi = WANTED;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    if let Some(directory) = directory {
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    // Without it the port follows the bridge's own MTU only, as where there is no sysfs, and what the kernel drops at a port
    // that was made anew is not counted.
    if role == (Role::Control(Keeps::Bridge))
        && let Ok(interfaces) = PathFd::new(INTERFACES)
    {
        rules = rules.add_rule(PathBeneath::new(interfaces, AccessFs::ReadDir | AccessFs::ReadFile))?;
    }
    rules.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_kernel_leaves_free_is_told() {
        assert_eq!(state(WANTED), State::On);
        assert_eq!(state(ABI::V10), State::On);
        let reason = |version| state(version).reason().unwrap().to_owned();
        assert_eq!(reason(ABI::V5), "this kernel leaves free: abstract UNIX sockets and signals (Linux 6.12)");
        assert!(reason(ABI::V2).contains("truncating files (Linux 6.2), TCP (Linux 6.7), ioctls"));
        assert!(state(ABI::V1).is_on());
    }
}
