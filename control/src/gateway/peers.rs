//! The links to the peers: what comes in on them, and what changes when they come and go.

use super::*;

impl Gateway {
    pub(super) fn take_message(&mut self, peer: PeerId, bytes: &[u8], now_ms: u64) {
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        let Some(message) = Message::parse(bytes).filter(|_| link.is_up()) else {
            return self.counters.add(Ending::RpcRefused, 1);
        };
        match message {
            Message::Probe(size) => self.send_message(peer, &Message::ProbeReply(size)),
            Message::ProbeReply(size) => {
                let changed = link.path.as_mut().is_some_and(|path| path.acknowledged(usize::from(size), now_ms));
                if changed {
                    info!("path to {} carries {size} octets of UDP payload", link.name());
                    self.table_changed = true;
                }
            }
            message => {
                self.remember("received", peer_name(&self.links, peer), &message);
                self.step(now_ms, |resolver, step| resolver.from_peer(peer, &message, step));
            }
        }
    }

    pub(super) fn take_handshake(&mut self, from: SocketAddr, bytes: &[u8], now_ms: u64) {
        let Some(handshake) = Handshake::parse(bytes) else {
            return self.counters.add(Ending::HandshakeRefused, 1);
        };
        let (Handshake::Hello { uid, session, .. } | Handshake::Bye { uid, session }) = &handshake;
        let own = *uid == self.uid;
        // Our own hello names the link that it was sent for.
        let sent_to = peer_name(&self.links, PeerId(*session as u16));
        let link = self.links.iter_mut().find(|link| same_address(link.address(), from));
        let Some(link) = link.filter(|_| !own) else {
            self.counters.add(Ending::HandshakeRefused, 1);
            if now_ms >= self.stranger_log_ms {
                self.stranger_log_ms = now_ms + 60_000;
                if own {
                    warn!("peer {sent_to} is this gateway itself; take it out of \"peers\"");
                } else {
                    warn!("a hello from {from}, which is the address of no peer in the config; it is ignored");
                }
            }
            return;
        };
        let id = link.id();
        let before = link.view(link.address());
        let (event, answer) = link.heard(&handshake, now_ms, || random().map_or(now_ms as u16, u16::from_ne_bytes));
        self.table_changed |= link.view(link.address()) != before;
        if let Some(event) = event {
            self.link_changed(id, &event, now_ms);
        }
        if answer {
            self.send_hello(id);
        }
    }

    pub(super) fn link_changed(&mut self, id: PeerId, event: &LinkEvent, now_ms: u64) {
        let listen = self.config.listen;
        let Some(link) = self.links.get_mut(id.index()) else { return };
        let (name, address) = (link.name().to_owned(), link.address());
        match event {
            LinkEvent::Up => {
                // Without a route there is no word of the kernel; what every path should carry is then all that is used.
                let kernel = underlay::path_payload(listen, address).unwrap_or(MIN_DATAGRAM);
                link.path = Some(PathMtu::new(kernel, now_ms));
                let (uid, remote) = link.identity().unwrap_or_default();
                info!("peer {name} is up: {address}, calls itself '{remote}', uid {uid}");
                self.resolver.peer_came();
            }
            LinkEvent::Down(why) => {
                warn!("peer {name} is down: {why}");
                self.forget_peer(id);
            }
            LinkEvent::Restarted => {
                info!("peer {name} has restarted");
                link.path = None;
                self.forget_peer(id);
            }
        }
        self.table_changed = true;
    }

    pub(super) fn forget_peer(&mut self, id: PeerId) {
        self.macs.flush(id);
        self.resolver.flush(id);
    }

    /// A route that carries more than before is tried; one that carries less announces itself.
    pub(super) fn look_at_routes(&mut self, now_ms: u64) {
        let listen = self.config.listen;
        for link in &mut self.links {
            let address = link.address();
            if let Some(path) = &mut link.path
                && let Ok(kernel) = underlay::path_payload(listen, address)
            {
                path.kernel_says(kernel, now_ms);
            }
        }
    }

    pub(super) fn path_refused(&mut self, peer: PeerId, now_ms: u64) {
        let listen = self.config.listen;
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        let kernel = underlay::path_payload(listen, link.address()).unwrap_or(MIN_DATAGRAM);
        if link.path.as_mut().is_some_and(|path| path.too_big(kernel, now_ms)) {
            info!("path to {} became smaller; looking for what it carries", link.name());
            self.table_changed = true;
        }
    }

    /// Gives the workers the table of peers if it has changed.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.table_changed) {
            let table = Arc::new(self.peer_table());
            for worker in &self.workers {
                worker.mailbox.publish(table.clone());
            }
        }
    }

    pub(super) fn is_up(&self, peer: PeerId) -> bool {
        self.links.get(peer.index()).is_some_and(Link::is_up)
    }

    pub(super) fn peer_table(&self) -> PeerTable {
        PeerTable::new(self.links.iter().map(|link| link.view(self.socket_address(link.address()))).collect())
    }
}
