//! Datagrams, their records, and pieces of frames.

use std::cell::RefCell;
use std::collections::HashMap;

use ipop_dataplane::addr::PeerId;
use ipop_dataplane::datagram::fragment::{FragmentHeader, Outcome, Reassembly, Sender};
use ipop_dataplane::datagram::record::{self, FramePrefix, Records};
use ipop_dataplane::datagram::{CONTROL_LANE, DATAGRAM_HEADER_LEN, DatagramHeader, MAX_WORKERS};
use ipop_dataplane::ending::Ending;
use ipop_dataplane::session::{Cipher, Incoming, KEY_LEN, Key, MAX_COUNTER};
use zerocopy::{FromBytes, IntoBytes};

use crate::Input;

/// The network of the datagrams in the corpus.
pub const NETWORK: u32 = 7;

/// A datagram from the underlay: header, clear and sealed sessions, records.
pub fn datagram(data: &[u8]) -> bool {
    let Ok((header, rest)) = DatagramHeader::parse(data, NETWORK) else { return false };
    assert_eq!(header.as_bytes(), &data[..DATAGRAM_HEADER_LEN]);
    let again = DatagramHeader::new(header.kind(), NETWORK, header.session.get(), header.lane(), header.counter());
    assert_eq!(again, header);

    let session = header.session.get();
    let sealed = Incoming::new(session, Some(Key::new(Cipher::ChaCha20Poly1305, &[9; KEY_LEN])));
    let refused = sealed.open(&header, &mut data.to_vec());
    if header.lane() != CONTROL_LANE && usize::from(header.lane()) >= MAX_WORKERS {
        assert_eq!(refused, Err(Ending::LaneUnknown));
        return false;
    }
    assert!(matches!(refused, Err(Ending::NotAuthentic)), "forged, or not counted as such: {refused:?}");

    let incoming = Incoming::new(session, None);
    let mut octets = data.to_vec();
    let opened = incoming.open(&header, &mut octets);
    if header.counter() >= MAX_COUNTER {
        assert_eq!(opened, Err(Ending::Replayed));
        return false;
    }
    assert_eq!(opened.map(|(_, end)| end), Ok(data.len()));
    assert_eq!(incoming.open(&header, &mut octets), Err(Ending::Replayed), "a second time");
    assert_eq!(octets, data, "clear text stays as it is");
    records(rest)
}

/// Records as they are walked; what is walked is what was there.
fn records(bytes: &[u8]) -> bool {
    let (mut emitted, mut some) = (Vec::new(), false);
    for record in Records::new(bytes) {
        let Ok(record) = record else { break };
        some = true;
        record::emit(&mut emitted, record.kind, record.flags, record.body);
        if record.kind == record::FRAME
            && let Ok((csum, frame)) = record::parse_frame(record.flags, record.body)
        {
            assert!(csum.is_none_or(|csum| csum.fits(frame.len())));
            let prefix = FramePrefix::new(frame.len(), csum).expect("it was in a record");
            let made = [prefix.bytes(), frame].concat();
            let walked = Records::new(&made).next().expect("one record").expect("a whole one");
            assert_eq!(record::parse_frame(walked.flags, walked.body), Ok((csum, frame)));
        }
    }
    assert!(bytes.starts_with(&emitted));
    some
}

thread_local! {
    /// Its buffers are too large to be made for each input; it is empty between two.
    static TABLE: RefCell<Reassembly> = RefCell::default();
}

/// Pieces of frames from several senders, as records: what is put together is what came.
pub fn fragment(data: &[u8]) -> bool {
    TABLE.with_borrow_mut(|table| {
        let some = pieces(table, data);
        table.expire(u64::MAX);
        whole(table, data);
        table.expire(u64::MAX);
        some
    })
}

fn pieces(table: &mut Reassembly, data: &[u8]) -> bool {
    // What the sender said last of each octet.
    let mut said: HashMap<(u8, u32), HashMap<usize, u8>> = HashMap::new();
    let mut some = false;
    for (now_ms, record) in Records::new(data).enumerate() {
        let Ok(record) = record else { break };
        // The kind stands for the sender here: all records are fragments.
        let sender = Sender { peer: PeerId(u16::from(record.kind >> 4)), lane: record.kind & 15 };
        let header = FragmentHeader::read_from_prefix(record.body).ok();
        table.expire(now_ms as u64);
        let (outcome, _) = table.add(sender, record.flags, record.body, now_ms as u64);
        let (Some((header, piece)), Outcome::Stored | Outcome::Complete(..)) = (header, &outcome) else { continue };
        some = true;
        let octets = said.entry((record.kind, header.number.get())).or_default();
        octets.extend((header.offset.get() as usize..).zip(piece.iter().copied()));
        if let Outcome::Complete(flags, body) = outcome {
            assert_eq!((flags, body.len()), (record.flags, header.total.get() as usize));
            body.iter().enumerate().for_each(|(at, octet)| assert_eq!(octets.get(&at), Some(octet), "octet {at}"));
        }
    }
    some
}

/// A body that is cut and put together in some order is the same.
fn whole(table: &mut Reassembly, data: &[u8]) {
    let mut input = Input(data);
    let (cut, rotate) = (50 + usize::from(input.u8()), usize::from(input.u8()));
    let body = input.0;
    if body.is_empty() || body.len() > 150 * cut {
        return;
    }
    let mut pieces: Vec<_> = (0..body.len())
        .step_by(cut)
        .map(|offset| {
            let header =
                FragmentHeader { number: 1.into(), total: (body.len() as u32).into(), offset: (offset as u32).into() };
            [header.as_bytes(), &body[offset..body.len().min(offset + cut)]].concat()
        })
        .collect();
    let len = pieces.len();
    pieces.rotate_left(rotate % len);
    for (index, piece) in pieces.iter().enumerate() {
        let (outcome, evicted) = table.add(Sender { peer: PeerId(1), lane: 0 }, 1, piece, 0);
        let expected = if index + 1 == len { Outcome::Complete(1, body) } else { Outcome::Stored };
        assert_eq!((outcome, evicted), (expected, false));
    }
}
