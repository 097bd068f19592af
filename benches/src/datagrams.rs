//! Datagrams as they come in, steps (8) to (10), and what is rare: pieces, and a checksum that is finished here.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::claims::Claims;
use ipop_dataplane::datagram::fragment::{FRAGMENT_HEADER_LEN, FragmentHeader, Outcome, Reassembly, Sender};
use ipop_dataplane::datagram::record::{self, ChecksumField, FramePrefix, RECORD_HEADER_LEN, Records};
use ipop_dataplane::datagram::{DATA, DATAGRAM_HEADER_LEN, DatagramHeader};
use ipop_dataplane::forward::{self, GroupMask};
use ipop_dataplane::mac_table::MacTable;
use ipop_dataplane::peers::{PeerTable, PeerView, session_index};
use ipop_dataplane::session::{Cipher, Freshness, Incoming, KEY_LEN, Key, Outgoing, TAG_LEN};
use ipop_dataplane::wire::vnet::{self, PartialChecksum, VNET_HEADER_LEN, VnetHeader};
use ipop_dataplane::wire::{Frame, vnet::NEEDS_CSUM};
use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::{BATCH, ETHERNET_DATAGRAM, Run, frames, macs, parse};

const NETWORK: u32 = 3;
const LANE: u8 = 0;
/// Peers of the gateway.
const PEERS: u16 = 16;
/// UDP payload of a frame that fills an MTU of 9000 and must be cut.
const LARGE_UDP: usize = 9000 - 20 - 8;
/// UDP payload of a DHCP offer.
const DHCP_OFFER: usize = 300;
const DHCP_CLIENT: u16 = 68;
const SOME_PORT: u16 = 5201;

/// Step (8) in clear text: whose datagram it is, and whether it is new. The header is written first, as at the sender,
/// because each may be seen only once.
pub(crate) fn open() -> Run {
    let peers = (0..PEERS).map(|number| PeerView {
        address: SocketAddr::from(([192, 0, 2, number as u8 + 1], 4789)),
        outgoing: Some(Arc::new(Outgoing::new(1, None, 1))),
        incoming: vec![Arc::new(Incoming::new(session_index(PeerId(number), 0xbeef), None))],
        up: true,
        max_datagram: ETHERNET_DATAGRAM,
    });
    let table = PeerTable::new(peers.collect(), None);
    let from = table.peers[usize::from(PEERS) - 1].clone();
    let session = from.incoming[0].session();
    let mut counter = 0;
    let mut datagram = [0; ETHERNET_DATAGRAM];
    Box::new(move || {
        let mut peers = 0;
        for _ in 0..BATCH {
            let header = DatagramHeader::new(DATA, NETWORK, session, LANE, counter);
            datagram[..DATAGRAM_HEADER_LEN].copy_from_slice(header.as_bytes());
            counter += 1;
            let (header, _) = DatagramHeader::parse(black_box(&datagram), NETWORK).expect("the header is ours");
            assert!(header.kind() == DATA && header.lane() == LANE);
            let sender = table.sender(&header, black_box(from.address));
            let (peer, incoming) = sender.expect("the peer is known");
            let (freshness, end) = incoming.open(&header, &mut datagram).expect("it is new");
            assert!(freshness == Freshness::Newest);
            peers += peer.index() as u64 + end as u64;
        }
        peers
    })
}

/// Steps (5) and (8) with a key: a full datagram is sealed, and opened.
pub(crate) fn seal_and_open(cipher: Cipher) -> Run {
    let key = || Some(Key::new(cipher, &[7; KEY_LEN]));
    let (outgoing, incoming) = (Outgoing::new(9, key(), 1), Incoming::new(9, key()));
    let mut datagram = vec![0; ETHERNET_DATAGRAM];
    Box::new(move || {
        let header = outgoing.next_header(DATA, NETWORK, LANE);
        datagram[..DATAGRAM_HEADER_LEN].copy_from_slice(header.as_bytes());
        outgoing.seal(black_box(&mut datagram));
        let (_, end) = incoming.open(&header, black_box(&mut datagram)).expect("it is authentic");
        assert!(end + TAG_LEN == datagram.len());
        end as u64
    })
}

/// Appends a frame record of what the port gave.
fn append_record(out: &mut Vec<u8>, bytes: &[u8]) {
    let (_, frame, csum) = parse::from_port(bytes);
    let prefix = FramePrefix::new(frame.bytes.len(), csum).expect("it fits a record");
    out.extend_from_slice(prefix.bytes());
    out.extend_from_slice(frame.bytes);
}

