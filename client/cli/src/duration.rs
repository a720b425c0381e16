//! Durations as people write them: `1h30m`, `90s`, `500ms`. A unit is required, because a bare
//! number has been read as seconds by one and as milliseconds by another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time to live: at least one millisecond, written with units (`d`, `h`, `m`, `s`, `ms`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeToLive {
    milliseconds: u64,
}

/// A text that is not a time to live.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeToLiveError {
    /// Nothing, or a part without digits.
    #[error("{0:?} is not a duration: write whole numbers with units, such as 1h30m, 90s or 500ms")]
    Number(String),
    /// A number has no unit or an unknown one.
    #[error("{text:?} needs a unit after {number}: d, h, m, s or ms, such as {number}s")]
    Unit {
        /// The whole text.
        text: String,
        /// The number that stands alone.
        number: u64,
    },
    /// Zero would expire at once.
    #[error("a time to live must be at least 1ms")]
    Zero,
    /// More milliseconds than 64 bits hold.
    #[error("{0:?} is too long")]
    TooLong(String),
}

/// Units, and how many milliseconds each has; longer names first, where one begins another.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl TimeToLive {
    /// The duration in milliseconds, at least 1.
    pub fn as_millis(self) -> u64 {
        self.milliseconds
    }
}

impl From<TimeToLive> for Duration {
    fn from(ttl: TimeToLive) -> Self {
        Self::from_millis(ttl.milliseconds)
    }
}

impl FromStr for TimeToLive {
    type Err = ParseTimeToLiveError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(64).collect::<String>();
        let too_long = || ParseTimeToLiveError::TooLong(shown());
        if text.is_empty() {
            return Err(ParseTimeToLiveError::Number(shown()));
        }
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return Err(ParseTimeToLiveError::Number(shown()));
            }
            let number: u64 = rest[..digits].parse().map_err(|_| too_long())?;
            rest = &rest[digits..];
            let Some((unit, factor)) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)) else {
                return Err(ParseTimeToLiveError::Unit { text: shown(), number });
            };
            rest = &rest[unit.len()..];
            total = number
                .checked_mul(*factor)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(too_long)?;
        }
        if total == 0 {
            return Err(ParseTimeToLiveError::Zero);
        }
        Ok(Self { milliseconds: total })
    }
}

impl fmt::Display for TimeToLive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&compact(self.milliseconds))
    }
}

/// Milliseconds with every unit that is not zero: `1h30m`, `500ms`, `0s`.
pub(crate) fn compact(milliseconds: u64) -> String {
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let mut rest = milliseconds;
    let mut text = String::new();
    for (unit, factor) in UNITS.iter().rev() {
        if rest >= *factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_add_up() {
        for (text, milliseconds) in [
            ("1h30m", 5_400_000),
            ("90s", 90_000),
            ("500ms", 500),
            ("1d", 86_400_000),
            ("1m1ms", 60_001),
        ] {
            assert_eq!(text.parse(), Ok(TimeToLive { milliseconds }), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        let error = "90".parse::<TimeToLive>().expect_err("no unit");
        assert_eq!(
            error.to_string(),
            "\"90\" needs a unit after 90: d, h, m, s or ms, such as 90s"
        );
        assert!(matches!("1h30".parse::<TimeToLive>(), Err(ParseTimeToLiveError::Unit { .. })));
        assert!(matches!("5y".parse::<TimeToLive>(), Err(ParseTimeToLiveError::Unit { .. })));
    }

    #[test]
    fn nonsense_zero_and_overflow_are_told_apart() {
        for text in ["", "s", "1.5h", "-1s", " 1s", "1s ", "h1"] {
            assert!(text.parse::<TimeToLive>().is_err(), "{text:?}");
        }
        assert_eq!("0s".parse::<TimeToLive>(), Err(ParseTimeToLiveError::Zero));
        for text in ["99999999999999999999s", "18446744073709551615d"] {
            assert!(
                matches!(text.parse::<TimeToLive>(), Err(ParseTimeToLiveError::TooLong(_))),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_time_to_live_reads_back_as_it_is_shown(milliseconds in 1u64..) {
            let ttl = TimeToLive { milliseconds };
            prop_assert_eq!(ttl.to_string().parse(), Ok(ttl));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<TimeToLive>();
        }
    }
}
