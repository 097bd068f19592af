//! The MAC table, learning, and decisions: steps (3), (4) and (10).

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ipop_dataplane::addr::{MacAddr, PeerId, Vlan};
use ipop_dataplane::claims::Claims;
use ipop_dataplane::event::{Events, Wake};
use ipop_dataplane::forward::{self, GroupMask, Verdict};
use ipop_dataplane::mac_table::{MacEntry, MacKey, MacTable, MacWriter, Owner};
use ipop_dataplane::wire::Frame;
use ipop_dataplane::wire::vnet::VNET_HEADER_LEN;

use crate::{BATCH, Run, frames};

/// A table in one or two cache lines.
pub(crate) const FEW: usize = 10;
/// A table that fits a second-level cache.
pub(crate) const MANY: usize = 10_000;
/// A table of 32 MiB.
pub(crate) const HUGE: usize = 1_000_000;

/// Fixed, so that each run finds every entry in the same bucket.
const SEED: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
const PEERS: usize = 64;
/// The second in which everything was last seen.
pub(crate) const NOW: u32 = 1000;
/// Payload of a small frame.
const SMALL: usize = 46;

fn mac(number: usize) -> MacAddr {
    // A locally administered address (IEEE 802-2014, 8.2), and an odd factor: neighbours in number are none in value.
    let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4b) & 0xff_ffff_ffff;
    MacAddr::from_u64(0x02 << 40 | mixed)
}

fn key(number: usize) -> MacKey {
    MacKey::new(Vlan::UNTAGGED, mac(number))
}

fn peer(number: usize) -> Owner {
    Owner::Peer(PeerId((number % PEERS) as u16))
}

fn entry(owner: Owner) -> MacEntry {
    MacEntry { owner, moves: 0, seen: NOW }
}

/// A table that is in use.
pub(crate) struct InUse {
    pub(crate) table: Arc<MacTable>,
    writer: MacWriter,
    /// What is in it, at peers.
    keys: Vec<MacKey>,
    /// Number of the first MAC that was not tried.
    next: usize,
}

impl InUse {
    /// A table with `len` MACs at peers and room for [`BATCH`] more, with [`frames::LOCAL`] on this side and
    /// [`frames::REMOTE`] at peer 0.
    pub(crate) fn with(len: usize) -> InUse {
        let (table, mut writer) = MacTable::new(len + BATCH + 2, SEED);
        for (mac, owner) in [(frames::LOCAL, Owner::Local), (frames::REMOTE, Owner::Peer(PeerId(0)))] {
            writer.insert(MacKey::new(Vlan::UNTAGGED, mac), entry(owner)).expect("there is room");
        }
        let mut in_use = InUse { table, writer, keys: Vec::new(), next: 0 };
        in_use.keys = in_use.enter(len);
        in_use
    }

    /// Enters `count` MACs more. One that finds no place in its two buckets is left out, as the control thread leaves it
    /// out.
    fn enter(&mut self, count: usize) -> Vec<MacKey> {
        let mut entered = Vec::with_capacity(count);
        while entered.len() < count {
            let (key, owner) = (key(self.next), peer(self.next));
            self.next += 1;
            if self.writer.insert(key, entry(owner)).is_ok() {
                entered.push(key);
            }
        }
        entered
    }
}

/// The next in a list that begins anew at its end.
fn next<'a>(keys: &'a [MacKey], at: &mut usize) -> &'a MacKey {
    let key = &keys[*at];
    *at = if *at + 1 == keys.len() { 0 } else { *at + 1 };
    key
}

/// Looks `keys` up, [`BATCH`] in each run, so that one after the other all of the table is touched.
fn look_up(table: Arc<MacTable>, keys: Vec<MacKey>) -> Run {
    let mut at = 0;
    Box::new(move || {
        let mut found = 0;
        for _ in 0..BATCH {
            if let Some(entry) = table.lookup(*black_box(next(&keys, &mut at))) {
                found += u64::from(entry.seen);
            }
        }
        found
    })
}

/// MACs that the table has.
pub(crate) fn lookup(len: usize) -> Run {
    let InUse { table, keys, .. } = InUse::with(len);
    look_up(table, keys)
}

/// MACs that it does not have.
pub(crate) fn miss(len: usize) -> Run {
    let InUse { table, next, .. } = InUse::with(len);
    look_up(table, (next..next + len).map(key).collect())
}

