//! Which keys a benchmark touches, and what they look like.
//!
//! The distributions are YCSB's (Cooper et al., 2010, and its repository): zipfian ranks are drawn
//! as in Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (1994), with theta
//! 0.99. `zipfian` draws them among ten billion and spreads them over the keys by a hash (FNV-1a),
//! so that the popular keys lie anywhere and are as popular whatever the number of keys; the hash
//! sends many ranks to one key. `latest` counts ranks backwards from the key that was inserted last.
//!
//! Differences from YCSB: `uniform` and `zipfian` choose among the keys that were loaded, never
//! among those inserted since. Where several processes insert, each knows of its own inserts only.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use quoit_client::Key;
use serde::{Deserialize, Serialize};

use super::random::Random;
use super::zipfian::Zipfian;

/// How the keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Each key as often as any other.
    Uniform,
    /// A few keys very often: YCSB's scrambled zipfian, theta 0.99.
    Zipfian,
    /// The keys that were inserted last very often: zipfian by age.
    Latest,
}

impl Distribution {
    /// The word for the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
            Self::Latest => "latest",
        }
    }
}

/// YCSB draws scrambled ranks among so many items, however many keys there are.
const SCRAMBLED_RANKS: u64 = 10_000_000_000;

/// What the keys of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeySpace {
    /// Keys 0 to this were loaded. At least one.
    pub(super) loaded: u64,
    /// How they are chosen.
    pub(super) distribution: Distribution,
    /// Which of the processes this is.
    pub(super) worker: u64,
    /// How many processes insert keys at a time.
    pub(super) workers: u64,
    /// How the numbers become keys.
    pub(super) layout: Layout,
}

/// How the number of a record becomes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Layout {
    /// A partition key each.
    Plain,
    /// Dealt out to partitions one after the other, so that inserts go to all of them.
    Partitions {
        /// How many, at least one.
        count: u64,
    },
}

impl Layout {
    /// The key of a record: short, and of one width.
    pub(super) fn key(self, number: u64) -> Key {
        match self {
            Self::Plain => Key { partition: text(format!("key{number:012}")), sort: Bytes::new() },
            Self::Partitions { count } => Key {
                partition: text(format!("list{:012}", number % count)),
                sort: text(format!("{:012}", number / count)),
            },
        }
    }
}

fn text(text: String) -> Bytes {
    Bytes::from(text)
}

/// Chooses keys and hands out new ones.
#[derive(Debug)]
pub(super) struct Keys {
    space: KeySpace,
    chooser: Chooser,
    inserts: Mutex<Inserts>,
}

#[derive(Debug)]
enum Chooser {
    Uniform,
    Scrambled(Zipfian),
    // It grows with the inserts.
    Latest(Mutex<Zipfian>),
}

/// A record that is to be inserted. Hand it back when the insert has ended, however it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Insert {
    ordinal: u64,
    /// The record's number.
    pub(super) number: u64,
}

/// Which inserts of this process were begun and ended, by ordinal.
#[derive(Debug, Default)]
struct Inserts {
    begun: u64,
    /// All below have ended.
    ended: u64,
    /// Ended out of order; at most as many as are in flight.
    ended_beyond: BTreeSet<u64>,
}

