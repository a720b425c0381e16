//! Looks through a message before chitchat does.
//!
//! A peer is authenticated, but it may be broken. Chitchat's decoder bounds nothing that it inflates
//! (64 KiB of message become 200 MB), and its state machine asserts what a peer's message can break:
//! a version that goes backwards, a digest too large to answer, a version so great that the next
//! overflows. A panic there ends gossip. So each message is walked here, without copying, and only
//! one that a sound node of this version could send is let through.
//!
//! The invariants: at most `DELTA_BYTES_MAX` are inflated; every id is a node id; no counter is
//! near its end; no one speaks for us; and chitchat never learns more ids than it can hold (those
//! beyond are cut out of the digest, the rest of the message stands).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::config::{FACTS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::event::Refusal;
use crate::incarnation::Incarnation;
use crate::known::{Known, NODES_MAX};

/// The longest message, both ways. Chitchat aims at 65,507 bytes but forgets three of its header's
/// four, so a full one may have 65,510.
pub const MESSAGE_BYTES_MAX: usize = 65_536;

const MAGIC: u16 = 45_139;
const VERSION: u8 = 0;
/// What precedes the digest: magic number, version, kind.
const HEADER_BYTES: usize = 4;
/// What the writer fills a block with at most.
const BLOCK_BYTES_MAX: usize = 16_384;
/// The most that a delta inflates to: all facts of as many nodes as may be known.
const DELTA_BYTES_MAX: usize = 6 << 20;
/// Heartbeats and versions count by ones from zero; none comes near this.
const COUNTER_MAX: u64 = 1 << 56;
const CLUSTER_BYTES_MAX: usize = 64;

/// A message that may be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) bytes: Bytes,
    /// Whether ids were cut out because there is no room for them.
    pub(crate) cut: bool,
}

/// What a guard knows about its node.
#[derive(Debug)]
pub(crate) struct Guard {
    cluster: String,
    me: Incarnation,
    known: Arc<Mutex<Known>>,
    block: Vec<u8>,
}

impl Guard {
    pub(crate) fn new(cluster: String, me: Incarnation, known: Arc<Mutex<Known>>) -> Self {
        Self { cluster, me, known, block: vec![0; BLOCK_BYTES_MAX] }
    }

    /// Walks a message.
    pub(crate) fn admit(&mut self, bytes: Bytes) -> Result<Admitted, Refusal> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::TooLong { size_bytes: bytes.len() });
        }
        let mut rest = Walk { bytes: &bytes };
        if rest.u16()? != MAGIC || rest.u8()? != VERSION {
            return Err(Refusal::Malformed("not a message of this version"));
        }
        let mut digest = Vec::new();
        match rest.u8()? {
            0 => {
                digest = self.walk_digest(&mut rest, bytes.len())?;
                self.check_cluster(&mut rest)?;
            }
            1 => {
                digest = self.walk_digest(&mut rest, bytes.len())?;
                self.walk_delta(&mut rest)?;
            }
            2 => self.walk_delta(&mut rest)?,
            3 => return Err(Refusal::RefusedByPeer),
            _ => return Err(Refusal::Malformed("an unknown kind")),
        }
        if !rest.bytes.is_empty() {
            return Err(Refusal::Malformed("bytes after its end"));
        }
        // Ids are let in only now, when the whole message is known to be sound.
        let kept = self.make_room(&digest);
        if kept.len() == digest.len() {
            return Ok(Admitted { bytes, cut: false });
        }
        let after = digest.last().map_or(HEADER_BYTES + 2, |entry| entry.range.end);
        Ok(Admitted { bytes: rebuild(&bytes, &kept, after), cut: true })
    }

    fn check_cluster(&self, rest: &mut Walk<'_>) -> Result<(), Refusal> {
        let cluster = rest.text(CLUSTER_BYTES_MAX)?;
        if cluster == self.cluster {
            return Ok(());
        }
        Err(Refusal::OtherCluster { cluster: cluster.to_owned() })
    }

    fn walk_digest(&self, rest: &mut Walk<'_>, length: usize) -> Result<Vec<Entry>, Refusal> {
        let count = usize::from(rest.u16()?);
        let mut entries = Vec::with_capacity(count.min(NODES_MAX));
        for _ in 0..count {
            let start = length - rest.bytes.len();
            let incarnation = rest.incarnation()?;
            let (_heartbeat, collected, _version) = (rest.counter()?, rest.u64()?, rest.counter()?);
            if collected != 0 {
                return Err(Refusal::Malformed("facts are never deleted"));
            }
            entries.push(Entry { incarnation, range: start..length - rest.bytes.len() });
        }
        Ok(entries)
    }

    fn walk_delta(&mut self, rest: &mut Walk<'_>) -> Result<(), Refusal> {
        let inflated = self.inflate(rest)?;
        let mut operations = Walk { bytes: &inflated };
        // How many facts of the node at hand were seen, and the version of the last.
        let mut node: Option<(usize, u64)> = None;
        let mut nodes = BTreeSet::new();
        while !operations.bytes.is_empty() {
            match (operations.u8()?, &mut node) {
                (0, _) => {
                    let one = operations.incarnation()?;
                    if one == self.me {
                        return Err(Refusal::SpeaksForUs);
                    }
                    let (collected, _from) = (operations.u64()?, operations.counter()?);
                    if !nodes.insert(one) {
                        return Err(Refusal::Malformed("it speaks of a node twice"));
                    }
                    if collected != 0 || nodes.len() > NODES_MAX {
                        return Err(Refusal::Malformed("facts are never deleted, nodes are few"));
                    }
                    node = Some((0, 0));
                }
                (1, Some((facts, last))) => {
                    let version = operations.fact()?;
                    *facts += 1;
                    // One more than a node may publish: the goodbye.
                    if version <= *last || *facts > FACTS_MAX + 1 {
                        return Err(Refusal::Malformed("facts out of order, or too many"));
                    }
                    *last = version;
                }
                // Chitchat sets a version by itself only where facts were deleted.
                _ => return Err(Refusal::Malformed("an operation that we never send")),
            }
        }
        Ok(())
    }

    fn inflate(&mut self, rest: &mut Walk<'_>) -> Result<Vec<u8>, Refusal> {
        let mut inflated = Vec::new();
        loop {
            let kind = rest.u8()?;
            if kind == 0 {
                return Ok(inflated);
            }
            let length = usize::from(rest.u16()?);
            let block = rest.take(length)?;
            let block = match kind {
                1 => {
                    let size = zstd::bulk::decompress_to_buffer(block, &mut self.block[..])
                        .map_err(|_| Refusal::Malformed("a block that does not inflate"))?;
                    &self.block[..size]
                }
                2 if length <= BLOCK_BYTES_MAX => block,
                _ => return Err(Refusal::Malformed("a block of an unknown kind or too long")),
            };
            if inflated.len() + block.len() > DELTA_BYTES_MAX {
                return Err(Refusal::Malformed("it inflates too far"));
            }
            inflated.extend_from_slice(block);
        }
    }

    /// The entries that are known or for which there is room.
    fn make_room<'a>(&self, digest: &'a [Entry]) -> Vec<&'a Entry> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        digest.iter().filter(|entry| known.admit(entry.incarnation)).collect()
    }
}

