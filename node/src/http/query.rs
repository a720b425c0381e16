//! What stands behind a path's question mark. What nobody knows, and what stands there twice, is
//! refused: a parameter that is silently ignored is worse than one that is not taken.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use quoit_client::Level;

use super::problem::{Kind, Problem};
use super::route::decode;

/// A request's time when it says nothing, and the most that it may say.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The longest time to live: a hundred years.
const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
/// The shortest of either.
const SECONDS_MIN: Duration = Duration::from_millis(1);

/// A request's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    given: BTreeMap<&'static str, Bytes>,
}

impl Query {
    /// Reads what stands behind the question mark; only `known` may be there.
    pub(super) fn parse(text: Option<&str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut given = BTreeMap::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, true)?;
            let Some(name) = known.iter().find(|known| known.as_bytes() == name) else {
                let name: String = String::from_utf8_lossy(&name).chars().take(64).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(Problem::invalid(format!(
                    "the parameter {name:?} is not known here: there are {known}"
                )));
            };
            if given.insert(*name, decode(value, true)?).is_some() {
                return Err(Problem::invalid(format!("the parameter {name} is given twice")));
            }
        }
        Ok(Self { given })
    }

    /// Bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<Bytes> {
        self.given.get(name).cloned()
    }

    /// How many replicas must answer: `level`, a word or a number, or `count`, a number.
    pub(super) fn level(&self, count: &str) -> Result<Option<Level>, Problem> {
        if self.given.contains_key("level") && self.given.contains_key(count) {
            return Err(contradiction("level", count));
        }
        if let Some(text) = self.text("level")? {
            return text.parse().map(Some).map_err(|error| {
                Problem::invalid(format!("the parameter level is not understood: {error}"))
            });
        }
        let number = self.number(count, 1..=255)?;
        Ok(number.map(|number| Level::Exactly(u8::try_from(number).unwrap_or(u8::MAX))))
    }

    /// How long the request may take.
    pub(super) fn timeout(&self) -> Result<Duration, Problem> {
        Ok(self.seconds("timeout", TIMEOUT_MAX)?.unwrap_or(TIMEOUT))
    }

    /// How long what is written lives.
    pub(super) fn ttl(&self) -> Result<Option<Duration>, Problem> {
        self.seconds("ttl", TTL_MAX)
    }

    fn seconds(&self, name: &str, most: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        seconds(text.parse().ok(), most)
            .map(Some)
            .map_err(|range| Problem::invalid(format!("the parameter {name} is {text:?}: {range}")))
    }

    /// A whole number.
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && range.contains(&number) => Ok(Some(number)),
            _ => Err(Problem::invalid(format!(
                "the parameter {name} is {text:?}: write a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// A text, cut where it is long: no parameter that is a text has a long one.
    fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(bytes) = self.given.get(name) else { return Ok(None) };
        match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= 64 => Ok(Some(text.to_owned())),
            _ => Err(Problem::invalid(format!("the parameter {name} is too long, or no text"))),
        }
    }
}

/// Two parameters of which only one can hold.
pub(super) fn contradiction(one: &str, other: &str) -> Problem {
    Problem::new(Kind::CannotBeHad, format!("give either {one} or {other}, not both"))
}

/// A time to live as a line of a batch gives it.
pub(super) fn ttl_of(number: f64) -> Result<Duration, String> {
    seconds(Some(number), TTL_MAX)
}

/// A number of seconds, and otherwise what would be right.
fn seconds(number: Option<f64>, most: Duration) -> Result<Duration, String> {
    let range = SECONDS_MIN..=most;
    number
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| {
            format!("write seconds, from {} to {}", SECONDS_MIN.as_secs_f64(), most.as_secs())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["sort", "level", "w", "ttl", "timeout", "limit"];

    fn parse(text: &str) -> Query {
        Query::parse(Some(text), KNOWN).unwrap()
    }

    #[test]
    fn parameters_are_read() {
        let query = parse("sort=a%00+%2B%ff&level=local-quorum&ttl=0.25&timeout=60&limit=7");
        assert_eq!(query.bytes("sort").unwrap()[..], *b"a\0 +\xff");
        assert_eq!(query.level("w").unwrap(), Some(Level::LocalQuorum));
        assert_eq!(query.ttl().unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(query.timeout().unwrap(), TIMEOUT_MAX);
        assert_eq!(query.number("limit", 1..=9).unwrap(), Some(7));
        assert_eq!(parse("w=2&").level("w").unwrap(), Some(Level::Exactly(2)));
        assert_eq!(Query::parse(None, KNOWN).unwrap().timeout().unwrap(), TIMEOUT);
    }

    #[test]
    fn what_is_not_known_or_makes_no_sense_is_refused() {
        for text in ["lvel=one", "sort=a&sort=b", "sort=%4", "%ff=1", "level"] {
            let query = Query::parse(Some(text), KNOWN);
            let wrong = query.and_then(|query| query.level("w").map(drop));
            assert!(wrong.is_err(), "{text}");
        }
        for text in
            ["level=most", "level=0", "level=one&w=1", "w=0", "w=256", "w=+1", "w=two", "w="]
        {
            assert!(parse(text).level("w").is_err(), "{text}");
        }
        for text in
            ["ttl=0", "ttl=-1", "ttl=nan", "ttl=inf", "ttl=1e300", "ttl=x", "ttl=", "ttl=0.0001"]
        {
            assert!(parse(text).ttl().is_err(), "{text}");
        }
        assert!(parse("timeout=61").timeout().is_err());
    }
}
