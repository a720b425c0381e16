//! Requests of clients: what is checked before anything is begun.

use quoit_protocol::{
    ClientResponse, Export, Failure, FailureCode, Get, Head, Hello, Key, PROTOCOL_VERSION,
    RecordAnswer, Scan, Seen, Welcome, Write, value_checksum,
};
use quoit_ring::{HybridTime, Level, NodeId, TableOptions};
use quoit_storage::layout::{StoredKey, after_prefix, partition_prefix, vnode_range};
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::version::Content;

use crate::context;
use crate::coordinator::read::ReadParts;
use crate::coordinator::scan::ScanParts;
use crate::coordinator::write::WriteParts;
use crate::operation::{OperationId, Origin, Place, not_done};
use crate::quorum::Tally;
use crate::replica::PAGE_ROWS_MAX;
use crate::time::Instant;
use crate::turn::{Heal, Turn};

/// The shortest deadline that is worth beginning with, in milliseconds.
const DEADLINE_MS_MIN: u32 = 1;
/// How long a node tries to heal a key.
const HEAL_DEADLINE_MS: u32 = 5_000;

/// A write whose place is known: here, or at another node.
pub(crate) struct Placed {
    pub(crate) deadline: Instant,
    pub(crate) tally: Tally,
    options: TableOptions,
    place: Place,
    pub(crate) stored_key: StoredKey,
}

/// What all requests about keys have in common, once checked.
struct Admitted {
    options: TableOptions,
    place: Place,
    deadline: Instant,
}