/// One node of a digest, and where in the message it stands.
#[derive(Debug)]
struct Entry {
    incarnation: Incarnation,
    range: Range<usize>,
}

/// The message with only `kept` in its digest, which ends at `after`.
fn rebuild(bytes: &Bytes, kept: &[&Entry], after: usize) -> Bytes {
    let mut built = Vec::with_capacity(bytes.len());
    built.extend_from_slice(&bytes[..HEADER_BYTES]);
    let count =
        u16::try_from(kept.len()).expect("no more are kept than came, and those were a u16");
    built.extend_from_slice(&count.to_le_bytes());
    for entry in kept {
        built.extend_from_slice(&bytes[entry.range.clone()]);
    }
    built.extend_from_slice(&bytes[after..]);
    built.into()
}

/// What is left of a message.
struct Walk<'a> {
    bytes: &'a [u8],
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) =
            self.bytes.split_at_checked(count).ok_or(Refusal::Malformed("it ends too soon"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take gives as many bytes as asked"))
    }

    fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Refusal> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn counter(&mut self) -> Result<u64, Refusal> {
        self.u64().and_then(|count| if count <= COUNTER_MAX { Ok(count) } else { Err(TOO_GREAT) })
    }

    fn text(&mut self, length_max: usize) -> Result<&'a str, Refusal> {
        let length = usize::from(self.u16()?);
        if length > length_max {
            return Err(Refusal::Malformed("a text too long"));
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| Refusal::Malformed("not UTF-8"))
    }

    fn incarnation(&mut self) -> Result<Incarnation, Refusal> {
        let name = self.text(KEY_BYTES_MAX)?;
        let generation = self.u64()?;
        let ip = match self.u8()? {
            4 => self.array::<4>()?.into(),
            6 => self.array::<16>()?.into(),
            _ => return Err(Refusal::Malformed("an unknown kind of address")),
        };
        let address = SocketAddr::new(ip, self.u16()?);
        Incarnation::read(name, generation, address).ok_or(Refusal::Malformed("not a node id"))
    }

    /// A fact; gives its version.
    fn fact(&mut self) -> Result<u64, Refusal> {
        self.text(KEY_BYTES_MAX)?;
        self.text(VALUE_BYTES_MAX)?;
        let version = self.counter()?;
        match self.u8()? {
            0 => Ok(version),
            _ => Err(Refusal::Malformed("facts are never deleted")),
        }
    }
}

const TOO_GREAT: Refusal = Refusal::Malformed("a counter too great to be counted to");

#[cfg(test)]
mod tests;