/// A thread that moves one MAC after the other to another peer, until it is dropped.
struct BusyWriter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BusyWriter {
    fn start(mut writer: MacWriter, keys: Vec<MacKey>) -> BusyWriter {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for (number, key) in keys.iter().cycle().enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                writer.insert(*key, entry(peer(number))).expect("it is in the table");
            }
        });
        BusyWriter { stop, thread: Some(thread) }
    }
}

impl Drop for BusyWriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer ends when it is told to");
        }
    }
}

/// The same as [`lookup`] with a writer at work.
pub(crate) fn lookup_beside_a_writer(len: usize) -> Run {
    let InUse { table, writer, keys, .. } = InUse::with(len);
    let mut run = look_up(table, keys.clone());
    let busy = BusyWriter::start(writer, keys);
    Box::new(move || {
        // The closure owns the thread, so that it ends with it.
        let _ = &busy;
        run()
    })
}

/// A new second: every MAC is looked up and its age renewed.
pub(crate) fn refresh(len: usize) -> Run {
    let InUse { table, keys, .. } = InUse::with(len);
    let (mut now, mut at) = (NOW, 0);
    Box::new(move || {
        now += 1;
        let mut seen = 0;
        for _ in 0..BATCH {
            let key = *black_box(next(&keys, &mut at));
            let known = table.lookup(key).expect("it is in the table");
            table.touch(key, known, now);
            seen += u64::from(known.seen);
        }
        seen
    })
}

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

/// Frames whose source the table does not have, as far as to the control thread, which takes the news and forgets it.
pub(crate) fn learn_at_worker() -> Run {
    let InUse { table, next, .. } = InUse::with(MANY);
    let events = Events::new(Box::new(Nobody));
    let frames: Vec<Vec<u8>> =
        (next..next + BATCH).map(|number| frames::plain(mac(number), frames::REMOTE, SMALL)).collect();
    Box::new(move || {
        let mut marks = 0;
        for bytes in black_box(&frames) {
            let frame = Frame::parse(&bytes[VNET_HEADER_LEN..]).expect("the frame is whole");
            let (_, learn) = forward::from_port(&table, MacAddr::ZERO, GroupMask::ALL, &frame, NOW);
            let learn = learn.expect("its source is new");
            marks ^= learn.mark();
            assert!(events.push_learn(learn));
        }
        events.signal();
        events.acknowledge();
        while let Some(learn) = events.pop_learn() {
            marks ^= learn.mark();
        }
        marks
    })
}

/// What the control thread does to the table for news: a MAC is entered, moves to a peer, and is forgotten.
pub(crate) fn learn_at_writer() -> Run {
    let mut in_use = InUse::with(MANY);
    let keys = in_use.enter(BATCH);
    let mut writer = in_use.writer;
    for key in &keys {
        writer.remove(*key).expect("it is in the table");
    }
    Box::new(move || {
        for key in &keys {
            let key = *black_box(key);
            writer.insert(key, entry(Owner::Local)).expect("there is room");
            writer.insert(key, MacEntry { moves: 1, ..entry(peer(1)) }).expect("it is in the table");
            writer.remove(key).expect("it is in the table");
        }
        writer.len() as u64
    })
}

/// Steps (3) and (4) with the parse before them, for known stations on both sides.
pub(crate) fn forward_from_port() -> Run {
    let table = InUse::with(MANY).table;
    let bytes = frames::tcp(0, 0);
    Box::new(move || {
        let mut peers = 0;
        for _ in 0..BATCH {
            let frame = Frame::parse(&black_box(&bytes)[VNET_HEADER_LEN..]).expect("the frame is whole");
            match black_box(forward::from_port(&table, MacAddr::ZERO, GroupMask::ALL, &frame, NOW)) {
                (Verdict::Peer(peer), None) => peers += u64::from(peer.0) + 1,
                other => panic!("it goes to a peer, and nothing is new: {other:?}"),
            }
        }
        peers
    })
}

/// Step (10) with the parse before it, for known stations on both sides.
pub(crate) fn forward_from_peer() -> Run {
    let table = InUse::with(MANY).table;
    let bytes = frames::plain(frames::REMOTE, frames::LOCAL, SMALL);
    Box::new(move || {
        let mut accepted = 0;
        for _ in 0..BATCH {
            let frame = Frame::parse(&black_box(&bytes)[VNET_HEADER_LEN..]).expect("the frame is whole");
            let (verdict, learn) =
                black_box(forward::from_peer(&table, &Claims::default(), GroupMask::ALL, &frame, PeerId(0), NOW));
            assert!(verdict.is_ok() && learn.is_none());
            accepted += 1;
        }
        accepted
    })
}
