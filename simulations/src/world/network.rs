//! Connections between nodes: ordered streams that delay, stall, are cut and made again.
//!
//! As with the real transport, each node dials every other; requests leave on the connection that
//! the asker dialled, answers come back on it, and a connection has two streams each way, whose
//! messages keep their order among themselves only. What was in flight when it is cut is lost. A
//! message that is lost on the way is sent again by the transport: it comes late, and what follows
//! it on its stream comes after it.

use bytes::BytesMut;
use quoit_core::Event as CoreEvent;
use quoit_core::handshake;
use quoit_core::peer::{Class, PeerMessage};
use quoit_core::random::Random;
use quoit_protocol::frame::{BODY_BYTES_MAX, SHARED_STREAM_BODY_BYTES_MAX, take_frame};

use super::echoes::Echoes;
use super::{Event, World, node_id};
use crate::plan::stream;

/// The least time until a connection on which nothing arrives is given up, and what comes to it.
const IDLE_US: (u64, u64) = (1_500_000, 5_000_000);
/// When a dialler tries again.
const REDIAL_US: (u64, u64) = (20_000, 200_000);
/// How long a lost message takes to be sent again.
const RETRANSMIT_US: u64 = 150_000;

/// A message that waits for a block to end.
struct Stalled {
    class: usize,
    frame: BytesMut,
}

/// The connection that one node dialled to another.
#[derive(Default)]
pub(crate) struct Dial {
    /// Counts connections: what was sent on an earlier one never arrives.
    number: u64,
    /// Whether it carries anything.
    alive: bool,
    /// Whether the dialler believes in it.
    told: bool,
    /// Whether a try is under way.
    dialling: bool,
    /// By direction (0: from the dialler) and class: nothing arrives before this.
    arrived_us: [[u64; 2]; 2],
    stalled: [Vec<Stalled>; 2],
}

/// What one says to another.
struct Way {
    random: Random,
    blocked: u32,
    more_us: u64,
}

pub(crate) struct Network {
    count: usize,
    dials: Vec<Dial>,
    ways: Vec<Way>,
    buffer: BytesMut,
    echoes: Echoes,
}

impl Network {
    pub(crate) fn new(seed: u64, count: usize, has_echoes: bool) -> Self {
        let way =
            |at: usize| Way { random: stream(seed, "way", at as u64), blocked: 0, more_us: 0 };
        Self {
            count,
            dials: (0..count * count).map(|_| Dial::default()).collect(),
            ways: (0..count * count).map(way).collect(),
            buffer: BytesMut::new(),
            echoes: Echoes::new(has_echoes),
        }
    }

    fn way(&mut self, from: usize, to: usize) -> &mut Way {
        &mut self.ways[from * self.count + to]
    }

    fn dial(&mut self, from: usize, to: usize) -> &mut Dial {
        &mut self.dials[from * self.count + to]
    }

    fn is_open(&self, one: usize, two: usize) -> bool {
        self.ways[one * self.count + two].blocked == 0
            && self.ways[two * self.count + one].blocked == 0
    }

    pub(crate) fn slow(&mut self, one: usize, two: usize, more_us: u64) {
        self.way(one, two).more_us = more_us;
        self.way(two, one).more_us = more_us;
    }
}

impl World {
    fn delay_us(&mut self, from: usize, to: usize) -> u64 {
        let plan = &self.schedule.network;
        let (least, mean, loss) = (plan.delay_us_min, plan.delay_us_mean, plan.loss_ppm);
        let way = self.network.way(from, to);
        // The sum of two even draws: most are near the mean, some are near twice that.
        let mut delay_us = least + way.random.below(mean + 1) + way.random.below(mean + 1);
        if loss > 0 && way.random.below(1_000_000) < loss {
            delay_us += RETRANSMIT_US;
        }
        delay_us + way.more_us
    }

