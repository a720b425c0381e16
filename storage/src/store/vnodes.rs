//! What holds for whole virtual nodes: whether the replica may vouch for their keys, and their floors.
//!
//! Damage whose keys cannot be told, or a loss that peers tell of, begins a new **era**: from then on
//! every virtual node is distrusted. Its absent keys are unknown, and so is what was written in an
//! earlier era. A virtual node is trusted again, as a whole, when enough of its peers have been
//! merged in; single keys are before that, when they are rebuilt: their records have the new era.
//! What merges bring meanwhile keeps its key's older era, so that it counts with the whole. A mark of
//! a key's own (see [`crate::stored`]) stands whatever is said of its virtual node.
//!
//! A **floor** T says that every replica of the virtual node has applied all dots at or before T, that
//! none is made any more, and that their pairs were equal everywhere (see `version::floor`). It holds
//! for complete keys: nobody knows what one that is incomplete may lack.

use bytes::{Buf, BufMut, BytesMut};
use quoit_ring::{HybridTime, Token, VnodeCount, VnodeIndex};

use crate::stored::Era;

const WORD_BITS: u32 = u64::BITS;

/// The state of all virtual nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vnodes {
    count: VnodeCount,
    era: Era,
    /// A bit for each virtual node; empty where none is distrusted.
    distrusted: Vec<u64>,
    /// One for each virtual node; empty where there are none.
    floors: Vec<HybridTime>,
}

impl Vnodes {
    /// Nothing was ever lost.
    pub(super) fn new(count: VnodeCount) -> Self {
        Self { count, era: Era(0), distrusted: Vec::new(), floors: Vec::new() }
    }

    /// What is written now has this era.
    pub(super) fn era(&self) -> Era {
        self.era
    }

    pub(super) fn vnode_of(&self, token: Token) -> VnodeIndex {
        self.count.vnode_of(token)
    }

    /// Begins an era: every virtual node is distrusted. One that is not later than the current one
    /// is known already.
    pub(super) fn begin_era(&mut self, era: Era) {
        if era <= self.era {
            return;
        }
        self.era = era;
        let bits = self.count.get();
        let words = bits.div_ceil(WORD_BITS) as usize;
        self.distrusted = vec![u64::MAX; words];
        if bits < WORD_BITS {
            self.distrusted[0] = (1 << bits) - 1;
        }
    }

    /// Trusts a virtual node again. Returns whether it was distrusted.
    pub(super) fn trust(&mut self, vnode: VnodeIndex) -> bool {
        let was_distrusted = self.is_distrusted(vnode);
        if was_distrusted {
            self.distrusted[(vnode.0 / WORD_BITS) as usize] &= !(1 << (vnode.0 % WORD_BITS));
            if self.distrusted.iter().all(|word| *word == 0) {
                self.distrusted = Vec::new();
            }
        }
        was_distrusted
    }

    pub(super) fn is_distrusted(&self, vnode: VnodeIndex) -> bool {
        let word = self.distrusted.get((vnode.0 / WORD_BITS) as usize);
        word.is_some_and(|word| word >> (vnode.0 % WORD_BITS) & 1 == 1)
    }

    /// Whether any virtual node is.
    pub(super) fn has_distrusted(&self) -> bool {
        !self.distrusted.is_empty()
    }

    pub(super) fn distrusted_count(&self) -> u32 {
        self.distrusted.iter().map(|word| word.count_ones()).sum()
    }

    /// Those that are distrusted, ascending.
    pub(super) fn distrusted(&self) -> impl Iterator<Item = VnodeIndex> {
        let first = |word: usize| u32::try_from(word).unwrap_or(u32::MAX) * WORD_BITS;
        let bits = |at: u32, word: u64| {
            (0..WORD_BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at + bit)
        };
        let words = self.distrusted.iter().enumerate();
        words.flat_map(move |(at, word)| bits(first(at), *word)).map(VnodeIndex)
    }

    /// Records of a key there, of an earlier era than this one, are incomplete.
    pub(super) fn trusted_from(&self, token: Token) -> Era {
        if self.has_distrusted() && self.is_distrusted(self.vnode_of(token)) {
            self.era
        } else {
            Era(0)
        }
    }

    /// The era of a key there that no record tells of: as a whole with its virtual node it counts,
    /// before that it does not.
    pub(super) fn absent_era(&self, token: Token) -> Era {
        match self.trusted_from(token) {
            Era(0) => self.era,
            Era(from) => Era(from - 1),
        }
    }

    pub(super) fn floor(&self, vnode: VnodeIndex) -> HybridTime {
        self.floors.get(vnode.0 as usize).copied().unwrap_or_default()
    }

    /// The floor of a key's virtual node.
    pub(super) fn floor_of(&self, token: Token) -> HybridTime {
        if self.floors.is_empty() { HybridTime::ZERO } else { self.floor(self.vnode_of(token)) }
    }

