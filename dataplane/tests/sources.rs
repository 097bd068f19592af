//! A worker that sends from several ports: each flow from one of them, and the receiver takes them all for one peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use ipop_dataplane::addr::{PeerId, Vlan};
use ipop_dataplane::datagram::record::{FRAME, Records, parse_frame};
use ipop_dataplane::datagram::{DATA, DATA_ASIDE, DatagramHeader};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::event::{Event, Notice};
use ipop_dataplane::feature::EngineChoice;
use ipop_dataplane::offloads::Offloads;
use ipop_dataplane::peers::{PeerTable, PeerView, session_index};
use ipop_dataplane::session::{Cipher, Outgoing};
use ipop_dataplane::wire::{VnetHeader, ethernet::emit_header};
use pair::{Kind, SOURCE, TARGET, eventually, pair_of};

mod pair;

const FLOWS: u16 = 64;
const FRAMES: u8 = 5;

/// UDP over IPv4 from a port that is the number of its flow; the payload is the frame's number in the flow.
fn frame(flow: u16, number: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    emit_header(&mut frame, TARGET, SOURCE, Vlan::UNTAGGED, 0x0800);
    frame.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 3, 1, 10, 0, 3, 104]);
    frame.extend(flow.to_be_bytes());
    frame.extend([0, 53, 0, 40, 0, 0]);
    frame.extend([number; 32]);
    frame
}

/// Of a frame: its flow, and its number in it.
fn flow_of(frame: &[u8]) -> (u16, u8) {
    (u16::from_be_bytes([frame[34], frame[35]]), frame[42])
}

#[test]
fn each_flow_leaves_from_one_port_of_several() {
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        let [a, _b] = pair_of(1472, Kind { engine, sources: 3, ..Kind::default() });
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let view = PeerView {
            address: far.local_addr().unwrap(),
            outgoing: Some(Arc::new(Outgoing::new(session_index(PeerId(0), 7), None, 1))),
            incoming: vec![],
            up: true,
            max_datagram: 1472,
        };
        a.worker.mailbox.publish(Arc::new(PeerTable::new(vec![view], None)));
        let mut ports: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        let mut seen = 0;
        for number in 0..FRAMES {
            for flow in 0..FLOWS {
                a.send(&VnetHeader::default(), &frame(flow, number));
            }
            while seen < u32::from(FLOWS) * u32::from(number + 1) {
                let mut buffer = [0; 2048];
                let (len, from) = far.recv_from(&mut buffer).expect("all frames leave");
                let (header, records) = DatagramHeader::parse(&buffer[..len], 3).unwrap();
                let listens = from.port() == a.worker.ports[0];
                assert_eq!(header.kind(), if listens { DATA } else { DATA_ASIDE });
                for record in Records::new(records) {
                    let record = record.unwrap();
                    assert_eq!(record.kind, FRAME);
                    let (flow, _) = flow_of(parse_frame(record.flags, record.body).unwrap().1);
                    ports.entry(flow).or_default().insert(from.port());
                    seen += 1;
                }
            }
        }
        assert!(ports.values().all(|ports| ports.len() == 1), "{ports:?}");
        let used: BTreeSet<u16> = ports.into_values().flatten().collect();
        assert_eq!(used, a.worker.ports.iter().copied().collect(), "with {FLOWS} flows every port has some");
        assert_eq!(used.len(), 4);
    }
}

#[test]
fn all_arrive_in_the_order_of_their_flow_and_nobody_has_moved() {
    for (engine, cipher) in [
        (EngineChoice::IoUring, None),
        (EngineChoice::IoUring, Some(Cipher::Aes256Gcm)),
        (EngineChoice::Calls, Some(Cipher::ChaCha20Poly1305)),
    ] {
        // Written one by one, so that each can be seen.
        let offloads = Offloads { udp_merge: false, ..Offloads::ALL };
        let [a, b] = pair_of(1472, Kind { engine, cipher, offloads, sources: 3, ..Kind::default() });
        let mut next: BTreeMap<u16, u8> = BTreeMap::new();
        for number in 0..FRAMES {
            for flow in 0..FLOWS {
                a.send(&VnetHeader::default(), &frame(flow, number));
            }
        }
        for _ in 0..u32::from(FLOWS) * u32::from(FRAMES) {
            let (_, arrived) = b.receive(Duration::from_secs(5)).unwrap_or_else(|| panic!("lost; {:?}", b.drops()));
            let (flow, number) = flow_of(&arrived);
            assert_eq!(arrived, frame(flow, number));
            let expected = next.entry(flow).or_default();
            assert_eq!(number, *expected, "flow {flow}");
            *expected += 1;
        }
        b.wait_counted(Ending::Delivered, u64::from(FLOWS) * u64::from(FRAMES));
        assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
        let (sent, received) = (&a.worker.stats.peers[0].tx_datagrams, &b.worker.stats.peers[0].rx_datagrams);
        let read = || [sent, received].map(|counter| counter.load(std::sync::atomic::Ordering::Relaxed));
        eventually(|| read()[0] == read()[1]);
        let counts = read();
        assert!(counts[0] == counts[1] && counts[0] >= 4, "{counts:?}");
        while let Some(event) = b.events.pop() {
            assert!(
                !matches!(event, Event::Notice(Notice::Roamed(..))),
                "a port that nobody listens on is no new address"
            );
        }
    }
}
