//! Who may use the control socket: a group may ask, root alone may change something.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ipop_lab::OpenDir;

use super::kit::{Outcome, Pair, ensure, failed_clearly, refused};

/// A group that Debian has on every machine, and its number.
const GROUP: (&str, u32) = ("games", 60);

/// Somebody who is no more than a member of the group asks, and may change nothing.
pub(crate) fn group() -> Outcome {
    let pair = Pair::new()?;
    let open = OpenDir::new(pair.lab.lab_run())?;
    let mut config = pair.gateway(0).config();
    let socket = open.path().join("ipop.sock");
    config["control_socket"] = socket.display().to_string().into();
    config["control_group"] = GROUP.0.into();
    let a = pair.gateway(0).start_ipop(&config)?;
    let found = std::fs::metadata(&socket)?;
    let (mode, gid) = (found.permissions().mode() & 0o777, found.gid());
    ensure((mode, gid) == (0o660, GROUP.1), format!("the socket has mode {mode:o} and group {gid}"))?;

    // The program may lie where only root can go.
    let program = open.path().join("ipop");
    std::fs::copy(ipop_lab::ipop_binary()?, &program)?;
    let (program, socket) = (program.display().to_string(), socket.display().to_string());
    let ask_as = |group: u32, words: &[&str]| {
        let ids = ["--reuid=65534".to_owned(), format!("--regid={group}"), "--clear-groups".to_owned()];
        let words = words.iter().map(|word| (*word).to_owned());
        let call = [program.clone()].into_iter().chain(words).chain(["--socket".to_owned(), socket.clone()]);
        pair.gateway(0).exec(["setpriv".to_owned()].into_iter().chain(ids).chain(call))
    };
    for words in [["status"], ["peers"], ["macs"], ["arp"], ["rpc"]] {
        let output = ask_as(GROUP.1, &words)?;
        ensure(output.success(), format!("{words:?}: {}{}", output.stdout, output.stderr))?;
    }
    for words in [&["rekey"][..], &["macs", "release", "02:00:00:00:00:01"]] {
        failed_clearly("a member changes", &ask_as(GROUP.1, words)?, &["only root may do that"])?;
    }
    failed_clearly("a stranger asks", &ask_as(65534, &["status"])?, &["not permitted", "the group 'games'"])?;
    // And it works for those who may.
    for words in [&["rekey"][..], &["macs", "release", "02:00:00:00:00:01"]] {
        a.order(words).run()?;
    }
    drop(a);
    config["control_group"] = "no-such-group".into();
    refused(&pair.lab, pair.gateway(0), "group", &config, &["there is no group 'no-such-group'", "control_group"])
}
