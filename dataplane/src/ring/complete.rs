//! What completions mean: arrivals, refusals, and slots that are free again.

use std::io;

use super::queue::{Completion, Token};
use super::receive::Receive;
use super::{Arrival, Place, ReceiveFailure, Refusal, Ring};
use crate::ending::Ending;

impl Ring {
    pub(super) fn complete(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { token, result, buffer, more, notification, open } = completion;
        match token {
            Token::PortRead => {
                self.port_requests.armed &= more;
                match (result, buffer) {
                    (len, Some(buffer)) if len >= 0 => {
                        let len = len as usize;
                        let at = self.port_pool.received(buffer, len, open);
                        let arrival = self.frame(buffer, at, len);
                        self.frames.push(arrival);
                        self.port_requests.succeeded();
                    }
                    // A kind of super-frame that a virtio_net_hdr has no name for; the kernel has dropped it
                    // (`packet_rcv_vnet()` in net/packet/af_packet.c).
                    (code, _) if code == -libc::EINVAL && self.port_receive.is_some() => {
                        self.frames.push(Arrival::Lost(Ending::SuperFrameUnknown));
                    }
                    (code, _) if code == -libc::EINVAL && self.port_multishot => self.port_multishot = false,
                    // Said once when the interface goes down; frames come again when it is up (`packet_notifier()`).
                    (code, _) if code == -libc::ENETDOWN && self.port_receive.is_some() => {}
                    // The TAP was deleted (`tun_chr_read_iter()` in drivers/net/tun.c), and may be made anew.
                    (code, _) if is_passing(code) || code == -libc::EBADFD => self.receive_failed(true, -code),
                    (code, _) => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
            Token::UnderlayReceive => {
                self.underlay_requests.armed &= more;
                match (result, buffer) {
                    (len, Some(buffer)) if len >= 0 => {
                        let len = len as usize;
                        let at = self.underlay_pool.received(buffer, len, open);
                        self.trains.push(Place { buffer, at, len });
                        self.underlay_requests.succeeded();
                    }
                    // Errors of earlier sends (ICMP) are reported here too; none of them ends the worker.
                    (code, _) if code != -libc::EBADF && code != -libc::EINVAL => self.receive_failed(false, -code),
                    (code, _) => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
            Token::Wake => {
                self.wake_armed = false;
                match result {
                    0.. => self.woken = true,
                    code if is_passing(code) => {}
                    code => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
            Token::Send(number) => {
                let id = self.sends.returned(number);
                let slot = self.sends.get(&id);
                if notification {
                    self.unnotified = self.unnotified.saturating_sub(1);
                    self.zero_copy.notified(slot.peer, result);
                } else {
                    let mut result = result;
                    if result == -libc::EIO && slot.is_train() {
                        // No checksum offload on the way out, or IPsec (udp_send_skb() in net/ipv4/udp.c). It would say so
                        // again.
                        (self.queue.gso, self.gso_refused) = (false, true);
                        result = slot.send_each(self.queue.sockets[usize::from(slot.source)]);
                    }
                    if result < 0 {
                        let (peer, frames) = (slot.peer, slot.frames);
                        self.refusals.push(Refusal { port: false, peer, frames, errno: -result, uso: false });
                    }
                }
                // Of a zero-copy send the kernel still reads; the notification will give the slot back.
                if more {
                    self.unnotified += 1;
                } else {
                    slot.clear(&mut self.port_pool);
                    self.sends.give_back(id);
                }
            }
            Token::Write(number) => {
                let id = self.writes.returned(number);
                let slot = self.writes.get(&id);
                let peer = slot.peer;
                if result < 0 {
                    let (frames, uso) = (slot.account().0, slot.is_uso());
                    self.refusals.push(Refusal { port: true, peer, frames, errno: -result, uso });
                } else {
                    self.written.push((peer, slot.account()));
                }
                slot.clear(&mut self.underlay_pool);
                self.writes.give_back(id);
            }
        }
        Ok(())
    }

    /// A request that receives has ended without anything.
    fn receive_failed(&mut self, port: bool, errno: i32) {
        let requests: &mut Receive = if port { &mut self.port_requests } else { &mut self.underlay_requests };
        let failure = requests.failed(self.now_ms);
        // Said once when all buffers are in use, and for a signal.
        let usual = [libc::ENOBUFS, libc::EAGAIN, libc::EINTR].contains(&errno);
        if failure.lasting || !usual {
            // That the port is gone the control thread sees by itself.
            let tell = failure.tell && errno != libc::EBADFD;
            self.failures.push(ReceiveFailure { port, errno, tell });
        }
    }
}

/// Results of a read from the port that end neither the port nor the worker.
fn is_passing(code: i32) -> bool {
    [-libc::ENOBUFS, -libc::EAGAIN, -libc::EINTR, -libc::ENOMEM].contains(&code)
}
