//! What happened since the start, for people.

use quoit_protocol::{ClientResponse, FailureCode};

/// Counts of what happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Reads answered.
    pub reads: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Pages answered.
    pub pages: u64,
    /// Requests that failed and are certainly not done.
    pub failed: u64,
    /// Writes whose outcome is unknown.
    pub unknown: u64,
    /// Requests refused because a queue was full.
    pub overloaded: u64,
    /// Reads that found replicas different and repaired them before they answered.
    pub read_repairs: u64,
    /// Sets sent to replicas that were behind, after the answer.
    pub background_repairs: u64,
    /// Sets sent to replicas that could not vouch for a key.
    pub rebuilds: u64,
    /// Writes that were sent again under a greater dot.
    pub older: u64,
    /// Reads that asked more replicas because one was slow.
    pub impatient_reads: u64,
    /// Requests of replicas that came, or were taken up by the storage worker, when nobody waited for
    /// them any more.
    pub too_late: u64,
    /// Fallbacks that were asked to take a write in the place of a primary.
    pub stand_ins: u64,
    /// Writes handed on to a primary.
    pub forwards: u64,
    /// Writes that were recognised by their id.
    pub repeated_writes: u64,
    /// Exchanges with peers that this node began and ended.
    pub exchanges: u64,
    /// Those that ended before their time.
    pub failed_exchanges: u64,
    /// Keys that came in exchanges.
    pub repair_keys_in: u64,
    /// Keys that went.
    pub repair_keys_out: u64,
    /// Bytes of keys and values that came in exchanges.
    pub repair_bytes_in: u64,
    /// And that went.
    pub repair_bytes_out: u64,
    /// Keys of which something was collected.
    pub collected: u64,
    /// Messages that no right node sends.
    pub malformed: u64,
    /// What became of hints.
    pub hints: HintCounters,
}

/// What became of hints since the start. Those that were noted, and those that were there at the
/// start, are delivered, dropped for one of these reasons, or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HintCounters {
    /// Writes that a replica missed, but for those of a key that one waits for already.
    pub noted: u64,
    /// The target has durably what the key held.
    pub delivered: u64,
    /// Dropped: too old.
    pub expired: u64,
    /// Dropped: there were as many as there may be.
    pub full: u64,
    /// Dropped: the hints themselves cannot be read here.
    pub unreadable: u64,
    /// Dropped: the key holds nothing here, or nothing that can be read.
    pub absent: u64,
    /// Dropped: what the key holds is too large to be sent.
    pub too_large: u64,
    /// Dropped: the table is no more.
    pub table_dropped: u64,
    /// Dropped: the target is no replica of the key any more, or this node is none.
    pub not_a_replica: u64,
}

impl HintCounters {
    /// All that were dropped.
    pub fn dropped(&self) -> u64 {
        self.expired
            + self.full
            + self.unreadable
            + self.absent
            + self.too_large
            + self.table_dropped
            + self.not_a_replica
    }
}

impl Counters {
    pub(crate) fn on_response(&mut self, response: &ClientResponse) {
        match response {
            ClientResponse::Got(got) => {
                self.reads += 1;
                self.read_repairs += u64::from(got.repaired);
            }
            ClientResponse::Written(_) => self.writes += 1,
            ClientResponse::Page(_) => self.pages += 1,
            ClientResponse::Failure(failure) if failure.code == FailureCode::Overloaded => {
                self.overloaded += 1;
            }
            ClientResponse::Failure(failure) if failure.unknown => self.unknown += 1,
            ClientResponse::Failure(_) => self.failed += 1,
            ClientResponse::Welcome(_)
            | ClientResponse::Record(_)
            | ClientResponse::Status(_)
            | ClientResponse::Snapshots(_)
            | ClientResponse::Traced(_) => {}
        }
    }

    /// The counts with their names.
    pub fn named(&self) -> Vec<(String, u64)> {
        [
            ("reads", self.reads),
            ("writes", self.writes),
            ("pages", self.pages),
            ("failed", self.failed),
            ("unknown", self.unknown),
            ("overloaded", self.overloaded),
            ("read_repairs", self.read_repairs),
            ("background_repairs", self.background_repairs),
            ("rebuilds", self.rebuilds),
            ("older", self.older),
            ("impatient_reads", self.impatient_reads),
            ("stand_ins", self.stand_ins),
            ("forwards", self.forwards),
            ("repeated_writes", self.repeated_writes),
            ("exchanges", self.exchanges),
            ("failed_exchanges", self.failed_exchanges),
            ("repair_keys_in", self.repair_keys_in),
            ("repair_keys_out", self.repair_keys_out),
            ("repair_bytes_in", self.repair_bytes_in),
            ("repair_bytes_out", self.repair_bytes_out),
            ("collected", self.collected),
            ("malformed", self.malformed),
            ("hints_noted", self.hints.noted),
            ("hints_delivered", self.hints.delivered),
            ("hints_expired", self.hints.expired),
            ("hints_full", self.hints.full),
            ("hints_unreadable", self.hints.unreadable),
            ("hints_absent", self.hints.absent),
            ("hints_too_large", self.hints.too_large),
            ("hints_table_dropped", self.hints.table_dropped),
            ("hints_not_a_replica", self.hints.not_a_replica),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .to_vec()
    }
}
