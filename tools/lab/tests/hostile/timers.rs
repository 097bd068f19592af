//! What a gateway does by the clock is not put off by those who keep it busy: whether a MAC that moved is still where it
//! was is settled in less than a second.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipop_lab::arp::Arp;
use ipop_lab::{Container, Lab, RawPort, interrupt};
use libtest_mimic::Failed;

use super::clients::Crowd;
use super::flood::{PORTS, RATE, question};
use super::kit::{Outcome, Scene, ensure, pause};
use super::talk::Talk;

/// Questions per second for addresses that nobody has.
const STORM: u32 = 20_000;
/// So soon after its first frame a container must be reachable.
const REACHABLE: Duration = Duration::from_secs(1);
/// So soon a question is repeated: 0.4 seconds are meant.
const REPEATED: Duration = Duration::from_millis(550);
/// For whatever goes on to take effect before the move.
const BEFORE: u64 = 1500;

/// gw-b, where it was, has to find out that it is gone.
pub(crate) fn storm_at_the_old_gateway() -> Outcome {
    let scene = Scene::pair()?;
    let move_of_m = Move::prepare(&scene, 1, 0)?;
    let (_noisy, talk) = storm(&scene, 1)?;
    let reached = move_of_m.go(&scene);
    println!("{} questions of the storm", talk.stop()?);
    reached
}

/// gw-a, where it is now, has to believe that it has come.
pub(crate) fn storm_at_the_new_gateway() -> Outcome {
    let scene = Scene::pair()?;
    let move_of_m = Move::prepare(&scene, 1, 0)?;
    let (_noisy, talk) = storm(&scene, 0)?;
    let reached = move_of_m.go(&scene);
    println!("{} questions of the storm", talk.stop()?);
    reached
}

/// A guest asks for the addresses of a whole network.
fn storm(scene: &Scene, place: usize) -> Result<(Container, Talk), Failed> {
    let noisy = scene.container(place, "noisy", &["10.0.3.66/24"])?;
    let mac = noisy.mac_bytes()?;
    let talk = Talk::of(&noisy, STORM, move |number| {
        let absent = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + (number % 60_000) as u32);
        Arp::request(mac, Ipv4Addr::new(10, 0, 3, 66), absent).frame()
    })?;
    Ok((noisy, talk))
}

/// A peer repeats a question at the gateway where the container was.
pub(crate) fn flood_at_the_old_gateway() -> Outcome {
    let (scene, mut peer) = Scene::with_peer(&Lab::builder(), |config| config["workers"] = 4.into())?;
    let move_of_m = Move::prepare(&scene, 0, 1)?;
    peer.flood("gw-a", &question("10.0.3.11"), RATE, 5, PORTS)?;
    let reached = move_of_m.go(&scene);
    println!("the flood: {}", peer.answer()?);
    reached
}

/// Clients of the control socket ask without end at the gateway where the container was.
pub(crate) fn clients_at_the_old_gateway() -> Outcome {
    let scene = Scene::pair()?;
    let move_of_m = Move::prepare(&scene, 0, 1)?;
    let crowd = Crowd::start(&scene.daemons[0], 8)?;
    let reached = move_of_m.go(&scene);
    println!("clients got {:.0} answers per second", crowd.stop()?);
    reached
}

/// A guest's question is lost on its way, as far as the guest can see: the gateway repeats it in time beside a storm.
pub(crate) fn repeated_beside_a_storm() -> Outcome {
    let scene = Scene::pair()?;
    let (_noisy, talk) = storm(&scene, 0)?;
    let repeated = repeated(&scene);
    println!("{} questions of the storm", talk.stop()?);
    repeated
}

/// The same beside clients of the control socket.
pub(crate) fn repeated_beside_clients() -> Outcome {
    let scene = Scene::pair()?;
    let crowd = Crowd::start(&scene.daemons[0], 8)?;
    let repeated = repeated(&scene);
    println!("clients got {:.0} answers per second", crowd.stop()?);
    repeated
}

/// Asks once for an address that nobody has, and looks how long gw-b's segment waits for the second try. A timer that is put
/// off is late for most questions, a busy machine for one: the middle of three counts.
fn repeated(scene: &Scene) -> Outcome {
    let a1 = scene.container(0, "a1", &["10.0.3.11/24"])?;
    let b1 = scene.container(1, "b1", &["10.0.3.21/24"])?;
    pause(BEFORE)?;
    let asker = RawPort::open(a1.netns(), a1.interface())?;
    let mut heard = RawPort::open(b1.netns(), b1.interface())?;
    let mut gaps = Vec::new();
    for last in 77..80 {
        let absent = Ipv4Addr::new(10, 0, 3, last);
        let question = Arp::request(a1.mac_bytes()?, Ipv4Addr::new(10, 0, 3, 11), absent).frame();
        asker.send(&question)?;
        let mut times = Vec::new();
        while times.len() < 2 {
            let (_, came) = heard.capture_until(Duration::from_secs(10), |frame| frame[..42] == question[..42])?;
            ensure(came, format!("{} of two tries in ten seconds", times.len()))?;
            times.push(Instant::now());
        }
        gaps.push(times[1] - times[0]);
    }
    gaps.sort();
    println!("questions were repeated after {gaps:.2?}");
    ensure(gaps[1] < REPEATED, format!("questions were repeated after {gaps:.2?}"))
}

/// A container that both neighbours have talked with, and that is about to move.
struct Move {
    neighbours: [Container; 2],
    moving: Container,
    from: usize,
    to: usize,
}

impl Move {
    fn prepare(scene: &Scene, from: usize, to: usize) -> Result<Move, Failed> {
        let neighbours = [scene.container(0, "a1", &["10.0.3.11/24"])?, scene.container(1, "b1", &["10.0.3.21/24"])?];
        let moving = scene.container(from, "m", &["10.0.3.50/24"])?;
        for neighbour in &neighbours {
            neighbour.ping("10.0.3.50", 2)?;
        }
        Ok(Move { neighbours, moving, from, to })
    }

    /// It moves and says that it is there; then its neighbours reach it, on its old side first.
    fn go(mut self, scene: &Scene) -> Outcome {
        pause(BEFORE)?;
        self.moving.move_to(scene.lab.gateway(self.to))?;
        let begin = Instant::now();
        self.moving.announce()?;
        let mut took = Vec::new();
        for place in [self.from, self.to] {
            let neighbour = &self.neighbours[place];
            let what = format!("{} to reach what has moved", neighbour.name());
            interrupt::wait_until(&what, Duration::from_secs(15), || {
                Ok(neighbour.exec(["ping", "-n", "-c1", "-W0.1", "10.0.3.50"])?.success().then_some(()))
            })?;
            took.push(format!("{} after {:.2} s", neighbour.name(), begin.elapsed().as_secs_f64()));
        }
        let (time, took) = (begin.elapsed(), took.join(", "));
        println!("what has moved is reached from {took}");
        ensure(time < REACHABLE, format!("what has moved is reached from {took}"))
    }
}