    /// Raises a floor; it never goes down. Returns whether it was lower.
    pub(super) fn raise_floor(&mut self, vnode: VnodeIndex, floor: HybridTime) -> bool {
        if vnode.0 >= self.count.get() || floor <= self.floor(vnode) {
            return false;
        }
        self.floors.resize(self.count.get() as usize, HybridTime::ZERO);
        self.floors[vnode.0 as usize] = floor;
        true
    }

    /// Whether the keys from `from` (included) up to `to` (excluded; to the end where `None`) may
    /// lie in a virtual node that is distrusted.
    pub(super) fn distrusts_range(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let first = self.vnode_of(token_of(from));
        self.distrusted().any(|vnode| {
            let begin = self.count.first_token(vnode).0.to_be_bytes();
            vnode >= first && to.is_none_or(|to| begin[..] < *to)
        })
    }

    /// Takes over what was written down, maybe for another number of virtual nodes.
    ///
    /// # Errors
    /// The other number, where what is known does not fit this one.
    pub(super) fn with_count(self, count: VnodeCount) -> Result<Self, VnodeCount> {
        if self.count == count {
            return Ok(self);
        }
        let mut other = Self::new(count);
        if !self.floors.is_empty() {
            return Err(self.count);
        }
        if self.distrusted_count() == self.count.get() {
            other.begin_era(self.era);
        } else if self.has_distrusted() {
            return Err(self.count);
        }
        other.era = self.era;
        Ok(other)
    }

    /// ```text
    /// u32 Q | u32 era | u32 distrusted | a bit for each, where some and not all are: u64 each 64
    /// u32 floors, for each, ascending: u32 virtual node, u64 floor
    /// ```
    pub(super) fn encode_into(&self, out: &mut BytesMut) {
        let distrusted = self.distrusted_count();
        out.put_u32_le(self.count.get());
        out.put_u32_le(self.era.0);
        out.put_u32_le(distrusted);
        if distrusted < self.count.get() {
            self.distrusted.iter().for_each(|word| out.put_u64_le(*word));
        }
        let floors = self.count.all().map(|vnode| (vnode, self.floor(vnode)));
        let floors: Vec<_> = floors.filter(|(_, floor)| *floor > HybridTime::ZERO).collect();
        out.put_u32_le(u32::try_from(floors.len()).expect("at most Q"));
        for (vnode, floor) in floors {
            out.put_u32_le(vnode.0);
            out.put_u64_le(floor.0);
        }
    }

    /// Reads what was written down; `None` if it is damaged.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        let count = VnodeCount::new(input.try_get_u32_le().ok()?).ok()?;
        let era = Era(input.try_get_u32_le().ok()?);
        let distrusted = input.try_get_u32_le().ok()?;
        let mut vnodes = Self::new(count);
        if distrusted > 0 {
            vnodes.begin_era(era);
            if vnodes.distrusted.is_empty() {
                return None;
            }
        }
        vnodes.era = era;
        if distrusted > 0 && distrusted < count.get() {
            for word in &mut vnodes.distrusted {
                *word &= input.try_get_u64_le().ok()?;
            }
        }
        if vnodes.distrusted_count() != distrusted {
            return None;
        }
        for _ in 0..input.try_get_u32_le().ok()? {
            let vnode = VnodeIndex(input.try_get_u32_le().ok()?);
            let floor = HybridTime(input.try_get_u64_le().ok()?);
            vnodes.raise_floor(vnode, floor).then_some(())?;
        }
        Some(vnodes)
    }
}

