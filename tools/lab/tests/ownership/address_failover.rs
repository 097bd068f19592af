//! An address goes from one guest to another that says so: believed as quickly as on a bridge.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipop_lab::arp::gratuitous;
use ipop_lab::{Container, Process, interrupt};
use libtest_mimic::Failed;

use crate::Test;
use crate::probe::{Pings, every};
use crate::support::{Outcome, World, announce, ensure, let_go, port, take};

pub(crate) const TESTS: &[Test] = &[
    Test::new("address_that_is_handed_over_is_away_for_no_time", handed_over).alone(),
    Test::new("address_of_keepalived_fails_over", keepalived).alone().needs(&["keepalived"]),
];

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 200);
const PING: Duration = Duration::from_millis(10);

/// b1 has it and drops it, a1 takes it and says so once. Its old owner is alive and does not have it any more, which it
/// would say of no address but this: nobody waits for it.
fn handed_over() -> Outcome {
    const LONGEST: Duration = Duration::from_millis(100);
    let world = World::new()?;
    let [a1, a2, b1, b2, c1] = world.guests(["a1", "a2", "b1", "b2", "c1"])?;
    take(&b1, VIP)?;
    announce(&b1, VIP)?;
    let pingers = [&a2, &b2, &c1];
    for guest in pingers {
        guest.ping(&VIP.to_string(), 1)?;
    }
    let (newcomer, word) = (port(&a1)?, gratuitous(a1.mac_bytes()?, VIP));
    let mut running = Vec::new();
    for guest in pingers {
        running.push(Pings::start(guest, VIP, PING, Duration::from_secs(3))?);
    }
    interrupt::sleep(Duration::from_secs(1))?;
    // First taken, then dropped: so the commands' own time is not measured. Nobody asks meanwhile.
    take(&a1, VIP)?;
    let_go(&b1, VIP)?;
    newcomer.send(&word)?;
    judge(running, LONGEST)
}

fn judge(running: Vec<Pings>, longest: Duration) -> Outcome {
    let mut checks = Vec::new();
    for pings in running {
        let answers = pings.end()?;
        println!("{answers}");
        checks.push(answers.ensure_outage(longest));
    }
    every(checks)
}

/// VRRP by the program that people use for it, between guests of two gateways: the master resigns, and the backup has
/// the address one skew time later (RFC 5798, 6.1: 0.12 s here).
fn keepalived() -> Outcome {
    const LONGEST: Duration = Duration::from_millis(400);
    let world = World::new()?;
    let [a1, b1, b2, c1] = world.guests(["a1", "b1", "b2", "c1"])?;
    let dir = world.lab.lab_run().dir().to_owned();
    let mut master = Keepalived::start(&b1, &dir, 200)?;
    master.wait_master(&b1)?;
    let _backup = Keepalived::start(&c1, &dir, 100)?;
    let pingers = [&a1, &b2];
    for guest in pingers {
        guest.ping(&VIP.to_string(), 1)?;
    }
    // The backup has heard the master, or both would have the address.
    interrupt::sleep(Duration::from_secs(2))?;
    ensure(!holds(&c1)?, || "the backup does not hear the master".into())?;
    let mut running = Vec::new();
    for guest in pingers {
        running.push(Pings::start(guest, VIP, PING, Duration::from_secs(4))?);
    }
    interrupt::sleep(Duration::from_secs(1))?;
    master.resign()?;
    judge(running, LONGEST)?;
    ensure(holds(&c1)? && !holds(&b1)?, || "the backup has not taken the address".into())
}

fn holds(guest: &Container) -> Result<bool, Failed> {
    Ok(guest.netns().ip("-4 address show dev eth0")?.contains(&format!("{VIP}/")))
}

struct Keepalived {
    process: Process,
    pid_file: PathBuf,
}

impl Keepalived {
    fn start(guest: &Container, dir: &std::path::Path, priority: u32) -> Result<Keepalived, Failed> {
        let file = |end: &str| dir.join(format!("keepalived-{}.{end}", guest.name()));
        let (config, pid_file, child_file) = (file("conf"), file("pid"), file("vrrp.pid"));
        let text = format!(
            "global_defs {{\n  vrrp_version 3\n  vrrp_garp_master_delay 1\n  script_user root\n}}\n\
             vrrp_instance VIP {{\n  state BACKUP\n  interface eth0\n  virtual_router_id 51\n  priority {priority}\n  \
             advert_int 0.2\n  virtual_ipaddress {{\n    {VIP}/32 dev eth0\n  }}\n}}\n"
        );
        fs::write(&config, text)?;
        let paths = [&config, &pid_file, &child_file].map(|path| path.display().to_string());
        let [config, pid, child] = &paths;
        let line = ["keepalived", "-n", "-l", "-P", "-f", config, "-p", pid, "-r", child];
        Ok(Keepalived { process: guest.spawn(line)?, pid_file })
    }

    fn wait_master(&mut self, guest: &Container) -> Outcome {
        let begin = Instant::now();
        while !holds(guest)? {
            let ended = self.process.ended()?;
            ensure(ended.is_none() && begin.elapsed() < Duration::from_secs(10), || {
                format!("keepalived has no address ({ended:?}): {}{}", self.process.stdout(), self.process.stderr())
            })?;
            interrupt::sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Ends it in an orderly way: it says that it resigns, and drops the address.
    fn resign(&mut self) -> Outcome {
        ensure(self.pid_file.exists(), || "keepalived does not run".into())?;
        Ok(self.process.signal(nix::sys::signal::Signal::SIGTERM)?)
    }
}
