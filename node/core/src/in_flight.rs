//! How many operations are under way for each client, so that one client cannot take all places.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::ConnectionId;

/// The requests of clients that are operations and were not answered yet.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    of_client: BTreeMap<ConnectionId, BTreeSet<u64>>,
}

impl InFlight {
    pub(crate) fn count(&self, connection: ConnectionId) -> usize {
        self.of_client.get(&connection).map_or(0, BTreeSet::len)
    }

    /// An operation begins. It is answered once, whatever becomes of its client.
    pub(crate) fn begin(&mut self, connection: ConnectionId, request: u64) {
        self.of_client.entry(connection).or_default().insert(request);
    }

    /// A request is answered; tells whether it was an operation that had begun.
    pub(crate) fn end(&mut self, connection: ConnectionId, request: u64) -> bool {
        let Some(requests) = self.of_client.get_mut(&connection) else { return false };
        let had_begun = requests.remove(&request);
        if requests.is_empty() {
            self.of_client.remove(&connection);
        }
        had_begun
    }
}