    /// A node sends to another: dropped where there is no connection.
    pub(super) fn send_peer(
        &mut self,
        from: usize,
        to: usize,
        request: u64,
        message: &PeerMessage,
    ) {
        assert_ne!(from, to, "nobody writes to himself");
        let (dialler, acceptor, direction) =
            if message.is_answer() { (to, from, 1) } else { (from, to, 0) };
        if !self.network.dial(dialler, acceptor).alive {
            return;
        }
        if let PeerMessage::HandOver(handed) = message {
            self.note_handed((from, to, request), handed);
        }
        if let PeerMessage::Pushed(pushed) = message {
            self.note_taken_over((to, from, request), pushed);
        }
        if let PeerMessage::MergeAnswer(answer) = message {
            self.network.echoes.on_answered((to, from), request, answer.merged.is_ok());
        }
        let mut buffer = std::mem::take(&mut self.network.buffer);
        buffer.reserve(256);
        message.put(request, &mut buffer);
        let frame = buffer.split();
        self.network.buffer = buffer;
        let class = match message.class() {
            Class::Foreground => 0,
            Class::Background => 1,
        };
        self.sent += 1;
        if self.network.way(from, to).blocked > 0 {
            let stalled = &mut self.network.dial(dialler, acceptor).stalled[direction];
            stalled.push(Stalled { class, frame });
        } else {
            self.transmit((dialler, acceptor), direction, class, frame);
        }
    }

    fn transmit(&mut self, pair: (usize, usize), direction: usize, class: usize, frame: BytesMut) {
        let (from, to) = if direction == 0 { pair } else { (pair.1, pair.0) };
        let mut at_us = self.time_us + self.delay_us(from, to);
        let dial = self.network.dial(pair.0, pair.1);
        // A large frame travels on a stream of its own.
        if frame.len() <= SHARED_STREAM_BODY_BYTES_MAX {
            let arrived_us = &mut dial.arrived_us[direction][class];
            at_us = at_us.max(*arrived_us);
            *arrived_us = at_us;
        }
        let number = dial.number;
        let pair = (pair.0 as u16, pair.1 as u16);
        self.queue.push(at_us, Event::Deliver { pair, number, direction: direction as u8, frame });
    }

    pub(super) fn deliver(
        &mut self,
        pair: (usize, usize),
        number: u64,
        direction: u8,
        mut frame: BytesMut,
    ) {
        let (from, to) = if direction == 0 { pair } else { (pair.1, pair.0) };
        let dial = self.network.dial(pair.0, pair.1);
        if dial.number != number || !dial.alive || self.machines[to].process.is_none() {
            return;
        }
        self.trace.add(&[self.time_us, from as u64, to as u64]);
        self.trace.add_frame(&frame);
        let taken = take_frame(&mut frame, BODY_BYTES_MAX);
        let frame = taken.expect("it is intact").expect("it is whole");
        let message = PeerMessage::read(&frame).expect("what a node sends can be read");
        let time_us = self.time_us;
        self.trace.line(time_us, || {
            format!("n{} -> n{} #{:x} {message:?}", from + 1, to + 1, frame.request)
        });
        if let PeerMessage::Merge(merge) = &message
            && !merge.rebuild
        {
            self.network.echoes.on_delivered((from, to), frame.request, merge);
        }
        let event = CoreEvent::Peer { from: node_id(from), request: frame.request, message };
        self.handle(to, event);
    }

    /// What one had sent to another, and the other had taken in, comes once more.
    pub(super) fn echo(&mut self, from: usize, to: usize) {
        for merge in self.network.echoes.of((from, to)) {
            let event = CoreEvent::Peer { from: node_id(from), request: 0, message: merge.into() };
            self.tell(to, event);
        }
    }

    /// A node starts: it dials all others.
    pub(super) fn dial_all(&mut self, from: usize) {
        for to in (0..self.machines.len()).filter(|to| *to != from) {
            self.redial(from, to, 0);
        }
    }

