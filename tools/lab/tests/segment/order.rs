//! A flow arrives as it was sent: nothing lost, doubled, changed or overtaken.
//!
//! ```text
//!   c0 --- gw-a ===== gw-b --- c1        at most a window of frames is under way,
//!   frame n, while n - seen <= WINDOW    so that no queue on the way can overflow
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipop_lab::Lab;
use ipop_lab::interrupt;

use crate::Test;
use crate::support::{Outcome, SOON, Segment, Station, ensure, number_of, numbered};

pub(crate) const TESTS: &[Test] = &[
    Test::new("a_train_of_small_frames_keeps_its_order", small),
    Test::new("a_train_of_frames_of_all_sizes_keeps_its_order", mixed),
    Test::new("a_train_keeps_its_order_with_two_workers", two_workers),
];

const COUNT: u32 = 10_000;
const WINDOW: u32 = 200;

fn small() -> Outcome {
    train(&Segment::start(&Lab::builder().without_inner_ipv6())?, |_| 60)
}

/// Some fit a datagram, many share one, and some need two.
fn mixed() -> Outcome {
    train(&Segment::start(&Lab::builder().without_inner_ipv6())?, any_length)
}

fn two_workers() -> Outcome {
    let two = |_, config: &mut serde_json::Value| config["workers"] = 2.into();
    train(&Segment::start_with(&Lab::builder().without_inner_ipv6(), two)?, any_length)
}

fn any_length(number: u32) -> usize {
    [60, 1514, 61, 700, 1500, 64, 64, 1440, 128, 1514][number as usize % 10]
}

fn train(segment: &Segment, length: fn(u32) -> usize) -> Outcome {
    let mut stations = segment.stations()?;
    let [here, there] = &mut stations[..] else { return Err("two stations".into()) };
    there.introduce()?;
    segment.wait_place(0, 0, there.container.mac(), "gw-b", SOON)?;
    let seen = AtomicU32::new(0);
    let stop = AtomicU32::new(0);
    let (to, from) = (there.mac, here.mac);
    let make = |number| numbered(to, from, number, length(number));
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Outcome {
            for number in 0..COUNT {
                while number - seen.load(Ordering::Relaxed) > WINDOW {
                    interrupt::check()?;
                    if stop.load(Ordering::Relaxed) != 0 {
                        return Ok(());
                    }
                    thread::sleep(Duration::from_micros(100));
                }
                here.port.send(&make(number))?;
            }
            Ok(())
        });
        let outcome = receive(there, &seen, make);
        stop.store(1, Ordering::Relaxed);
        sender.join().map_err(|_| "the sender panicked")??;
        outcome
    })
}

fn receive(station: &mut Station, seen: &AtomicU32, make: impl Fn(u32) -> Vec<u8>) -> Outcome {
    let begin = Instant::now();
    for number in 0..COUNT {
        let frame = loop {
            let frame = station.port.recv(SOON)?;
            let frame = frame.ok_or_else(|| format!("frame {number} did not come"))?;
            if number_of(&frame).is_some() {
                break frame;
            }
        };
        ensure(frame == make(number), || {
            format!("in the place of {number} came {:?} ({} octets)", number_of(&frame), frame.len())
        })?;
        seen.store(number, Ordering::Relaxed);
    }
    // A copy of the last ones would follow at once; copies of all others would have been noticed.
    let more = station.port.recv(Duration::from_millis(50))?;
    ensure(more.as_deref().and_then(number_of).is_none(), || format!("one too many: {more:02x?}"))?;
    ensure(begin.elapsed() < Duration::from_secs(30), || format!("it took {:?}", begin.elapsed()))
}
