use super::*;

fn super_frame(transport: Transport, payload: &[u8], gso_size: u16) -> SuperFrame<'_> {
    SuperFrame { transport, headers: &[0; 42], payload, gso_size, ecn: false }
}

/// The test vector of the record: any change of it is a new version.
#[test]
fn vector() {
    let payload = [7; 250];
    let cut = super_frame(Transport::Udp, &payload, 100);
    let mut record = vec![0xee; cut.prefix_len()];
    cut.write_prefix(&mut record, 0x0102, 200, 50);
    assert_eq!(record[..12], [2, FLAG_LAST, 0, 100, 1, 2, 0, 200, 0, 100, 42, 0]);
    assert_eq!(record[12..], [0; 42]);
}

#[test]
fn a_slice_of_udp_has_whole_datagrams() {
    let payload = [0; 5000];
    let slice = |transport, gso_size, capacity| super_frame(transport, &payload, gso_size).slice_len(capacity);
    assert_eq!(slice(Transport::Udp, 400, 1456), Some(1200));
    assert_eq!(slice(Transport::Udp, 1402, 1456), Some(1402));
    assert_eq!(slice(Transport::Udp, 1403, 1456), None, "54 octets are not payload");
    assert_eq!(slice(Transport::Udp, 1, 1456), Some(MAX_DATAGRAMS));
    assert_eq!(slice(Transport::Tcp, 1403, 1456), Some(1402));
    assert_eq!(slice(Transport::Tcp, 1403, 54 + MIN_SLICE - 1), None);
    assert_eq!(slice(Transport::Tcp, 1403, 10), None);
}

#[test]
fn a_run_of_udp_has_whole_datagrams() {
    let headers = Headers {
        l3: 14,
        l4: 34,
        src: IpAddr::from([10, 0, 0, 1]),
        dst: IpAddr::from([10, 0, 0, 2]),
        transport: Transport::Udp,
    };
    let tcp = Headers { transport: Transport::Tcp, ..headers };
    let payload = [0; 12_900];
    let slice = |offset, len: usize, gso_size, last| {
        let payload = &payload[..len];
        Slice { number: 1, offset, gso_size, ecn: false, last, headers: &[0; 42], payload }
    };
    let starts = |offset, len, gso_size, last| Run::start(&slice(offset, len, gso_size, last), &headers).is_some();
    assert!(starts(200, 300, 100, false) && starts(200, 250, 100, true) && starts(0, 12_800, 100, true));
    assert!(!starts(150, 300, 100, false) && !starts(200, 250, 100, false) && !starts(0, 300, 0, true));
    assert!(!starts(0, 12_801, 100, true), "more datagrams than the kernel makes");
    assert!(Run::start(&slice(0, 100, MIN_GSO_SIZE - 1, false), &tcp).is_none(), "tiny segments");
    assert!(Run::start(&slice(150, 100, MIN_GSO_SIZE, false), &tcp).is_some());
    // What no kernel takes, each alone: an ECN mark on UDP, no size, a size with another meaning.
    for flags in 0..=u8::MAX {
        let body = [&[0, 1, 0, 0, 0, 100, 42, 0][..], &[0; 42], &[7; 300]].concat();
        let slice = Slice::parse(flags, &body).unwrap();
        let taken = flags & FLAG_LAST != 0 || slice.payload.len().is_multiple_of(100);
        assert_eq!(Run::start(&slice, &headers).is_some(), taken && flags & FLAG_ECN == 0, "{flags:#x}");
        assert!(Run::start(&slice, &tcp).is_some(), "{flags:#x}");
    }
    for size in [0, GSO_BY_FRAGS] {
        assert!(Run::start(&slice(0, 300, size, true), &headers).is_none(), "{size}");
        assert!(Run::start(&slice(0, 300, size, true), &tcp).is_none(), "{size}");
    }
    let mut run = Run::start(&slice(200, 300, 100, false), &headers).unwrap();
    assert!(!run.extend(&slice(500, 150, 100, false), 42), "half a datagram");
    assert!(!run.extend(&slice(600, 100, 100, false), 42), "one is missing");
    assert!(!run.extend(&slice(500, 12_600, 100, false), 42), "too many");
    assert!(run.extend(&slice(500, 100, 100, false), 42) && run.extend(&slice(600, 50, 100, true), 42));
    assert!(!run.extend(&slice(650, 100, 100, false), 42), "nothing follows the last");
    assert_eq!((run.offset, run.len), (200, 450));
}
