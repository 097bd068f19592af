//! Answers on the control socket that are tables: written part by part, each from what there is when it is written.
//!
//! A part goes on behind the key of the row before, and finds the rows by one look at the whole table: so nothing is
//! copied or remembered for a client but a key, and a table that changes meanwhile loses only the rows that go.

use serde::Serialize;

use super::{Gateway, view};
use crate::admin::Answers;
use crate::report;
use crate::resolution::Key;

/// Rows of a table in one part: some 60 000 octets of MACs.
const ROWS: usize = 512;
/// The same of what is longer.
const LONG_ROWS: usize = 64;

/// An answer, and the key of the row after which its list goes on; `None` where that begins.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// Entries of a MAC that an operator has declared to be in order; `None` for a text that is no MAC.
    Released(Option<usize>),
    Status,
    Rekey,
    Peers(Option<usize>),
    Macs(Option<u64>),
    Entries(Option<Key>),
    Pending(Option<Key>),
    Unanswered(Option<Key>),
    Rpc(Option<u64>),
}

/// The first `count` of `rows` behind `after`, in the order of their keys.
fn page<K: Ord + Copy, R>(rows: impl Iterator<Item = (K, R)>, after: Option<K>, count: usize) -> Vec<(K, R)> {
    let mut page: Vec<(K, R)> = Vec::with_capacity(2 * count);
    // Nothing from this key on can be among them.
    let mut bound = None;
    for row in rows {
        if after.is_some_and(|after| row.0 <= after) || bound.is_some_and(|bound| row.0 >= bound) {
            continue;
        }
        page.push(row);
        if page.len() == 2 * count {
            bound = Some(page.select_nth_unstable_by_key(count, |row| row.0).1.0);
            page.truncate(count);
        }
    }
    page.sort_unstable_by_key(|row| row.0);
    page.truncate(count);
    page
}

/// Writes rows as elements of an array, the first of them without a comma if the array has just begun.
fn write_rows<T: Serialize>(out: &mut Vec<u8>, mut begun: bool, rows: impl Iterator<Item = T>) {
    for row in rows {
        if begun {
            out.push(b',');
        }
        begun = true;
        // Writing to memory does not fail, nor do structures of numbers and texts.
        let _ = serde_json::to_writer(&mut *out, &row);
    }
}

impl Answers for Gateway {
    type Answer = Answer;

    fn begin(&mut self, command: &str) -> Option<Answer> {
        Some(match command {
            "status" => Answer::Status,
            "peers" => Answer::Peers(None),
            "macs" => Answer::Macs(None),
            "arp" => Answer::Entries(None),
            "rpc" => Answer::Rpc(None),
            "rekey" => Answer::Rekey,
            _ => {
                let mac = command.strip_prefix("macs release ")?.parse();
                Answer::Released(mac.ok().map(|mac| self.macs.release(mac, self.now_ms())))
            }
        })
    }

