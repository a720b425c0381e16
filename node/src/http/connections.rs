//! The open connections: at most so many, in all and of one address, and where one more comes, the one goes that has been
//! waiting for its next request the longest. So whoever opens many and sends nothing (or sends it
//! letter by letter) keeps nobody else from being served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::transport::admission::Source;

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    of_source_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Counts what happens, to tell what was before what.
    clock: u64,
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    source: Source,
    /// Since when it waits for a request; `None` while one is answered.
    waiting: Option<u64>,
    sent_away: Arc<Notify>,
}

/// A connection's place among the others, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    sent_away: Arc<Notify>,
}

/// A request is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Connections {
    pub(super) fn new(max: usize, of_source_max: usize) -> Arc<Self> {
        Arc::new(Self { max, of_source_max, open: Mutex::default() })
    }

    /// A place for one more; `None` where all others are being answered.
    pub(super) fn admit(self: &Arc<Self>, source: Source) -> Option<Arc<Place>> {
        let mut open = self.open();
        let others = open.connections.values();
        let is_crowd = others.filter(|one| one.source == source).count() >= self.of_source_max;
        if is_crowd || open.connections.len() >= self.max {
            let waiting = |(number, connection): (&u64, &Connection)| {
                let since = connection.waiting?;
                (!is_crowd || connection.source == source).then_some((since, *number))
            };
            let (_, oldest) = open.connections.iter().filter_map(waiting).min()?;
            let connection = open.connections.remove(&oldest)?;
            connection.sent_away.notify_one();
        }
        open.clock += 1;
        let (number, sent_away) = (open.clock, Arc::new(Notify::new()));
        let connection =
            Connection { source, waiting: Some(number), sent_away: Arc::clone(&sent_away) };
        open.connections.insert(number, connection);
        Some(Arc::new(Place { connections: Arc::clone(self), number, sent_away }))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics midway through a change.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Completes when the connection is to make room.
    pub(super) async fn sent_away(&self) {
        self.sent_away.notified().await;
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.set_waiting(false);
        Busy(Arc::clone(self))
    }

    fn set_waiting(&self, is_waiting: bool) {
        let mut open = self.connections.open();
        open.clock += 1;
        let now = open.clock;
        if let Some(connection) = open.connections.get_mut(&self.number) {
            connection.waiting = is_waiting.then_some(now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().connections.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_waiting(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[tokio::test]
    async fn one_address_takes_no_more_than_its_share() {
        let connections = Connections::new(3, 2);
        let others = connections.admit(source(2)).unwrap();
        let places: Vec<_> = (0..2).map(|_| connections.admit(source(1)).unwrap()).collect();
        let _third = connections.admit(source(1)).unwrap();
        assert!(is_sent_away(&places[0]).await);
        assert!(!is_sent_away(&others).await && !is_sent_away(&places[1]).await);
    }

    async fn is_sent_away(place: &Place) -> bool {
        // What was told before is there at once.
        tokio::time::timeout(Duration::ZERO, place.sent_away()).await.is_ok()
    }

    #[tokio::test]
    async fn the_one_that_has_waited_longest_makes_room() {
        let connections = Connections::new(3, 3);
        let places: Vec<_> = (0..3).map(|_| connections.admit(source(1)).unwrap()).collect();
        // The first asks again, so that the second has waited longest now; the third is being answered.
        drop(places[0].begin());
        let third = places[2].begin();
        let fourth = connections.admit(source(1)).unwrap();
        assert!(is_sent_away(&places[1]).await);
        assert!(!is_sent_away(&places[0]).await && !is_sent_away(&places[2]).await);
        // Of those that are left, one waits; once it is answered nobody makes room.
        let (_first, _fourth) = (places[0].begin(), fourth.begin());
        assert!(connections.admit(source(1)).is_none());
        drop(third);
        assert!(connections.admit(source(1)).is_some());
        assert!(is_sent_away(&places[2]).await);
    }

    #[test]
    fn who_goes_leaves_room() {
        let connections = Connections::new(1, 1);
        let place = connections.admit(source(1)).unwrap();
        let busy = place.begin();
        assert!(connections.admit(source(1)).is_none());
        drop((busy, place));
        assert!(connections.admit(source(1)).is_some());
    }
}