    fn redial(&mut self, from: usize, to: usize, least_us: u64) {
        let dial = self.network.dial(from, to);
        if !std::mem::replace(&mut dial.dialling, true) {
            let delay_us = least_us + self.network.way(from, to).random.below(REDIAL_US.1);
            self.queue
                .push(self.time_us + delay_us, Event::Dial { from: from as u16, to: to as u16 });
        }
    }

    pub(super) fn on_dial(&mut self, from: usize, to: usize) {
        self.network.dial(from, to).dialling = false;
        let Some(own) = self.machines[from].process.as_ref() else { return };
        if self.network.dial(from, to).told {
            return;
        }
        let address = super::address_of(from);
        let hello = own.core.hello(address);
        let reached = self.network.is_open(from, to) && !self.is_paused(to);
        let welcomed = match &self.machines[to].process {
            Some(other) if reached => {
                let theirs = other.core.hello(super::address_of(to));
                handshake::judge(&theirs, &hello, node_id(from)).is_ok()
                    && handshake::judge(&hello, &theirs, node_id(to)).is_ok()
            }
            _ => false,
        };
        if !welcomed {
            return self.redial(from, to, REDIAL_US.0);
        }
        let dial = self.network.dial(from, to);
        dial.number += 1;
        dial.alive = true;
        dial.told = true;
        dial.arrived_us = Default::default();
        self.tell(from, CoreEvent::PeerConnected { node: node_id(to) });
    }

    /// Cuts the connection that one dialled to another: the dialler notices after a while.
    pub(super) fn cut(&mut self, from: usize, to: usize, noticed_us: u64) {
        let dial = self.network.dial(from, to);
        if !std::mem::take(&mut dial.alive) {
            return;
        }
        dial.number += 1;
        dial.stalled = Default::default();
        let number = dial.number;
        let delay_us = self.network.way(from, to).random.below(noticed_us + 1);
        let event = Event::Noticed { from: from as u16, to: to as u16, number };
        self.queue.push(self.time_us + delay_us, event);
    }

    pub(super) fn on_noticed(&mut self, from: usize, to: usize, number: u64) {
        let dial = self.network.dial(from, to);
        if dial.number == number && std::mem::take(&mut dial.told) {
            self.tell(from, CoreEvent::PeerDisconnected { node: node_id(to) });
            self.redial(from, to, 0);
        }
    }

    /// A process has ended: its connections with it.
    pub(super) fn hang_up(&mut self, node: usize, noticed_us: u64) {
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            self.cut(other, node, noticed_us);
            let dial = self.network.dial(node, other);
            dial.number += 1;
            dial.alive = false;
            dial.told = false;
            dial.stalled = Default::default();
        }
    }

    /// Nothing that one says reaches the other, until the block is lifted as often as it was made.
    pub(super) fn block(&mut self, from: usize, to: usize) {
        let way = self.network.way(from, to);
        way.blocked += 1;
        let idle_us = IDLE_US.0 + way.random.below(IDLE_US.1);
        for (from, to) in [(from, to), (to, from)] {
            let number = self.network.dial(from, to).number;
            let event = Event::Idle { from: from as u16, to: to as u16, number };
            self.queue.push(self.time_us + idle_us, event);
        }
    }

    pub(super) fn on_idle(&mut self, from: usize, to: usize, number: u64) {
        if self.network.dial(from, to).number == number && !self.network.is_open(from, to) {
            self.cut(from, to, 500_000);
        }
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        let way = self.network.way(from, to);
        way.blocked -= 1;
        if way.blocked > 0 {
            return;
        }
        for (pair, direction) in [((from, to), 0), ((to, from), 1)] {
            let dial = self.network.dial(pair.0, pair.1);
            for Stalled { class, frame } in std::mem::take(&mut dial.stalled[direction]) {
                self.transmit(pair, direction, class, frame);
            }
        }
    }
}
