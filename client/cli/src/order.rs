//! The order of an export's lines.
//!
//! A cluster stores keys by their place on the ring, so the order of the imported lines is gone.
//! An export puts its lines in an order that the keys alone decide; an import says which of these
//! orders, if any, gives its own file back.

use std::cmp::Ordering;

/// How the lines of an export are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Order {
    /// Shorter keys first, keys of one length by their bytes: right for keys of a fixed width, for
    /// numbers without leading zeros and for hexadecimal code points.
    #[default]
    Length,
    /// By the bytes of the keys: right for what a plain sort has sorted, such as names.
    Key,
    /// As the nodes send them: no sorting, no memory, another order each time the ring changes.
    None,
}

impl Order {
    /// The word for the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Key => "key",
            Self::None => "none",
        }
    }

    /// Compares two items by partition key, then sort key. With [`Order::None`] all are equal.
    pub(crate) fn compare(self, a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> Ordering {
        match self {
            Self::Length => short_first(a.0, b.0).then_with(|| short_first(a.1, b.1)),
            Self::Key => a.cmp(&b),
            Self::None => Ordering::Equal,
        }
    }
}

fn short_first(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Watches keys go by and knows in which orders they ascend without repeats.
#[derive(Debug, Default)]
pub(crate) struct OrderWatch {
    last: Option<(Vec<u8>, Vec<u8>)>,
    broken_length: bool,
    broken_key: bool,
}

impl OrderWatch {
    /// Takes the next key.
    pub(crate) fn observe(&mut self, partition: &[u8], sort: &[u8]) {
        if self.broken_length && self.broken_key {
            return;
        }
        let (last_partition, last_sort) = match &mut self.last {
            Some(last) => last,
            None => {
                self.last = Some((partition.to_vec(), sort.to_vec()));
                return;
            }
        };
        let last = (last_partition.as_slice(), last_sort.as_slice());
        let next = (partition, sort);
        self.broken_length |= Order::Length.compare(last, next) != Ordering::Less;
        self.broken_key |= Order::Key.compare(last, next) != Ordering::Less;
        last_partition.clear();
        last_partition.extend_from_slice(partition);
        last_sort.clear();
        last_sort.extend_from_slice(sort);
    }

    /// The order that gives the keys back as they came, each once; the default where both do.
    pub(crate) fn restoring(&self) -> Option<Order> {
        match (self.broken_length, self.broken_key) {
            (false, _) => Some(Order::Length),
            (true, false) => Some(Order::Key),
            (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restoring(keys: &[&str]) -> Option<Order> {
        let mut watch = OrderWatch::default();
        for key in keys {
            watch.observe(key.as_bytes(), b"");
        }
        watch.restoring()
    }

    #[test]
    fn code_points_of_growing_width_are_in_the_default_order() {
        let keys = ["0000", "0041", "00A0", "FFFD", "10000", "1F600", "E0001", "100000", "10FFFD"];
        assert_eq!(restoring(&keys), Some(Order::Length));
        assert_ne!(restoring(&keys), Some(Order::Key));
    }

    #[test]
    fn plain_numbers_are_in_the_default_order_and_names_in_key_order() {
        assert_eq!(restoring(&["1", "2", "9", "10", "11", "100"]), Some(Order::Length));
        assert_eq!(restoring(&["ada", "barbara", "bob", "z"]), Some(Order::Key));
    }

    #[test]
    fn a_repeat_or_a_shuffle_is_restored_by_no_order() {
        assert_eq!(restoring(&["1", "1"]), None);
        assert_eq!(restoring(&["b", "ca", "a"]), None);
        assert_eq!(restoring(&[]), Some(Order::Length));
    }

    #[test]
    fn sort_keys_decide_within_a_partition_key() {
        let mut watch = OrderWatch::default();
        for (partition, sort) in [("a", "1"), ("a", "2"), ("a", "10"), ("b", "1")] {
            watch.observe(partition.as_bytes(), sort.as_bytes());
        }
        assert_eq!(watch.restoring(), Some(Order::Length));
    }
}
