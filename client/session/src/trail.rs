//! The short history of an operation's attempts, for error messages.

use std::fmt;

use quoit_ring::NodeId;

/// How many attempts are remembered word for word; of more, the last ones.
const ENTRIES_MAX: usize = 4;
/// How much of a message is kept.
const TEXT_CHARACTERS_MAX: usize = 200;

/// What was tried for an operation, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// How often the request was sent.
    pub attempts: u32,
    /// What came of the last ones, oldest first (at most four).
    pub entries: Vec<TrailEntry>,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailEntry {
    /// The node that was asked; `None` where no node could be asked.
    pub node: Option<NodeId>,
    /// What happened, for people.
    pub what: String,
}

impl Trail {
    pub(crate) fn note(&mut self, node: Option<NodeId>, what: impl Into<String>) {
        let mut what: String = what.into();
        if let Some((at, _)) = what.char_indices().nth(TEXT_CHARACTERS_MAX) {
            what.truncate(at);
        }
        let entry = TrailEntry { node, what };
        if self.entries.contains(&entry) {
            return;
        }
        if self.entries.len() == ENTRIES_MAX {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempts {
            0 => f.write_str("nothing was sent")?,
            1 => f.write_str("1 attempt")?,
            attempts => write!(f, "{attempts} attempts")?,
        }
        for (at, entry) in self.entries.iter().enumerate() {
            f.write_str(if at == 0 { ": " } else { "; " })?;
            if let Some(node) = entry.node {
                write!(f, "{node} ")?;
            }
            f.write_str(&entry.what)?;
        }
        Ok(())
    }
}
