//! Steps (5) and (11): a TCP super-frame is cut into slices, and slices are joined to a super-frame.

use std::hint::black_box;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::claims::Claims;
use ipop_dataplane::datagram::record::{self, Records};
use ipop_dataplane::datagram::segment::{Headers, MAX_HEADERS, Run as JoinedRun, Slice, SuperFrame};
use ipop_dataplane::datagram::{DATA, DATAGRAM_HEADER_LEN, DatagramHeader};
use ipop_dataplane::forward::{self, GroupMask};
use ipop_dataplane::mac_table::MacTable;
use ipop_dataplane::wire::Frame;
use ipop_dataplane::wire::vnet::VNET_HEADER_LEN;
use zerocopy::IntoBytes;

use crate::{Run, frames, macs, parse};

/// What a path with an MTU of 1500 octets carries over IPv4 and UDP.
pub const ETHERNET_DATAGRAM: usize = 1500 - 20 - 8;
/// The same with 9000.
pub const JUMBO_DATAGRAM: usize = 9000 - 20 - 8;
/// Payload of a super-frame: the most that fits an IPv4 packet in segments of [`GSO_SIZE`].
const SUPER_PAYLOAD: usize = 45 * GSO_SIZE as usize;
/// Payload of a segment in a network with an MTU of 1500: 40 octets of headers and 12 of options.
const GSO_SIZE: u16 = 1448;
/// Network, session and lane of the datagrams.
const NETWORK: u32 = 3;
const SESSION: u32 = 7 << 16;
const LANE: u8 = 0;

/// Cuts one frame as a worker does: headers are written for each slice, payload is only referred to. Calls `slice` with
/// the octets in front of each slice and the slice.
fn cut_into(bytes: &[u8], max_datagram: usize, scratch: &mut [u8], mut slice: impl FnMut(&[u8], &[u8])) -> usize {
    let (vnet, frame, _) = parse::from_port(bytes);
    let super_frame = SuperFrame::new(&frame, &vnet).expect("it can be cut");
    let prefix = super_frame.prefix_len();
    let step = max_datagram - DATAGRAM_HEADER_LEN - prefix;
    let mut used = 0;
    for (counter, offset) in (0..super_frame.payload.len()).step_by(step).enumerate() {
        let len = step.min(super_frame.payload.len() - offset);
        let own = &mut scratch[used..used + DATAGRAM_HEADER_LEN + prefix];
        let header = DatagramHeader::new(DATA, NETWORK, SESSION, LANE, counter as u64);
        own[..DATAGRAM_HEADER_LEN].copy_from_slice(header.as_bytes());
        super_frame.write_prefix(&mut own[DATAGRAM_HEADER_LEN..], 1, offset, len);
        used += own.len();
        slice(own, &super_frame.payload[offset..offset + len]);
    }
    used
}

fn cut_frame(bytes: Vec<u8>, max_datagram: usize) -> Run {
    // As large as a train can be, as in the worker's send slots.
    let mut scratch = vec![0; usize::from(u16::MAX)];
    Box::new(move || {
        let mut octets = 0;
        let used = cut_into(black_box(&bytes), max_datagram, &mut scratch, |_, payload| octets += payload.len());
        black_box(&mut scratch[..used]);
        octets as u64
    })
}

/// A super-frame with an unfinished checksum, which stays unfinished.
pub(crate) fn cut(max_datagram: usize) -> Run {
    cut_frame(frames::tcp(SUPER_PAYLOAD, GSO_SIZE), max_datagram)
}

/// A super-frame with a finished checksum, which is verified before the cut.
pub(crate) fn cut_verified() -> Run {
    cut_frame(frames::finished(frames::tcp(SUPER_PAYLOAD, GSO_SIZE)), ETHERNET_DATAGRAM)
}

/// A super-frame that is being joined.
struct Join {
    run: JoinedRun,
    headers: Headers,
    header_len: usize,
}

/// Joins the slices of `datagrams` in `own`, as a worker does. Payload stays where it is.
fn join_all(table: &MacTable, datagrams: &[Vec<u8>], own: &mut [u8]) -> u64 {
    let mut join: Option<Join> = None;
    for datagram in datagrams {
        for record in Records::new(&datagram[DATAGRAM_HEADER_LEN..]) {
            let record = record.expect("the record is whole");
            assert!(record.kind == record::SEGMENT);
            let slice = Slice::parse(record.flags, record.body).expect("the slice is whole");
            let header_len = slice.headers.len();
            if let Some(join) = &mut join {
                let same = &own[VNET_HEADER_LEN..VNET_HEADER_LEN + join.header_len] == slice.headers;
                assert!(same && join.run.extend(&slice, join.header_len), "all are of one super-frame, in order");
                continue;
            }
            let headers = Headers::validate(slice.headers).expect("the headers are those of TCP");
            let run = JoinedRun::start(&slice, &headers).expect("the slice is one of TCP");
            let frame = Frame::parse(slice.headers).expect("the headers are whole");
            let (verdict, learn) =
                forward::from_peer(table, &Claims::default(), GroupMask::ALL, &frame, PeerId(0), macs::NOW);
            assert!(verdict.is_ok() && learn.is_none());
            own[VNET_HEADER_LEN..VNET_HEADER_LEN + header_len].copy_from_slice(slice.headers);
            join = Some(Join { run, headers, header_len });
        }
    }
    let join = join.expect("there was a slice");
    let (vnet, headers) = own[..VNET_HEADER_LEN + join.header_len].split_at_mut(VNET_HEADER_LEN);
    vnet.copy_from_slice(join.headers.patch(headers, &join.run).as_bytes());
    join.run.len as u64
}

/// The slices of a whole super-frame.
pub(crate) fn join(max_datagram: usize) -> Run {
    // From the peer's side: its station sends.
    let mut bytes = frames::tcp(SUPER_PAYLOAD, GSO_SIZE);
    frames::reverse(&mut bytes);
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    let mut scratch = vec![0; usize::from(u16::MAX)];
    cut_into(&bytes, max_datagram, &mut scratch, |own, payload| datagrams.push([own, payload].concat()));
    let table = macs::InUse::with(macs::MANY).table;
    let mut own = [0; VNET_HEADER_LEN + MAX_HEADERS];
    Box::new(move || {
        let joined = join_all(&table, black_box(&datagrams), &mut own);
        assert!(joined == SUPER_PAYLOAD as u64);
        black_box(&mut own);
        joined
    })
}
