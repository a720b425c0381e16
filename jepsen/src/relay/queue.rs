//! One direction of one link: what becomes of each packet, and which are under way.
//!
//! Holds no clock and no socket: the time is handed in, luck comes from a seed, and the one who drives it
//! sends what is due. What finds the queue full is lost, as at a router.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Packets under way in one direction of one link, and their bytes. What comes beyond is lost.
const PACKETS_MAX: usize = 4_096;
const BYTES_MAX: usize = 8 << 20;
/// A packet's second copy comes at most so much later.
const COPY_LATER_MAX: Duration = Duration::from_millis(20);

/// What a link does to packets in one direction. Shares are of 100 packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// Nothing passes.
    pub(crate) is_cut: bool,
    pub(crate) lost_percent: u8,
    /// Each takes so long, and up to `jitter` more, without passing another.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// So many take up to `late` longer, and others pass them.
    pub(crate) late_percent: u8,
    pub(crate) late: Duration,
    /// So many come twice.
    pub(crate) doubled_percent: u8,
    /// In so many a bit is flipped.
    pub(crate) damaged_percent: u8,
}

/// What has become of packets so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) taken: u64,
    pub(crate) lost: u64,
    pub(crate) delayed: u64,
    pub(crate) passed_by_others: u64,
    pub(crate) doubled: u64,
    pub(crate) damaged: u64,
    /// Lost because the queue was full.
    pub(crate) overflowed: u64,
}

impl Counts {
    /// Those that did not pass at once and as they were.
    pub(crate) fn disturbed(&self) -> Self {
        Self { taken: 0, ..*self }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.lost += other.lost;
        self.delayed += other.delayed;
        self.passed_by_others += other.passed_by_others;
        self.doubled += other.doubled;
        self.damaged += other.damaged;
        self.overflowed += other.overflowed;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, lost, delayed, passed_by_others, doubled, damaged, overflowed } = self;
        write!(
            f,
            "of {taken} packets so far {lost} were lost, {delayed} held back, {passed_by_others} late, \
             {doubled} doubled, {damaged} damaged"
        )?;
        if *overflowed > 0 {
            write!(f, ", {overflowed} too many")?;
        }
        Ok(())
    }
}

/// A packet under way, and by which exit it leaves. The order is that of leaving.
#[derive(Debug)]
struct Packet<E> {
    due: Instant,
    /// Packets that are due at once leave as they came.
    number: u64,
    bytes: Vec<u8>,
    exit: E,
}

impl<E> PartialEq for Packet<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl<E> Eq for Packet<E> {}

impl<E> PartialOrd for Packet<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Packet<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// The packets of one direction.
#[derive(Debug)]
pub(super) struct Queue<E> {
    pub(super) conditions: Conditions,
    pub(super) counts: Counts,
    random: Rng,
    under_way: BinaryHeap<Reverse<Packet<E>>>,
    bytes: usize,
    number_next: u64,
    /// When the last packet that keeps its place leaves.
    last_due: Option<Instant>,
}

