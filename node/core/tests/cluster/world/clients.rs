//! What a session would do: heads, contexts, waiting for answers.

use std::sync::Arc;

use bytes::Bytes;
use quoit_core::access::Rights;
use quoit_core::{ConnectionId, Event};
use quoit_protocol::{
    ChangeTables, ClientRequest, ClientResponse, Export, Failure, Get, Got, Head, Key, Page, Scan,
    Seen, TableChange, Write, WriteId, Written, value_checksum,
};
use quoit_ring::{ClusterRecord, ConflictPolicy, HybridTime, Level, NodeId, TableId, TableOptions};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::Found;
use quoit_storage::version::SiblingSet;

use super::World;

/// A write before it has a head.
#[derive(Debug, Clone, Default)]
pub struct Put {
    pub key: &'static str,
    pub value: Option<Bytes>,
    pub context: Bytes,
    pub ttl_ms: Option<u64>,
    pub level: Option<Level>,
    pub write_id: Option<WriteId>,
    pub deadline_ms: Option<u32>,
}

/// What a client that may do everything asks.
pub fn client_asks(request: u64, message: ClientRequest) -> Event {
    let rights = Arc::new(Rights::all("test"));
    Event::Client { connection: ConnectionId(1), request, message, rights }
}

/// A blind write.
pub fn put(key: &'static str, value: &str) -> Put {
    Put { key, value: Some(Bytes::copy_from_slice(value.as_bytes())), ..Put::default() }
}

/// A blind delete.
pub fn delete(key: &'static str) -> Put {
    Put { key, ..Put::default() }
}

pub fn key(partition: &str) -> Key {
    Key { partition: Bytes::copy_from_slice(partition.as_bytes()), sort: Bytes::new() }
}

/// A read's values, in ascending order.
pub fn values(got: &Got) -> Vec<String> {
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).expect("text was written");
    let mut values: Vec<String> = got.siblings.iter().map(|it| text(&it.value)).collect();
    values.sort();
    values
}

pub fn options(policy: ConflictPolicy) -> TableOptions {
    TableOptions { policy, ..TableOptions::default() }
}

impl World {
    pub fn record(&self, id: NodeId) -> &ClusterRecord {
        self.core(id).record().expect("it has a record")
    }

    pub fn head(&self, id: NodeId, table: TableId, partition: &[u8]) -> Head {
        let record = self.record(id);
        let vnode = record.vnodes.vnode_of(record.token(partition));
        Head {
            table,
            vnode,
            configuration: record.configuration(vnode),
            time: HybridTime::ZERO,
            deadline_ms: 2_000,
            level: None,
            trace: None,
        }
    }