    fn go_on(&mut self, answer: &mut Answer, out: &mut Vec<u8>) -> bool {
        let now_ms = self.now_ms();
        let next = match *answer {
            Answer::Released(released) => {
                let answer = match released {
                    Some(released) => serde_json::to_value(report::Released { released }).unwrap_or_default(),
                    None => {
                        serde_json::json!({ "error": "that is not a MAC address: six groups of two hexadecimal digits are, with ':' between them" })
                    }
                };
                out.extend_from_slice(answer.to_string().as_bytes());
                return false;
            }
            Answer::Status => {
                let _ = serde_json::to_writer(out, &self.status());
                return false;
            }
            Answer::Rekey => {
                let _ = serde_json::to_writer(out, &report::Rekey { asked: self.ask_for_keys() });
                return false;
            }
            Answer::Peers(after) => {
                begin(out, after, "{\"peers\":[");
                let from = after.map_or(0, |after| after + 1);
                write_rows(out, after.is_some(), self.peer_rows(from, LONG_ROWS));
                (from + LONG_ROWS < self.links.len()).then(|| Answer::Peers(Some(from + LONG_ROWS - 1)))
            }
            Answer::Macs(after) => {
                begin(out, after, "{\"macs\":[");
                let rows = self.macs.table().iter();
                let rows = page(rows.map(|(key, entry)| (key.bits(), (key, entry))), after, ROWS);
                write_rows(out, after.is_some(), rows.iter().map(|(_, (key, entry))| self.mac_row(*key, entry)));
                last(&rows).map(|last| Answer::Macs(Some(last)))
            }
            Answer::Entries(after) => {
                begin(out, after, "{\"entries\":[");
                let rows = page(self.resolver.entries().map(|(key, entry)| (*key, entry)), after, ROWS);
                write_rows(out, after.is_some(), rows.iter().map(|(key, entry)| self.arp_row(key, entry, now_ms)));
                last(&rows).map(|last| Answer::Entries(Some(last))).or(Some(Answer::Pending(None)))
            }
            Answer::Pending(after) => {
                begin(out, after, "],\"pending\":[");
                let rows = self.resolver.pending().map(|(key, pending, askers)| (*key, (pending, askers)));
                let rows = page(rows, after, ROWS);
                write_rows(out, after.is_some(), rows.iter().map(|(key, row)| view::pending_row(key, row.0, row.1)));
                last(&rows).map(|last| Answer::Pending(Some(last))).or(Some(Answer::Unanswered(None)))
            }
            Answer::Unanswered(after) => {
                begin(out, after, "],\"unanswered\":[");
                let rows = self.resolver.unanswered().filter(|(_, unanswered)| unanswered.until_ms > now_ms);
                let rows = page(rows.map(|(key, unanswered)| (*key, unanswered)), after, ROWS);
                write_rows(out, after.is_some(), rows.iter().map(|(key, row)| view::unanswered_row(key, row, now_ms)));
                last(&rows).map(|last| Answer::Unanswered(Some(last)))
            }
            Answer::Rpc(after) => {
                begin(out, after, "{\"messages\":[");
                // What has been forgotten meanwhile is left out.
                let from = after.map_or(0, |after| after + 1).max(self.rpc_forgotten);
                let rows = self.rpc_log.iter().skip((from - self.rpc_forgotten) as usize).take(LONG_ROWS);
                let full = rows.len() == LONG_ROWS;
                write_rows(out, after.is_some(), rows);
                full.then(|| Answer::Rpc(Some(from + LONG_ROWS as u64 - 1)))
            }
        };
        match next {
            Some(next) => *answer = next,
            None => out.extend_from_slice(b"]}"),
        }
        next.is_some()
    }
}

/// What stands before the rows of a list, if they are to be written now.
fn begin<K>(out: &mut Vec<u8>, after: Option<K>, opening: &str) {
    if after.is_none() {
        out.extend_from_slice(opening.as_bytes());
    }
}

/// The key of the last row, if there may be more behind it.
fn last<K: Copy, R>(rows: &[(K, R)]) -> Option<K> {
    rows.last().filter(|_| rows.len() == ROWS).map(|row| row.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys in no order, some of which come while they are read.
    #[test]
    fn pages_are_the_whole_table_in_order() {
        for len in [0_u32, 1, 9, 10, 11, 1000] {
            let table: Vec<_> = (0..len).map(|n| n.wrapping_mul(2_654_435_761)).collect();
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = page(table.iter().map(|key| (*key, ())), after, 10);
                seen.extend(page.iter().map(|row| row.0));
                after = page.last().map(|row| row.0);
                if page.len() < 10 {
                    break;
                }
            }
            let mut sorted = table.clone();
            sorted.sort_unstable();
            assert_eq!(seen, sorted);
        }
    }

    #[test]
    fn rows_are_one_array_however_they_are_parted() {
        let mut out = Vec::new();
        begin(&mut out, None::<u8>, "[");
        write_rows(&mut out, false, [1, 2].iter());
        begin(&mut out, Some(2), "[");
        write_rows(&mut out, true, std::iter::empty::<u8>());
        write_rows(&mut out, true, [3].iter());
        assert_eq!(out, b"[1,2,3");
    }
}
