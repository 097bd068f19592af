//! Many addresses move at once, as with a router's fail-over: the last word about each of them is never dropped.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::{Arp, Mac, gratuitous};
use ipop_lab::{Container, interrupt};

use crate::Test;
use crate::support::{Outcome, Station, World, ensure, port};

pub(crate) const TESTS: &[Test] = &[Test::new("address_300_move_at_once", move_at_once)];

const COUNT: u16 = 300;
/// keepalived says it so often.
const REPEATS: usize = 5;

fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (0..COUNT).map(|number| Ipv4Addr::new(10, 0, 8 + (number >> 8) as u8, number as u8))
}

/// Adds or deletes all of them by one command.
fn all(guest: &Container, what: &str) -> Outcome {
    let lines: String = addresses().map(|ip| format!("address {what} {ip}/32 dev eth0\n")).collect();
    let script = format!("ip -batch - <<'END'\n{lines}END\n");
    guest.run(["sh", "-c", &script])?;
    Ok(())
}

/// What an asker believes, as its kernel would: the last word about each address.
struct Asker {
    station: Station,
    beliefs: HashMap<Ipv4Addr, Mac>,
}

impl Asker {
    /// Asks for all that are not at `mac` yet, every second as a host does; gives how long it took until all were.
    fn learn(&mut self, mac: Mac, limit: Duration) -> Result<Duration, libtest_mimic::Failed> {
        let begin = Instant::now();
        let mut due = begin;
        loop {
            let missing: Vec<_> = addresses().filter(|ip| self.beliefs.get(ip) != Some(&mac)).collect();
            if missing.is_empty() {
                return Ok(begin.elapsed());
            }
            ensure(begin.elapsed() < limit, || {
                format!("{} of {COUNT} addresses are not known where they are after {limit:?}", missing.len())
            })?;
            if Instant::now() >= due {
                due += Duration::from_secs(1);
                for ip in missing {
                    self.station.send(&self.station.request(ip).frame())?;
                    // No burst: this is not what the test is about.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            let end = Instant::now() + Duration::from_millis(20);
            while let Some(frame) = self.station.port.recv(end.saturating_duration_since(Instant::now()))? {
                if let Some(arp) = Arp::parse(&frame) {
                    self.beliefs.insert(arp.sender_ip, arp.sender_mac);
                }
            }
        }
    }
}

/// 300 addresses move from b1 to c1. Each is announced five times, all in one burst; a1 knew them all.
fn move_at_once() -> Outcome {
    let world = World::new()?;
    let [b1, c1] = world.guests(["b1", "c1"])?;
    let mut asker = Asker { station: world.station("a1")?, beliefs: HashMap::new() };
    all(&b1, "add")?;
    let (old, new) = (b1.mac_bytes()?, c1.mac_bytes()?);
    asker.learn(old, Duration::from_secs(20))?;
    all(&b1, "del")?;
    all(&c1, "add")?;
    let speaker = port(&c1)?;
    for _ in 0..REPEATS {
        for ip in addresses() {
            speaker.send(&gratuitous(new, ip))?;
        }
    }
    let took = asker.learn(new, Duration::from_secs(6))?;
    println!("all known to be at c1 after {took:?}");
    // And they stay there: whoever asks from now on is told the same.
    interrupt::sleep(Duration::from_millis(500))?;
    asker.beliefs.clear();
    asker.station.port.drain()?;
    let took = asker.learn(new, Duration::from_secs(3))?;
    println!("asked for once more, all known after {took:?}");
    Ok(())
}