impl<E: Clone> Queue<E> {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            conditions: Conditions::default(),
            counts: Counts::default(),
            random: Rng::with_seed(seed),
            under_way: BinaryHeap::new(),
            bytes: 0,
            number_next: 0,
            last_due: None,
        }
    }

    /// Takes a packet; whether it is to be sent now, as it is. If not, it is lost or under way.
    pub(super) fn take(&mut self, packet: &[u8], exit: &E, now: Instant) -> bool {
        self.counts.taken += 1;
        let conditions = self.conditions;
        if conditions.is_cut || self.strikes(conditions.lost_percent) {
            self.counts.lost += 1;
            return false;
        }
        if conditions == Conditions::default() && self.last_due.is_none_or(|last| last < now) {
            return true;
        }
        let mut bytes = packet.to_vec();
        if self.strikes(conditions.damaged_percent) && !bytes.is_empty() {
            let at = self.random.usize(..bytes.len());
            bytes[at] ^= 1 << self.random.u8(..8);
            self.counts.damaged += 1;
        }
        let in_turn = now + conditions.delay + self.up_to(conditions.jitter);
        let in_turn = self.last_due.map_or(in_turn, |last| last.max(in_turn));
        let due = if self.strikes(conditions.late_percent) {
            self.counts.passed_by_others += 1;
            in_turn + self.up_to(conditions.late)
        } else {
            self.last_due = Some(in_turn);
            in_turn
        };
        self.counts.delayed += u64::from(due > now);
        if self.strikes(conditions.doubled_percent) {
            self.counts.doubled += 1;
            let later = due + self.up_to(COPY_LATER_MAX);
            self.put(later, bytes.clone(), exit.clone());
        }
        self.put(due, bytes, exit.clone());
        false
    }

    /// The next packet that is to leave by now.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Vec<u8>, E)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(packet) = self.under_way.pop()?;
        self.bytes -= packet.bytes.len();
        Some((packet.bytes, packet.exit))
    }

    /// When the next packet leaves.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(packet)| packet.due)
    }

    fn put(&mut self, due: Instant, bytes: Vec<u8>, exit: E) {
        if self.under_way.len() >= PACKETS_MAX || self.bytes + bytes.len() > BYTES_MAX {
            self.counts.overflowed += 1;
            return;
        }
        self.bytes += bytes.len();
        let number = self.number_next;
        self.number_next += 1;
        self.under_way.push(Reverse(Packet { due, number, bytes, exit }));
    }

    fn strikes(&mut self, percent: u8) -> bool {
        percent > 0 && self.random.u8(..100) < percent
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends a packet a millisecond, each of its own number, and gives for each that has come how many
    /// milliseconds it took, in the order in which they came.
    fn sent(conditions: Conditions, count: u16) -> (Vec<(u16, u128)>, Counts) {
        let mut queue = Queue::new(7);
        queue.conditions = conditions;
        let began = Instant::now();
        let mut came = Vec::new();
        for at in 0..u32::from(count) + 1_000 {
            let now = began + MS * at;
            if at < count.into() && queue.take(&at.to_be_bytes(), &(), now) {
                came.push((at as u16, 0));
            }
            while let Some((bytes, ())) = queue.due(now) {
                let number = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
                let took = now.saturating_duration_since(began + MS * number).as_millis();
                came.push((number as u16, took));
            }
        }
        assert_eq!((queue.bytes, queue.next_due()), (0, None), "all have left");
        (came, queue.counts)
    }

    fn in_order(came: &[(u16, u128)]) -> bool {
        came.windows(2).all(|pair| pair[0].0 < pair[1].0)
    }

    #[test]
    fn a_link_without_conditions_passes_everything_at_once() {
        let (came, counts) = sent(Conditions::default(), 100);
        assert_eq!(came, (0..100).map(|number| (number, 0)).collect::<Vec<_>>());
        assert_eq!(counts, Counts { taken: 100, ..Counts::default() });
    }

    #[test]
    fn a_delay_holds_each_packet_and_keeps_their_order() {
        let conditions = Conditions { delay: 50 * MS, jitter: 30 * MS, ..Conditions::default() };
        let (came, _) = sent(conditions, 200);
        assert_eq!(came.len(), 200);
        assert!(in_order(&came));
        assert!(came.iter().all(|(_, took)| (50..=81).contains(took)), "{came:?}");
        assert!(came.iter().any(|(_, took)| *took >= 65), "{came:?}");
    }

    #[test]
    fn late_packets_are_passed_by_others_and_none_is_lost() {
        let conditions = Conditions { late_percent: 20, late: 40 * MS, ..Conditions::default() };
        let (mut came, counts) = sent(conditions, 200);
        assert!(!in_order(&came));
        assert!((20..=60).contains(&counts.passed_by_others), "{counts:?}");
        came.sort_unstable();
        assert!(in_order(&came) && came.len() == 200);
        assert!(came.iter().all(|(_, took)| *took <= 41), "{came:?}");
    }

    #[test]
    fn losses_are_about_as_many_as_asked_and_a_cut_passes_nothing() {
        let lossy = Conditions { lost_percent: 30, ..Conditions::default() };
        let (came, counts) = sent(lossy, 1_000);
        assert_eq!(came.len() as u64 + counts.lost, 1_000);
        assert!((240..=360).contains(&counts.lost), "{counts:?}");
        let cut = Conditions { is_cut: true, ..Conditions::default() };
        assert_eq!(sent(cut, 100).0, []);
    }

    #[test]
    fn doubled_packets_come_twice_and_damaged_ones_differ_in_one_bit() {
        let doubling = Conditions { doubled_percent: 100, ..Conditions::default() };
        let (came, counts) = sent(doubling, 100);
        assert_eq!((came.len(), counts.doubled), (200, 100));
        let mut queue = Queue::new(1);
        queue.conditions = Conditions { damaged_percent: 100, ..Conditions::default() };
        let now = Instant::now();
        assert!(!queue.take(&[0; 100], &(), now));
        let (bytes, ()) = queue.due(now).expect("it is not lost");
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }

    #[test]
    fn what_finds_the_queue_full_is_lost() {
        let mut queue = Queue::new(1);
        queue.conditions = Conditions { delay: MS, ..Conditions::default() };
        let now = Instant::now();
        for _ in 0..PACKETS_MAX + 10 {
            assert!(!queue.take(&[0; 100], &(), now));
        }
        assert_eq!((queue.under_way.len(), queue.counts.overflowed), (PACKETS_MAX, 10));
        let mut queue = Queue::new(1);
        queue.conditions = Conditions { delay: MS, ..Conditions::default() };
        for _ in 0..200 {
            queue.take(&[0; 64 << 10], &(), now);
        }
        assert!(queue.bytes <= BYTES_MAX && queue.counts.overflowed > 0);
    }

    #[test]
    fn packets_under_way_are_not_passed_by_those_after_the_healing() {
        let mut queue = Queue::new(1);
        queue.conditions = Conditions { delay: 50 * MS, ..Conditions::default() };
        let now = Instant::now();
        assert!(!queue.take(&[1], &(), now));
        queue.conditions = Conditions::default();
        assert!(!queue.take(&[2], &(), now + MS));
        assert_eq!(queue.due(now + 49 * MS), None);
        let came = [queue.due(now + 50 * MS), queue.due(now + 50 * MS)];
        assert_eq!(came, [Some((vec![1], ())), Some((vec![2], ()))]);
        assert!(queue.take(&[3], &(), now + 51 * MS));
    }
}
