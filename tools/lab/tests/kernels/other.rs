//! The cases on other kernels.

use std::time::Duration;

use ipop_lab::trials::{Outcome, trial_of};
use ipop_lab::vm::{Kernel, Machine, vm_available};
use ipop_lab::{ipop_available, ipop_binary};
use libtest_mimic::Trial;

/// How the trials are called, so that they can be left out in the machine.
const NAME: &str = "boots_linux_";
/// On two slow cores that are busy with something else. By itself it takes one or two minutes.
const LIMIT: Duration = Duration::from_secs(900);

pub(crate) fn trials() -> Vec<Trial> {
    let available = ipop_available().and_then(|()| vm_available());
    match available.and_then(|()| Kernel::unpacked()) {
        Ok(kernels) => kernels.into_iter().map(of).collect(),
        Err(reason) => vec![trial_of(&format!("{NAME}of_a_distribution"), &Err(reason), || Ok(()))],
    }
}

fn of(kernel: Kernel) -> Trial {
    trial_of(&format!("{NAME}{}", kernel.release), &Ok(()), move || boot(&kernel))
}

fn boot(kernel: &Kernel) -> Outcome {
    let machine = Machine::new(kernel)?;
    for program in ["ip", "bridge", "ping", "ethtool"] {
        machine.program(program)?;
    }
    machine.executable(&std::env::current_exe()?, "/usr/bin/kernels".as_ref())?;
    machine.executable(&ipop_binary()?, "/usr/bin/ipop".as_ref())?;
    let command = format!("IPOP_BIN=/usr/bin/ipop kernels --test-threads 1 --skip {NAME}");
    let finished = machine.run(&["tun", "veth", "bridge"], &command, LIMIT)?;
    eprintln!("{}", finished.console);
    // What cannot run there would be visible only here.
    if finished.status != 0 || finished.console.contains("(ignored") {
        return Err(format!("status {} on Linux {}:\n{}", finished.status, kernel.release, finished.console).into());
    }
    Ok(())
}
