//! ARP as messages between gateways: what the control thread writes and reads.

use std::hint::black_box;

use ipop_control::rpc::{Message, Reply, Request};
use ipop_dataplane::addr::Vlan;

use crate::{Run, frames};

fn request() -> Message {
    Message::Request(Request {
        target: [10, 0, 3, 104].into(),
        asker: Some([10, 0, 3, 3].into()),
        asker_mac: frames::LOCAL,
        vlan: Vlan::UNTAGGED,
        seq: 0,
        frame: Some([0xa5; 60].into()),
    })
}

fn reply() -> Message {
    Message::Reply(Reply {
        target: [10, 0, 3, 104].into(),
        mac: frames::REMOTE,
        uid: "gateway-b".to_owned(),
        vlan: Vlan::UNTAGGED,
        seq: 0,
        asker_mac: Some(frames::LOCAL),
        announcement: None,
        router: false,
        overrides: true,
        frame: Some([0xa5; 60].into()),
    })
}

fn encode(message: Message) -> Run {
    Box::new(move || black_box(black_box(&message).to_json()).len() as u64)
}

fn decode(message: Message) -> Run {
    let json = message.to_json();
    Box::new(move || {
        let parsed = black_box(Message::parse(black_box(json.as_bytes())));
        assert!(parsed.is_some());
        json.len() as u64
    })
}

pub(crate) fn encode_request() -> Run {
    encode(request())
}

pub(crate) fn decode_request() -> Run {
    decode(request())
}

pub(crate) fn encode_reply() -> Run {
    encode(reply())
}

pub(crate) fn decode_reply() -> Run {
    decode(reply())
}
