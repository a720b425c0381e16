//! Making one value of siblings.

use crate::Sibling;

/// Makes one value of siblings: what writers left who did not know of each other.
///
/// It is given two values at least, the earliest written first, and must not care for more than their
/// contents and times: every client that meets the same siblings should come to the same value.
///
/// ```
/// use quoit_client::{Max, Resolver, Sibling};
/// # use quoit_client::HybridTime;
/// # let at = |value, time| Sibling { value, written: HybridTime(time), expires: None };
/// let siblings = || vec![at(7, 1), at(5, 2)];
/// assert_eq!(Max.resolve(siblings()), 7);
/// // A closure is a resolver, too.
/// let sum = |siblings: Vec<Sibling<i32>>| siblings.iter().map(|it| it.value).sum::<i32>();
/// assert_eq!(sum.resolve(siblings()), 12);
/// ```
pub trait Resolver<T> {
    /// The one value.
    ///
    /// ```
    /// use quoit_client::{HybridTime, Resolver, Sibling};
    ///
    /// /// All bids together.
    /// struct Sum;
    ///
    /// impl Resolver<u64> for Sum {
    ///     fn resolve(&self, bids: Vec<Sibling<u64>>) -> u64 {
    ///         bids.iter().map(|bid| bid.value).sum()
    ///     }
    /// }
    /// let bid = |value| Sibling { value, written: HybridTime(1), expires: None };
    /// assert_eq!(Sum.resolve(vec![bid(5), bid(7)]), 12);
    /// ```
    fn resolve(&self, siblings: Vec<Sibling<T>>) -> T;
}

/// The value that was written last stays, the others are lost: what a `latest` table does.
///
/// ```
/// use quoit_client::{LastWriter, Resolver, Sibling};
/// # use quoit_client::HybridTime;
/// # let at = |value, time| Sibling { value, written: HybridTime(time), expires: None };
/// assert_eq!(LastWriter.resolve(vec![at("early", 1), at("late", 2)]), "late");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastWriter;

/// The greatest value stays.
///
/// ```
/// use quoit_client::{Max, Resolver, Sibling};
/// # use quoit_client::HybridTime;
/// # let at = |value, time| Sibling { value, written: HybridTime(time), expires: None };
/// assert_eq!(Max.resolve(vec![at(9, 1), at(4, 2)]), 9);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Max;

/// All elements of all values, for sets (or any collection that can be made of the elements). An
/// element that one writer took out while another wrote the set is there again: Dynamo's cart.
///
/// ```
/// use std::collections::BTreeSet;
/// use quoit_client::{Resolver, Sibling, Union};
/// # use quoit_client::HybridTime;
/// # let at = |value, time| Sibling { value, written: HybridTime(time), expires: None };
/// let siblings = vec![at(BTreeSet::from([1, 2]), 1), at(BTreeSet::from([2, 3]), 2)];
/// assert_eq!(Union.resolve(siblings), BTreeSet::from([1, 2, 3]));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Union;

impl<T> Resolver<T> for LastWriter {
    fn resolve(&self, siblings: Vec<Sibling<T>>) -> T {
        let last = siblings.into_iter().max_by_key(|sibling| sibling.written);
        last.expect("there are siblings").value
    }
}

impl<T: Ord> Resolver<T> for Max {
    fn resolve(&self, siblings: Vec<Sibling<T>>) -> T {
        let values = siblings.into_iter().map(|sibling| sibling.value);
        values.max().expect("there are siblings")
    }
}

impl<T> Resolver<T> for Union
where
    T: IntoIterator + FromIterator<<T as IntoIterator>::Item>,
{
    fn resolve(&self, siblings: Vec<Sibling<T>>) -> T {
        siblings.into_iter().flat_map(|sibling| sibling.value).collect()
    }
}

impl<T, F: Fn(Vec<Sibling<T>>) -> T> Resolver<T> for F {
    fn resolve(&self, siblings: Vec<Sibling<T>>) -> T {
        self(siblings)
    }
}
