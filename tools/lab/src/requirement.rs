//! What this machine must have, and whether it has it.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::geteuid;

use crate::netns::Netns;
use crate::run::Run;

/// A program's real path: from PATH, or from where the system's own programs are (root's PATH may lack them).
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .and_then(|file| file.canonicalize().ok())
}

/// Are we root?
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Can a lab of plain namespaces be built here? The error is the reason why not.
pub fn lab_available() -> Result<(), String> {
    if !is_root() {
        return Err("needs root, for network namespaces".into());
    }
    for (program, package) in [("ip", "iproute2"), ("bridge", "iproute2"), ("ping", "iputils-ping")] {
        if tool(program).is_none() {
            return Err(format!("{program} is not installed (package {package})"));
        }
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Err("the kernel has no network namespaces".into());
    }
    Ok(())
}

/// Can `ipop` be run here? The error is the reason why not.
pub fn ipop_available() -> Result<(), String> {
    lab_available()?;
    if !Path::new("/dev/net/tun").exists() {
        return Err("/dev/net/tun is missing (modprobe tun)".into());
    }
    crate::daemon::binary().map(drop).map_err(|error| error.to_string())
}

/// Can containers have VLAN interfaces here? Found out once, by making one; the error is the reason why not.
pub fn vlan_available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let make = ["link add probe type bridge", "link add link probe name probe.10 type vlan id 10"];
    ANSWER.get_or_init(|| probe("VLAN interfaces", &make)).clone()
}

/// Does the kernel have VXLAN? Found out once, by making an interface; the error is the reason why not.
pub fn vxlan_available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| probe("VXLAN interfaces", &["link add probe type vxlan id 1 dstport 4789"])).clone()
}

/// Makes links in a namespace of its own.
fn probe(what: &str, links: &[&str]) -> Result<(), String> {
    lab_available()?;
    let make = || -> crate::Result<()> {
        let netns = Netns::new(&Run::new()?, "probe")?;
        links.iter().try_for_each(|link| netns.ip(link).map(drop))
    };
    make().map_err(|error| format!("{what} do not work: {error}"))
}