impl Keys {
    /// The keys of a space. The sums may take some milliseconds.
    pub(super) fn new(space: KeySpace) -> Self {
        assert!(space.loaded > 0 && space.workers > 0, "there is a key to choose");
        let chooser = match space.distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian => Chooser::Scrambled(Zipfian::new(SCRAMBLED_RANKS)),
            Distribution::Latest => Chooser::Latest(Mutex::new(Zipfian::new(space.loaded))),
        };
        Self { space, chooser, inserts: Mutex::new(Inserts::default()) }
    }

    /// The number of a record that is there.
    pub(super) fn choose(&self, random: &mut Random) -> u64 {
        let loaded = self.space.loaded;
        match &self.chooser {
            Chooser::Uniform => random.below(loaded),
            Chooser::Scrambled(zipfian) => fnv1a(zipfian.rank(random)) % loaded,
            Chooser::Latest(zipfian) => {
                let inserted = self.inserts().ended;
                let count = loaded + inserted;
                let mut zipfian = zipfian.lock().expect("nobody panics while drawing");
                zipfian.grow(count);
                // Another slot may have grown it further meanwhile.
                let age = zipfian.rank(random).min(count - 1);
                let position = count - 1 - age;
                match position.checked_sub(loaded) {
                    Some(ordinal) => self.inserted_number(ordinal),
                    None => position,
                }
            }
        }
    }

    /// A record that is not there yet.
    pub(super) fn begin_insert(&self) -> Insert {
        let mut inserts = self.inserts();
        let ordinal = inserts.begun;
        inserts.begun += 1;
        Insert { ordinal, number: self.inserted_number(ordinal) }
    }

    /// The insert has ended: as in YCSB it may be chosen from now on, even if it failed.
    pub(super) fn end_insert(&self, insert: Insert) {
        let mut inserts = self.inserts();
        inserts.ended_beyond.insert(insert.ordinal);
        loop {
            let next = inserts.ended;
            if !inserts.ended_beyond.remove(&next) {
                return;
            }
            inserts.ended += 1;
        }
    }

    /// The key of a record.
    pub(super) fn key(&self, number: u64) -> Key {
        self.space.layout.key(number)
    }

    fn inserted_number(&self, ordinal: u64) -> u64 {
        self.space.loaded + ordinal * self.space.workers + self.space.worker
    }

    fn inserts(&self) -> MutexGuard<'_, Inserts> {
        self.inserts.lock().expect("nobody panics while counting")
    }
}

/// YCSB's hash of a number: FNV-1a of its eight bytes, the least first.
fn fnv1a(number: u64) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    number.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(distribution: Distribution, loaded: u64) -> KeySpace {
        KeySpace { loaded, distribution, worker: 0, workers: 1, layout: Layout::Plain }
    }

    #[test]
    fn every_choice_is_a_key_even_of_few() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian, Distribution::Latest] {
            for count in [1, 2, 3, 10] {
                let keys = Keys::new(space(distribution, count));
                let mut random = Random::new(1, 1);
                assert!((0..1_000).all(|_| keys.choose(&mut random) < count));
            }
        }
    }

    #[test]
    fn the_hash_is_fnv1a() {
        // FNV-1 multiplies before it mixes a byte in, and differs in the second.
        assert_eq!(fnv1a(0), 0xa8c7_f832_281a_39c5);
        assert_eq!(fnv1a(1), 0x89cd_3129_1d2a_efa4);
    }

    #[test]
    fn scrambling_spreads_the_popular_ranks_and_keeps_their_weight() {
        let keys = Keys::new(space(Distribution::Zipfian, 100_000));
        let mut random = Random::new(3, 0);
        let (mut low_half, mut first) = (0, 0);
        let popular = fnv1a(0) % 100_000;
        for _ in 0..50_000 {
            let key = keys.choose(&mut random);
            low_half += u32::from(key < 50_000);
            first += u32::from(key == popular);
        }
        assert!((10_000..40_000).contains(&low_half), "{low_half}");
        // Rank 0 of ten billion has 1 / 26.47 of all draws.
        assert!((1_700..2_100).contains(&first), "{first}");
    }

    #[test]
    fn the_latest_insert_is_chosen_most_often_once_all_before_it_have_ended() {
        let space = KeySpace { worker: 1, workers: 2, ..space(Distribution::Latest, 1_000) };
        let keys = Keys::new(space);
        let most_often = |stream| {
            let mut random = Random::new(9, stream);
            let mut seen = std::collections::BTreeMap::<u64, u32>::new();
            (0..5_000).for_each(|_| *seen.entry(keys.choose(&mut random)).or_default() += 1);
            seen.into_iter().max_by_key(|(_, count)| *count).expect("some").0
        };
        assert_eq!(most_often(0), 999);
        let inserts = [keys.begin_insert(), keys.begin_insert(), keys.begin_insert()];
        assert_eq!(inserts.map(|insert| insert.number), [1_001, 1_003, 1_005]);
        keys.end_insert(inserts[1]);
        assert_eq!(most_often(1), 999);
        keys.end_insert(inserts[0]);
        assert_eq!(most_often(2), 1_003);
        keys.end_insert(inserts[2]);
        assert_eq!(most_often(3), 1_005);
    }

    #[test]
    fn records_are_dealt_out_to_partitions() {
        let layout = Layout::Partitions { count: 10 };
        let key = layout.key(1_234);
        assert_eq!(key.partition.as_ref(), b"list000000000004");
        assert_eq!(key.sort.as_ref(), b"000000000123");
        assert_eq!(Layout::Plain.key(7).partition.as_ref(), b"key000000000007");
    }
}