impl Turn<'_> {
    /// Checks the common fields of a request.
    fn admit(&mut self, head: &Head) -> Result<Admitted, Failure> {
        self.observe_client(head.time)?;
        let config = &self.shared.config;
        let deadline_ms = head.deadline_ms.clamp(DEADLINE_MS_MIN, config.deadline_ms_max);
        let deadline = self.instant().plus_ms(u64::from(deadline_ms));
        let record = self.record()?;
        if head.vnode.0 >= record.vnodes.get()
            || head.configuration != record.configuration(head.vnode)
        {
            return Err(not_done(
                FailureCode::WrongConfiguration,
                "the owners of that part of the ring have changed: ask for the cluster record",
            ));
        }
        let Some(table) = record.table_by_id(head.table) else {
            // A table of a later version may not have reached this node yet.
            let code = if head.table >= record.table_id_next {
                FailureCode::NotServing
            } else {
                FailureCode::UnknownTable
            };
            return Err(not_done(
                code,
                format!(
                    "no table {} at version {} of the cluster record",
                    head.table.0, record.epoch
                ),
            ));
        };
        Ok(Admitted {
            options: table.options.clone(),
            place: Place { trace: head.trace, ..Place::new(record, table, head.vnode) },
            deadline,
        })
    }

    /// Takes in a client's hybrid time, unless it would drag the cluster's into the far future. What
    /// this node has seen already does no more harm.
    fn observe_client(&mut self, time: HybridTime) -> Result<(), Failure> {
        if time > self.time().max(self.shared.time_bound(self.now)) {
            if let Some(problem) = self.shared.clock_problem.clone() {
                return Err(not_done(FailureCode::NotServing, problem));
            }
            return Err(not_done(
                FailureCode::TimeAhead,
                "the session's time is far ahead of this node's: take this node's, and check the \
                 clocks of the cluster's nodes",
            ));
        }
        // Where this node's own clock is wrong, sessions bring back what it has told them.
        self.shared.observe_peer(time, self.now);
        Ok(())
    }

    /// Lays out a key and checks that it lies where the client says.
    fn stored_key(&self, place: Place, key: &Key) -> Result<StoredKey, Failure> {
        let length = key.partition.len() + key.sort.len();
        let limit = self.limits().key_bytes_max as usize;
        if key.partition.is_empty() {
            return Err(not_done(FailureCode::Invalid, "the partition key is empty"));
        }
        if length > limit {
            return Err(not_done(
                FailureCode::Invalid,
                format!(
                    "the key has {length} bytes; partition key and sort key together may have {limit}"
                ),
            ));
        }
        let record = self.record()?;
        let token = record.token(&key.partition);
        if record.vnodes.vnode_of(token) != place.vnode {
            return Err(not_done(
                FailureCode::WrongConfiguration,
                "the key does not lie in that part of the ring: ask for the cluster record",
            ));
        }
        StoredKey::new(token, place.table, &key.partition, &key.sort)
            .map_err(|error| not_done(FailureCode::Invalid, error.to_string()))
    }

    /// The replicas that an operation may ask: in a sloppy table as many fallbacks as there are
    /// primaries as well.
    fn tally(&self, place: Place, options: &TableOptions, required: u8) -> Result<Tally, Failure> {
        if !options.sloppy {
            return self.strict_tally(place, required);
        }
        let list = self.record()?.preference_list(place.vnode, place.replication);
        Ok(Tally::sloppy(list.take(2 * usize::from(place.replication)), required))
    }

    fn strict_tally(&self, place: Place, required: u8) -> Result<Tally, Failure> {
        let record = self.record()?;
        let list = record.preference_list(place.vnode, place.replication);
        let fallbacks = usize::from(is_planted(PlantedBug::CountFallback));
        Ok(Tally::strict(list.take(usize::from(place.replication) + fallbacks), required))
    }

    /// Checks a read.
    pub(crate) fn admit_get(
        &mut self,
        id: OperationId,
        origin: Origin,
        get: Get,
    ) -> Result<ReadParts, Failure> {
        let Admitted { options, place, deadline } = self.admit(&get.head)?;
        let required = required_of(get.head.level.unwrap_or(options.read_level), &options)?;
        Ok(ReadParts {
            id,
            origin,
            deadline,
            place,
            policy: options.policy,
            stored_key: self.stored_key(place, &get.key)?,
            key: get.key,
            at_least: context::of_session(get.at_least)?,
            rebuild_required: rebuild_required(&options),
            unreadable: Vec::new(),
            tally: self.tally(place, &options, required)?,
        })
    }

    /// Checks a read that this node makes of its own accord, to rebuild a key at one replica.
    pub(crate) fn admit_heal(
        &mut self,
        id: OperationId,
        heal: &Heal,
    ) -> Result<ReadParts, Failure> {
        let Heal { place, key, node } = heal.clone();
        let head = Head {
            table: place.table,
            vnode: place.vnode,
            configuration: place.configuration,
            time: HybridTime::ZERO,
            deadline_ms: HEAL_DEADLINE_MS,
            level: None,
            trace: None,
        };
        let options = self.admit(&head)?.options;
        let required = rebuild_required(&options);
        let level = Some(Level::Exactly(required));
        let get = Get { head: Head { level, ..head }, key, at_least: Seen::default() };
        let mut parts = self.admit_get(id, Origin::Nobody, get)?;
        parts.tally = self.strict_tally(place, required)?;
        parts.tally.refuse(node);
        parts.unreadable.push(node);
        Ok(parts)
    }

    /// Finds out where a write belongs.
    pub(crate) fn place_write(&mut self, write: &Write) -> Result<Placed, Failure> {
        let Admitted { options, place, deadline } = self.admit(&write.head)?;
        let required = required_of(write.head.level.unwrap_or(options.write_level), &options)?;
        let stored_key = self.stored_key(place, &write.key)?;
        let tally = self.tally(place, &options, required)?;
        Ok(Placed { deadline, tally, options, place, stored_key })
    }

    /// Checks a write that belongs here.
    pub(crate) fn admit_write(
        &mut self,
        id: OperationId,
        origin: Origin,
        write: Write,
        placed: Placed,
    ) -> Result<WriteParts, Failure> {
        let Placed { deadline, tally, options, place, stored_key } = placed;
        let record = self.record()?;
        let context = context::open(record.cluster, record.ring_key, &stored_key, &write.context)
            .map_err(|error| not_done(FailureCode::Invalid, error.to_string()))?;
        let limit = self.limits().value_bytes_max as usize;
        let (content, apart) = match write.value {
            Some(bytes) if bytes.len() > limit => {
                return Err(not_done(
                    FailureCode::Invalid,
                    format!("the value has {} bytes; a value may have {limit}", bytes.len()),
                ));
            }
            Some(bytes) if value_checksum(stored_key.token(), &bytes) != write.checksum => {
                return Err(not_done(
                    FailureCode::Invalid,
                    "the value does not have the checksum that came with it: send it again",
                ));
            }
            Some(bytes) => Content::of_value(bytes, write.checksum),
            None => (Content::Tombstone, None),
        };
        let ttl_ms = match (&content, write.ttl_ms.or(options.ttl_ms)) {
            (_, Some(0)) => {
                return Err(not_done(
                    FailureCode::Invalid,
                    "a time to live must be at least 1 ms: delete the key, or leave it out",
                ));
            }
            (Content::Value { .. } | Content::Apart { .. }, ttl_ms) => ttl_ms,
            (Content::Tombstone, _) => None,
        };
        let required = tally.required();
        let asked = |node: &NodeId| tally.is_sloppy() || !tally.is_fallback(*node);
        let reachable = tally.nodes().filter(asked).filter(|node| self.is_reachable(*node)).count();
        if reachable < required {
            return Err(Failure {
                required: u8::try_from(required).unwrap_or(u8::MAX),
                ..not_done(
                    FailureCode::Unavailable,
                    format!(
                        "only {reachable} of the key's {} replicas can be reached, and {required} \
                         must acknowledge; nothing was written",
                        place.replication
                    ),
                )
            });
        }
        self.observe_client(context.greatest()).map_err(|failure| match failure.code {
            // Unlike a session's time it is not forgotten and sent again without.
            FailureCode::TimeAhead => not_done(
                FailureCode::Invalid,
                "the context speaks of a time far ahead of this node's: check the clocks of the \
                 cluster's nodes",
            ),
            _ => failure,
        })?;
        Ok(WriteParts {
            id,
            origin,
            write_id: write.write_id,
            deadline,
            place,
            policy: options.policy,
            key: write.key,
            stored_key,
            content,
            apart,
            ttl_ms,
            context,
            tally,
        })
    }

    /// Checks a scan of one partition key.
    pub(crate) fn admit_scan(
        &mut self,
        id: OperationId,
        origin: Origin,
        scan: Scan,
    ) -> Result<ScanParts, Failure> {
        let Admitted { options, place, deadline } = self.admit(&scan.head)?;
        let required = required_of(scan.head.level.unwrap_or(options.read_level), &options)?;
        let longest = scan.from.len().max(scan.to.as_ref().map_or(0, |to| to.len()));
        // One byte more than a sort key may have: "after this key" is the key and a zero byte.
        if longest > self.limits().key_bytes_max as usize + 1 {
            return Err(not_done(
                FailureCode::Invalid,
                "the range's ends are longer than a key may be",
            ));
        }
        let key = Key { partition: scan.partition, sort: bytes::Bytes::new() };
        let token = self.stored_key(place, &key)?.token();
        let prefix = partition_prefix(token, place.table, &key.partition);
        let bound = |sort: &[u8]| bytes::Bytes::from([&prefix[..], sort].concat());
        if scan.to.as_ref().is_some_and(|to| *to < scan.from) {
            return Err(not_done(FailureCode::Invalid, "the range ends before it begins"));
        }
        Ok(ScanParts {
            id,
            origin,
            deadline,
            place,
            policy: options.policy,
            from: bound(&scan.from),
            to: scan.to.map(|to| bound(&to)).or_else(|| after_prefix(&prefix)),
            limit: rows(scan.limit),
            tally: self.strict_tally(place, required)?,
        })
    }

    /// Checks a page of a virtual node's keys.
    pub(crate) fn admit_export(
        &mut self,
        id: OperationId,
        origin: Origin,
        export: Export,
    ) -> Result<ScanParts, Failure> {
        let Admitted { options, place, deadline } = self.admit(&export.head)?;
        let required = required_of(export.head.level.unwrap_or(options.read_level), &options)?;
        let (first, to) = vnode_range(self.record()?.vnodes, place.vnode);
        let from = match &export.after {
            Some(key) => {
                let key = self.stored_key(place, key)?;
                bytes::Bytes::from([&key.bytes()[..], &[0]].concat())
            }
            None => first,
        };
        Ok(ScanParts {
            id,
            origin,
            deadline,
            place,
            policy: options.policy,
            from,
            to,
            limit: rows(export.limit),
            tally: self.strict_tally(place, required)?,
        })
    }

    /// Answers a client's first words.
    pub(crate) fn welcome(&self, hello: &Hello) -> ClientResponse {
        if hello.version_min > PROTOCOL_VERSION || hello.version_max < PROTOCOL_VERSION {
            return not_done(
                FailureCode::Protocol,
                format!(
                    "this node speaks client protocol {PROTOCOL_VERSION}, the client {} to {}: use \
                     the client of this node's version",
                    hello.version_min, hello.version_max
                ),
            )
            .into();
        }
        let own = self.shared.config.genesis.cluster;
        if let Some(cluster) = hello.cluster
            && cluster != own
        {
            return not_done(
                FailureCode::Invalid,
                format!(
                    "this node belongs to cluster {own}, not {cluster}: check the contact points"
                ),
            )
            .into();
        }
        Box::new(Welcome {
            version: PROTOCOL_VERSION,
            node: self.own(),
            record: self.shared.keeper.told().cloned(),
            time: self.time(),
            limits: self.limits(),
        })
        .into()
    }

    /// Answers with the record.
    pub(crate) fn tell_record(&self) -> ClientResponse {
        let record = self.shared.keeper.told().cloned();
        Box::new(RecordAnswer { record, time: self.time() }).into()
    }
}

fn rows(limit: u32) -> u32 {
    limit.clamp(1, u32::try_from(PAGE_ROWS_MAX).expect("a small number"))
}

/// How many other replicas know, together, all that was acknowledged and is left: all of them. Fewer
/// would do for writes at the table's level, but a request may have asked for less.
fn rebuild_required(options: &TableOptions) -> u8 {
    options.replication - 1
}

fn required_of(level: quoit_ring::Level, options: &TableOptions) -> Result<u8, Failure> {
    level
        .required(options.replication)
        .map_err(|error| not_done(FailureCode::Invalid, error.to_string()))
}