/// The token that a key's first bytes tell, filled up with zeros.
pub(super) fn token_of(bytes: &[u8]) -> Token {
    let mut token = [0; 8];
    let known = bytes.len().min(8);
    token[..known].copy_from_slice(&bytes[..known]);
    Token(u64::from_be_bytes(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::vnode_range;
    use proptest::prelude::*;

    fn vnodes(count: u32, era: u32, trusted: &[u32]) -> Vnodes {
        let mut vnodes = Vnodes::new(VnodeCount::new(count).expect("a power of two"));
        vnodes.begin_era(Era(era));
        trusted.iter().for_each(|vnode| assert!(vnodes.trust(VnodeIndex(*vnode))));
        vnodes
    }

    fn with_floors(mut vnodes: Vnodes) -> Vnodes {
        assert!(vnodes.raise_floor(VnodeIndex(3), HybridTime(7)));
        assert!(vnodes.raise_floor(VnodeIndex(1), HybridTime(9)));
        vnodes
    }

    fn encode(vnodes: &Vnodes) -> BytesMut {
        let mut out = BytesMut::new();
        vnodes.encode_into(&mut out);
        out
    }

    #[test]
    fn what_was_written_down_reads_back_and_is_golden() {
        for case in [
            vnodes(8, 0, &[]),
            vnodes(1, 3, &[]),
            vnodes(1, 3, &[0]),
            vnodes(64, 7, &[63]),
            vnodes(256, 7, &[0, 64, 255]),
            vnodes(65_536, 1, &[]),
            with_floors(vnodes(8, 0, &[])),
            with_floors(vnodes(64, 1, &[5])),
        ] {
            let bytes = encode(&case);
            let mut input = &bytes[..];
            assert_eq!(Vnodes::decode(&mut input), Some(case));
            assert!(input.is_empty());
            for length in (0..bytes.len()).take(400) {
                assert_eq!(Vnodes::decode(&mut &bytes[..length]), None);
            }
        }
        #[rustfmt::skip]
        let golden = [
            4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0,
            0b1101, 0, 0, 0, 0, 0, 0, 0,
            2, 0, 0, 0,
            1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
        ];
        let partly = with_floors(vnodes(4, 2, &[1]));
        assert_eq!(&encode(&partly)[..], golden);
        // All distrusted in the first era cannot be, nor can bits that are none.
        assert_eq!(
            Vnodes::decode(&mut &[4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0][..]),
            None
        );
        let mut damaged = golden;
        damaged[12] = 0b11101;
        assert_eq!(Vnodes::decode(&mut &damaged[..]), Some(partly));
        damaged[12] = 0b1001;
        assert_eq!(Vnodes::decode(&mut &damaged[..]), None);
    }

    #[test]
    fn trust_comes_back_one_by_one_and_ends_with_a_new_era() {
        let mut vnodes = vnodes(4, 1, &[2]);
        assert_eq!(vnodes.distrusted().map(|vnode| vnode.0).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(vnodes.trusted_from(Token(2 << 62)), Era(0));
        assert_eq!(vnodes.absent_era(Token(2 << 62)), Era(1));
        assert_eq!(vnodes.trusted_from(Token(3 << 62)), Era(1));
        assert_eq!(vnodes.absent_era(Token(3 << 62)), Era(0));
        assert!(!vnodes.trust(VnodeIndex(2)) && !vnodes.trust(VnodeIndex(99)));
        vnodes.begin_era(Era(1));
        assert_eq!(vnodes.distrusted_count(), 3);
        vnodes.begin_era(Era(2));
        assert_eq!(vnodes.distrusted_count(), 4);
        (0..4).for_each(|vnode| assert!(vnodes.trust(VnodeIndex(vnode))));
        assert!(!vnodes.has_distrusted());
        assert_eq!((vnodes.era(), vnodes.trusted_from(Token(0))), (Era(2), Era(0)));
    }

    #[test]
    fn a_floor_is_raised_and_never_lowered() {
        let mut vnodes = with_floors(vnodes(4, 0, &[]));
        assert_eq!(vnodes.floor_of(Token(1 << 62)), HybridTime(9));
        assert_eq!(vnodes.floor_of(Token(2 << 62)), HybridTime::ZERO);
        assert!(!vnodes.raise_floor(VnodeIndex(1), HybridTime(9)));
        assert!(!vnodes.raise_floor(VnodeIndex(4), HybridTime(9)));
        assert!(vnodes.raise_floor(VnodeIndex(1), HybridTime(10)));
        vnodes.begin_era(Era(1));
        assert_eq!(vnodes.floor(VnodeIndex(1)), HybridTime(10));
        let other = VnodeCount::new(16).expect("a power of two");
        assert!(vnodes.with_count(other).is_err());
    }

    #[test]
    fn another_number_of_vnodes_is_taken_only_where_nothing_depends_on_it() {
        let other = VnodeCount::new(16).expect("a power of two");
        let all = vnodes(8, 3, &[]).with_count(other).expect("all are distrusted");
        assert_eq!((all.era(), all.distrusted_count()), (Era(3), 16));
        let none = vnodes(2, 3, &[0, 1]).with_count(other).expect("none is");
        assert_eq!((none.era(), none.distrusted_count()), (Era(3), 0));
        assert_eq!(vnodes(2, 3, &[0]).with_count(other), Err(VnodeCount::new(2).expect("two")));
    }

    proptest! {
        #[test]
        fn a_range_is_distrusted_where_it_touches_a_vnode_that_is(
            trusted in prop::collection::btree_set(0u32..8, 0..8),
            from: u64, bytes in 0usize..10, to in prop::option::of((any::<u64>(), 0usize..10)),
        ) {
            let vnodes = vnodes(8, 1, &trusted.iter().copied().collect::<Vec<_>>());
            let cut = |token: u64, bytes: usize| {
                let mut key = token.to_be_bytes().to_vec();
                key.resize(bytes, 0);
                key
            };
            // Often at a bound.
            let round = |token: u64| if token.is_multiple_of(3) { token & (7 << 61) } else { token };
            let from = cut(round(from), bytes);
            let to = to.map(|(to, bytes)| cut(round(to), bytes));
            prop_assume!(to.as_ref().is_none_or(|to| from < *to));
            // A key has all of its token.
            let first_key = [&from[..], &[0; 8][from.len().min(8)..]].concat();
            let touches = vnodes.distrusted().any(|vnode| {
                let (first, end) = vnode_range(VnodeCount::new(8).expect("eight"), vnode);
                to.as_ref().is_none_or(|to| first[..] < to[..])
                    && end.is_none_or(|end| first_key[..] < end[..])
            });
            prop_assert_eq!(vnodes.distrusts_range(&from, to.as_deref()), touches);
        }
    }
}