/// Steps (9), (10), and the header for the port, for every frame record. Returns how many there were.
fn walk(table: &MacTable, records: &[u8], out: &mut [u8; VNET_HEADER_LEN]) -> u64 {
    let mut frames = 0;
    for record in Records::new(records) {
        let record = record.expect("the record is whole");
        assert!(record.kind == record::FRAME);
        let (csum, bytes) = record::parse_frame(record.flags, record.body).expect("the checksum lies inside");
        let frame = Frame::parse(bytes).expect("the frame is whole");
        let (verdict, learn) =
            forward::from_peer(table, &Claims::default(), GroupMask::ALL, &frame, PeerId(0), macs::NOW);
        assert!(verdict.is_ok() && learn.is_none());
        out.copy_from_slice(VnetHeader::plain(csum).as_bytes());
        black_box(&mut *out);
        frames += 1;
    }
    frames
}

fn walk_repeatedly(records: Vec<u8>, times: usize) -> Run {
    let table = macs::InUse::with(macs::MANY).table;
    let mut out = [0; VNET_HEADER_LEN];
    Box::new(move || (0..times).map(|_| walk(&table, black_box(&records), &mut out)).sum())
}

/// A datagram full of TCP acknowledgements.
pub(crate) fn walk_small() -> Run {
    let mut ack = frames::tcp(0, 0);
    frames::reverse(&mut ack);
    let mut records = Vec::new();
    append_record(&mut records, &ack);
    let count = (ETHERNET_DATAGRAM - DATAGRAM_HEADER_LEN) / records.len();
    walk_repeatedly(records.repeat(count), 1)
}

/// A datagram with one frame that fills it.
pub(crate) fn walk_big() -> Run {
    let room = ETHERNET_DATAGRAM - DATAGRAM_HEADER_LEN - RECORD_HEADER_LEN - size_of::<ChecksumField>();
    let mut frame = frames::tcp(room - frames::TCP_FRAME_HEADERS, 0);
    frames::reverse(&mut frame);
    let mut records = Vec::new();
    append_record(&mut records, &frame);
    walk_repeatedly(records, BATCH)
}

/// The pieces of a large UDP frame, put together.
pub(crate) fn reassemble() -> Run {
    let bytes = frames::udp(SOME_PORT, LARGE_UDP);
    let (_, frame, csum) = parse::from_port(&bytes);
    let mut body = csum.map(ChecksumField::from).expect("it is unfinished").as_bytes().to_vec();
    body.extend_from_slice(frame.bytes);
    let step = ETHERNET_DATAGRAM - DATAGRAM_HEADER_LEN - RECORD_HEADER_LEN - FRAGMENT_HEADER_LEN;
    let piece = |(index, piece): (usize, &[u8])| {
        let header = FragmentHeader {
            number: U32::new(1),
            total: U32::new(body.len() as u32),
            offset: U32::new((index * step) as u32),
        };
        [header.as_bytes(), piece].concat()
    };
    let pieces: Vec<Vec<u8>> = body.chunks(step).enumerate().map(piece).collect();
    let mut reassembly = Reassembly::default();
    Box::new(move || {
        let mut octets = 0;
        for piece in black_box(&pieces) {
            reassembly.expire(0);
            let sender = Sender { peer: PeerId(0), lane: LANE };
            match reassembly.add(sender, record::FLAG_CHECKSUM, piece, 0) {
                (Outcome::Stored, false) => {}
                (Outcome::Complete(flags, body), false) => {
                    let (csum, frame) = record::parse_frame(flags, body).expect("the checksum lies inside");
                    octets = frame.len() as u64 + u64::from(csum.is_some());
                }
                other => panic!("nothing is lost: {other:?}"),
            }
        }
        assert!(octets != 0, "the last piece completes it");
        octets
    })
}

/// A DHCP offer: its checksum is finished in a copy, before it leaves.
pub(crate) fn finish_checksum() -> Run {
    let bytes = frames::udp(DHCP_CLIENT, DHCP_OFFER);
    let (header, frame) = VnetHeader::read_from_prefix(&bytes).expect("a frame begins with its virtio_net_hdr");
    assert!(header.flags == NEEDS_CSUM);
    let csum = PartialChecksum { start: header.csum_start.get(), offset: header.csum_offset.get() };
    let frame = frame.to_vec();
    let mut copy = frame.clone();
    Box::new(move || {
        copy.copy_from_slice(black_box(&frame));
        vnet::finish_checksum(&mut copy, csum);
        u64::from(black_box(&copy)[usize::from(csum.start + csum.offset)])
    })
}
