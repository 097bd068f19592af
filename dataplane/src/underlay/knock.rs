//! Asks whether anybody listens at an address.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use zerocopy::IntoBytes;

use crate::datagram::{CONTROL_LANE, DATA_ASIDE, DatagramHeader};

/// A datagram that asks. The gateway's own sockets are not connected, and so do not hear that nobody takes what they send;
/// this one is for one address, and for one datagram.
#[derive(Debug)]
pub struct Knock(UdpSocket);

impl Knock {
    /// Sends a datagram that says nothing: whoever is there drops it, as one of a session that it does not know.
    pub fn at(listen: SocketAddr, peer: SocketAddr, network: u32) -> io::Result<Knock> {
        let socket = connect(listen, peer)?;
        socket.send(DatagramHeader::new(DATA_ASIDE, network, 0, CONTROL_LANE, 0).as_bytes())?;
        Ok(Knock(socket.into()))
    }

    /// True if the answer was that nobody listens. It comes when the datagram has gone there and the answer back.
    pub fn is_refused(&self) -> bool {
        let error = self.0.take_error().ok().flatten();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// A socket of no port in particular, which sends to `peer` from the address that the gateway has.
pub(super) fn connect(listen: SocketAddr, peer: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    if !listen.ip().is_unspecified() && listen.is_ipv4() == peer.is_ipv4() {
        socket.bind(&SocketAddr::new(listen.ip(), 0).into())?;
    }
    socket.connect(&peer.into())?;
    Ok(socket)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn who_is_not_there_is_told_from_who_is_silent() {
        let any = "127.0.0.1:0".parse().unwrap();
        let [silent, gone] = [(); 2].map(|()| UdpSocket::bind(any).unwrap());
        let [silent_at, gone_at] = [&silent, &gone].map(|socket| socket.local_addr().unwrap());
        drop(gone);
        let (quiet, knock) = (Knock::at(any, silent_at, 7).unwrap(), Knock::at(any, gone_at, 7).unwrap());
        let begin = Instant::now();
        while !knock.is_refused() {
            assert!(begin.elapsed() < Duration::from_secs(10), "no answer");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!quiet.is_refused());
        let mut datagram = [0; 64];
        let (len, _) = silent.recv_from(&mut datagram).unwrap();
        assert_eq!(DatagramHeader::parse(&datagram[..len], 7).unwrap().0.session.get(), 0);
    }
}
