//! What is no number: what was skipped and what failed, and what became of the packets.

use super::select::Row;
use crate::result::{Detail, Packets};

/// Something that was not measured, with the reason.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Note {
    /// The system.
    pub(crate) label: String,
    /// In which rounds.
    pub(crate) rounds: Vec<u32>,
    /// A figure, a group of figures, or `None`: the measurement ended early.
    pub(crate) what: Option<String>,
    /// Why.
    pub(crate) reason: String,
}

impl Note {
    /// `round 3`, `rounds 1, 2, 3`.
    pub(crate) fn rounds(&self) -> String {
        let numbers: Vec<String> = self.rounds.iter().map(u32::to_string).collect();
        format!("round{} {}", if numbers.len() == 1 { "" } else { "s" }, numbers.join(", "))
    }
}

/// Everything that is missing; the same in several rounds is one note.
pub(crate) fn notes(rows: &[Row]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for row in rows {
        for round in &row.rounds {
            let skipped = round.skipped.iter().map(|(what, reason)| (Some(what), reason));
            for (what, reason) in round.error.iter().map(|error| (None, error)).chain(skipped) {
                let same =
                    |note: &&mut Note| note.label == row.label && note.what.as_ref() == what && note.reason == *reason;
                match notes.iter_mut().find(same) {
                    Some(note) => note.rounds.push(round.round),
                    None => notes.push(Note {
                        label: row.label.clone(),
                        rounds: vec![round.round],
                        what: what.cloned(),
                        reason: reason.clone(),
                    }),
                }
            }
        }
    }
    notes
}

/// The packets of all figures whose id passes, over all rounds; `None` if there is no such figure.
pub(crate) fn packets(row: &Row, id: impl Fn(&str) -> bool) -> Option<Packets> {
    let all = row.rounds.iter().flat_map(|round| &round.figures).filter(|figure| id(&figure.id));
    all.filter_map(|figure| match &figure.detail {
        Detail::Packets(packets) => Some(*packets),
        Detail::Lossless(search) => Some(search.packets),
        _ => None,
    })
    .reduce(|a, b| Packets {
        sent: a.sent + b.sent,
        received: a.received + b.received,
        lost: a.lost + b.lost,
        duplicates: a.duplicates + b.duplicates,
        reordered: a.reordered + b.reordered,
        socket_dropped: a.socket_dropped + b.socket_dropped,
        damaged: a.damaged + b.damaged,
        offered: a.offered + b.offered,
        seconds: a.seconds + b.seconds,
    })
}