    /// Sends a request; the answer is under the number that is returned.
    pub fn send(&mut self, id: NodeId, message: impl Into<ClientRequest>) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        let message = message.into();
        self.tell(id, client_asks(request, message));
        request
    }

    pub fn answer(&self, request: u64) -> Option<&ClientResponse> {
        self.answers.get(&request)
    }

    /// Waits for an answer.
    pub fn wait(&mut self, request: u64) -> ClientResponse {
        self.run_until("an answer", |world| world.answers.contains_key(&request));
        self.answers[&request].clone()
    }

    /// Waits until every node has a record and its lease.
    pub fn form(&mut self) {
        self.run_until("a first record everywhere", |world| {
            world.ids().iter().all(|id| world.core(*id).record().is_some())
        });
        self.run_ms(100);
    }

    /// Makes a table and waits until all running nodes know it.
    pub fn table(&mut self, name: &str, options: TableOptions) -> TableId {
        let change = TableChange::Create { name: name.to_owned(), options };
        let at = self.ids()[0];
        let request = self.send(at, ChangeTables { change, deadline_ms: 10_000 });
        let ClientResponse::Record(_) = self.wait(request) else { panic!("no table") };
        let knows = |world: &Self, id| world.record(id).table(name).is_some();
        self.run_until("the table is known", |world| {
            world.ids().iter().all(|id| !world.is_running(*id) || knows(world, *id))
        });
        self.record(at).table(name).expect("just made").id
    }

    pub fn write(&self, id: NodeId, table: TableId, put: Put) -> Write {
        let key = key(put.key);
        let token = self.record(id).token(&key.partition);
        let mut head = self.head(id, table, &key.partition);
        head.level = put.level;
        head.deadline_ms = put.deadline_ms.unwrap_or(head.deadline_ms);
        let checksum = put.value.as_ref().map_or(0, |value| value_checksum(token, value));
        Write {
            head,
            key,
            value: put.value,
            checksum,
            context: put.context,
            ttl_ms: put.ttl_ms,
            write_id: put.write_id,
        }
    }

    pub fn send_put(&mut self, id: NodeId, table: TableId, put: Put) -> u64 {
        let write = self.write(id, table, put);
        self.send(id, write)
    }

    pub fn put(&mut self, id: NodeId, table: TableId, put: Put) -> Result<Written, Failure> {
        let request = self.send_put(id, table, put);
        self.written(request)
    }

    pub fn written(&mut self, request: u64) -> Result<Written, Failure> {
        match self.wait(request) {
            ClientResponse::Written(written) => Ok(written),
            ClientResponse::Failure(failure) => Err(failure),
            other => panic!("{other:?} answers no write"),
        }
    }

    pub fn send_get(&mut self, id: NodeId, table: TableId, name: &str, level: Level) -> u64 {
        self.send_get_at_least(id, table, name, level, Seen::default())
    }

    pub fn send_get_at_least(
        &mut self,
        id: NodeId,
        table: TableId,
        name: &str,
        level: Level,
        at_least: Seen,
    ) -> u64 {
        let mut head = self.head(id, table, name.as_bytes());
        head.level = Some(level);
        self.send(id, Get { head, key: key(name), at_least })
    }

    pub fn got(&mut self, request: u64) -> Result<Got, Failure> {
        match self.wait(request) {
            ClientResponse::Got(got) => Ok(got),
            ClientResponse::Failure(failure) => Err(failure),
            other => panic!("{other:?} answers no read"),
        }
    }

    pub fn get(&mut self, id: NodeId, table: TableId, name: &str) -> Result<Got, Failure> {
        let request = self.send_get(id, table, name, Level::Quorum);
        self.got(request)
    }

    /// The values that a quorum read gives.
    pub fn read(&mut self, id: NodeId, table: TableId, name: &str) -> Vec<String> {
        values(&self.get(id, table, name).expect("a quorum answers"))
    }

    fn page(&mut self, request: u64) -> Result<Page, Failure> {
        match self.wait(request) {
            ClientResponse::Page(page) => Ok(page),
            ClientResponse::Failure(failure) => Err(failure),
            other => panic!("{other:?} answers no scan"),
        }
    }

    /// Makes a world of so many nodes with one table.
    pub fn with_table(seed: u64, nodes: u64, options: TableOptions) -> (Self, TableId) {
        let mut world = Self::new(seed, nodes);
        world.form();
        let table = world.table("t", options);
        (world, table)
    }

    /// A page of the items of a partition key from a sort key on.
    pub fn scan(
        &mut self,
        id: NodeId,
        table: TableId,
        partition: &str,
        from: &[u8],
        limit: u32,
    ) -> Result<Page, Failure> {
        let head = self.head(id, table, partition.as_bytes());
        let partition = Bytes::copy_from_slice(partition.as_bytes());
        let from = Bytes::copy_from_slice(from);
        let request = self.send(id, Scan { head, partition, from, to: None, limit });
        self.page(request)
    }

    /// All keys of a table, virtual node by virtual node.
    pub fn export(&mut self, id: NodeId, table: TableId, limit: u32) -> Vec<Key> {
        let mut keys = Vec::new();
        for vnode in self.record(id).vnodes.all() {
            let mut after = None;
            loop {
                let mut head = self.head(id, table, b"");
                head.vnode = vnode;
                head.configuration = self.record(id).configuration(vnode);
                let request = self.send(id, Export { head, after, limit });
                let page = self.page(request).expect("a quorum gives its pages");
                assert!(page.items.len() <= limit as usize, "no more than was asked for");
                keys.extend(page.items.into_iter().map(|item| item.key));
                after = page.after;
                if after.is_none() {
                    break;
                }
            }
        }
        keys
    }

    fn running(&self) -> NodeId {
        self.ids().into_iter().find(|id| self.is_running(*id)).expect("one runs")
    }

    pub fn stored_key(&self, id: NodeId, table: TableId, name: &str) -> StoredKey {
        let token = self.record(id).token(name.as_bytes());
        StoredKey::new(token, table, name.as_bytes(), b"").expect("short")
    }

    /// The primaries of a key, in their order.
    pub fn primaries(&self, table: TableId, name: &str) -> Vec<NodeId> {
        let record = self.record(self.running());
        let replication = record.table_by_id(table).expect("a table").options.replication;
        let vnode = record.vnodes.vnode_of(record.token(name.as_bytes()));
        record.primaries(vnode, replication).collect()
    }

    /// What a replica has durably, or `None` where it cannot vouch for it.
    pub fn stored(&mut self, id: NodeId, table: TableId, name: &str) -> Option<SiblingSet> {
        let key = self.stored_key(self.running(), table, name);
        match self.process(id).worker.reader().read(&key) {
            Found::Set(set) => Some(codec::decode(&set).expect("it was checked")),
            Found::Unreadable => None,
        }
    }

    /// Puts what another key holds in the place of what a replica has under a key.
    pub fn misplace(&mut self, id: NodeId, table: TableId, name: &str, other: &str) {
        self.flush(id);
        let [key, other] = [name, other].map(|name| self.stored_key(self.running(), table, name));
        self.machines[&id].tables.misplace(key.bytes(), other.bytes());
    }

    /// Damages a long value that a replica has under a key.
    pub fn damage_value(&mut self, id: NodeId, table: TableId, name: &str) {
        self.flush(id);
        let key = self.stored_key(self.running(), table, name);
        let set = self.stored(id, table, name).expect("it is readable");
        let dot = set.apart().next().expect("a value that lies apart").dot;
        self.machines[&id].tables.damage(key.apart(dot).bytes());
    }

    /// Damages what a replica has under a key.
    pub fn damage(&mut self, id: NodeId, table: TableId, name: &str) {
        self.flush(id);
        let key = self.stored_key(self.running(), table, name);
        self.machines[&id].tables.damage(key.bytes());
    }
}
