//! The ring at sizes that no single machine could run, measured beside what others do and what the
//! theory says: `quoit-simulations experiment balance|movement|convergence|scale|availability`.
//!
//! - [`balance`]: how evenly members share the ring (placement to 10,000 members);
//! - [`movement`]: how much moves when members join, leave, or double;
//! - [`convergence`]: how long gossip takes to tell everyone (chitchat itself, to 300 members);
//! - [`scale`]: how long it takes to mend after a member is lost;
//! - [`availability`]: what is lost to requests while members are down.
//!
//! What they came to, in short (the whole tables come with the commands):
//!
//! | | Quoit | random tokens, 16 / 256 a member | bounded loads |
//! |---|---|---|---|
//! | fullest member over the mean, 1,000 members | 1.007 | 1.50 / 1.14 | 1.03 |
//! | the same, 10,000 members and Q = 65,536 | 1.017 | 1.67 / 1.15 | 1.07 |
//! | moved when one joins 1,000, over its share | 0.998 | 1.42 / 1.10 | 15 |
//! | three plans for 1,000 members, Q = 65,536 | 2.0 s | | |
//!
//! Gossip tells 300 members a fact in 3.5 rounds of 0.4 s, of a newcomer in 8.5, of a death in 12.
//!
//! Beside Quoit's placement stand, on the same members, random tokens (16 and 256 a member, as in
//! Dynamo's first strategy and Cassandra) and consistent hashing with bounded loads (Mirrokni, Thorup
//! and Zadimoghaddam, 2018).

pub mod availability;
pub mod balance;
pub mod convergence;
pub mod movement;
pub mod scale;
pub mod table;

mod placement;

use table::Table;

/// What an experiment is given.
pub struct Setting<'a> {
    /// How many members, one row each; empty for the experiment's own sizes.
    pub sizes: Vec<usize>,
    /// What is drawn hangs on it.
    pub seed: u64,
    /// The processor time so far, in seconds: the simulator itself has no clock.
    pub seconds: &'a dyn Fn() -> f64,
}

/// An experiment that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

/// The experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experiment {
    /// See [`balance`].
    Balance,
    /// See [`movement`].
    Movement,
    /// See [`convergence`].
    Convergence,
    /// See [`scale`].
    Scale,
    /// See [`availability`].
    Availability,
}

impl Experiment {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Balance, Self::Movement, Self::Convergence, Self::Scale, Self::Availability];

    /// Its sizes where none are asked for, and the least and the greatest that it takes.
    fn sizes(self) -> (&'static [usize], usize, usize) {
        match self {
            Self::Balance => (&[3, 10, 30, 100, 300, 1_000, 3_000, 10_000], 3, 10_000),
            Self::Movement => (&[3, 10, 30, 100, 300, 1_000], 3, 2_000),
            Self::Convergence => (&[3, 10, 30, 100, 300], 2, 300),
            Self::Scale => (&[5, 10, 30, 100, 300, 1_000], 4, 2_000),
            Self::Availability => (&[5, 10, 30, 100, 300], 3, 1_000),
        }
    }

    /// Makes the experiment.
    ///
    /// # Errors
    /// If a size is out of range.
    pub fn make(self, setting: &Setting<'_>) -> Result<Table, SettingError> {
        let (usual, least, most) = self.sizes();
        let sizes = if setting.sizes.is_empty() { usual.to_vec() } else { setting.sizes.clone() };
        if let Some(wrong) = sizes.iter().find(|size| !(least..=most).contains(*size)) {
            let text = format!("{wrong} members: this experiment takes from {least} to {most}");
            return Err(SettingError(text));
        }
        let Setting { seed, seconds, .. } = setting;
        Ok(match self {
            Self::Balance => balance::make(&sizes, seconds),
            Self::Movement => movement::make(&sizes, seconds),
            Self::Convergence => convergence::make(&sizes, *seed),
            Self::Scale => scale::make(&sizes),
            Self::Availability => availability::make(&sizes, *seed),
        })
    }
}

#[cfg(test)]
mod tests;
