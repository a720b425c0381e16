//! One run: a schedule is played in a world of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plan::Schedule;
use crate::report::{Report, Violation};
use crate::world::World;

/// Plays a schedule. An assertion of the product that fails is a violation like any other.
pub fn run(schedule: &Schedule, wants_trace: bool) -> Report {
    let mut world = World::new(schedule.clone(), wants_trace);
    let panicked = catch_unwind(AssertUnwindSafe(|| play(&mut world))).err().map(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Violation { number: 0, text: text.unwrap_or_else(|| "a panic without words".to_owned()) }
    });
    let mut report = world.report();
    report.violation = panicked.or(report.violation);
    report
}

fn play(world: &mut World) {
    let formed = world.form();
    world.checks.convergence.expect(formed, || "no cluster was formed".to_owned());
    if !formed {
        return;
    }
    world.run_until(world.load_ends_us());
    if !world.checks.is_violated() {
        world.end();
    }
}

impl World {
    fn report(&mut self) -> Report {
        let lines = self.checks.lines();
        let violation = lines.iter().find_map(|line| {
            let text = line.verdict.as_ref().ok()?.violation.clone()?;
            Some(Violation { number: line.number, text })
        });
        let (messages, events) = self.counts();
        Report {
            schedule: self.schedule.clone(),
            tally: self.tally.clone(),
            virtual_us: self.time_us,
            messages,
            events,
            trace_hash: self.trace.hash(),
            lines,
            trace: self.trace.take_lines(),
            violation,
        }
    }
}
